"""The argument by which a subcommand prints text or JSON."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Adds ``--output``; ``more`` is said after its default."""
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help=f"form (default text){more}")
