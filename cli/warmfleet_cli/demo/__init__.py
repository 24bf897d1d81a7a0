"""``warmfleet demo``: a cluster, the operator, a router and simulated engines on this machine, under real traffic."""
