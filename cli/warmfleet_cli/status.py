"""``warmfleet status``: all fleets in one table."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import LLM_DEPLOYMENTS, TRAFFIC_FORECASTS
from warmfleet_runtime.rest import ApiError

from warmfleet_cli import cluster, output

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    cluster.add_arguments(parser)
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="fleets of all namespaces")
    output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; 2 when the cluster cannot be read."""
    inside = None if args.all_namespaces else cluster.namespace(args)
    try:
        found = cluster.read(args, lambda client: rows(client, inside))
    except cluster.ClusterError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if args.output == "json":
        json.dump(found, sys.stdout, indent=1)
        sys.stdout.write("\n")
    elif found:
        show(cluster.console(), found)
    else:
        sys.stderr.write(f"no LLMDeployments in {inside or 'any namespace'}\n")
    return 0


async def rows(client: KubeClient, inside: str | None) -> list[Row]:
    """One row per fleet, in order of namespace and name."""
    fleets = await cluster.items(client, LLM_DEPLOYMENTS, inside)
    try:
        forecasts = await cluster.items(client, TRAFFIC_FORECASTS, inside)
    except ApiError as error:
        if error.status not in (403, 404):
            raise
        forecasts = []  # who may not read them sees none
    trusted: dict[tuple[object, str], bool] = {}
    for body in forecasts:
        target = ((body.get("spec") or {}).get("target") or {}).get("name", "")
        status = body.get("status") or {}
        key = body["metadata"].get("namespace"), target
        trusted[key] = trusted.get(key, False) or bool(status.get("trusted"))
    found = [row(body, trusted.get((body["metadata"].get("namespace"), body["metadata"]["name"]))) for body in fleets]
    return sorted(found, key=lambda r: (r["namespace"], r["name"]))


def row(body: Mapping[str, Any], trusted: bool | None) -> Row:  # noqa: FBT001 - a figure of the row
    """What the table says of one fleet; what is unknown is None."""
    status = body.get("status") or {}
    scaling = status.get("scaling") or {}
    ready: Mapping[str, Any] = next((c for c in status.get("conditions") or [] if c.get("type") == "Ready"), {})
    mode = ((body.get("spec") or {}).get("scaling") or {}).get("mode", "Auto")
    return {
        "namespace": body["metadata"].get("namespace", "default"),
        "name": body["metadata"]["name"],
        "ready": status.get("readyReplicas"),
        "desired": status.get("desiredReplicas"),
        "stages": stages(status.get("variants") or []),
        "demand": scaling.get("now"),
        "queue": scaling.get("queue"),
        "costPerHour": status.get("costPerHour"),
        "savedPerHour": status.get("savedPerHour"),
        "reason": scaling.get("chosenBy") or ready.get("reason") or "",
        "readyReason": ready.get("reason", ""),
        "mode": mode,
        "forecastTrusted": trusted,
    }


def stages(variants: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How far the workers that start are, over all variants."""
    found: Counter[str] = Counter()
    for variant in variants:
        found.update(variant.get("stages") or {})
    return dict(found)


def show(console: Console, found: list[Row]) -> None:
    """Print the table and its sums."""
    table = Table(box=None, pad_edge=False)
    for name in ("FLEET", "READY", "STARTING", "DEMAND/S", "COST/H", "SAVED/H", "REASON", "FORECAST"):
        table.add_column(name, justify="left" if name in ("FLEET", "STARTING", "REASON", "FORECAST") else "right")
    for one in found:
        trusted = one["forecastTrusted"]
        healthy = one["ready"] is not None and one["desired"] is not None and one["ready"] >= one["desired"]
        table.add_row(
            f"{one['namespace']}/{one['name']}",
            Text(f"{_text(one['ready'])}/{_text(one['desired'])}", style="green" if healthy else "yellow"),
            " ".join(f"{count} {stage}" for stage, count in one["stages"].items()) or "-",
            _text(one["demand"]),
            _money(one["costPerHour"]),
            _money(one["savedPerHour"]),
            one["reason"] + (" (advice)" if one["mode"] == "Advisory" else ""),
            "-" if trusted is None else "trusted" if trusted else "not trusted",
        )
    if len(found) > 1:
        table.add_section()
        table.add_row(
            "total", "", "", "", _money(_total(found, "costPerHour")), _money(_total(found, "savedPerHour")), "", ""
        )
    console.print(table)


def _total(found: list[Row], name: str) -> float | None:
    known = [one[name] for one in found if one[name] is not None]
    return sum(known) if known else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _money(value: float | None) -> str:
    return "-" if value is None else f"${value:,.2f}"
