"""The world of a scenario on a real control plane: real API, scheduler, controllers and garbage collector.

One control plane serves the whole session. Each scenario gets nodes of its own, whose names no earlier one had (the
node controller remembers heartbeats by name, and each scenario's clock starts afresh), and leaves nothing behind. Our
processes live in the scenario's fast time, the control plane in real time; no decision may mix the two.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import shared_controlplane
from warmfleet_localcluster.__main__ import ProbeClock
from warmfleet_localcluster.node import ProcessNode
from warmfleet_runtime.clock import ScaledClock
from warmfleet_runtime.kubeclient import KubeClient, Object
from warmfleet_runtime.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    EVENTS,
    INSTANCE_TYPES,
    LEASES,
    LLM_DEPLOYMENTS,
    NAMESPACES,
    PODS,
    REPLICA_SETS,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    SERVICES,
    TRAFFIC_FORECASTS,
    Resource,
)
from warmfleet_runtime.rest import ApiError
from world import PATIENT, PROBE_SCALE, World, end, eventually, images, shapes

_SERIAL = itertools.count()
_SYSTEM = {"default", "kube-system", "kube-public", "kube-node-lease"}
_KEPT = {
    (SERVICES.plural, "kubernetes"),
    (CONFIG_MAPS.plural, "kube-root-ca.crt"),
    (SERVICE_ACCOUNTS.plural, "default"),
}
_OWNED: tuple[Resource, ...] = (
    DEPLOYMENTS,
    REPLICA_SETS,
    SERVICES,
    DISRUPTION_BUDGETS,
    CONFIG_MAPS,
    SERVICE_ACCOUNTS,
    ROLES,
    ROLE_BINDINGS,
    LEASES,
)


@asynccontextmanager
async def controlplane(folder: Path, clock: ScaledClock) -> AsyncIterator[World]:
    """A world on the session's control plane."""
    running = shared_controlplane.running()
    await asyncio.to_thread(shared_controlplane.until_collecting, running)
    network = list(running.pod_network.subnets(prefixlen_diff=1))[1]  # the other half is for tests without a node
    settings = dataclasses.replace(PATIENT, addresses=str(network))
    serial = next(_SERIAL)
    nodes = [dataclasses.replace(shape, name=f"{shape.name}-{serial}") for shape in shapes()]
    table = images()
    async with await KubeClient.from_kubeconfig(running.kubeconfig) as kube:
        try:
            async with ProcessNode(kube, ProbeClock(clock, PROBE_SCALE), nodes, table, settings=settings) as node:
                world = World(kube, node, table, clock, running.kubeconfig, folder, None)
                try:
                    yield world
                finally:
                    await end(world)
                    await _delete_causes(kube)
        finally:
            await eventually(lambda: _clean(kube), "clean slate", seconds=60)


async def _delete_causes(kube: KubeClient) -> None:
    """Deletes what would make pods again, while the node can still end those it has."""
    for resource in (LLM_DEPLOYMENTS, TRAFFIC_FORECASTS, INSTANCE_TYPES):
        for item in (await kube.list(resource))["items"]:
            if item["metadata"].get("finalizers"):
                meta = item["metadata"]
                await kube.patch(resource, meta["name"], {"metadata": {"finalizers": None}}, meta.get("namespace"))
            await _delete(kube, resource, item)
    for resource in _OWNED:
        for item in (await kube.list(resource, "default"))["items"]:
            if (resource.plural, item["metadata"]["name"]) not in _KEPT:
                await _delete(kube, resource, item)


async def _clean(kube: KubeClient) -> bool:
    """Deletes what is left and says whether nothing was."""
    await _delete_causes(kube)
    pods = (await kube.list(PODS))["items"]
    for pod in pods:
        await _delete(kube, PODS, pod, grace_seconds=0)
    for event in (await kube.list(EVENTS, "default"))["items"]:  # a scenario counts its own
        await _delete(kube, EVENTS, event)
    spaces = [item for item in (await kube.list(NAMESPACES))["items"] if item["metadata"]["name"] not in _SYSTEM]
    for space in spaces:
        if not space["metadata"].get("deletionTimestamp"):
            await _delete(kube, NAMESPACES, space)
    return not pods and not spaces and not (await kube.list(LLM_DEPLOYMENTS))["items"]


async def _delete(kube: KubeClient, resource: Resource, item: Object, *, grace_seconds: int | None = None) -> None:
    meta = item["metadata"]
    try:
        await kube.delete(resource, meta["name"], meta.get("namespace"), uid=meta["uid"], grace_seconds=grace_seconds)
    except ApiError as error:
        if error.status not in {404, 409}:
            raise
