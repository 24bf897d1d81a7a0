"""The injected fault: a machine under each fleet is taken away, as a cloud or a node autoscaler does, and is then gone.

Its taint is what node autoscalers set before they remove a machine; nobody tells the operator anything else. What
became of it is read off the pods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmfleet_contracts import labels
from warmfleet_runtime.clock import Clock
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import NODES, PODS
from warmfleet_runtime.rest import ApiError

TAINT = {"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}
_LOOK = 0.25
"""Real seconds between two looks."""
_PATIENCE = 1800.0
"""Logical seconds for which a machine is looked for, and then its end waited for."""
Pod = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Taken:
    """A machine that is taken away.

    Attributes:
        node: Its name.
        worker: The worker on it.
        others: UIDs of the fleet's workers then.
    """

    node: str
    worker: str
    others: frozenset[str]


def choose(pods: Sequence[Pod], variant: str) -> Taken | None:
    """The machine to take: that of the worker of ``variant`` that serves longest; None while none serves.

    Args:
        pods: The fleet's workers.
        variant: A variant whose workers have their machines to themselves.
    """
    mine = [pod for pod in pods if _labels(pod).get(labels.VARIANT) == variant and _serves(pod)]
    if not mine:
        return None
    first = min(mine, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
    others = frozenset(pod["metadata"]["uid"] for pod in pods)
    return Taken(first["spec"]["nodeName"], first["metadata"]["name"], others)


async def take_machine(
    kube: KubeClient, fleet: str, namespace: str, *, variant: str, clock: Clock, note: Callable[[str], None]
) -> None:
    """Takes a machine from under a fleet, and returns when it is gone and another worker serves instead.

    Args:
        kube: The cluster's API.
        fleet: The LLMDeployment.
        namespace: Its namespace.
        variant: See :func:`choose`.
        clock: The demo's clock.
        note: Told what happens.
    """
    deadline = clock.now() + _PATIENCE
    while (taken := choose(await _workers(kube, fleet, namespace), variant)) is None:
        if clock.now() > deadline:
            note(f"no {variant} worker served, so no machine was taken away")
            return
        await asyncio.sleep(_LOOK)
    began = clock.now()
    await _taint(kube, taken.node)
    note(f"machine {taken.node} is taken away (taint {TAINT['key']}); {taken.worker} serves on it")
    await _follow(kube, fleet, namespace, taken, clock=clock, note=note, began=began)


async def _follow(
    kube: KubeClient,
    fleet: str,
    namespace: str,
    taken: Taken,
    *,
    clock: Clock,
    note: Callable[[str], None],
    began: float,
) -> None:
    told: set[str] = set()

    def once(what: str, text: str) -> None:
        if what not in told:
            told.add(what)
            note(f"{text} ({clock.now() - began:.0f} s after the notice)")

    while len(told) < 4 and clock.now() - began < _PATIENCE:
        pods = await _workers(kube, fleet, namespace)
        old = next((pod for pod in pods if pod["metadata"]["name"] == taken.worker), None)
        fresh = [pod for pod in pods if pod["metadata"]["uid"] not in taken.others]
        if fresh:
            once("bought", f"{fresh[0]['metadata']['name']} is created in its place")
        if any(_serves(pod) for pod in fresh):
            name = next(pod["metadata"]["name"] for pod in fresh if _serves(pod))
            once("serves", f"{name} serves")
        if old is not None and labels.DRAINING in (old["metadata"].get("annotations") or {}):
            once("drains", f"{taken.worker} drains: it takes no new requests, finishes its streams, hands over")
        if old is None and "gone" not in told:
            await _remove(kube, taken.node)
            told.add("drains")  # where it was not seen to drain, nothing is said of it
            once("gone", f"{taken.worker} has left, the machine is gone")
        await asyncio.sleep(_LOOK)


async def _workers(kube: KubeClient, fleet: str, namespace: str) -> list[Pod]:
    selector = f"{labels.DEPLOYMENT}={fleet},{labels.COMPONENT}={labels.COMPONENT_WORKER}"
    return list((await kube.list(PODS, namespace, labelSelector=selector))["items"])


async def _taint(kube: KubeClient, node: str) -> None:
    there = (await kube.get(NODES, node))["spec"].get("taints") or []
    await kube.patch(NODES, node, {"spec": {"taints": [*there, TAINT]}})


async def _remove(kube: KubeClient, node: str) -> None:
    try:
        await kube.delete(NODES, node)
    except ApiError as error:
        if error.status != 404:
            raise


def _serves(pod: Pod) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    annotations = pod["metadata"].get("annotations") or {}
    return ready and labels.DRAINING not in annotations and not pod["metadata"].get("deletionTimestamp")


def _labels(pod: Pod) -> Mapping[str, str]:
    return pod["metadata"].get("labels") or {}
