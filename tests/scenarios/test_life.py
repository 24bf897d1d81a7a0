"""The life of a fleet: it comes, serves, grows, shrinks and goes, and no request is lost on the way."""

from __future__ import annotations

import pytest
from traffic import Streams
from warmfleet_contracts import labels
from warmfleet_runtime.resources import DEPLOYMENTS, DISRUPTION_BUDGETS, EVENTS, LEASES, PODS, SERVICES
from warmfleet_runtime.rest import ApiError
from world import World, deployment, eventually, instance_type

SLOW = {"performance": {"requestsPerSecond": 0.15}}
"""A worker that is counted on for little: 8 streams a real second are 0.4 a logical one, which is too much for two."""


async def test_a_fixed_fleet_comes_up_serves_and_reports_itself(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=2))
    await running.until_ready(2)
    streams = Streams(await running.until_endpoint())
    streams.send(10, tokens=100)
    await streams.finish()

    await running.until_condition("Ready", "True", "Serving")
    status = await running.status()
    assert status["readyReplicas"] == status["desiredReplicas"] == status["replicas"] == 2
    assert status["observedGeneration"] == 1
    assert status["costPerHour"] == 2 * 6.88
    assert status["scaling"]["chosenBy"] == "Fixed"
    assert status["variants"][0]["ready"] == 2
    shown = await running.kubectl("get", "llmd", "chat")
    assert shown.split("\n")[0].split()[:5] == ["NAME", "MODEL", "READY", "DESIRED", "COST/H"]


async def test_a_fleet_grows_with_its_traffic_and_shrinks_after_it_without_losing_a_stream(running: World) -> None:
    spec = deployment(
        variants=[{"name": "a", "instanceType": "h100", **SLOW}],
        scaling={"min": 1, "max": 3, "scaleDown": {"stabilizationWindow": "30s", "maxStep": 1, "stepPeriod": "10s"}},
    )
    await running.apply(instance_type(), spec)
    await running.until_ready(1)
    streams = Streams(await running.until_endpoint())
    await streams.keep_sending(rate=8, seconds=8)
    pods = await running.until_ready(3)
    assert {pod["metadata"]["labels"][labels.VARIANT] for pod in pods} == {"a"}

    async def one_drains_under_load() -> bool:
        if streams.in_flight < 6:
            streams.send(tokens=8000)
        return any(labels.DRAINING in pod["metadata"].get("annotations", {}) for pod in await running.workers())

    await eventually(one_drains_under_load, "worker that drains while streams run", seconds=60)
    await running.until_ready(1, seconds=60)
    await streams.finish()
    events = await running.kube.list(EVENTS, "default")
    reasons = {event["reason"] for event in events["items"]}
    assert {"ScaledUp", "ScaledDown", "DrainStarted", "DrainCompleted"} <= reasons
    assert "DrainForced" not in reasons


async def test_kubectl_delete_drains_the_fleet_and_leaves_nothing(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=2))
    await running.until_ready(2)
    streams = Streams(await running.until_endpoint())
    streams.send(12, tokens=2500)

    async def all_flow() -> bool:
        return streams.in_flight == 12

    await eventually(all_flow, "12 streams in flight")
    await running.kubectl("delete", "llmd", "chat", "--wait=false")
    await streams.finish()
    await running.until_gone()

    async def nothing_left() -> bool:
        found = [
            *(await running.kube.list(SERVICES, "default"))["items"],
            *(await running.kube.list(DEPLOYMENTS, "default"))["items"],
            *(await running.kube.list(DISRUPTION_BUDGETS, "default"))["items"],
        ]
        return not [item for item in found if labels.DEPLOYMENT in item["metadata"].get("labels", {})]

    await eventually(nothing_left, "end of all children", seconds=40)


async def test_kubectl_delete_pod_drains_the_worker_and_it_is_replaced(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=2))
    first = (await running.until_ready(2))[0]["metadata"]
    streams = Streams(await running.until_endpoint())
    streams.send(12, tokens=2500)
    await running.kubectl("delete", "pod", first["name"], "--wait=false")
    await streams.finish()

    async def replaced() -> bool:
        pods = await running.ready_workers()
        return len(pods) == 2 and first["uid"] not in {pod["metadata"]["uid"] for pod in pods}

    await eventually(replaced, "replacement", seconds=40)


async def test_kubectl_scale_resizes_a_fixed_fleet(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=1))
    await running.until_ready(1)
    await running.kubectl("scale", "llmd", "chat", "--replicas=3")
    await running.until_ready(3)
    await running.kubectl("scale", "llmd", "chat", "--replicas=1")
    await running.until_ready(1)
    pods = (await running.kube.list(PODS, "default", labelSelector=f"{labels.DEPLOYMENT}=chat"))["items"]
    assert pods


async def test_an_evicted_worker_finishes_its_streams_and_is_replaced(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=2))
    first = (await running.until_ready(2))[0]["metadata"]
    streams = Streams(await running.until_endpoint())
    streams.send(12, tokens=2500)

    async def all_flow() -> bool:
        return streams.in_flight == 12

    await eventually(all_flow, "12 streams in flight")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {k: first[k] for k in ("name", "namespace")}}

    async def evicted() -> bool:
        try:
            await running.kube.create(PODS, eviction, first["namespace"], name=first["name"], subresource="eviction")
        except ApiError as error:
            if error.status != 429:  # the budget waits for its controller
                raise
            return False
        return True

    await eventually(evicted, "eviction that is allowed", seconds=40)
    await streams.finish()

    async def replaced() -> bool:
        pods = await running.ready_workers()
        return len(pods) == 2 and first["uid"] not in {pod["metadata"]["uid"] for pod in pods}

    await eventually(replaced, "replacement", seconds=40)


@pytest.mark.parametrize("how", ["cordon", "taint"])
async def test_a_worker_whose_node_is_to_go_is_replaced_and_ends_its_streams(how: str, running: World) -> None:
    """From a cordoned node it leaves after its replacement serves; a node that is taken away gives no such time."""
    await running.apply(instance_type(), deployment(replicas=1))
    (old,) = await running.until_ready(1)
    streams = Streams(await running.until_endpoint())
    streams.send(4, tokens=400)

    async def flow() -> bool:
        return streams.in_flight == 4

    await eventually(flow, "4 streams in flight")
    if how == "cordon":
        await running.node.cordon(old["spec"]["nodeName"])
    else:
        await running.node.taint(old["spec"]["nodeName"], "ToBeDeletedByClusterAutoscaler")

    async def moved() -> bool:
        if how == "cordon":
            streams.send(1, tokens=200)
        pods = await running.ready_workers()
        return len(pods) == 1 and pods[0]["metadata"]["uid"] != old["metadata"]["uid"]

    await eventually(moved, "worker on another node", seconds=40)
    await streams.finish()
    reasons: set[str] = set()

    async def told() -> bool:
        events = await running.kube.list(EVENTS, "default")
        reasons.update(event["reason"] for event in events["items"])
        return {"DrainStarted", "DrainCompleted"} <= reasons

    await eventually(told, "report of the drain", seconds=20)
    assert "DrainForced" not in reasons


async def test_an_operator_that_restarts_goes_on_where_it_was(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=2))
    before = {pod["metadata"]["uid"] for pod in await running.until_ready(2)}
    await running.operators[0].stop(grace=6)
    assert running.operators[0].exit_code() == 0
    await running.start_operator()
    await running.kubectl("scale", "llmd", "chat", "--replicas=3")
    after = {pod["metadata"]["uid"] for pod in await running.until_ready(3)}
    assert before < after, "the workers that ran were kept"


async def test_of_two_operators_one_acts_and_the_other_takes_over(running: World) -> None:
    second = await running.start_operator()
    await running.apply(instance_type(), deployment(replicas=1))
    await running.until_ready(1)
    lease = await running.kube.get(LEASES, "warmfleet-operator", "default")
    holder = lease["spec"]["holderIdentity"]
    leader = running.operators[0] if holder == "operator-0" else second
    await leader.stop(grace=6)
    await running.kubectl("scale", "llmd", "chat", "--replicas=2")
    await running.until_ready(2)
    assert len(await running.workers()) == 2
