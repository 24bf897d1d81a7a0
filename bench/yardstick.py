"""The yardstick: every scenario, every policy, the optimum; ``python bench/yardstick.py``.

Runs each scenario in a process of its own, writes ``bench/results/*.json``, then the page ``docs/benchmarks.md`` and
the picture ``docs/benchmarks.svg`` from them, and prints one line per claim::

    {"claim": ..., "value": ..., "target": ..., "met": ...}

``--only weeks,steps`` runs some families; results of the others stay as they are. ``--policy warmfleet`` runs some
policies and puts their rows into the results there are. ``--page`` runs nothing. ``seeds`` repeats the weeks over ten
seeds with the best rivals alone (``--seeds 3`` for fewer).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from math import isnan
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
sys.path[:0] = [str(ROOT / part) for part in ("simulation", "contracts", "operator", "runtime", "bench")]

import claims  # noqa: E402  (beside this file)
import page  # noqa: E402
import speed  # noqa: E402
from reference import data_dir  # noqa: E402
from rich.progress import Progress  # noqa: E402
from warmfleet_simulation import scenarios  # noqa: E402
from warmfleet_simulation.foreknown import Foreknown  # noqa: E402
from warmfleet_simulation.ours import Ours, Reactive  # noqa: E402
from warmfleet_simulation.picture import picture  # noqa: E402
from warmfleet_simulation.policy import Policy  # noqa: E402
from warmfleet_simulation.rivals import RIVALS  # noqa: E402
from warmfleet_simulation.sweep import rows, sweep  # noqa: E402

FINE = tuple(2.0 ** (k / 3) for k in range(-3, 4))
"""Multiples of every knob's default for the weeks: 0.5 to 2 in seven equal ratios."""
COARSE = tuple(2.0 ** (k / 2) for k in range(-2, 3))
"""Where the question is not which policy is a percent better: five."""
BEST_RIVALS = ("static-peak", "dynamo-planner", "hourly-ilp")
"""Those that were best in some week at equal attainment; the others never were."""
SEED = 1


def contenders(scenario: scenarios.Scenario, only: frozenset[str]) -> list[Policy]:
    """The policies of a scenario, the shipped planner among them with and without a forecast."""
    known = list(scenario.instead.values()) if scenario.instead else [*RIVALS.values(), Reactive(), Ours()]
    known += [Foreknown(scenario.load)] if scenario.name.startswith("week") else []
    return [p for p in known if not only or p.name in only]


def run_one(family: str, index: int, folder: str, only: frozenset[str], seed: int = SEED) -> dict[str, Any]:
    """One scenario of a family, as it is written to its result file."""
    scenario = scenarios.suite(Path(folder) / "traces", seed)[family]()[index]
    policies = contenders(scenario, only)
    begin = time.perf_counter()
    result = sweep(
        scenario.name,
        scenario.fleet,
        scenario.load,
        policies,
        seed=seed,
        grid=FINE if family == "weeks" else COARSE,
        grids=dict.fromkeys((Ours.name, Reactive.name), (1.0,)) if family == "noise" else None,
        disturbance=scenario.disturbance,
    )
    if family == "weeks" and index == 0 and not only:
        (ROOT / "docs" / "benchmarks.svg").write_text(picture(result), encoding="utf-8")
    return {
        "family": family,
        "index": index,
        "scenario": scenario.name,
        "note": scenario.note,
        "objective": result.objective,
        "optimum": result.optimum,
        "hours": float(scenario.load.score.sum()) * scenario.load.step_s / 3600.0,
        "gap": result.optimum_plan_cost / result.optimum - 1.0 if result.optimum else None,
        "seconds": round(time.perf_counter() - begin, 1),
        "rows": rows(result),
        "classes": {
            c.policy: [[None if isnan(a) else round(float(a), 5) for a in row] for row in c.tuned.score.by_class]
            for c in result.curves
        },
    }


def repeated(index: int, folder: str, seed: int, only: frozenset[str]) -> dict[str, Any]:
    """One week with one seed: ours and the best rivals, the cost where each reaches the objective."""
    scenario = scenarios.suite(Path(folder) / "traces", seed)["weeks"]()[index]
    begin = time.perf_counter()
    policies: list[Policy] = [Ours(), *(RIVALS[name] for name in BEST_RIVALS if not only or name in only)]
    found = sweep(scenario.name, scenario.fleet, scenario.load, policies, seed=seed, grid=FINE)
    return {
        "family": "seeds",
        "index": index,
        "seed": seed,
        "scenario": scenario.name,
        "optimum": found.optimum,
        "cost": {c.policy: c.cost_at_objective for c in found.curves},
        "attainment": found.curves[0].untuned.score.attainment,
        "seconds": round(time.perf_counter() - begin, 1),
    }


def write(found: dict[str, Any]) -> None:
    """Writes a result file; where only some policies ran, the rows of the others stay."""
    if found["family"] == "seeds":
        path = RESULTS / "seeds" / f"{found['index']:02d}-{found['seed']:02d}.json"
        if path.is_file():
            found["cost"] = {**json.loads(path.read_text(encoding="utf-8"))["cost"], **found["cost"]}
    else:
        path = RESULTS / f"{found['family']}-{found['index']:02d}.json"
        names = {row["policy"] for row in found["rows"]}
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": [], "classes": {}}
        found["rows"] = [r for r in before["rows"] if r["policy"] not in names] + found["rows"]
        found["classes"] = {**before["classes"], **found["classes"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"{found['scenario']}: {found['seconds']} s\n")


def run(families: list[str], jobs: int, folder: Path, only: frozenset[str], seeds: int) -> None:
    """Runs families and writes their result files.

    Raises:
        SystemExit: Scenarios failed; the results of the others are written.
    """
    suite = scenarios.suite(folder / "traces", SEED)
    sizes = {
        "weeks": 6,
        "steps": 3,
        "noise": 3,
        "forecast": 4,
        "lengths": 1,
        "classes": 4,
        "types": 1,
        "models": 1,
        "startups": 12,
    }
    with Progress(disable=not sys.stderr.isatty()) as bar, ProcessPoolExecutor(jobs) as pool:
        futures: list[Future[dict[str, Any]]] = []
        for family in families:
            if family == "seeds":
                futures += [
                    pool.submit(repeated, i, str(folder), s, only) for s in range(1, seeds + 1) for i in range(6)
                ]
                continue
            count = sizes.get(family) or len(suite[family]())
            futures += [pool.submit(run_one, family, i, str(folder), only) for i in range(count)]
        task = bar.add_task("scenarios", total=len(futures))
        failed = 0
        for future in as_completed(futures):
            if (error := future.exception()) is not None:
                failed += 1
                sys.stderr.write("".join(traceback.format_exception(error)))
            else:
                write(future.result())
            bar.advance(task)
    if failed:
        raise SystemExit(f"{failed} of {len(futures)} scenarios failed; the results of the others are written")


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated families, speed among them")
    parser.add_argument("--policy", help="comma-separated policies; the rows of the others stay")
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds the weeks are repeated over")
    parser.add_argument("--page", action="store_true", help="run nothing; write the page from the results there are")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2)))
    args = parser.parse_args()
    folder = data_dir()
    names = [*scenarios.suite(folder / "traces", SEED), "seeds", "speed"]
    chosen = names if args.only is None else args.only.split(",")
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"unknown families {', '.join(unknown)}; choose from {', '.join(names)}")
    if not args.page:
        only = frozenset(args.policy.split(",")) if args.policy else frozenset()
        run([name for name in chosen if name != "speed"], args.jobs, folder, only, args.seeds)
        if "speed" in chosen:
            RESULTS.mkdir(exist_ok=True)
            text = json.dumps(speed.measure(folder / "traces"), indent=1) + "\n"
            (RESULTS / "speed.json").write_text(text, encoding="utf-8")
    found = page.load(RESULTS)
    measured = page.model_against_measured(folder / "perf" / "measured_points.csv")
    said = claims.all_of(found, measured)
    (ROOT / "docs" / "benchmarks.md").write_text(page.render(found, measured, said), encoding="utf-8")
    for claim in said:
        sys.stdout.write(json.dumps(claim) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
