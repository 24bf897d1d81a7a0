"""``warmfleet report``: a support bundle, one tar file to attach to a bug report.

No Secret is read. Objects, events and logs pass :mod:`warmfleet_cli.redact`. Everything the user may not read is left
out and named in ``notes.txt``.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
import tarfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    EVENTS,
    INSTANCE_TYPES,
    LLM_DEPLOYMENTS,
    NODES,
    PODS,
    SERVICES,
    STATEFUL_SETS,
    TRAFFIC_FORECASTS,
    Resource,
)
from warmfleet_runtime.rest import ApiError

from warmfleet_cli import cluster, explain, output, redact, status
from warmfleet_cli.capture import capture
from warmfleet_cli.cluster import Body

_PART_OF = "app.kubernetes.io/name=warmfleet"
_COLLECTIONS = (
    ("llmdeployments", LLM_DEPLOYMENTS, ""),
    ("instancetypes", INSTANCE_TYPES, ""),
    ("trafficforecasts", TRAFFIC_FORECASTS, ""),
    ("pods", PODS, _PART_OF),
    ("services", SERVICES, _PART_OF),
    ("deployments", DEPLOYMENTS, _PART_OF),
    ("poddisruptionbudgets", DISRUPTION_BUDGETS, _PART_OF),
    ("events", EVENTS, ""),
)
"""Name of the file, resource, label selector."""
_INSTALLED = f"{_PART_OF},app.kubernetes.io/component in (operator,forecaster)"
_INSTALLATION = (
    PODS,
    DEPLOYMENTS,
    STATEFUL_SETS,
    CONFIG_MAPS,
)
"""What is asked about the operator and the forecaster, wherever they are."""
_MOST_LOGS = 60
_LOG_BYTES = 2_000_000

Files = dict[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument(
        "--file", type=Path, metavar="FILE", help="where to write it (default warmfleet-report-TIME.tgz)"
    )
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="fleets of all namespaces")
    parser.add_argument(
        "--tail", type=int, default=2000, metavar="LINES", help="log lines per container (default 2000)"
    )
    parser.add_argument("--no-logs", action="store_true", help="leave logs out")
    output.add_arguments(parser)
    cluster.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; 2 when the cluster cannot be read or the file cannot be written."""
    if not 1 <= args.tail <= 1_000_000:
        sys.stderr.write(f"error: --tail {args.tail}: write a number of lines from 1 to 1000000\n")
        return 2
    inside = None if args.all_namespaces else cluster.namespace(args)
    taken = datetime.now(UTC)
    path = args.file or Path(f"warmfleet-report-{taken:%Y%m%d-%H%M%S}.tgz")
    try:
        lines = 0 if args.no_logs else args.tail
        files = cluster.read(args, lambda client: collect(client, inside, lines))
        path.write_bytes(bundle(files, path.name.partition(".")[0], taken))
    except (cluster.ClusterError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sizes = {name: len(text.encode()) for name, text in files.items()}
    if args.output == "json":
        json.dump({"file": str(path), "files": sizes}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _show(cluster.console(), path, sizes)
    for note in files["notes.txt"].splitlines():
        sys.stderr.write(f"note: {note}\n")
    return 0


async def collect(client: KubeClient, inside: str | None, tail: int) -> Files:
    """The bundle's files by name, redacted.

    Args:
        client: The cluster.
        inside: Namespace; None for all.
        tail: Log lines per container; 0 for no logs.
    """
    notes: list[str] = []
    found = {
        name: await _some(client, name, resource, inside if resource.namespaced else None, selector, notes)
        for name, resource, selector in _COLLECTIONS
    }
    found["nodes"] = [_node(body) for body in await _some(client, "nodes", NODES, None, "", notes)]
    installed = await _installation(client, notes)
    files: Files = {f"{name}.yaml": _yaml(bodies) for name, bodies in found.items()}
    files["installation.yaml"] = _yaml(installed)
    fleets = found["llmdeployments"]
    files["versions.json"] = json.dumps({**_own(), "kubernetes": await _kubernetes(client, notes)}, indent=1)
    files["status.txt"] = _printed(lambda console: status.show(console, [status.row(body, None) for body in fleets]))
    for body in fleets:
        chain = explain.from_status(body)
        files[f"explain/{_name(body)}.txt"] = _printed(lambda console, c=chain: explain.show(console, c))
    saved = await capture(client, inside, [])
    files["snapshot.json"] = json.dumps(redact.objects(saved.model_dump(mode="json", by_alias=True)), indent=1)
    if tail:
        # The operator's own first: they say most, and there may be more logs than the bundle takes.
        first = [body for body in installed if body["kind"] == "Pod"]
        known = {body["metadata"]["uid"] for body in first}
        others = [body for body in found["pods"] if body["metadata"]["uid"] not in known]
        files |= await _logs(client, first + others, tail, notes)
    files["notes.txt"] = "".join(f"{note}\n" for note in notes)
    return {name: redact.text(text) for name, text in files.items()}


def bundle(files: Files, folder: str, taken: datetime) -> bytes:
    """A gzipped tar of the files in a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in sorted(files.items()):
            raw = text.encode()
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(raw), int(taken.timestamp()), 0o644
            tar.addfile(entry, io.BytesIO(raw))
    return buffer.getvalue()


async def _some(
    client: KubeClient, name: str, resource: Resource, inside: str | None, selector: str, notes: list[str]
) -> list[Body]:
    try:
        return await cluster.items(client, resource, inside, **({"labelSelector": selector} if selector else {}))
    except ApiError as error:
        if error.status not in (403, 404):
            raise
        notes.append(f"{name} cannot be read and are left out: {error.reason}")
        return []


async def _installation(client: KubeClient, notes: list[str]) -> list[Body]:
    """The operator's and the forecaster's objects with their settings, of all namespaces."""
    found: list[Body] = []
    for resource in _INSTALLATION:
        what = f"{resource.plural} of the operator and the forecaster"
        found += await _some(client, what, resource, None, _INSTALLED, notes)
    # ConfigMaps with other keys are dashboards, which every release has alike.
    return [body for body in found if body["kind"] != "ConfigMap" or "config.yaml" in (body.get("data") or {})]


async def _logs(client: KubeClient, pods: list[Body], tail: int, notes: list[str]) -> Files:
    files: Files = {}
    wanted = [(pod, status, previous) for pod in pods for status in _containers(pod) for previous in _runs(status)]
    if len(wanted) > _MOST_LOGS:
        notes.append(f"logs of {len(wanted)} containers are there, {_MOST_LOGS} are in the bundle; narrow it with -n")
    for pod, container, previous in wanted[:_MOST_LOGS]:
        meta, which = pod["metadata"], "-previous" if previous else ""
        name = f"logs/{_name(pod)}-{container['name']}{which}.log"
        query: dict[str, object] = {"container": container["name"], "tailLines": tail, "limitBytes": _LOG_BYTES}
        if previous:
            query["previous"] = "true"
        try:
            files[name] = await client.text(PODS.path(meta["namespace"], meta["name"], "log"), **query)
        except ApiError as error:
            notes.append(f"{name} cannot be read: {error.reason}")
    return files


def _containers(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    state = pod.get("status") or {}
    return [*(state.get("initContainerStatuses") or []), *(state.get("containerStatuses") or [])]


def _runs(state: Mapping[str, Any]) -> tuple[bool, ...]:
    """Which logs a container has: that of now, and that of the run before."""
    return (False, True) if state.get("restartCount") else (False,)


async def _kubernetes(client: KubeClient, notes: list[str]) -> str:
    try:
        return str(json.loads(await client.text("/version")).get("gitVersion", ""))
    except (ApiError, ValueError) as error:
        notes.append(f"the API server's version cannot be read: {error}")
        return ""


def _own() -> dict[str, str]:
    try:
        own = version("warmfleet")
    except PackageNotFoundError:
        own = "unknown"
    return {"warmfleet": own, "python": platform.python_version()}


def _node(body: Body) -> Body:
    meta, spec, state = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": meta["name"], "labels": meta.get("labels") or {}},
        "spec": {key: spec[key] for key in ("taints", "unschedulable") if key in spec},
        "status": {key: state[key] for key in ("allocatable", "conditions") if key in state},
    }


def _name(body: Mapping[str, Any]) -> str:
    return f"{body['metadata'].get('namespace', '')}_{body['metadata']['name']}"


def _yaml(bodies: list[Body]) -> str:
    return yaml.safe_dump_all([redact.objects(body) for body in bodies], sort_keys=False, width=120)


def _printed(show: Any) -> str:
    buffer = io.StringIO()
    show(Console(file=buffer, width=160))
    return buffer.getvalue()


def _show(console: Console, path: Path, sizes: Mapping[str, int]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("FILE")
    table.add_column("BYTES", justify="right")
    for name, size in sorted(sizes.items()):
        table.add_row(name, f"{size:,}")
    console.print(table)
    console.print(f"written to {path}; read it before you send it: the program knows forms of secrets, not all of them")
