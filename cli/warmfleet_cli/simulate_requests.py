"""``warmfleet simulate --engine requests``: what scaling does to caches and latency on a request trace."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmfleet_simulation.requests.cluster import Run
    from warmfleet_simulation.requests.report import Timeline
    from warmfleet_simulation.requests.setup import Arm, Engine
    from warmfleet_simulation.requests.trial import Outcome
    from warmfleet_simulation.requests.workload import Work

_EVENTS = ("halved", "two")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that only this engine has."""
    parser.add_argument(
        "--engine",
        choices=("fluid", "requests"),
        default="fluid",
        help="fluid (default): cost and attainment over days; requests: caches and TTFT around scale-downs",
    )
    group = parser.add_argument_group("with --engine requests")
    group.add_argument("--arms", default="all", metavar="NAMES", help="comma-separated ways to scale, or all (default)")
    group.add_argument(
        "--events", choices=_EVENTS, default="halved", help="8 workers halved (default), or two of them leaving"
    )
    group.add_argument(
        "--model", default="llama-3.1-8b", metavar="NAME", help="performance profile (default llama-3.1-8b)"
    )
    group.add_argument("--dtype", default="bf16", metavar="DTYPE", help="data type of the weights (default bf16)")
    group.add_argument(
        "--accelerator", default="H100-SXM", metavar="NAME", help="accelerator, such as A100-80GB (default H100-SXM)"
    )
    group.add_argument(
        "--block-tokens", type=int, default=512, metavar="N", help="tokens of the trace's hash blocks (default 512)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the trial.

    Raises:
        ValueError: A trace or an option cannot be used; the message names it.
    """
    from warmfleet_simulation.requests.report import page, timeline  # noqa: PLC0415 - heavy
    from warmfleet_simulation.requests.trial import HALVED, TWO_OF_EIGHT, rows, trial  # noqa: PLC0415

    arms, engine, work = _arms(args.arms), _engine(args), _work(args)
    lines: list[Timeline] = []

    def seen(name: str, run: Run) -> None:
        if args.report is not None:
            lines.append(timeline(name, run))
        if sys.stderr.isatty():
            sys.stderr.write(f"{name}\n")

    pattern = HALVED if args.events == "halved" else TWO_OF_EIGHT
    found = trial(work, engine, pattern, args.seed, arms=arms, seen=seen)
    title = f"{work.name}: {args.model} on {args.accelerator}, {pattern.name}"
    if args.report is not None:
        args.report.write_text(page(title, found, lines), encoding="utf-8")
    if args.json == "-":
        json.dump(rows(found), sys.stdout, indent=1)
        sys.stdout.write("\n")
        return 0
    if args.json is not None:
        Path(args.json).write_text(json.dumps(rows(found), indent=1) + "\n", encoding="utf-8")
    _print(title, found)
    return 0


def _arms(names: str) -> list[Arm]:
    from warmfleet_simulation.requests.trial import ARMS  # noqa: PLC0415 - heavy

    known = {arm.name: arm for arm in ARMS}
    if names == "all":
        return list(ARMS)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    lacking = [name for name in wanted if name not in known]
    if lacking or not wanted:
        raise ValueError(f"--arms: unknown {', '.join(lacking) or 'none'}; choose from {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(wanted)]


def _engine(args: argparse.Namespace) -> Engine:
    from warmfleet_contracts.perfmodel import lookup  # noqa: PLC0415
    from warmfleet_simulation.requests.setup import Engine  # noqa: PLC0415 - heavy

    profile = lookup(args.model, args.dtype, args.accelerator, 1)
    if profile is None:
        raise ValueError(
            f"no performance profile for --model {args.model} --dtype {args.dtype} --accelerator {args.accelerator}"
        )
    return Engine(profile)


def _work(args: argparse.Namespace) -> Work:
    from warmfleet_contracts.traces import RequestTrace, TraceError  # noqa: PLC0415
    from warmfleet_simulation.importers import detect, import_trace  # noqa: PLC0415
    from warmfleet_simulation.requests.workload import pack, sessions, until  # noqa: PLC0415

    if len(args.trace) != 1:
        raise ValueError("--engine requests takes one --trace")
    if args.block_tokens < 1:
        raise ValueError(f"--block-tokens {args.block_tokens}: write a number of at least 1")
    path = args.trace[0]
    trace = import_trace(path, args.format or detect(path)).trace
    if not isinstance(trace, RequestTrace):
        raise TraceError(f"--trace: {path.name} has rates only; --engine requests needs single requests")
    work = (
        pack(trace, block_tokens=args.block_tokens)
        if trace.session is None
        else sessions(trace, args.seed, block_tokens=args.block_tokens)
    )
    return work if args.days is None else until(work, args.days * 86400.0)


def _print(title: str, found: list[Outcome]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=f"{title}; requests of the two minutes after each scale-down")
    for name in ("arm", "hit ratio", "retained", "TTFT p50 s", "TTFT p99 s", "excess prefill GPU-s", "lost", "again"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for one in found:
        table.add_row(
            one.arm,
            f"{one.hit_rate:.3f}",
            "-" if one.retained is None else f"{one.retained:.3f}",
            f"{one.ttft_p50:.2f}",
            f"{one.ttft_p99:.2f}",
            f"{one.excess_s:,.0f}",
            str(one.lost),
            str(one.retried),
        )
    Console(width=max(110, Console().width)).print(table)
