"""``warmfleet drain POD``: lets one worker leave as a scale-down would.

The pod is taken off the route and marked, as the operator marks its own victims; the operator then tells the agent,
waits for the worker to be drained, deletes it, and creates another where the fleet still needs one. Without a running
operator nothing but the mark happens; ``kubectl delete pod`` drains without it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from rich.console import Console
from warmfleet_contracts import labels
from warmfleet_contracts.api.base import parse_duration
from warmfleet_contracts.reasons import VictimReason
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import LLM_DEPLOYMENTS, PODS
from warmfleet_runtime.rest import ApiError

from warmfleet_cli import cluster, output

_POLL_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("pod", metavar="POD", help="name of a worker's pod")
    parser.add_argument("--force", action="store_true", help=f"even with the annotation {labels.DO_NOT_DRAIN}")
    parser.add_argument("--wait", action="store_true", help="until the pod is gone")
    parser.add_argument("--timeout", default="15m", metavar="TIME", help="longest wait (default 15m)")
    output.add_arguments(parser)
    cluster.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; 1 when the pod is not gone in time, 2 when it cannot be drained."""
    try:
        limit = parse_duration(args.timeout)
    except ValueError as error:
        sys.stderr.write(f"error: --timeout: {error}\n")
        return 2
    inside = cluster.namespace(args)
    try:
        found = cluster.read(args, lambda client: drain(client, inside, args.pod, force=args.force))
        gone = cluster.read(args, lambda client: _gone(client, inside, found, limit)) if args.wait else None
    except cluster.ClusterError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    document = {**found, "gone": gone}
    if args.output == "json":
        json.dump(document, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _show(cluster.console(), document)
    return int(gone is False)


async def drain(client: KubeClient, inside: str, name: str, *, force: bool) -> dict[str, Any]:
    """Marks a worker; what is said of it.

    Raises:
        ClusterError: It is no worker, or something keeps it from leaving.
    """
    pod = await client.get(PODS, name, inside)
    meta = pod["metadata"]
    own, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    said = {"namespace": inside, "pod": name, "uid": meta["uid"], "deployment": own.get(labels.DEPLOYMENT)}
    if own.get(labels.MANAGED_BY) != labels.MANAGED_BY_VALUE or own.get(labels.COMPONENT) != labels.COMPONENT_WORKER:
        raise cluster.ClusterError(
            f"pod {inside}/{name} is not a worker of warmfleet; see: kubectl get pods -l {_SELECTOR}"
        )
    if labels.DRAINING in notes or meta.get("deletionTimestamp"):
        return {**said, "reason": notes.get(labels.DRAINING, "Terminating"), "started": False}
    if labels.is_true(notes, labels.DO_NOT_DRAIN) and not force:
        raise cluster.ClusterError(
            f"pod {inside}/{name} has the annotation {labels.DO_NOT_DRAIN}; remove it, or use --force"
        )
    await _not_paused(client, inside, str(said["deployment"]))
    body = {
        "metadata": {
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
            "labels": {labels.ROUTE: None},
            "annotations": {labels.DRAINING: str(VictimReason.REQUESTED)},
        }
    }
    await client.patch(PODS, name, body, inside)
    return {**said, "reason": str(VictimReason.REQUESTED), "started": True}


_SELECTOR = f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE},{labels.COMPONENT}={labels.COMPONENT_WORKER}"


async def _not_paused(client: KubeClient, inside: str, fleet: str) -> None:
    try:
        owner = await client.get(LLM_DEPLOYMENTS, fleet, inside)
    except ApiError as error:
        if error.status != 404:
            raise
        raise cluster.ClusterError(
            f"there is no LLMDeployment {inside}/{fleet} to drain for; delete the pod"
        ) from error
    if labels.is_true(owner["metadata"].get("annotations") or {}, labels.PAUSED):
        raise cluster.ClusterError(
            f"LLMDeployment {inside}/{fleet} is paused; first: warmfleet resume {fleet} -n {inside}"
        )


async def _gone(client: KubeClient, inside: str, found: dict[str, Any], limit: float) -> bool:
    loop = asyncio.get_running_loop()
    until = loop.time() + limit
    while loop.time() < until:
        try:
            pod = await client.get(PODS, found["pod"], inside)
        except ApiError as error:
            if error.status != 404:
                raise
            return True
        if pod["metadata"]["uid"] != found["uid"]:
            return True
        await asyncio.sleep(min(_POLL_SECONDS, limit))
    return False


def _show(console: Console, document: dict[str, Any]) -> None:
    pod = f"{document['namespace']}/{document['pod']}"
    if document["gone"]:
        console.print(f"{pod}: gone")
    elif document["gone"] is False:
        console.print(f"{pod}: still there; is the operator running? see: kubectl describe pod {document['pod']}")
    elif document["started"]:
        console.print(f"{pod}: draining; it leaves when its requests are finished and its cache is handed over")
    else:
        console.print(f"{pod}: is on its way out already ({document['reason']})")
