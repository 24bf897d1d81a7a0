"""What a mix of instance types saves, on one published price list; ``python bench/mixed.py``.

Llama 3.1 8B in bf16 at 1,020 + 210 tokens, TTFT 2 s and TPOT 50 ms, on H100-SXM, A100-40GB, L40S and A10G at AWS
on-demand prices ($/h of one accelerator, August 2026); no limits. Two things:

- *static*: the planner's choice over a day (a cosine from 30 % of the peak to the peak), from nothing, beside the
  cheapest choice of whole workers for the same need: of all types, of the best single type, of H100 alone. Is the
  whole saving found that whole workers allow? How it holds over time, with starts and departures, is the yardstick's.
- *slices*: what serving short and long requests on different types would save over one mix for all, with workers that
  may be divided, which is the most it can save. Slices are built only if that pays.

Prints a table, then one line per claim, as ``bench/yardstick.py`` does.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Sequence

import numpy as np
from made_up import UP, deployment, instance_type  # beside this file; before the packages that it makes importable
from rich.console import Console
from rich.table import Table
from scipy.optimize import Bounds, LinearConstraint, milp
from warmfleet_contracts.perfmodel import Workload, lookup
from warmfleet_contracts.perfmodel import capacity as sustained
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import (
    Demand,
    DeploymentRecord,
    FleetSnapshot,
    Key,
)

PRICES = {"H100-SXM": 6.88, "A100-40GB": 2.745, "L40S": 1.861, "A10G": 1.006}
PEAKS = tuple(float(round(p, 1)) for p in np.geomspace(3.0, 300.0, 9))
SIZES = (Workload(250.0, 60.0), Workload(1020.0, 210.0), Workload(4000.0, 300.0), Workload(500.0, 800.0))
"""Request sizes of the slices, a quarter of the requests each."""
DAY = tuple(0.65 - 0.35 * math.cos(2 * math.pi * (hour + 1) / 24) for hour in range(0, 24, 2))
"""Demand over the peak, every two hours."""
KEY = Key("ns", "chat")


def rates(workload: Workload) -> dict[str, float]:
    """Requests/s of one worker by accelerator, where the SLO can be met.

    Raises:
        ValueError: The performance model lacks an accelerator.
    """
    out = {}
    for name in PRICES:
        profile = lookup("llama-3.1-8b", "bf16", name, 1)
        if profile is None:
            raise ValueError(f"no profile of llama-3.1-8b on {name}")
        rate = sustained(profile, workload, ttft_s=2.0, tpot_s=0.05).requests_per_second
        if rate > 0:
            out[name] = rate
    return out


def planned(peak: float, rate: dict[str, float]) -> float:
    """Dollars per hour of what the planner buys for a peak, from nothing."""
    spec = deployment({n.lower(): r for n, r in rate.items()}, 1000)
    types = {n.lower(): instance_type(n.lower(), PRICES[n]) for n in rate}
    demand = Demand(0.0, peak, 1020.0, 210.0, 0.0, 0, sources=("router",))
    snapshot = FleetSnapshot({KEY: DeploymentRecord(KEY, "u", 1, "1", spec)}, types, (), {}, {}, {KEY: demand})
    made, _ = plan(snapshot, PlannerMemory(), 0.0)
    return sum(v.create * (v.cost_per_hour or 0.0) for v in made.deployments[KEY].variants)


def optimum(need: float, rate: dict[str, float]) -> float:
    """The cheapest whole workers that carry a need, $/h.

    Raises:
        ValueError: The solver found none.
    """
    names = list(rate)
    answer = milp(
        np.array([PRICES[n] for n in names]),
        integrality=np.ones(len(names)),
        bounds=Bounds(0, np.inf),
        constraints=LinearConstraint(np.array([[rate[n] for n in names]]), need * (1 - 1e-9), np.inf),
        options={"mip_rel_gap": 0.0},
    )
    if not answer.success:
        raise ValueError(f"no optimum at {need:g} requests/s: {answer.message}")
    return float(answer.fun)


def single(need: float, rate: dict[str, float], name: str) -> float:
    """Workers of one type, $/h."""
    return math.ceil(need / rate[name] * (1 - 1e-9)) * PRICES[name]


def slices() -> float:
    """Saving of serving every size on the type that is cheapest for it, over the best single type for all sizes."""
    by_size = [rates(w) for w in SIZES]
    everywhere = set.intersection(*(set(r) for r in by_size))
    apart = sum(min(PRICES[n] / r for n, r in one.items()) for one in by_size)
    together = min(sum(PRICES[n] / one[n] for one in by_size) for n in everywhere)
    return 1.0 - apart / together


def main(peaks: Sequence[float] = PEAKS) -> int:
    """See the module."""
    rate = rates(Workload(1020.0, 210.0))
    table = Table(title="mean $/h of a day, by its peak: planner, optimum of all types, best single type, H100 alone")
    for name in ("peak req/s", "planner", "optimum", "single", "H100", "of the saving", "under H100"):
        table.add_column(name, justify="right")
    saved, optimal, under = [], [], []
    for peak in peaks:
        needs = [peak * level / UP for level in DAY]
        ours = statistics.mean(planned(need * UP, rate) for need in needs)
        best = statistics.mean(optimum(need, rate) for need in needs)
        one = min(statistics.mean(single(need, rate, n) for need in needs) for n in rate)
        h100 = statistics.mean(single(need, rate, "H100-SXM") for need in needs)
        saved.append(one - ours)
        optimal.append(one - best)
        if peak <= 120:
            under.append(1.0 - ours / h100)
        share = f"{saved[-1] / optimal[-1]:.0%}" if optimal[-1] > 1e-6 else "-"
        cells = [f"{peak:.1f}", *(f"{x:.2f}" for x in (ours, best, one, h100)), share, f"{1.0 - ours / h100:.0%}"]
        table.add_row(*cells)
    Console(width=110).print(table)
    sliced = slices()
    claims = [
        ("share of the mix's saving over the best single type, peaks 3-300 req/s", sum(saved) / sum(optimal), 0.9),
        ("saving over H100 alone up to 120 req/s, mean over peaks", statistics.mean(under), 0.2),
        ("saving over H100 alone up to 120 req/s, least of all peaks", min(under), 0.2),
    ]
    for text, value, target in claims:
        line = {"claim": text, "value": round(value, 4), "target": f">= {target:g}", "met": bool(value >= target)}
        sys.stdout.write(json.dumps(line) + "\n")
    text = "most that request-size slices could save (built only if it pays: above 5 %)"
    line = {"claim": text, "value": round(sliced, 4), "target": "<= 0.05", "met": bool(sliced <= 0.05)}
    sys.stdout.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
