"""``warmfleet resume NAME``: removes the annotations that :mod:`warmfleet_cli.pause` sets."""

from __future__ import annotations

import argparse

from warmfleet_cli import cluster, output, pause


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("name", help="name of the LLMDeployment")
    parser.add_argument("--scale-in", action="store_true", help="only: workers may be removed again")
    parser.add_argument("--scale-out", action="store_true", help="only: workers may be added again")
    output.add_arguments(parser)
    cluster.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; 2 when the fleet cannot be found or written."""
    named = pause.parts(args) or list(pause.PAUSES)
    return pause.change(args, dict.fromkeys(pause.PAUSES[part] for part in named))
