"""Takes a snapshot of a cluster. Of pods and nodes only what a decision uses is kept: no environment, no arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from warmfleet_contracts import labels
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import (
    CONFIG_MAPS,
    INSTANCE_TYPES,
    LLM_DEPLOYMENTS,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    TRAFFIC_FORECASTS,
    Resource,
)
from warmfleet_runtime.rest import ApiError

from warmfleet_cli.cluster import Body, items
from warmfleet_cli.snapshots import Saved, SavedDemand

_META = (
    "name",
    "namespace",
    "uid",
    "generation",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionTimestamp",
    "ownerReferences",
    "finalizers",
)
_MINE = f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE}"


async def capture(client: KubeClient, inside: str | None, notes: list[str]) -> Saved:
    """Everything a decision is made from, as far as the user may read it.

    Args:
        client: The cluster.
        inside: Namespace; None for all.
        notes: Gets a line for everything that could not be read.
    """
    fleets = await items(client, LLM_DEPLOYMENTS, inside)
    objects = [_plain(body) for body in fleets]
    for resource, within in ((INSTANCE_TYPES, None), (TRAFFIC_FORECASTS, inside), (PRIORITY_CLASSES, None)):
        objects += [_plain(body) for body in await _allowed(client, resource, within, notes)]
    objects += [_pod(body) for body in await _allowed(client, PODS, inside, notes, labelSelector=_MINE)]
    objects += [_node(body) for body in await _allowed(client, NODES, None, notes)]
    selector = f"{_MINE},{labels.COMPONENT}=memory"
    maps = await _allowed(client, CONFIG_MAPS, inside, notes, labelSelector=selector)
    return Saved(
        taken_at=datetime.now(UTC),
        objects=objects,
        demand={_name(body): told for body in fleets if (told := demand(body)) is not None},
        memory=dict(found for body in maps if (found := _memory(body, notes)) is not None),
    )


def demand(body: Mapping[str, Any]) -> SavedDemand | None:
    """The traffic that the operator last wrote into a fleet's status; None when it says nothing."""
    scaling = (body.get("status") or {}).get("scaling") or {}
    steps = [step for step in scaling.get("trace") or [] if step.get("stage") == "Demand"]
    figures: Mapping[str, float] = {name: v for step in steps for name, v in (step.get("figures") or {}).items()}
    arrivals = figures.get("arrivals_rps", scaling.get("now"))
    if arrivals is None:
        return None
    return SavedDemand(
        arrivals=arrivals,
        queue=int(figures.get("queue", scaling.get("queue") or 0)),
        input_tokens=figures.get("input_tokens"),
        output_tokens=figures.get("output_tokens"),
        hit_ratio=figures.get("hit_ratio"),
    )


async def _allowed(
    client: KubeClient, resource: Resource, inside: str | None, notes: list[str], **selectors: str
) -> list[Body]:
    try:
        return await items(client, resource, inside, **selectors)
    except ApiError as error:
        if error.status not in (403, 404):
            raise
        notes.append(f"{resource.plural} cannot be read and are left out: {error.reason}")
        return []


def _name(body: Body) -> str:
    return f"{body['metadata'].get('namespace', 'default')}/{body['metadata']['name']}"


def _memory(body: Body, notes: list[str]) -> tuple[str, Body] | None:
    meta = body["metadata"]
    name = (meta.get("labels") or {}).get(labels.DEPLOYMENT, "")
    try:
        data = json.loads((body.get("data") or {}).get("memory.json", ""))
    except ValueError:
        notes.append(f"ConfigMap {meta['name']} holds no memory and is left out")
        return None
    return f"{meta.get('namespace', 'default')}/{name}", data


def _meta(body: Body) -> Body:
    meta = {key: body["metadata"][key] for key in _META if key in body["metadata"]}
    notes = meta.get("annotations") or {}
    meta["annotations"] = {k: v for k, v in notes.items() if labels.DOMAIN in k or "karpenter" in k}
    return meta


def _plain(body: Body) -> Body:
    return {**body, "metadata": _meta(body)}


def _pod(body: Body) -> Body:
    spec, status = body.get("spec") or {}, body.get("status") or {}
    containers = [{key: c[key] for key in ("name", "resources") if key in c} for c in spec.get("containers") or []]
    kept = ("phase", "reason", "message", "podIP", "conditions", "containerStatuses", "initContainerStatuses")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _meta(body),
        "spec": {"nodeName": spec.get("nodeName", ""), "containers": containers},
        "status": {key: status[key] for key in kept if key in status},
    }


def _node(body: Body) -> Body:
    spec, status = body.get("spec") or {}, body.get("status") or {}
    ready = [c for c in status.get("conditions") or [] if c.get("type") == "Ready"]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {**_meta(body), "labels": {}},
        "spec": {key: spec[key] for key in ("taints", "unschedulable") if key in spec},
        "status": {"conditions": ready},
    }
