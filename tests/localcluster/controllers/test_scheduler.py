"""Binding pods: what fits, what does not, and what is said about it."""

import pytest
from warmfleet_localcluster.controllers.resources import amounts, pod_requests
from warmfleet_localcluster.controllers.scheduler import selects, unschedulable_message, untolerated
from warmfleet_runtime.resources import NODES, PRIORITY_CLASSES

from .conftest import Cluster


async def test_a_gpu_pod_goes_where_a_gpu_is_free(cluster: Cluster) -> None:
    await cluster.node("cpu")
    await cluster.node("gpu", gpu="1")
    await cluster.pod("a", gpu=1)
    assert await cluster.bound("a") == "gpu"
    await cluster.pod("b", gpu=1)
    assert await cluster.refused("b") == "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    await cluster.node("late", gpu="2")
    assert await cluster.bound("b") == "late"


async def test_each_reason_is_counted(cluster: Cluster) -> None:
    await cluster.node("a", spec={"unschedulable": True})
    await cluster.node("b", spec={"taints": [{"key": "spot", "value": "yes", "effect": "NoSchedule"}]})
    await cluster.node("c")
    await cluster.pod("p", nodeSelector={"gpu": "h100"})
    assert await cluster.refused("p") == (
        "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, "
        "1 node(s) had untolerated taint {spot: yes}, 1 node(s) were unschedulable."
    )
    await cluster.client.patch(NODES, "c", {"metadata": {"labels": {"gpu": "h100"}}})
    assert await cluster.bound("p") == "c"


async def test_a_node_that_is_not_ready_takes_nothing(cluster: Cluster) -> None:
    await cluster.node("a")
    lost = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
    await cluster.client.patch(NODES, "a", lost, subresource="status")
    await cluster.pod("p")
    assert "node.kubernetes.io/not-ready" in await cluster.refused("p")


async def test_priority_decides_who_is_short(cluster: Cluster) -> None:
    await cluster.client.create(PRIORITY_CLASSES, {"metadata": {"name": "urgent"}, "value": 1000})
    await cluster.pod("early", gpu=1)
    await cluster.pod("late", gpu=1, priorityClassName="urgent")
    await cluster.refused("late")
    await cluster.node("gpu", gpu="1")
    assert await cluster.bound("late") == "gpu"
    assert "Insufficient" in await cluster.refused("early")


async def test_a_pod_that_makes_no_sense_does_not_hold_up_others(cluster: Cluster) -> None:
    bad = {"matchExpressions": [{"key": "gpu", "operator": "Near", "values": ["x"]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [bad]}}}
    await cluster.pod("bad", affinity=affinity)
    await cluster.pod("good")
    await cluster.node("a")
    assert await cluster.bound("good") == "a"


@pytest.mark.parametrize(
    ("operator", "values", "fits"),
    [
        ("In", ["l4"], True),
        ("NotIn", ["l4"], False),
        ("Exists", None, True),
        ("DoesNotExist", None, False),
        ("Gt", ["3"], False),
    ],
)
def test_required_affinity(operator: str, values: list[str] | None, fits: bool) -> None:
    term = {"matchExpressions": [{"key": "gpu", "operator": operator, "values": values}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    node = {"metadata": {"name": "n", "labels": {"gpu": "l4"}}}
    assert selects({"affinity": {"nodeAffinity": required}}, node) is fits


def test_tolerations() -> None:
    taint = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    assert untolerated([], [taint]) == taint
    assert untolerated([{"operator": "Exists"}], [taint]) is None
    assert untolerated([{"key": "gpu", "value": "yes"}], [taint]) is None
    assert untolerated([{"key": "gpu", "value": "no"}], [taint]) == taint
    assert untolerated([{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}], [taint]) == taint
    assert untolerated([], [{**taint, "effect": "PreferNoSchedule"}]) is None


def test_requests_count_sidecars_with_the_containers() -> None:
    def wants(cpu: str, **more: str) -> dict:
        return {"name": "c", "resources": {"requests": {"cpu": cpu}}, **more}

    spec = {"initContainers": [wants("500m", restartPolicy="Always"), wants("2")], "containers": [wants("1")]}
    assert pod_requests(spec) == amounts({"cpu": "2500m", "pods": "1"})
    spec["containers"] = [wants("3")]
    assert pod_requests(spec) == amounts({"cpu": "3500m", "pods": "1"})


def test_a_cluster_without_nodes() -> None:
    assert unschedulable_message(0, {}) == "no nodes available to schedule pods"
