"""``warmfleet pause NAME``: sets the annotations that hold a fleet, and ``resume`` removes them.

The operator reads them with the next decision. A paused fleet is still observed, and its workers still serve; what a
paused fleet needs is in its status.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from warmfleet_contracts import labels
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import LLM_DEPLOYMENTS

from warmfleet_cli import cluster, output

PAUSES = {
    "all": labels.PAUSED,
    "scale-in": labels.PAUSED_SCALE_IN,
    "scale-out": labels.PAUSED_SCALE_OUT,
}
"""What is paused -> annotation."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    add_parts(parser, "no worker is removed", "no worker is added")


def add_parts(parser: argparse.ArgumentParser, scale_in: str, scale_out: str) -> None:
    """Adds the arguments of ``pause`` and of ``resume``, with what each does to a part of scaling."""
    parser.add_argument("name", help="name of the LLMDeployment")
    parser.add_argument("--scale-in", action="store_true", help=f"only: {scale_in}")
    parser.add_argument("--scale-out", action="store_true", help=f"only: {scale_out}")
    output.add_arguments(parser)
    cluster.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; 2 when the fleet cannot be found or written."""
    return change(args, dict.fromkeys((PAUSES[part] for part in parts(args) or ["all"]), "true"))


def parts(args: argparse.Namespace) -> list[str]:
    """What the options name."""
    return [name for name, named in (("scale-in", args.scale_in), ("scale-out", args.scale_out)) if named]


def change(args: argparse.Namespace, annotations: dict[str, str | None]) -> int:
    """Writes annotations of a fleet and says what is paused now."""
    inside = cluster.namespace(args)

    async def write(client: KubeClient) -> dict[str, Any]:
        body = {"metadata": {"annotations": annotations}}
        return await client.patch(LLM_DEPLOYMENTS, args.name, body, inside)

    try:
        written = cluster.read(args, write)
    except cluster.ClusterError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    notes = written["metadata"].get("annotations") or {}
    paused = [name for name, key in PAUSES.items() if labels.is_true(notes, key)]
    if args.output == "json":
        json.dump({"namespace": inside, "name": args.name, "paused": paused}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        cluster.console().print(
            f"{inside}/{args.name}: {', '.join(paused) + ' paused' if paused else 'nothing paused'}"
        )
    return 0
