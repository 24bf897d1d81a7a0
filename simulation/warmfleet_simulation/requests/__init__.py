"""What scaling does to caches and latency: single requests on engines with a prefix cache each.

`workload` turns a request trace into arrays, `kernel` runs the engines (compiled), `cluster` scales them with the
shipped planner and hands caches over, `trial` compares arms, `report` shows them.
"""
