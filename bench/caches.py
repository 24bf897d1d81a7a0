"""What scaling does to caches and latency: ``python bench/caches.py``.

Runs every arm over seeds on the request-level simulator, writes ``bench/results/caches.json``, the section
``docs/caches.md`` and its picture ``docs/caches.svg`` from it, and prints one line per claim::

    {"claim": ..., "value": ..., "target": ..., "met": ...}

``--page`` runs nothing. ``--seeds 3`` and ``--accelerators H100-SXM`` run less; the page says how much was run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "bench" / "results" / "caches.json"
sys.path[:0] = [str(ROOT / part) for part in ("simulation", "contracts", "operator", "runtime", "bench")]

import caches_page  # noqa: E402  (beside this file)
from warmfleet_contracts.perfmodel import lookup  # noqa: E402
from warmfleet_simulation.requests.cluster import Run, simulate  # noqa: E402
from warmfleet_simulation.requests.setup import Arm, Engine  # noqa: E402
from warmfleet_simulation.requests.trial import ARMS, HALVED, PATTERNS, trial  # noqa: E402
from warmfleet_simulation.requests.workload import Work, agentic, conversation, until  # noqa: E402

ACCELERATORS = ("H100-SXM", "A100-80GB")
LONGEST_S = 7200.0
PHASE_S = 12.0
"""The conversation trace is one: its seeds move the events by so much each."""


def data_dir() -> Path:
    """The folder of the traces.

    Raises:
        SystemExit: There is none.
    """
    named = os.environ.get("WARMFLEET_DATA")
    folder = (Path(named) if named else ROOT.parent / "shared" / "data") / "traces"
    if not folder.is_dir():
        raise SystemExit(f"no traces in {folder}; set WARMFLEET_DATA to the folder that holds traces/")
    return folder


def engine(accelerator: str) -> Engine:
    """Llama-3.1-8B in bf16 on one accelerator."""
    return Engine(lookup("llama-3.1-8b", "bf16", accelerator, 1))


def ablation(work: Work, of: Engine, said: Any) -> list[dict[str, Any]]:
    """Router x victim x strategy x bandwidth on one seed, fleet halved."""
    out: list[dict[str, Any]] = []
    for routing, balance in (("round_robin", 64), ("least_load", 64), ("cache_aware", 64), ("cache_aware", None)):
        arms = [replace(ARMS[0], routing=routing, balance_abs=balance)]
        arms += [
            replace(base, routing=routing, balance_abs=balance, victims=victims, link_gbit=gbit)
            for victims in ("newest", "planner")
            for base in ARMS[3:]
            for gbit in ((25.0, 100.0, 400.0) if base.handover in ("migrate", "store") else (100.0,))
        ]
        named = [replace(arm, name=f"{i}") for i, arm in enumerate(arms)]
        found = {one.arm: one for one in trial(work, of, HALVED, 1, arms=named, seen=said)}
        out += [{**asdict(found[f"{i}"]), "arm": asdict(arm)} for i, arm in enumerate(arms)]
    return out


def speed(folder: Path) -> dict[str, float]:
    """Seconds of the 12,031-request trace on 16 workers, compiled before."""
    work, of = conversation(folder), engine("H100-SXM")
    simulate(until(work, 60.0), of, Arm("warm"), [], workers=16)
    wall, cpu = time.perf_counter(), time.process_time()
    simulate(work, of, Arm("drain"), HALVED.schedule(work.duration_s), workers=16)
    return {
        "requests": len(work.arrival_s),
        "seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def run(folder: Path, seeds: int, accelerators: list[str], *, ablate: bool) -> None:
    """Runs everything and writes the result file, after each seed what there is."""
    rows: list[dict[str, Any]] = []
    extra: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f} at the start",
        "speed": speed(folder),
    }

    def said(name: str, _: Run) -> None:
        sys.stderr.write(f"{name} ")
        sys.stderr.flush()

    def save() -> None:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps({**extra, "rows": rows}, indent=1) + "\n", encoding="utf-8")

    talk = conversation(folder)
    for accelerator in accelerators:
        of = engine(accelerator)
        for seed in range(1, seeds + 1):
            for name, work in (("agentic", until(agentic(folder, seed), LONGEST_S)), ("conversation", talk)):
                phase = PHASE_S * (seed - 1) if name == "conversation" else 0.0
                for pattern in PATTERNS:
                    found = trial(work, of, pattern, seed, phase_s=phase, seen=said)
                    rows += [{"workload": name, "accelerator": accelerator, **asdict(one)} for one in found]
                    save()
            sys.stderr.write(f"\n{accelerator}: seed {seed} of {seeds}\n")
        if ablate and accelerator == accelerators[0]:
            extra["ablation"] = ablation(until(agentic(folder, 1), LONGEST_S), of, said)
            save()


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="run nothing; write the page from the results there are")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--accelerators", default=",".join(ACCELERATORS))
    parser.add_argument("--no-ablation", action="store_true")
    args = parser.parse_args()
    if not args.page:
        run(data_dir(), args.seeds, args.accelerators.split(","), ablate=not args.no_ablation)
    if not RESULT.is_file():
        raise SystemExit(f"no {RESULT.relative_to(ROOT)}; run without --page first")
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    claims = caches_page.claims(found)
    (ROOT / "docs" / "caches.md").write_text(caches_page.render(found, claims), encoding="utf-8")
    (ROOT / "docs" / "caches.svg").write_text(caches_page.picture(found), encoding="utf-8")
    for claim in claims:
        sys.stdout.write(json.dumps(claim) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
