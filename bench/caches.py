"""What scaling does to caches and latency: ``python bench/caches.py``.

Runs every arm over seeds on the request-level simulator, writes ``bench/results/caches.json``, the section
``docs/caches.md`` and its pictures from it, and prints one line per claim::

    {"claim": ..., "value": ..., "target": ..., "met": ...}

``--page`` runs nothing. ``--seeds 3`` and ``--accelerators H100-SXM`` run less; the page says how much was run.
``--arms migrate,replay`` runs these again, against the references that the result file has, and keeps all else in it.
About 15 minutes of CPU time in all. Nothing was tuned on these seeds: choices were made on seeds 101 and 102.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "bench" / "results" / "caches.json"
sys.path[:0] = [str(ROOT / part) for part in ("simulation", "contracts", "operator", "runtime", "worker", "bench")]

import caches_page  # noqa: E402  (beside this file)
import caches_pictures  # noqa: E402
from reference import data_dir  # noqa: E402
from warmfleet_contracts.perfmodel import lookup  # noqa: E402
from warmfleet_simulation.requests.cluster import Run, simulate  # noqa: E402
from warmfleet_simulation.requests.report import Around, around, together  # noqa: E402
from warmfleet_simulation.requests.setup import Arm, Engine  # noqa: E402
from warmfleet_simulation.requests.trial import ARMS, HALVED, PATTERNS, WORKERS, Outcome, Pattern, trial  # noqa: E402
from warmfleet_simulation.requests.workload import agentic, conversation, repeated, until  # noqa: E402

ACCELERATORS = ("H100-SXM", "A100-80GB")
WORKLOADS = ("agentic", "conversation")
LONGEST_S = 7200.0
PHASE_S = 12.0
"""The conversation trace is one: its seeds move the events by so much each."""
BANDWIDTHS = (25.0, 100.0, 400.0)
ROUTERS = (
    ("round_robin", 64, True),
    ("least_load", 64, True),
    ("cache_aware", 64, True),
    ("cache_aware", None, True),
    ("cache_aware", 64, False),
)
"""(policy, balance threshold, whether equally loaded workers take turns)."""
SHOWN = ("never", "naive", "migrate", "migrate+host", "store")


def engine(accelerator: str) -> Engine:
    """Llama-3.1-8B in bf16 on one accelerator."""
    return Engine(lookup("llama-3.1-8b", "bf16", accelerator, 1))


def ablation(folder: Path, router: tuple[str, int | None, bool]) -> list[dict[str, Any]]:
    """Victim x strategy x bandwidth behind one router on one seed, fleet halved."""
    routing, balance, even = router
    work, of = until(agentic(folder, 1), LONGEST_S), engine(ACCELERATORS[0])
    same = {"routing": routing, "balance_abs": balance, "even": even}
    by = {arm.name: arm for arm in ARMS}
    arms = [replace(by["naive"], **same)]
    arms += [
        replace(by[base], **same, victims=victims, link_gbit=gbit)
        for victims in ("newest", "planner")
        for base in ("victim", "replay", "migrate", "migrate+host", "store")
        for gbit in (BANDWIDTHS if by[base].handover in ("migrate", "store") else (100.0,))
    ]
    named = [replace(arm, name=f"{i}") for i, arm in enumerate(arms)]
    found = {one.arm: one for one in trial(work, of, HALVED, 1, arms=named)}
    return [{**asdict(found[f"{i}"]), "arm": asdict(arm)} for i, arm in enumerate(arms)]


def case(
    folder: Path,
    accelerator: str,
    name: str,
    seed: int,
    arms: Sequence[Arm] = ARMS,
    kept: Sequence[dict[str, Any]] = (),
) -> tuple[list[dict[str, Any]], dict[str, Around]]:
    """The arms on one workload: rows, and by arm what happens around the halving of the fleet.

    Args:
        folder: Folder of the traces.
        accelerator: What serves.
        name: Workload.
        seed: Seed.
        arms: Ways to scale.
        kept: Rows there are already; references among them are not run again.
    """
    mine = [r for r in kept if (r["workload"], r["accelerator"], r["seed"]) == (name, accelerator, seed)]
    fields = [f.name for f in dataclass_fields(Outcome)]
    work = until(agentic(folder, seed), LONGEST_S) if name == "agentic" else conversation(folder)
    phase = PHASE_S * (seed - 1) if name == "conversation" else 0.0
    rows: list[dict[str, Any]] = []
    lines: dict[str, Around] = {}
    for pattern in PATTERNS:
        downs = [at for at, wanted in pattern.schedule(work.duration_s, phase) if wanted < WORKERS]

        def seen(arm: str, run: Run, pattern: Pattern = pattern, downs: list[float] = downs) -> None:
            if pattern is HALVED and arm in SHOWN:
                lines[arm] = around(run, downs)

        known = [Outcome(**{f: r[f] for f in fields}) for r in mine if r["pattern"] == pattern.name]
        found = trial(work, engine(accelerator), pattern, seed, arms=arms, phase_s=phase, known=known, seen=seen)
        rows += [{"workload": name, "accelerator": accelerator, **asdict(one)} for one in found]
    return rows, lines


def speed(folder: Path) -> dict[str, float]:
    """Seconds of the 12,031-request trace on 16 workers, compiled before, and of the trace again and again."""
    work, of = conversation(folder), engine("H100-SXM")
    simulate(until(work, 60.0), of, Arm("warm"), [], workers=16)
    wall, cpu = time.perf_counter(), time.process_time()
    simulate(work, of, Arm("drain"), HALVED.schedule(work.duration_s), workers=16)
    figures = {
        "requests": len(work.arrival_s),
        "seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    long, cpu = until(repeated(work, 84), 83.5 * work.duration_s), time.process_time()
    if len(long.arrival_s) < 1_000_000:
        raise AssertionError(f"{len(long.arrival_s)} are fewer than a million requests")
    simulate(long, of, Arm("drain"), HALVED.schedule(long.duration_s), workers=16)
    return {**figures, "million": round(time.process_time() - cpu, 1)}


class Results:
    """What has been found so far, and the file it is kept in.

    Args:
        kept: Results of earlier runs that stay.
        head: Facts of this run.
    """

    def __init__(self, kept: dict[str, Any], head: dict[str, Any]) -> None:
        self._rows: list[dict[str, Any]] = kept.pop("rows", [])
        self._extra = {**kept, **head}
        self._lines: dict[str, dict[str, list[Around]]] = {}

    def take(self, what: tuple[str, ...], found: Any) -> None:
        """What one of the tasks has found."""
        if what[0] not in ACCELERATORS:
            known = [r for r in self._extra.get("ablation", []) if _router_of(r) != _router_of(found[0])]
            self._extra["ablation"] = sorted(known + found, key=lambda r: ROUTERS.index(_router_of(r)))
            return
        rows, seen = found
        self._rows += rows
        self._rows.sort(key=lambda r: (r["workload"], r["accelerator"], r["pattern"], r["seed"]))
        if what[0] == ACCELERATORS[0]:
            for arm, line in seen.items():
                self._lines.setdefault(what[1], {}).setdefault(arm, []).append(line)

    def tell(self, key: str, value: Any) -> None:
        """A fact beside the rows."""
        self._extra[key] = value

    def save(self) -> None:
        """Writes the file."""
        if self._lines:
            self._extra["around"] = {
                name: {arm: together(each) for arm, each in of.items()} for name, of in sorted(self._lines.items())
            }
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps({**self._extra, "rows": self._rows}, indent=1) + "\n", encoding="utf-8")


def _router_of(row: dict[str, Any]) -> tuple[str, int | None, bool]:
    arm = row["arm"]
    return arm["routing"], arm["balance_abs"], arm["even"]


def run(folder: Path, seeds: int, accelerators: list[str], *, ablate: bool, add: bool, jobs: int) -> None:
    """Runs everything and writes the result file, after each part what there is."""
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if add and RESULT.is_file() else {}
    kept["rows"] = [r for r in kept.get("rows", []) if r["accelerator"] not in accelerators]
    load = f"{platform.machine()}, {os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f} at the start"
    results = Results(kept, {"machine": load})
    with ProcessPoolExecutor(jobs) as pool:
        todo: dict[Future[Any], tuple[str, ...]] = {}
        for accelerator in accelerators:
            for seed in range(1, seeds + 1):
                for name in WORKLOADS:
                    todo[pool.submit(case, folder, accelerator, name, seed)] = (accelerator, name, f"seed {seed}")
            for router in ROUTERS if ablate and accelerator == ACCELERATORS[0] else ():
                todo[pool.submit(ablation, folder, router)] = (*map(str, router),)
        for i, done in enumerate(as_completed(todo), 1):
            results.take(todo[done], done.result())
            results.save()
            sys.stderr.write(f"{i} of {len(todo)}: {', '.join(todo[done])}\n")
    results.tell("speed", speed(folder))
    results.save()


def again(folder: Path, names: list[str], workloads: list[str], *, jobs: int) -> None:
    """Runs some arms again on workloads of the result file, and writes them in the place of what was there."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    arms = [arm for arm in ARMS if arm.name in names]
    if len(arms) != len(names):
        raise SystemExit(f"--arms: one of {', '.join(names)} is not one of {', '.join(arm.name for arm in ARMS)}")
    if unknown := set(workloads) - set(WORKLOADS):
        raise SystemExit(f"--workloads: {', '.join(sorted(unknown))} is not one of {', '.join(WORKLOADS)}")
    rows, lines = found["rows"], {}
    there = sorted({(r["accelerator"], r["workload"], r["seed"]) for r in rows if r["workload"] in workloads})
    with ProcessPoolExecutor(jobs) as pool:
        todo = {pool.submit(case, folder, *which, arms, rows): which for which in there}
        for i, done in enumerate(as_completed(todo), 1):
            new, lines[todo[done]] = done.result()
            fresh = {_place(r): r for r in new}
            found["rows"] = [fresh.get(_place(r), r) for r in found["rows"]]
            RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            sys.stderr.write(f"{i} of {len(todo)}: {', '.join(map(str, todo[done]))}\n")
    for name, of in found.get("around", {}).items():
        seen = [
            line for (acc, workload, _), line in sorted(lines.items()) if (acc, workload) == (ACCELERATORS[0], name)
        ]
        of.update({arm: together([line[arm] for line in seen]) for arm in set(of) & set(names) if seen})
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("workload", "accelerator", "pattern", "seed", "arm"))


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="run nothing; write the page from the results there are")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--accelerators", default=",".join(ACCELERATORS))
    parser.add_argument("--no-ablation", action="store_true")
    parser.add_argument("--add", action="store_true", help="keep the results of other accelerators that there are")
    parser.add_argument("--arms", default="", help="run only these again; the rest of the result file stays")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="with --arms: on these only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    args = parser.parse_args()
    if args.arms and not args.page:
        again(data_dir() / "traces", args.arms.split(","), args.workloads.split(","), jobs=args.jobs)
    elif not args.page:
        accelerators = args.accelerators.split(",")
        run(data_dir() / "traces", args.seeds, accelerators, ablate=not args.no_ablation, add=args.add, jobs=args.jobs)
    if not RESULT.is_file():
        raise SystemExit(f"no {RESULT.relative_to(ROOT)}; run without --page first")
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    claims = caches_page.claims(found)
    (ROOT / "docs" / "caches.md").write_text(caches_page.render(found, claims), encoding="utf-8")
    (ROOT / "docs" / "caches.svg").write_text(caches_pictures.retained(found["rows"]), encoding="utf-8")
    if "around" in found:
        (ROOT / "docs" / "caches-around.svg").write_text(caches_pictures.around(found["around"]), encoding="utf-8")
    for claim in claims:
        sys.stdout.write(json.dumps(claim) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
