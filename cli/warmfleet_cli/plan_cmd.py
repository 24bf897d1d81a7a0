"""``warmfleet plan -f manifests --snapshot s.json``: what the planner would do, without doing it.

The same ``plan()`` that the operator runs decides, on a saved snapshot, on the cluster as it is now (``--live``), or on
nothing but the manifests and a stated demand.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state.decisions import DeploymentPlan, FleetPlan
from warmfleet_operator.state.records import FleetSnapshot, Key

from warmfleet_cli import cluster, explain, output, snapshots
from warmfleet_cli.capture import capture
from warmfleet_cli.snapshots import Saved, SavedDemand, SnapshotError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument(
        "-f", "--filename", action="append", type=Path, default=[], metavar="FILE", help="manifests as if applied"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--snapshot", type=Path, metavar="FILE", help="a snapshot (see: warmfleet snapshot)")
    source.add_argument("--live", action="store_true", help="the cluster as it is now")
    parser.add_argument(
        "--demand",
        action="append",
        default=[],
        metavar="[NAMESPACE/]NAME=RATE",
        help="requests/s of a fleet instead of the ones in the snapshot",
    )
    parser.add_argument("--explain", action="store_true", help="print the chain of every decision")
    output.add_arguments(parser)
    cluster.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; 1 when a fleet cannot be planned, 2 for input that cannot be used."""
    try:
        saved = _source(args)
        if args.filename:
            saved = snapshots.with_manifests(saved, snapshots.manifests(args.filename), args.namespace or "default")
        saved = _with_demand(saved, args)
        snapshot, memory, now = snapshots.world(saved, str(args.snapshot or "snapshot"))
    except (cluster.ClusterError, SnapshotError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    made, _ = plan(snapshot, memory, now)
    if args.output == "json":
        json.dump([_row(one, snapshot) for one in made.deployments.values()], sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _show(cluster.console(), made, snapshot, chains=args.explain)
    return int(any(p.stalled for one in made.deployments.values() for p in one.problems))


def _source(args: argparse.Namespace) -> Saved:
    if args.snapshot is not None:
        return snapshots.load(args.snapshot)
    if not args.live:
        if not args.filename:
            raise SnapshotError("nothing to plan: give -f FILE, --snapshot FILE or --live")
        return Saved(taken_at=datetime.now(UTC))
    notes: list[str] = []
    saved = cluster.read(args, lambda client: capture(client, args.namespace, notes))
    for note in notes:
        sys.stderr.write(f"note: {note}\n")
    return saved


def _with_demand(saved: Saved, args: argparse.Namespace) -> Saved:
    demand = dict(saved.demand)
    for text in args.demand:
        name, _, value = text.partition("=")
        try:
            told = SavedDemand.model_validate({"arrivals": float(value)})
        except ValueError as error:
            raise SnapshotError(
                f"--demand {text}: NAME=RATE with RATE in requests/s, at least 0, is expected"
            ) from error
        key = _named(name, saved, args.namespace, text)
        known = demand.get(key, SavedDemand(queue=0))
        demand[key] = known.model_copy(update={"arrivals": told.arrivals})
    return saved.model_copy(update={"demand": demand})


def _named(name: str, saved: Saved, namespace: str | None, text: str) -> str:
    """``namespace/name`` of the fleet that a name means; SnapshotError when it means none, or several."""
    metas = [body["metadata"] for body in saved.objects if body.get("kind") == "LLMDeployment" and "metadata" in body]
    fleets = sorted(f"{meta.get('namespace', 'default')}/{meta.get('name')}" for meta in metas)
    if "/" in name:
        wanted = [fleet for fleet in fleets if fleet == name]
    else:
        wanted = [f for f in fleets if f.endswith(f"/{name}") and namespace in (None, f.partition("/")[0])]
    if len(wanted) == 1:
        return wanted[0]
    problem = f"several LLMDeployments {name}" if wanted else f"no LLMDeployment {name}"
    there = ", ".join((wanted or fleets)[:10]) or "none"
    raise SnapshotError(f"--demand {text}: {problem}; NAMESPACE/NAME=RATE is expected, there are: {there}")


def _now(key: Key, snapshot: FleetSnapshot) -> int:
    return sum(w.deployment_key == key and not w.leaving for w in snapshot.workers)


def _row(one: DeploymentPlan, snapshot: FleetSnapshot) -> dict[str, Any]:
    return {
        **explain.from_plan(one),
        "now": _now(one.key, snapshot),
        "acts": one.acts,
        "variants": [
            {
                "name": v.name,
                "instanceType": v.instance_type,
                "desired": v.desired,
                "create": v.create,
                "requestsPerSecond": v.requests_per_second,
                "costPerHour": v.cost_per_hour,
            }
            for v in one.variants
        ],
        "victims": [{"pod": v.pod.name, "reason": str(v.reason), "drain": v.drain} for v in one.victims],
        "stalled": any(p.stalled for p in one.problems),
    }


def _show(console: Console, made: FleetPlan, snapshot: FleetSnapshot, *, chains: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("FLEET", "WORKERS", "WANTED", "CREATE", "LEAVE", "COST/H", "RULE", "MIX"):
        table.add_column(name, justify="left" if name in ("FLEET", "RULE", "MIX") else "right")
    for key, one in made.deployments.items():
        cost = explain.from_plan(one)["costPerHour"]
        mix = " ".join(f"{v.desired}x{v.name}" for v in one.variants if v.desired)
        table.add_row(
            str(key),
            str(_now(key, snapshot)),
            str(one.desired),
            str(sum(v.create for v in one.variants)),
            str(len(one.victims)),
            "-" if cost is None else f"${cost:.2f}",
            str(one.chosen_by) + ("" if one.acts else " (advice)"),
            mix or "-",
        )
    console.print(table)
    for key, one in made.deployments.items():
        console.print()
        if chains:
            explain.show(console, explain.from_plan(one))
            continue
        console.print(Text(f"{key}: {one.message}"))
        for problem in one.problems:
            console.print(Text(f"! {problem.message}", style="yellow"))
