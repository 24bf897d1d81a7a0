"""Binds pending pods to nodes.

A node fits when it is schedulable and Ready, the pod tolerates its taints, nodeSelector and the required node
affinity match, and its free resources cover the requests. Pods go by priority, then age; of the nodes that fit,
the fullest is taken (GPU nodes are bought to be used). Pod (anti-)affinity and topology spread are not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from warmfleet_runtime.clock import Clock
from warmfleet_runtime.kubeclient import KubeClient, Object
from warmfleet_runtime.resources import PODS
from warmfleet_runtime.rest import ApiError

from warmfleet_localcluster.controllers.caches import Cache, condition, deleting, pod_active, with_condition
from warmfleet_localcluster.controllers.resources import Amounts, amounts, plus, pod_requests, total_requests
from warmfleet_localcluster.node.status import timestamp

_NOT_READY = {"key": "node.kubernetes.io/not-ready", "value": "", "effect": "NoSchedule"}


class Scheduler:
    """The scheduler. Reads pods, nodes and priority classes; writes bindings and PodScheduled."""

    def __init__(self, client: KubeClient, clock: Clock, pods: Cache, nodes: Cache, priorities: Cache) -> None:
        self._client, self._clock = client, clock
        self._pods, self._nodes, self._priorities = pods, nodes, priorities
        self._bound: dict[str, str] = {}

    async def reconcile(self) -> None:
        """Place every pod that waits."""
        pods = list(self._pods)
        self._bound = {uid: node for uid, node in self._bound.items() if any(_uid(p) == uid for p in pods)}
        waiting = [pod for pod in pods if self._node_of(pod) is None and _is_ours(pod)]
        if not waiting:
            return
        nodes = {node["metadata"]["name"]: node for node in self._nodes}
        used = {
            name: total_requests([p["spec"] for p in pods if self._node_of(p) == name and _occupies(p)])
            for name in nodes
        }
        for pod in sorted(waiting, key=self._order):
            await self._place(pod, nodes, used)

    async def _place(self, pod: Object, nodes: Mapping[str, Object], used: dict[str, Amounts]) -> None:
        refused: Counter[str] = Counter()
        fitting = []
        try:
            for name, node in nodes.items():
                reasons = obstacles(pod, node, used[name])
                refused.update(reasons)
                if not reasons:
                    fitting.append((-fullness(node, used[name]), name))
        except (KeyError, ValueError) as error:  # one pod that makes no sense must not hold up the others
            await self._report_unschedulable(pod, f"the pod's spec cannot be read: {error}")
            return
        if not fitting:
            await self._report_unschedulable(pod, unschedulable_message(len(nodes), refused))
            return
        name = min(fitting)[1]
        if await self._bind(pod, name):
            used[name] = plus(used[name], pod_requests(pod["spec"]))

    async def _bind(self, pod: Object, node: str) -> bool:
        metadata = pod["metadata"]
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {key: metadata[key] for key in ("name", "namespace", "uid")},
            "target": target,
        }
        try:
            await self._client.create(
                PODS, binding, metadata["namespace"], name=metadata["name"], subresource="binding"
            )
        except ApiError as error:
            if error.status not in {404, 409}:
                raise
            return False
        self._bound[_uid(pod)] = node
        return True

    async def _report_unschedulable(self, pod: Object, message: str) -> None:
        before = condition(pod, "PodScheduled")
        if before is not None and (before["status"], before.get("message")) == ("False", message):
            return
        fresh = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        conditions = with_condition(pod, fresh, timestamp(self._clock.wall()))
        await self._pods.patch(pod, {"status": {"conditions": conditions}}, subresource="status")

    def _node_of(self, pod: Object) -> str | None:
        return pod["spec"].get("nodeName") or self._bound.get(_uid(pod))

    def _order(self, pod: Object) -> tuple[int, str, int]:
        spec, metadata = pod["spec"], pod["metadata"]
        priority = spec.get("priority")
        if priority is None and (named := self._priorities.get(spec.get("priorityClassName") or "")) is not None:
            priority = named["value"]
        return -(priority or 0), metadata["creationTimestamp"], int(metadata["resourceVersion"])


def obstacles(pod: Object, node: Object, used: Amounts) -> list[str]:
    """Why a pod cannot go to a node, in the scheduler's words; the first kind of reason only.

    Args:
        pod: The pod.
        node: The node.
        used: What its pods request already.
    """
    spec = pod["spec"]
    tolerations = spec.get("tolerations") or []
    if node["spec"].get("unschedulable") and not any(
        t.get("key") in {None, "node.kubernetes.io/unschedulable"} for t in tolerations
    ):
        return ["node(s) were unschedulable"]
    if (taint := untolerated(tolerations, _taints(node))) is not None:
        return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value') or ''}}}"]
    if not selects(spec, node):
        return ["node(s) didn't match Pod's node affinity/selector"]
    free = amounts((node.get("status") or {}).get("allocatable") or {})
    requests = pod_requests(spec)
    short = [n for n, wanted in requests.items() if wanted > free.get(n, Decimal(0)) - used.get(n, Decimal(0))]
    return ["Too many pods" if name == "pods" else f"Insufficient {name}" for name in sorted(short)]


def unschedulable_message(nodes: int, refused: Mapping[str, int]) -> str:
    """The scheduler's text, e.g. `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`."""
    if nodes == 0:
        return "no nodes available to schedule pods"
    reasons = ", ".join(sorted(f"{count} {reason}" for reason, count in refused.items()))
    return f"0/{nodes} nodes are available: {reasons}."


def untolerated(
    tolerations: Iterable[Mapping[str, Any]], taints: Iterable[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The first taint that keeps the pod away."""
    tolerations = list(tolerations)
    for taint in taints:
        hard = taint["effect"] in {"NoSchedule", "NoExecute"}
        if hard and not any(_tolerates(toleration, taint) for toleration in tolerations):
            return taint
    return None


def selects(spec: Mapping[str, Any], node: Object) -> bool:
    """Whether nodeSelector and the required node affinity allow the node."""
    labels: Mapping[str, str] = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    fields = {"metadata.name": node["metadata"]["name"]}
    return any(
        (term.get("matchExpressions") or term.get("matchFields"))
        and all(_matches(e, labels) for e in term.get("matchExpressions") or [])
        and all(_matches(e, fields) for e in term.get("matchFields") or [])
        for term in required["nodeSelectorTerms"]
    )


def fullness(node: Object, used: Amounts) -> Decimal:
    """Largest used share of any resource the node offers."""
    offered = amounts((node.get("status") or {}).get("allocatable") or {})
    return max((used.get(name, Decimal(0)) / size for name, size in offered.items() if size), default=Decimal(0))


def _taints(node: Object) -> list[Mapping[str, Any]]:
    taints: list[Mapping[str, Any]] = list(node["spec"].get("taints") or [])
    ready = condition(node, "Ready")
    if (ready is None or ready["status"] != "True") and not any(
        taint["key"].startswith("node.kubernetes.io/") for taint in taints
    ):
        taints.append(_NOT_READY)
    return taints


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in {None, "", taint["effect"]}:
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    if toleration["key"] != taint["key"]:
        return False
    return toleration.get("operator") == "Exists" or (toleration.get("value") or "") == (taint.get("value") or "")


def _matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            if value is None or not value.lstrip("-").isdigit():
                return False
            return int(value) > int(values[0]) if operator == "Gt" else int(value) < int(values[0])
        case other:
            raise ValueError(f"nodeAffinity operator {other!r}: use In, NotIn, Exists, DoesNotExist, Gt or Lt")


def _is_ours(pod: Object) -> bool:
    spec = pod["spec"]
    named = spec.get("schedulerName") in {None, "", "default-scheduler"}
    return named and not spec.get("schedulingGates") and not deleting(pod) and pod_active(pod)


def _occupies(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}


def _uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])
