"""Evictions and drains, judged by the real disruption controller and eviction API."""

from __future__ import annotations

from typing import Any

import pytest
from traffic import Streams
from warmfleet_contracts import labels
from warmfleet_runtime.resources import DISRUPTION_BUDGETS, ENDPOINT_SLICES, PODS
from warmfleet_runtime.rest import ApiError
from world import World, deployment, eventually, instance_type

LONG = 6000
"""Tokens of a stream that runs for real seconds, and ends within the drain deadline."""
SERVICE = {"routing": {"mode": "service"}}


async def evict(world: World, pod: dict[str, Any]) -> int:
    """HTTP status of an eviction: 201, or 429 where a budget forbids it now."""
    meta = pod["metadata"]
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
        "deleteOptions": {"preconditions": {"uid": meta["uid"]}},
    }
    try:
        await world.kube.create(PODS, body, meta["namespace"], name=meta["name"], subresource="eviction")
    except ApiError as error:
        return error.status
    return 201


async def until_allowed(world: World, count: int) -> None:
    async def check() -> bool:
        budget = await world.kube.get(DISRUPTION_BUDGETS, "chat", "default")
        return bool((budget.get("status") or {}).get("disruptionsAllowed") == count)

    await eventually(check, f"budget that allows {count}")


async def flowing(streams: Streams, count: int) -> None:
    async def check() -> bool:
        return streams.in_flight == count

    await eventually(check, f"{count} streams in flight")


async def away_from_router(world: World) -> dict[str, Any]:
    """A ready worker on a node without the router."""
    selector = f"{labels.DEPLOYMENT}=chat,{labels.COMPONENT}={labels.COMPONENT_ROUTER}"
    routers = (await world.kube.list(PODS, "default", labelSelector=selector))["items"]
    taken = {pod["spec"].get("nodeName") for pod in routers}
    return next(pod for pod in await world.ready_workers() if pod["spec"]["nodeName"] not in taken)


async def replaced(world: World, old: dict[str, Any], count: int) -> None:
    async def check() -> bool:
        uids = {pod["metadata"]["uid"] for pod in await world.ready_workers()}
        everybody = {pod["metadata"]["uid"] for pod in await world.workers()}
        return len(uids) == count and old["metadata"]["uid"] not in everybody

    await eventually(check, f"{count} workers without the old one", seconds=60)


async def test_kubectl_drain_of_a_node_loses_no_stream(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=2))
    await running.until_ready(2)
    endpoint = await running.until_endpoint()
    await until_allowed(running, 1)
    old = await away_from_router(running)
    streams = Streams(endpoint)
    streams.send(12, tokens=LONG)
    await flowing(streams, 12)
    node = old["spec"]["nodeName"]
    await running.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=55s")
    await streams.finish()
    await replaced(running, old, 2)
    assert all(pod["spec"]["nodeName"] != node for pod in await running.ready_workers())


async def test_evictions_follow_the_budget_and_each_drains_its_worker(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=2))
    first, second = await running.until_ready(2)
    streams = Streams(await running.until_endpoint())
    await until_allowed(running, 1)
    streams.send(12, tokens=LONG)
    await flowing(streams, 12)
    assert await evict(running, first) == 201
    assert await evict(running, second) == 429, "the budget keeps the other one"
    await streams.finish()
    await replaced(running, first, 2)
    await until_allowed(running, 1)
    assert await evict(running, second) == 201, "and lets it go once a replacement serves"
    await replaced(running, second, 2)


async def test_a_fleet_of_one_may_be_evicted(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=1))
    (old,) = await running.until_ready(1)
    assert await evict(running, old) == 201
    await replaced(running, old, 1)


@pytest.mark.scale(60.0)  # the planner gives hopeless workers up after ten minutes
async def test_a_fleet_that_cannot_reach_its_size_does_not_block_maintenance_for_good(running: World) -> None:
    """Six wanted, four nodes: at first the budget holds on to all four, later it gives way."""
    await running.apply(instance_type(), deployment(replicas=6))
    pods = await running.until_ready(4)

    async def evicted() -> bool:
        return await evict(running, pods[0]) == 201

    await eventually(evicted, "eviction that is allowed", seconds=75)


async def endpoints(world: World) -> dict[str, dict[str, Any]]:
    """Conditions by address, of the Service's EndpointSlices."""
    slices = await world.kube.list(ENDPOINT_SLICES, "default", labelSelector="kubernetes.io/service-name=chat")
    return {
        address: endpoint.get("conditions") or {}
        for each in slices["items"]
        for endpoint in each.get("endpoints") or []
        for address in endpoint["addresses"]
    }


async def test_endpoint_slices_follow_readiness_during_a_drain(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=2, **SERVICE))
    pods = await running.until_ready(2)
    addresses = {pod["status"]["podIP"] for pod in pods}

    async def both() -> bool:
        return {a for a, c in (await endpoints(running)).items() if c.get("ready")} == addresses

    await eventually(both, "both workers as ready endpoints")
    streams = [Streams(f"http://{address}:{labels.ENGINE_PORT}") for address in sorted(addresses)]
    for each in streams:
        each.send(6, tokens=LONG)
        await flowing(each, 6)
    await running.kubectl("scale", "llmd", "chat", "--replicas=1")

    async def one_left() -> str:
        drained = [p for p in await running.workers() if labels.DRAINING in p["metadata"].get("annotations", {})]
        found = await endpoints(running)
        if not drained or found.get(drained[0]["status"]["podIP"], {}).get("ready"):
            return ""
        return str(drained[0]["status"]["podIP"])

    leaving = await eventually(one_left, "draining worker that is no endpoint any more")
    busy = dict(zip(sorted(addresses), streams, strict=True))[leaving]
    assert busy.in_flight, "it was taken out while its streams still ran"
    for each in streams:
        await each.finish()
    await running.until_ready(1)
    assert {a for a, c in (await endpoints(running)).items() if c.get("ready")} == addresses - {leaving}


async def test_a_deleted_pod_is_no_ready_endpoint_while_it_finishes(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=2, **SERVICE))
    old = (await running.until_ready(2))[0]
    address = old["status"]["podIP"]
    streams = Streams(f"http://{address}:{labels.ENGINE_PORT}")
    streams.send(6, tokens=LONG)
    await flowing(streams, 6)
    await running.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false")

    async def unready() -> bool:
        return not (await endpoints(running)).get(address, {}).get("ready")

    await eventually(unready, "endpoint that is not ready")
    assert streams.in_flight
    await streams.finish()
    await replaced(running, old, 2)
