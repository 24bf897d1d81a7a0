"""The PodDisruptionBudget of a fleet.

``minAvailable`` is an integer, because percentages and ``maxUnavailable`` need an owner with a scale subresource and
would refuse every eviction of pods that have none. Unhealthy pods may always be evicted. A fleet that cannot reach its
size must not block node maintenance for ever, so workers that have found no place for a while do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

from warmfleet_contracts import labels

from warmfleet_operator.specs.common import Object, metadata, worker_selector
from warmfleet_operator.state.records import DeploymentRecord, WorkerPhase, WorkerRecord

HOPELESS_SECONDS = 600.0
"""Logical seconds unschedulable after which a worker no longer counts."""


def min_available(desired: int, workers: Sequence[WorkerRecord], now: float) -> int:
    """Workers that must stay: a tenth of the fleet, at least one, may be away at once; 0 means no budget is needed."""
    hopeless = sum(
        w.phase is WorkerPhase.FAILED
        or (w.unschedulable_since is not None and now - w.unschedulable_since > HOPELESS_SECONDS)
        for w in workers
        if not w.leaving
    )
    base = desired - hopeless
    return max(0, base - max(1, base // 10))


def disruption_budget(record: DeploymentRecord, available: int) -> Object | None:
    """The budget; None when it would allow everything anyway."""
    if available <= 0:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(record, record.key.name, labels.COMPONENT_WORKER),
        "spec": {
            "minAvailable": available,
            "selector": {"matchLabels": worker_selector(record.key.name, routed=True)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
