"""Measures the operator: from a change of a metric to a created pod, and what an idle fleet writes.

    python bench/reaction.py [--runs 7]

The operator runs in real time (tick and measuring period 5 s) against the embedded API, with a router whose metrics
jump at a random moment of the tick. Prints a claim line for each figure: value, target, whether it is met.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "operator"))

from fleet import Fleet, llm_deployment  # noqa: E402

TICK = 5.0
QUIET_SECONDS = 600.0
_NOTED_SECONDS = 240.0
"""After two minutes of service it is noted, once, that the template is good; only then a fleet is idle."""
_IDLE_SCALE = 30.0
_COUNTER = 'vllm_router_processed_requests_total{{worker="a"}} {}\n'


async def reaction(wait: float) -> float:
    """Seconds from a jump of the request counter, ``wait`` seconds after all is quiet, to the first new pod."""
    async with Fleet(scale=1.0) as fleet:
        fleet.start_seconds = 0.2
        await fleet.instance_type()
        await fleet.router()
        fleet.router_text = _COUNTER.format(0)
        fleet.start_operator(tick_seconds=TICK, telemetry_seconds=TICK)
        await fleet.apply(llm_deployment(scaling={"min": 1, "max": 5}))
        await fleet.until(lambda: fleet.ready() == 1, seconds=30, what="one worker")
        known = lambda: fleet.condition("ScalingActive").get("status") == "True"  # noqa: E731
        await fleet.until(known, seconds=40, what="demand is known")
        await asyncio.sleep(wait)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        fleet.router_text = _COUNTER.format(2000)
        await fleet.until(lambda: len(fleet.workers()) > 1, seconds=30, what="more workers")
        return loop.time() - begin


async def idle_writes() -> int:
    """Writes of the operator, its Lease excluded, in ten minutes (at 30 times real time) in which nothing happens."""
    async with Fleet(scale=_IDLE_SCALE) as fleet:
        await fleet.instance_type()
        await fleet.router()
        fleet.router_text = _COUNTER.format(0)
        fleet.start_operator()
        await fleet.apply(llm_deployment(scaling={"min": 3, "max": 5}))
        await fleet.until(lambda: fleet.ready() == 3, seconds=30, what="three workers")
        await fleet.clock.sleep(_NOTED_SECONDS)
        fleet.api.requests.reset()
        await fleet.clock.sleep(QUIET_SECONDS)
        return sum(
            row["count"]
            for row in fleet.api.requests.as_json()
            if row["verb"] not in {"get", "list", "watch"}
            and row["resource"] != "leases"
            and "warmfleet" in row["user_agent"]
        )


def claim(name: str, value: float, target: float) -> bool:
    """Prints a claim line; whether it is met."""
    met = value <= target
    print(json.dumps({"claim": name, "value": round(value, 3), "target": target, "met": met}))
    return met


async def measure(runs: int, seed: int) -> bool:
    """Prints all figures; whether all targets are met."""
    rng = random.Random(seed)
    times = [await reaction(rng.uniform(0.0, TICK)) for _ in range(runs)]
    print(f"machine: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; seed {seed}")
    print(
        f"metric change to pod: median {statistics.median(times):.2f} s, "
        f"min {min(times):.2f} s, max {max(times):.2f} s over {runs} runs at a tick of {TICK:g} s"
    )
    slow = claim("metric change to pod, slowest run, s", max(times), TICK + 1.0)
    idle = claim("API writes in ten idle minutes, Lease excluded", await idle_writes(), 0)
    return slow and idle


def main() -> int:
    """Runs the benchmark; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="measured reactions")
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which the metric jumps")
    arguments = parser.parse_args()
    return 0 if asyncio.run(measure(arguments.runs, arguments.seed)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
