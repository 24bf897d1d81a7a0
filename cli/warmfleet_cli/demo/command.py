"""Arguments of ``warmfleet demo``, and its result: one line of JSON on standard output."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path

from warmfleet_contracts.traces import TraceError

from warmfleet_cli.demo import traffic
from warmfleet_cli.demo.cluster import ClusterError
from warmfleet_cli.demo.run import CLUSTERS, Options, Result, run_demo

_LOG = logging.getLogger(__name__)
MAX_MINUTES = 100
"""Longest traffic, trace minutes: the whole demo ends within four real minutes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="rate trace, Parquet (default: a generated week and its next morning)",
    )
    parser.add_argument(
        "--start-minute", type=int, metavar="N", help="first minute of the trace (default: where it changes most)"
    )
    parser.add_argument(
        "--minutes",
        type=int,
        default=100,
        metavar="N",
        help="minutes of the trace, one and a half seconds each (default 100)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of arrivals and prompts (default 1)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/demo"),
        metavar="FOLDER",
        help="folder of report and logs (default out/demo)",
    )
    parser.add_argument(
        "--cluster", choices=sorted(CLUSTERS), default="embedded", help="where it runs (default embedded)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the demo; 0 when it ran and no request failed, 1 when one did, 2 when it could not run."""
    if sys.platform != "linux":
        print("error: the demo needs Linux (each pod is a process with a loopback address of its own)", file=sys.stderr)
        return 2
    if not 5 <= arguments.minutes <= MAX_MINUTES:
        print(f"error: --minutes {arguments.minutes}: write a number from 5 to {MAX_MINUTES}", file=sys.stderr)
        return 2
    try:
        pattern = choose_pattern(arguments)
    except TraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=folder / "demo.log", filemode="w", level=logging.INFO, force=True)
    options = Options(pattern=pattern, seed=arguments.seed, folder=folder, cluster=arguments.cluster)
    try:
        result = asyncio.run(run_demo(options))
    except ClusterError as error:
        _LOG.error("%s", error)
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ended by Ctrl-C", file=sys.stderr)
        return 130
    print(result_line(result))
    return 1 if result.failed else 0


def choose_pattern(arguments: argparse.Namespace) -> traffic.Pattern:
    """The named trace, else the generated pattern.

    Raises:
        TraceError: The trace cannot be used.
    """
    trace: Path | None = arguments.trace
    if trace is None:
        return traffic.generated(minutes=arguments.minutes)
    return traffic.from_trace(trace, minutes=arguments.minutes, start_minute=arguments.start_minute)


def result_line(result: Result) -> str:
    """The demo's last line."""
    return json.dumps(
        {
            "requests": result.requests,
            "failed": result.failed,
            "scale_ups": result.scale_ups,
            "scale_downs": result.scale_downs,
            "report": str(result.report),
        }
    )
