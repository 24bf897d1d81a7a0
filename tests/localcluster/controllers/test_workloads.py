"""Deployments, endpoints and disruption budgets."""

import sys

from warmfleet_localcluster.controllers.deployments import bounds, rolling_update
from warmfleet_localcluster.controllers.disruption import needed
from warmfleet_localcluster.node import ImageEntry, ImageMap, NodeShape, ProcessNode, Settings
from warmfleet_runtime.resources import DEPLOYMENTS, DISRUPTION_BUDGETS, ENDPOINT_SLICES, PODS, REPLICA_SETS, SERVICES

from .conftest import Cluster, Json, eventually

SCRIPT = "import signal; signal.signal(15, lambda *_: exit(0)); signal.pause()"


def deployment(version: str, replicas: int = 3) -> Json:
    container = {"name": "main", "image": "python:3", "args": [SCRIPT, version]}
    return {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": "router"}},
        "template": {"metadata": {"labels": {"app": "router"}}, "spec": {"containers": [container]}},
    }


def state(item: Json, kind: str) -> str | None:
    return next((c["status"] for c in item.get("status", {}).get("conditions", []) if c["type"] == kind), None)


async def test_a_deployment_rolls_over_a_process_node(cluster: Cluster) -> None:
    images = ImageMap({"python:*": ImageEntry([sys.executable, "-S", "-c"])})
    settings = Settings(min_stop_window=0.3)
    async with ProcessNode(cluster.client, cluster.clock, [NodeShape("n")], images, settings=settings):
        await cluster.make(DEPLOYMENTS, "router", deployment("1"))

        async def complete() -> Json | None:
            item = await cluster.get(DEPLOYMENTS, "router")
            status = item.get("status") or {}
            done = status.get("observedGeneration") == item["metadata"]["generation"] and (
                status["updatedReplicas"]
                == status["availableReplicas"]
                == status["replicas"]
                == item["spec"]["replicas"]
            )
            return item if done else None

        first = await eventually(complete, 8)
        assert state(first, "Available") == state(first, "Progressing") == "True"
        old = {pod["metadata"]["uid"] for pod in await cluster.pods(app="router")}
        least = 3

        async def rolled() -> bool:
            nonlocal least
            pods = await cluster.pods(app="router")
            ready = [p for p in pods if state(p, "Ready") == "True" and "deletionTimestamp" not in p["metadata"]]
            least = min(least, len(ready))
            return bool(await complete()) and not old & {p["metadata"]["uid"] for p in pods}

        await cluster.client.patch(DEPLOYMENTS, "router", {"spec": deployment("2")}, "default")
        await eventually(rolled, 12)
        assert least == 3, "25 % of 3 rounds down to no unavailability"
        sets = (await cluster.client.list(REPLICA_SETS, "default"))["items"]
        assert sorted(s["spec"]["replicas"] for s in sets) == [0, 3]
        await cluster.client.patch(DEPLOYMENTS, "router", {"spec": {"replicas": 1}}, "default")
        await eventually(complete, 8)


def sized(replicas: int, available: int, revision: int = 1) -> Json:
    return {
        "metadata": {"annotations": {"deployment.kubernetes.io/revision": str(revision)}},
        "spec": {"replicas": replicas},
        "status": {"availableReplicas": available},
    }


def test_rolling_update_steps() -> None:
    spec = {"replicas": 4, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}}

    def step(new: Json, *old: Json) -> list[int]:
        return [size for _, size in rolling_update(spec, new, list(old))]

    assert step(sized(0, 0), sized(4, 4)) == [1, 3]
    assert step(sized(1, 0), sized(3, 3)) == [2, 3], "nothing may go before the new one is available"
    assert step(sized(2, 2), sized(3, 3)) == [2, 1]
    assert step(sized(1, 0), sized(4, 2)) == [1, 3], "the broken go first, never below the minimum"
    assert step(sized(4, 4), sized(0, 0)) == [4, 0]


def test_surge_and_unavailability_round_apart() -> None:
    assert bounds({"replicas": 3}) == (1, 0)
    assert bounds({"replicas": 10}) == (3, 2)
    assert bounds({"replicas": 1, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "50%"}}}) == (0, 1)


async def test_a_pod_that_is_lost_is_replaced(cluster: Cluster) -> None:
    await cluster.make(DEPLOYMENTS, "router", deployment("1", replicas=2))
    pods = await eventually(lambda: _count(cluster, 2))
    await cluster.client.delete(PODS, pods[0]["metadata"]["name"], "default", grace_seconds=0)

    async def replaced() -> bool:
        now = {pod["metadata"]["uid"] for pod in await cluster.pods(app="router")}
        return len(now) == 2 and pods[0]["metadata"]["uid"] not in now

    await eventually(replaced)


async def _count(cluster: Cluster, wanted: int) -> list[Json] | None:
    pods = await cluster.pods(app="router")
    return pods if len(pods) == wanted else None


async def test_endpoints_tell_ready_serving_and_terminating_apart(cluster: Cluster) -> None:
    ports = [{"name": "http", "port": 80, "targetPort": 8000}]
    await cluster.make(SERVICES, "s", {"selector": {"app": "e"}, "ports": ports})
    await cluster.node("n")
    for index, name in enumerate("abc"):
        await cluster.pod(name, labels={"app": "e"}, terminationGracePeriodSeconds=60)
        await cluster.bound(name)
        await cluster.ready(name, ready=name != "c", ip=f"127.9.0.{index + 1}")
    await cluster.client.delete(PODS, "b", "default", grace_seconds=60)

    async def as_expected() -> bool:
        slices = (await cluster.client.list(ENDPOINT_SLICES, "default"))["items"]
        if len(slices) != 1:
            return False
        seen = {e["targetRef"]["name"]: tuple(e["conditions"].values()) for e in slices[0]["endpoints"]}
        assert slices[0]["metadata"]["labels"]["kubernetes.io/service-name"] == "s"
        assert slices[0]["ports"] == [{"name": "http", "port": 8000, "protocol": "TCP"}]
        return seen == {"a": (True, True, False), "b": (False, True, True), "c": (False, False, False)}

    await eventually(as_expected)


async def test_a_budget_counts_healthy_pods(cluster: Cluster) -> None:
    selector = {"matchLabels": {"app": "d"}}
    await cluster.make(DISRUPTION_BUDGETS, "d", {"minAvailable": 1, "selector": selector})
    await cluster.make(DISRUPTION_BUDGETS, "none", {"maxUnavailable": 1, "selector": selector})
    await cluster.node("n")
    for name in "abc":
        await cluster.pod(name, labels={"app": "d"})
        await cluster.ready(name, ready=name != "c")

    async def status() -> Json | None:
        found = (await cluster.get(DISRUPTION_BUDGETS, "d")).get("status") or {}
        return found if found.get("currentHealthy") == 2 and found.get("expectedPods") == 3 else None

    found = await eventually(status)
    assert (found["disruptionsAllowed"], found["desiredHealthy"], found["observedGeneration"]) == (1, 1, 1)

    async def refused() -> Json | None:
        found = (await cluster.get(DISRUPTION_BUDGETS, "none")).get("status") or {}
        return found if found.get("conditions") else None

    found = await eventually(refused)
    assert found["disruptionsAllowed"] == 0
    assert found["conditions"][0]["reason"] == "SyncFailed"


def test_how_many_pods_a_budget_needs() -> None:
    assert needed({"minAvailable": 2}, 3, None) == (3, 2)
    assert needed({"minAvailable": "50%"}, 3, 5) == (5, 3)
    assert needed({"maxUnavailable": 1}, 3, 5) == (5, 4)
    assert needed({"maxUnavailable": "50%"}, 3, 5) == (5, 2)
    assert needed({"maxUnavailable": 1}, 3, None) is None
