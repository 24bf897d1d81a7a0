"""The program's entry: finds the subcommand, imports only that one, and runs it.

A subcommand is a module with ``add_arguments(parser)`` and ``run(arguments) -> int`` (the exit code). It is imported
when it is called, so that ``warmfleet X`` neither needs nor waits for the libraries of ``warmfleet Y``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

SUBCOMMANDS = {
    "status": ("warmfleet_cli.status", "all fleets in one table: workers, demand, cost, reason, forecast"),
    "explain": ("warmfleet_cli.explain", "how the last decision about a fleet came about, with its figures"),
    "plan": ("warmfleet_cli.plan_cmd", "what the planner would do: a dry run on manifests and a snapshot"),
    "snapshot": ("warmfleet_cli.snapshot_cmd", "save what a decision is made from"),
    "demo": ("warmfleet_cli.demo.command", "the whole product on this machine, in under 4 minutes"),
    "drain": ("warmfleet_cli.drain", "let one worker leave as a scale-down would: unrouted, finished, handed over"),
    "pause": ("warmfleet_cli.pause", "hold a fleet as it is, or keep it from growing or shrinking"),
    "resume": ("warmfleet_cli.resume", "take pauses of a fleet back"),
    "report": ("warmfleet_cli.report", "a support bundle: objects, events, logs and a snapshot, without secrets"),
    "fit": (
        "warmfleet_cli.fit",
        "on which instance types a model fits, what it costs there, and with which flags it runs",
    ),
    "forecast": ("warmfleet_cli.forecast", "what traffic is expected of a history, and how far to trust it"),
    "simulate": (
        "warmfleet_cli.simulate",
        "replay a trace through the planner, beside other autoscalers and the optimum",
    ),
}
"""Name -> (module, one line of help)."""
EXTRAS = {
    "status": "cli",
    "explain": "cli",
    "plan": "cli",
    "snapshot": "cli",
    "demo": "demo",
    "drain": "cli",
    "pause": "cli",
    "resume": "cli",
    "report": "cli",
    "fit": "cli",
    "forecast": "cli,forecasting,traces",
    "simulate": "simulation",
}
"""Name -> extra of the distribution that brings what the subcommand needs."""


def parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The program's parser; of the subcommands, the one that ``words`` begins with knows its arguments.

    Raises:
        ModuleNotFoundError: What the subcommand needs is not installed.
    """
    found = argparse.ArgumentParser(
        prog="warmfleet", description="Serving fleets of large language models on Kubernetes."
    )
    found.add_argument("--version", action="version", version=f"warmfleet {_version()}")
    commands = found.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in SUBCOMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary)
        if list(words[:1]) == [name]:
            command = importlib.import_module(module)
            command.add_arguments(sub)
            sub.set_defaults(run=command.run)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the subcommand that ``argv`` names (the process's own arguments when None); returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = parser(words).parse_args(words)
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        print(f"error: {error}; install it with: pip install 'warmfleet[{EXTRAS[words[0]]}]'", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who reads has seen enough, as in `warmfleet plan -o json | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's own flush complains
        return 1
    return code


def _version() -> str:
    try:
        return version("warmfleet")
    except PackageNotFoundError:
        return "unknown"
