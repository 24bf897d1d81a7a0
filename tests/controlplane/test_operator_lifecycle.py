"""Deletion with the real garbage collector and namespace controller; a new CRD under a live fleet."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import yaml
from cluster import ControlPlane
from shared_controlplane import CRDS
from traffic import Streams
from warmfleet_contracts import labels
from warmfleet_runtime.resources import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    ENDPOINT_SLICES,
    LLM_DEPLOYMENTS,
    NAMESPACES,
    PODS,
    REPLICA_SETS,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from world import World, deployment, eventually, instance_type

CHILDREN = (
    DEPLOYMENTS,
    REPLICA_SETS,
    SERVICES,
    ENDPOINT_SLICES,
    DISRUPTION_BUDGETS,
    SERVICE_ACCOUNTS,
    PODS,
    ROLES,
    ROLE_BINDINGS,
)


async def children(world: World, namespace: str = "default") -> list[str]:
    """``<resource>/<name>`` of everything that belongs to the deployment."""
    return [
        f"{resource.plural}/{body['metadata']['name']}"
        for resource in CHILDREN
        for body in (await world.kube.list(resource, namespace, labelSelector=f"{labels.DEPLOYMENT}=chat"))["items"]
    ]


@pytest.mark.parametrize("cascade", ["background", "foreground"])
async def test_deletion_drains_first_and_leaves_nothing(running: World, cascade: str) -> None:
    await running.apply(instance_type(), deployment(replicas=2))
    await running.until_ready(2)
    streams = Streams(await running.until_endpoint())
    assert len({name.split("/")[0] for name in await children(running)}) == len(CHILDREN)
    streams.send(12, tokens=2500)

    async def all_flow() -> bool:
        return streams.in_flight == 12

    await eventually(all_flow, "12 streams in flight")
    await running.kubectl("delete", "llmd", "chat", f"--cascade={cascade}", "--wait=false")
    await streams.finish()

    async def gone() -> bool:
        return not await children(running) and not (await running.kube.list(LLM_DEPLOYMENTS))["items"]

    await eventually(gone, "end of the deployment and all children", seconds=60)


@pytest.mark.parametrize("late", [False, True], ids=["operator awake", "operator asleep"])
async def test_orphaned_workers_go_on_serving(world: World, late: bool) -> None:
    """Also when the garbage collector is done before the operator looks."""
    operator = await world.start_operator(WARMFLEET_LEASE_DURATION_SECONDS="30")
    await world.apply(instance_type(), deployment(replicas=1))
    (old,) = await world.until_ready(1)
    endpoint = await world.until_endpoint()
    if late:
        operator._process.send_signal(signal.SIGSTOP)
    await world.kubectl("delete", "llmd", "chat", "--cascade=orphan", "--wait=false")
    if late:

        async def collected() -> bool:
            return "orphan" not in (await world.get())["metadata"].get("finalizers", [])

        await eventually(collected, "end of the garbage collector's part")
        operator._process.send_signal(signal.SIGCONT)

    async def gone() -> bool:
        return not (await world.kube.list(LLM_DEPLOYMENTS))["items"]

    await eventually(gone, "end of the deployment")
    await world.clock.sleep(30)
    (left,) = await world.ready_workers()
    assert left["metadata"]["uid"] == old["metadata"]["uid"]
    assert not left["metadata"].get("ownerReferences")
    streams = Streams(endpoint)
    streams.send(2, tokens=100)
    await streams.finish()


async def test_a_namespace_ends_with_the_fleet_in_it(running: World) -> None:
    space = "short-lived"
    await running.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
    await running.apply(instance_type(), deployment(namespace=space, replicas=2))
    await running.until_ready(2, namespace=space)
    await running.kubectl("delete", "namespace", space, "--wait=false")

    async def gone() -> bool:
        return space not in {item["metadata"]["name"] for item in (await running.kube.list(NAMESPACES))["items"]}

    await eventually(gone, "end of the namespace", seconds=60)


def newer_crd() -> dict[str, Any]:
    """The LLMDeployment CRD of a later release: one more field."""
    path = CRDS / "warmfleet.dev_llmdeployments.yaml"
    body: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    spec = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["motto"] = {"type": "string", "maxLength": 64, "default": "later"}
    return body


async def test_a_newer_crd_under_a_live_fleet_restarts_nothing(running: World, controlplane: ControlPlane) -> None:
    await running.apply(instance_type(), deployment(replicas=2))
    before = await running.until_ready(2)
    streams = Streams(await running.until_endpoint())
    streams.send(6, tokens=2500)
    try:
        await running.apply(newer_crd())

        async def known() -> bool:
            return bool((await running.get())["spec"].get("motto") == "later")

        await eventually(known, "the new field's default")
        await streams.finish()
        await running.kubectl("scale", "llmd", "chat", "--replicas=3")
        after = await running.until_ready(3)
        kept = [pod for pod in after if pod["metadata"]["uid"] in {p["metadata"]["uid"] for p in before}]
        assert len(kept) == 2
        for pod in kept:
            status = pod["status"]
            assert [c["restartCount"] for c in status["containerStatuses"] + status["initContainerStatuses"]] == [0, 0]
        assert running.operators[0].exit_code() is None
    finally:
        await running.kube.delete(LLM_DEPLOYMENTS, "chat", "default")
        await running.until_gone()
        controlplane.install_crds(CRDS)
