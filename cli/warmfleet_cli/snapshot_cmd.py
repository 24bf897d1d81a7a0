"""``warmfleet snapshot``: saves what a decision is made from, for ``warmfleet plan`` and ``warmfleet explain``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from warmfleet_cli import cluster
from warmfleet_cli.capture import capture
from warmfleet_cli.snapshots import dump


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    cluster.add_arguments(parser)
    parser.add_argument("--file", type=Path, metavar="FILE", help="where to write it (default standard output)")


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; 2 when the cluster cannot be read or the file cannot be written."""
    notes: list[str] = []
    try:
        text = dump(cluster.read(args, lambda client: capture(client, args.namespace, notes)))
        if args.file is None:
            sys.stdout.write(text)
        else:
            args.file.write_text(text, encoding="utf-8")
    except (cluster.ClusterError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for note in notes:
        sys.stderr.write(f"note: {note}\n")
    return 0
