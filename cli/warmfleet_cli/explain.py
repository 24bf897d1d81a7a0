"""``warmfleet explain NAME``: how the last decision about a fleet came about, from the demand to those who leave.

Of a live fleet it is read from the status, where the operator writes it with each decision: nothing else has to be
reachable, and the right to read the LLMDeployment is enough. With ``--snapshot`` the planner decides anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state.decisions import DeploymentPlan
from warmfleet_operator.state.records import Key
from warmfleet_operator.state.words import counted
from warmfleet_runtime.resources import LLM_DEPLOYMENTS

from warmfleet_cli import cluster, output, snapshots

Chain = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("name", help="name of the LLMDeployment")
    cluster.add_arguments(parser)
    parser.add_argument("--snapshot", type=Path, metavar="FILE", help="decide anew on a saved snapshot instead")
    output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; 2 when there is nothing to explain."""
    try:
        chain = _saved(args) if args.snapshot is not None else _live(args)
    except (cluster.ClusterError, snapshots.SnapshotError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if args.output == "json":
        json.dump(chain, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        show(cluster.console(), chain)
    return 0


def _live(args: argparse.Namespace) -> Chain:
    inside = cluster.namespace(args)
    body = cluster.read(args, lambda client: client.get(LLM_DEPLOYMENTS, args.name, inside))
    chain = from_status(body)
    if not chain["trace"]:
        raise cluster.ClusterError(
            f"LLMDeployment {inside}/{args.name} has no decision in its status yet; is the operator running?"
        )
    return chain


def _saved(args: argparse.Namespace) -> Chain:
    snapshot, memory, now = snapshots.world(snapshots.load(args.snapshot), str(args.snapshot))
    inside = args.namespace or next((key.namespace for key in snapshot.deployments if key.name == args.name), "default")
    key = Key(inside, args.name)
    if key not in snapshot.deployments:
        known = ", ".join(str(k) for k in sorted(snapshot.deployments)[:10]) or "none"
        raise snapshots.SnapshotError(f"{args.snapshot}: no LLMDeployment {key} in it; there are: {known}")
    made, _ = plan(snapshot, memory, now)
    return from_plan(made.deployments[key])


def from_status(body: Mapping[str, Any]) -> Chain:
    """The chain that a fleet's status tells."""
    status = body.get("status") or {}
    scaling = status.get("scaling") or {}
    return {
        "namespace": body["metadata"].get("namespace", "default"),
        "name": body["metadata"]["name"],
        "ready": status.get("readyReplicas"),
        "desired": status.get("desiredReplicas"),
        "chosenBy": scaling.get("chosenBy", ""),
        "message": scaling.get("message", ""),
        "costPerHour": status.get("costPerHour"),
        "savedPerHour": status.get("savedPerHour"),
        "trace": [
            {"stage": s.get("stage", ""), "message": s.get("message", ""), "figures": s.get("figures") or {}}
            for s in scaling.get("trace") or []
        ],
        "problems": [
            c.get("message", "")
            for c in status.get("conditions") or []
            if (c.get("type"), c.get("status")) in (("Stalled", "True"), ("Ready", "False"))
        ],
    }


def from_plan(made: DeploymentPlan) -> Chain:
    """The chain of a decision."""
    prices = [(v.desired, v.cost_per_hour) for v in made.variants if v.desired]
    cost = None if any(price is None for _, price in prices) else sum(count * (price or 0) for count, price in prices)
    return {
        "namespace": made.key.namespace,
        "name": made.key.name,
        "desired": made.desired,
        "chosenBy": str(made.chosen_by),
        "message": made.message,
        "costPerHour": None if cost is None else round(cost, 4),
        "trace": [{"stage": str(n.stage), "message": n.text, "figures": dict(n.figures)} for n in made.trace()],
        "problems": [problem.message for problem in made.problems],
    }


def show(console: Console, chain: Chain) -> None:
    """Print a chain for a person."""
    title = Text(f"{chain['namespace']}/{chain['name']}: ", style="bold")
    title.append(f"{counted(chain['desired'])} wanted, {chain['chosenBy']}")
    console.print(title)
    console.print(Text(chain["message"]))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    before = ""
    for step in chain["trace"]:
        table.add_row("" if step["stage"] == before else step["stage"].lower(), Text(step["message"]))
        before = step["stage"]
    if chain.get("costPerHour") is not None:
        saved = chain.get("savedPerHour")
        money = f"${chain['costPerHour']:.2f}/h" + ("" if saved is None else f", ${saved:.2f}/h saved")
        table.add_row("cost", money)
    console.print(table)
    for problem in chain["problems"]:
        console.print(Text(f"! {problem}", style="yellow"))
