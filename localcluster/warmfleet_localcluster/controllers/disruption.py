"""PodDisruptionBudget status, which evictions are decided by.

`disruptionsAllowed = max(0, currentHealthy - desiredHealthy)`. An integer `minAvailable` needs nothing else; a
percentage or `maxUnavailable` needs to know how many pods there should be, which only a ReplicaSet tells here: with
any other owner, or none, nothing may be disrupted, as with the real controller for owners without a scale.
"""

from __future__ import annotations

import math

from warmfleet_runtime.clock import Clock
from warmfleet_runtime.kubeclient import Object

from warmfleet_localcluster.api.selectors import from_selector
from warmfleet_localcluster.controllers.caches import Cache, controller_of, deleting, pod_ready, with_condition
from warmfleet_localcluster.node.status import timestamp


class Disruption:
    """The disruption controller."""

    def __init__(self, clock: Clock, budgets: Cache, pods: Cache, replica_sets: Cache) -> None:
        self._clock, self._budgets, self._pods, self._sets = clock, budgets, pods, replica_sets

    async def reconcile(self) -> None:
        """Recount every budget."""
        for budget in self._budgets:
            if not deleting(budget):
                await self._count(budget)

    async def _count(self, budget: Object) -> None:
        namespace, selected = budget["metadata"]["namespace"], from_selector(budget["spec"].get("selector"))
        pods = [pod for pod in self._pods if pod["metadata"]["namespace"] == namespace and selected(pod)]
        healthy = sum(pod_ready(pod) and not deleting(pod) for pod in pods)
        expected = self._expected(pods)
        counts = needed(budget["spec"], len(pods), expected)
        if counts is None:
            status = {
                "disruptionsAllowed": 0,
                "currentHealthy": healthy,
                "desiredHealthy": 0,
                "expectedPods": len(pods),
            }
            reason, message = "SyncFailed", "found no controller ref with a scale for the pods of this budget"
        else:
            total, desired = counts
            allowed = max(0, healthy - desired) if total > 0 else 0
            status = {
                "disruptionsAllowed": allowed,
                "currentHealthy": healthy,
                "desiredHealthy": desired,
                "expectedPods": total,
            }
            reason, message = ("SufficientPods" if allowed else "InsufficientPods"), ""
        generation = budget["metadata"].get("generation", 1)
        fresh = {
            "type": "DisruptionAllowed",
            "status": "True" if status["disruptionsAllowed"] else "False",
            "reason": reason,
            "message": message,
            "observedGeneration": generation,
        }
        conditions = with_condition(budget, fresh, timestamp(self._clock.wall()))
        await self._budgets.patch_status(budget, {**status, "observedGeneration": generation, "conditions": conditions})

    def _expected(self, pods: list[Object]) -> int | None:
        """How many pods their ReplicaSets should have; None if one of them belongs to none."""
        sizes: dict[str, int] = {}
        for pod in pods:
            owner = controller_of(pod)
            found = None if owner is None else self._sets.get(owner["name"], pod["metadata"]["namespace"])
            if owner is None or found is None or found["metadata"]["uid"] != owner["uid"]:
                return None
            sizes[owner["uid"]] = found["spec"].get("replicas", 1)
        return sum(sizes.values())


def needed(spec: Object, present: int, expected: int | None) -> tuple[int, int] | None:
    """(expectedPods, desiredHealthy) of a budget.

    Args:
        spec: The budget's spec.
        present: Pods that match it.
        expected: Pods their owners want, None if that cannot be told.

    Returns:
        None if the spec needs `expected` and it is unknown.
    """
    least = spec.get("minAvailable")
    if isinstance(least, int):
        return present, least
    if expected is None:
        return None
    if least is not None:
        return expected, _share(least, expected)
    most = spec.get("maxUnavailable")
    if most is None:
        return expected, expected
    return expected, max(0, expected - (most if isinstance(most, int) else _share(most, expected)))


def _share(percentage: str, total: int) -> int:
    return math.ceil(int(percentage.removesuffix("%")) * total / 100)
