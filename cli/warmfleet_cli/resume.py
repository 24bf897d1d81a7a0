"""``warmfleet resume NAME``: removes the annotations that :mod:`warmfleet_cli.pause` sets."""

from __future__ import annotations

import argparse

from warmfleet_cli import pause


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    pause.add_parts(parser, "workers may be removed again", "workers may be added again")


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; 2 when the fleet cannot be found or written."""
    named = pause.parts(args) or list(pause.PAUSES)
    return pause.change(args, dict.fromkeys(pause.PAUSES[part] for part in named))
