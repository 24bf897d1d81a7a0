"""What a PriorityClass is worth when accelerators are short; ``python bench/priority.py``.

Two services share one pool whose daily peak is 0.9 to 1.2 times what the pool serves; a third of the traffic has the
higher priority. Beside it, the same traffic with equal priorities. Latency is the time in the queue plus ``SERVED_S``
of computing; who gives up has waited for as long as its patience. The urgent service comes second in every other
order (name of the list, grants of the engine), so that nothing but the priority favours it. *Bound*: the urgent service
alone on the same pool; no priority lowers its latency by more than the other's absence does.

Prints a table, then one line per claim, as ``bench/yardstick.py`` does.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("simulation", "contracts", "operator", "runtime", "forecasting")
sys.path[:0] = [str(ROOT / part) for part in PARTS]

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from warmfleet_simulation.engine import simulate  # noqa: E402
from warmfleet_simulation.ours import Ours  # noqa: E402
from warmfleet_simulation.outcome import Lane  # noqa: E402
from warmfleet_simulation.scenarios import priorities  # noqa: E402

LEVELS = (0.9, 1.0, 1.1, 1.2)
SEEDS = (1, 2)
SERVED_S = 10.0
"""Time in the engine of a request of 200 generated tokens at 50 ms each: the part of its latency that no priority
changes."""


def run(level: float, seed: int, *, ranked: bool = False, alone: bool = False) -> Lane:
    """One arm."""
    case = priorities(level, seed, ranked=ranked)
    load = case.load
    if alone:
        arrivals = load.arrivals.copy()
        arrivals[:, 0] = 0.0
        load = replace(load, arrivals=arrivals)
    (lane,) = simulate(case.fleet, load, [(Ours(), np.array([1.0]))], seed=seed)
    return lane


def main() -> int:
    """See the module."""
    table = Table(title=f"p99 latency of the urgent service and requests served, median of {len(SEEDS)} seeds")
    for name in ("load", "p99 equal s", "p99 ranked s", "lower by", "bound", "others' p99 s", "throughput lost"):
        table.add_column(name, justify="right")
    lower, fewer, bound = {}, {}, {}
    for level in LEVELS:
        arms = [(run(level, s), run(level, s, ranked=True)) for s in SEEDS]
        best = statistics.median(float(run(level, s, alone=True).wait_p99[1]) + SERVED_S for s in SEEDS)
        equal = statistics.median(float(a.wait_p99[1]) + SERVED_S for a, _ in arms)
        ranked = statistics.median(float(b.wait_p99[1]) + SERVED_S for _, b in arms)
        others = statistics.median(float(b.wait_p99[0]) + SERVED_S for _, b in arms)
        lower[level], bound[level] = 1.0 - ranked / equal, 1.0 - best / equal
        done = [[1.0 - lane.score.lost / lane.score.requests for lane in pair] for pair in arms]
        fewer[level] = max(1.0 - after / before for before, after in done)
        seconds, shares = (f"{equal:.0f}", f"{ranked:.0f}"), (f"{lower[level]:.0%}", f"{bound[level]:.0%}")
        table.add_row(f"{level:g}", *seconds, *shares, f"{others:.0f}", f"{fewer[level]:.2%}")
    Console(width=110).print(table)
    for level in LEVELS:
        _say(f"{level:g}: p99 latency of the higher priority, lower by", lower[level], ">= 0.4", bound=bound[level])
        _say(f"{level:g}: throughput of all, lower by", fewer[level], "<= 0.05")
    return 0


def _say(text: str, value: float, target: str, **more: float) -> None:
    least = float(target[3:])
    met = value >= least if target.startswith(">=") else value <= least
    line = {"claim": f"priority load {text}", "value": round(value, 4), "target": target, "met": bool(met)}
    sys.stdout.write(json.dumps(line | {key: round(figure, 4) for key, figure in more.items()}) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
