"""Evicting a pod: the disruption budget is worked out from the pods of this very moment, no controller needed.

A budget with an integer `minAvailable` stands by itself. Percentages and `maxUnavailable` need to know how many pods
were wanted, so every selected pod must have a controller with a replica count; otherwise nothing may be disrupted, as
in the real cluster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from warmfleet_localcluster.api.deletion import DeleteOptions, delete
from warmfleet_localcluster.api.embedded import EmbeddedApi
from warmfleet_localcluster.api.errors import ApiError
from warmfleet_localcluster.api.objects import Object, condition_true, dig, is_deleting
from warmfleet_localcluster.api.resources import Resource
from warmfleet_localcluster.api.selectors import from_selector

_PODS = ("", "pods")
_BUDGETS = ("policy", "poddisruptionbudgets")
_DENIED = "Cannot evict pod as it would violate the pod's disruption budget."


def evict(
    api: EmbeddedApi, resource: Resource, namespace: str | None, name: str, body: Any, query: Mapping[str, str]
) -> None:
    """Delete a pod if its disruption budget allows.

    Args:
        api: The API.
        resource: The pods resource.
        namespace: The pod's namespace.
        name: The pod's name.
        body: The Eviction object as sent.
        query: The request's query (it may ask for a dry run).

    Raises:
        ApiError: 404, 409, 429 when the budget is spent, 500 when several budgets match.
    """
    pod = api.get(resource, namespace, name)
    options = DeleteOptions.from_request((body or {}).get("deleteOptions"), query)
    if not _is_settled(pod):
        budgets = [b for b in api.store.objects(_BUDGETS, namespace) if _covers(b, pod)]
        if len(budgets) > 1:
            why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            raise ApiError(500, "InternalError", why)
        for budget in budgets:
            _check_budget(api, budget, pod)
    delete(api, resource, namespace, name, options)


def _is_settled(pod: Object) -> bool:
    """Return whether the pod serves nobody: not started, ended or leaving already."""
    return is_deleting(pod) or dig(pod, "status", "phase") in {"Pending", "Succeeded", "Failed"}


def _covers(budget: Object, pod: Object) -> bool:
    return from_selector(dig(budget, "spec", "selector"))(pod)


def _check_budget(api: EmbeddedApi, budget: Object, pod: Object) -> None:
    healthy, needed = budget_state(api, budget)
    if not condition_true(pod, "Ready"):
        policy = dig(budget, "spec", "unhealthyPodEvictionPolicy") or "IfHealthyBudget"
        if policy == "AlwaysAllow" or (healthy >= needed > 0):
            return
    if healthy - 1 >= needed:
        return
    text = f"The disruption budget {budget['metadata']['name']} needs {needed} healthy pods and has {healthy} currently"
    raise ApiError(429, "TooManyRequests", _DENIED, causes=[{"reason": "DisruptionBudget", "message": text}])


def budget_state(api: EmbeddedApi, budget: Object) -> tuple[int, int]:
    """Return how many pods of a budget are healthy now and how many must stay healthy."""
    selected = from_selector(dig(budget, "spec", "selector"))
    pods = [p for p in api.store.objects(_PODS, budget["metadata"]["namespace"]) if selected(p) and not is_deleting(p)]
    healthy = sum(condition_true(p, "Ready") for p in pods)
    spec = budget.get("spec") or {}
    minimum, maximum = spec.get("minAvailable"), spec.get("maxUnavailable")
    if isinstance(minimum, int):
        return healthy, minimum
    wanted = _expected(api, pods)
    if wanted is None:
        return healthy, healthy + 1
    if minimum is not None:
        return healthy, _scaled(minimum, wanted)
    return healthy, max(0, wanted - _scaled(1 if maximum is None else maximum, wanted))


def _scaled(value: int | str, total: int) -> int:
    """Return an integer or a percentage of a total, rounded up as the disruption controller does."""
    return value if isinstance(value, int) else math.ceil(float(value.rstrip("%")) * total / 100)


def _expected(api: EmbeddedApi, pods: list[Object]) -> int | None:
    """Return how many pods the controllers want in total; None when one has no controller with replicas."""
    total: dict[str, int] = {}
    for pod in pods:
        owners = pod["metadata"].get("ownerReferences") or ()
        controller = next((o for o in owners if o.get("controller")), None)
        found = api.store.by_uid(controller["uid"]) if controller else None
        replicas = dig(found[1], "spec", "replicas") if found else None
        if found is None or not isinstance(replicas, int):
            return None
        total[found[1]["metadata"]["uid"]] = replicas
    return sum(total.values())
