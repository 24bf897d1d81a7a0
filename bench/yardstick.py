"""The yardstick: every scenario, every policy, the optimum; ``python bench/yardstick.py``.

Runs each scenario in a process of its own, writes ``bench/results/*.json``, then the page ``docs/benchmarks.md`` and
the picture ``docs/benchmarks.svg`` from them, and prints one line per claim::

    {"claim": ..., "value": ..., "target": ..., "met": ...}

``--only weeks,steps`` runs some families; results of the others stay as they are. ``--page`` runs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from math import isnan
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
sys.path[:0] = [str(ROOT / part) for part in ("simulation", "contracts", "operator", "runtime", "bench")]

import page  # noqa: E402  (beside this file)
import speed  # noqa: E402
from rich.progress import Progress  # noqa: E402
from warmfleet_simulation import scenarios  # noqa: E402
from warmfleet_simulation.ours import Ours  # noqa: E402
from warmfleet_simulation.picture import picture  # noqa: E402
from warmfleet_simulation.policy import Policy  # noqa: E402
from warmfleet_simulation.rivals import RIVALS  # noqa: E402
from warmfleet_simulation.sweep import rows, sweep  # noqa: E402

FINE = tuple(2.0 ** (k / 3) for k in range(-3, 4))
"""Multiples of every knob's default for the weeks: 0.5 to 2 in seven equal ratios."""
COARSE = tuple(2.0 ** (k / 2) for k in range(-2, 3))
"""Where the question is not which policy is a percent better: five."""
SEED = 1


def data_dir() -> Path:
    """The folder of the reference data.

    Raises:
        SystemExit: There is none.
    """
    named = os.environ.get("WARMFLEET_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not (folder / "traces").is_dir():
        raise SystemExit(f"no traces in {folder}; set WARMFLEET_DATA to the folder that holds traces/ and perf/")
    return folder


def run_one(family: str, index: int, folder: str) -> dict[str, Any]:
    """One scenario of a family, as it is written to its result file."""
    scenario = scenarios.suite(Path(folder) / "traces", SEED)[family]()[index]
    policies: list[Policy] = list({**RIVALS, **(scenario.instead or {})}.values())
    if scenario.instead:
        policies = list(scenario.instead.values())
    else:
        policies.append(Ours())
    begin = time.perf_counter()
    result = sweep(
        scenario.name,
        scenario.fleet,
        scenario.load,
        policies,
        seed=SEED,
        grid=FINE if family == "weeks" else COARSE,
        disturbance=scenario.disturbance,
    )
    if family == "weeks" and index == 0:
        (ROOT / "docs" / "benchmarks.svg").write_text(picture(result), encoding="utf-8")
    return {
        "family": family,
        "index": index,
        "scenario": scenario.name,
        "note": scenario.note,
        "objective": result.objective,
        "optimum": result.optimum,
        "gap": result.optimum_plan_cost / result.optimum - 1.0 if result.optimum else None,
        "seconds": round(time.perf_counter() - begin, 1),
        "rows": rows(result),
        "classes": {
            c.policy: [[None if isnan(a) else round(float(a), 5) for a in row] for row in c.tuned.score.by_class]
            for c in result.curves
        },
    }


def run(families: list[str], jobs: int, folder: Path) -> None:
    """Runs families and writes their result files."""
    RESULTS.mkdir(exist_ok=True)
    suite = scenarios.suite(folder / "traces", SEED)
    sizes = {"weeks": 4, "steps": 3, "forecast": 4, "lengths": 1, "classes": 4, "types": 1, "models": 1, "startups": 12}
    work = [(family, i) for family in families for i in range(sizes.get(family) or len(suite[family]()))]
    with Progress(disable=not sys.stderr.isatty()) as bar, ProcessPoolExecutor(jobs) as pool:
        task = bar.add_task("scenarios", total=len(work))
        futures = {pool.submit(run_one, family, i, str(folder)): (family, i) for family, i in work}
        for future in as_completed(futures):
            family, i = futures[future]
            found = future.result()
            text = json.dumps(found, indent=1) + "\n"
            (RESULTS / f"{family}-{i:02d}.json").write_text(text, encoding="utf-8")
            sys.stderr.write(f"{found['scenario']}: {found['seconds']} s\n")
            bar.advance(task)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated families, speed among them")
    parser.add_argument("--page", action="store_true", help="run nothing; write the page from the results there are")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2)))
    args = parser.parse_args()
    folder = data_dir()
    names = [*scenarios.suite(folder / "traces", SEED), "speed"]
    chosen = names if args.only is None else args.only.split(",")
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"unknown families {', '.join(unknown)}; choose from {', '.join(names)}")
    if not args.page:
        run([name for name in chosen if name != "speed"], args.jobs, folder)
        if "speed" in chosen:
            RESULTS.mkdir(exist_ok=True)
            text = json.dumps(speed.measure(folder / "traces"), indent=1) + "\n"
            (RESULTS / "speed.json").write_text(text, encoding="utf-8")
    found = page.load(RESULTS)
    measured = page.model_against_measured(folder / "perf" / "measured_points.csv")
    claims = page.claims(found, measured)
    (ROOT / "docs" / "benchmarks.md").write_text(page.render(found, measured, claims), encoding="utf-8")
    for claim in claims:
        sys.stdout.write(json.dumps(claim) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
