"""``warmfleet simulate``: what the planner, its rivals and a clairvoyant would do on a trace."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from warmfleet_cli import output, simulate_requests

if TYPE_CHECKING:
    from warmfleet_contracts.traces import RateTrace
    from warmfleet_simulation.fleet import Fleet, Load
    from warmfleet_simulation.policy import Policy
    from warmfleet_simulation.sweep import Result

_GRID = (0.5, 0.7071, 1.0, 1.4142, 2.0)
_BOUNDS = {
    "tune_days": (0.0, 400.0),
    "days": (1 / 1440, 400.0),
    "share": (1e-6, 1.0),
    "step": (1.0, 60.0),
    "startup": (1.0, 86_400.0),
    "peak_workers": (1.0, 10_000.0),
    "seed": (0, 2**32 - 1),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument(
        "--trace",
        action="append",
        required=True,
        type=Path,
        metavar="FILE",
        help="trace: Parquet, Azure or BurstGPT CSV, Mooncake JSONL, Prometheus range JSON, ServeGen folder; once per "
        "LLMDeployment of --fleet",
    )
    parser.add_argument("--format", metavar="NAME", help="format of the traces, where it cannot be told from the file")
    parser.add_argument("--policy", default="all", metavar="NAMES", help="comma-separated policies, or all (default)")
    parser.add_argument("--fleet", type=Path, metavar="FILE", help="InstanceTypes and LLMDeployments; else one type")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a report")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON; - for standard output")
    output.add_arguments(parser, "; json is --json -")
    parser.add_argument(
        "--tune-days",
        type=float,
        default=3.0,
        metavar="N",
        help="days on which each policy's knob is tuned (default 3)",
    )
    parser.add_argument("--days", type=float, metavar="N", help="use only the first N days of the trace")
    parser.add_argument("--share", type=float, metavar="0..1", help="keep each request with this probability")
    parser.add_argument("--superpose", action="store_true", help="add the traces up: the traffic of one deployment")
    parser.add_argument("--step", type=float, default=15.0, metavar="SECONDS", help="length of a step (default 15)")
    parser.add_argument(
        "--startup",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="start-up time of a worker without --fleet (default 300)",
    )
    parser.add_argument(
        "--peak-workers",
        type=float,
        default=60.0,
        metavar="N",
        help="workers at p99.9 demand without --fleet (default 60)",
    )
    parser.add_argument("--untuned", action="store_true", help="leave each knob at its documented default")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of all random draws (default 1)")
    simulate_requests.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; 2 for a trace, fleet or option that cannot be used."""
    if args.output == "json" and args.json is None:
        args.json = "-"
    try:
        return _run(args)
    except (ValueError, OSError) as error:  # TraceError, FleetError and the option checks; a disk that is full
        sys.stderr.write(f"error: {error}\n")
    return 2


def _run(args: argparse.Namespace) -> int:
    _check(args)
    if args.engine == "requests":
        return simulate_requests.run(args)
    from warmfleet_simulation.sweep import sweep  # noqa: PLC0415 - heavy

    policies = _policies(args.policy)
    traces, notes = _traces(args)
    fleet, load = _fleet(args, traces, notes)
    grid = (1.0,) if args.untuned else _GRID
    with _Bar() as progress:
        result = sweep(load.name, fleet, load, policies, seed=args.seed, grid=grid, progress=progress)
    for note in notes:
        sys.stderr.write(f"note: {note}\n")
    _write(args, result, load, notes)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuses options before anything is computed.

    Raises:
        ValueError: One of them cannot be; the message names it.
    """
    for name, (low, high) in _BOUNDS.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"--{name.replace('_', '-')} {value:g}: write a number from {low:g} to {high:g}")
    for option, path in (("--report", args.report), ("--json", args.json)):
        if path is None or str(path) == "-":
            continue
        if not Path(path).parent.is_dir():
            raise ValueError(f"{option}: there is no folder {Path(path).parent}; create it")
        if Path(path).is_dir():
            raise ValueError(f"{option}: {path} is a folder; name a file")


def _fleet(args: argparse.Namespace, traces: tuple[RateTrace, ...], notes: list[str]) -> tuple[Fleet, Load]:
    """The fleet, and the traffic in steps."""
    from warmfleet_simulation.fleet import make_load, standard_fleet  # noqa: PLC0415 - heavy
    from warmfleet_simulation.manifests import load_fleet  # noqa: PLC0415

    if args.fleet is not None:
        fleet = load_fleet(args.fleet, traces)
    elif len(traces) == 1:
        fleet = standard_fleet(traces[0], startup_s=args.startup, peak_workers=args.peak_workers)
    else:
        raise ValueError("more than one --trace needs --fleet with as many LLMDeployments, or --superpose")
    length = min(float(t.minutes[-1]) for t in traces) / 1440.0
    tune = args.tune_days if length > args.tune_days * 1.2 else length / 2.0
    if tune < args.tune_days:
        notes.append(
            f"the trace has {length:.2f} days: knobs are tuned on the first half instead of {args.tune_days:g}"
        )
    return fleet, make_load(traces, fleet, seed=args.seed, step_s=args.step, tune_days=tune)


def _write(args: argparse.Namespace, result: Result, load: Load, notes: list[str]) -> None:
    """Report, JSON and table, as asked for."""
    from warmfleet_simulation.sweep import rows  # noqa: PLC0415 - heavy

    figures = rows(result)
    if args.report is not None:
        from warmfleet_simulation.report import page  # noqa: PLC0415 - plotly only when asked for

        args.report.write_text(page(result, load, notes), encoding="utf-8")
    if args.json == "-":
        json.dump(figures, sys.stdout, indent=1)
        sys.stdout.write("\n")
    elif args.json is not None:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if args.json != "-":
        _print(result)


def _policies(names: str) -> list[Policy]:
    from warmfleet_simulation.ours import Ours, Reactive  # noqa: PLC0415 - heavy
    from warmfleet_simulation.rivals import RIVALS  # noqa: PLC0415

    known: dict[str, Policy] = {**RIVALS, Reactive.name: Reactive(), Ours.name: Ours()}
    if names == "all":
        return list(known.values())
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    lacking = [name for name in wanted if name not in known]
    if lacking or not wanted:
        raise ValueError(f"--policy: unknown {', '.join(lacking) or 'none'}; choose from {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(wanted)]


def _traces(args: argparse.Namespace) -> tuple[tuple[RateTrace, ...], list[str]]:
    from warmfleet_simulation.scaling import load_any, superpose, thin, window_of  # noqa: PLC0415

    traces: list[RateTrace] = []
    notes: list[str] = []
    for path in args.trace:
        trace, said = load_any(path, args.format, args.seed)
        if args.days is not None:
            trace = window_of(trace, 0, max(1, round(args.days * 1440)))
        gaps = trace.gaps()
        if args.share is not None:
            trace = thin(trace, args.share, args.seed)
        notes += [*said, *([f"{trace.name}: {gaps} minutes of gaps are not scored"] if gaps else [])]
        traces.append(trace)
    return (superpose(traces),) if args.superpose else tuple(traces), notes


class _Bar:
    """A progress bar on standard error; silent when that is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - not needed by other subcommands
        from rich.progress import Progress  # noqa: PLC0415

        self._progress = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._task = self._progress.add_task("simulating", total=None)

    def __enter__(self) -> Callable[[int, int], None]:
        self._progress.start()
        return self._moved

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def _moved(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)


def _print(result: Result) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console(width=max(110, Console().width))
    table = Table(title=f"{result.scenario}: objective {result.objective:.2%}, optimum ${result.optimum:,.0f}")
    for name in ("policy", "cost $", "/ optimum", "in time", "lost", "actions", "default / optimum", "default in time"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for curve in result.curves:
        lane, plain = curve.tuned, curve.untuned.score
        table.add_row(
            curve.policy,
            f"{lane.score.cost:,.0f}",
            f"{lane.score.cost / result.optimum:.3f}" if result.optimum else "-",
            f"{lane.score.attainment:.3%}",
            f"{lane.score.lost:,.0f}",
            str(lane.scale_actions),
            f"{plain.cost / result.optimum:.3f}" if result.optimum else "-",
            f"{plain.attainment:.3%}",
        )
    console.print(table)
