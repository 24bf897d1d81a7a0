"""Status of LLMDeployments: what is there, what was decided, and why; written only when it says something new.

Figures that follow the traffic are quantised to two significant digits, and when only they moved, the status is written
once a minute at most. A fleet at rest causes no writes at all.
"""

from __future__ import annotations

import logging
import math
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from warmfleet_contracts import labels
from warmfleet_contracts.api.base import Condition
from warmfleet_contracts.api.llmdeployment_status import (
    KvCacheStatus,
    LLMDeploymentStatus,
    RolloutStatus,
    ScalingStatus,
    TraceStep,
    VariantStatus,
)
from warmfleet_runtime.resources import LLM_DEPLOYMENTS

from warmfleet_operator.acting.conditions import View, conditions
from warmfleet_operator.adapters.kube import KubeApi
from warmfleet_operator.specs.common import selector_text, worker_selector
from warmfleet_operator.specs.routing import endpoint
from warmfleet_operator.state import parse
from warmfleet_operator.state.decisions import DeploymentPlan, RolloutPlan
from warmfleet_operator.state.records import InstanceTypeRecord, Key, WorkerPhase, WorkerRecord, WorkerTelemetry

_LOG = logging.getLogger(__name__)
UPDATED = "Updated"
"""State of a rollout when all workers are on the template."""
FIGURES_SECONDS = 60.0
"""Logical seconds between writes that only bring new figures."""
_FIGURES = (
    ("scaling", "now"),
    ("scaling", "queue"),
    ("scaling", "forecast"),
    ("scaling", "message"),
    ("scaling", "trace"),
    ("kvCache",),
)
_VARIANT_FIGURE = "requestsPerSecond"


def significant(value: float | None, digits: int = 2) -> float | None:
    """``value`` with that many significant digits; None stays None."""
    return None if value is None else float(f"{value:.{digits}g}")


def worker_price(worker: WorkerRecord, types: Mapping[str, InstanceTypeRecord]) -> float | None:
    """US dollars per hour of one worker: its share of an instance; None when the type is unknown."""
    record = types.get(worker.instance_type)
    if record is None or record.spec is None:
        return None
    return record.spec.price_per_hour * worker.accelerators / record.spec.accelerator.count


def fleet_cost(view: View, types: Mapping[str, InstanceTypeRecord]) -> float | None:
    """US dollars per hour of all workers that have a node; None when a price is unknown."""
    prices = [worker_price(w, types) for w in view.workers if w.node]
    known = [p for p in prices if p is not None]
    return round(sum(known), 4) if len(known) == len(prices) else None


def saving(view: View, cost: float | None) -> float | None:
    """US dollars per hour less than a fleet of scaling.max workers of the cheapest variant; of advice, than now."""
    spec, plan = view.record.spec, view.plan
    if spec is None or spec.scaling is None or plan is None or cost is None:
        return None
    if not plan.acts:
        wanted = [(v.desired, v.cost_per_hour) for v in plan.variants if v.desired]
        bill = [count * price for count, price in wanted if price is not None]
        return round(cost - sum(bill), 4) if len(bill) == len(wanted) else None
    prices = [v.cost_per_hour for v in plan.variants if v.cost_per_hour is not None]
    return round(spec.scaling.max * min(prices) - cost, 4) if prices else None


def build(view: View, types: Mapping[str, InstanceTypeRecord], stamp: str) -> dict[str, Any]:
    """The status in wire form."""
    record, plan, demand = view.record, view.plan, view.demand
    cost = fleet_cost(view, types)
    ratio = demand.hit_ratio if demand is not None else None
    status = LLMDeploymentStatus(
        observed_generation=record.generation,
        replicas=len(view.workers),
        ready_replicas=view.ready,
        desired_replicas=plan.desired if plan is not None else 0,
        selector=selector_text(worker_selector(record.key.name, routed=False)),
        endpoint=endpoint(record, record.spec) if record.spec is not None else "",
        variants=tuple(_variants(view)),
        scaling=_scaling(plan) if plan is not None else None,
        rollout=_rollout(plan.rollout) if plan is not None and plan.rollout is not None else None,
        kv_cache=_kv_cache(plan, ratio),
        cost_per_hour=cost,
        saved_per_hour=saving(view, cost),
        conditions=tuple(Condition.model_validate(c) for c in conditions(view, stamp)),
    )
    return status.to_wire()


def _scaling(plan: DeploymentPlan) -> ScalingStatus:
    return ScalingStatus(
        now=significant(plan.demand),
        queue=plan.queue,
        forecast=significant(plan.forecast),
        desired=plan.desired,
        chosen_by=str(plan.chosen_by),
        message=plan.message[:1024],
        trace=tuple(
            TraceStep(
                stage=str(note.stage),
                message=note.text[:1024],
                figures={name: float(f"{value:.4g}") for name, value in note.figures.items() if math.isfinite(value)},
            )
            for note in plan.trace()[:64]
        ),
    )


def _kv_cache(plan: DeploymentPlan | None, ratio: float | None) -> KvCacheStatus | None:
    retained = plan.figures.get("retained") if plan is not None else None
    if ratio is None and retained is None:
        return None
    return KvCacheStatus(
        hit_ratio=None if ratio is None else round(ratio, 2),
        retained=None if retained is None else round(retained, 2),
    )


def _rollout(plan: RolloutPlan) -> RolloutStatus:
    return RolloutStatus(
        state=str(plan.state) if plan.state is not None else UPDATED,
        revision=plan.revision,
        updated=plan.updated,
        ready=plan.ready,
        total=plan.total,
        message=plan.message[:1024],
    )


def _variants(view: View) -> list[VariantStatus]:
    if view.plan is None:
        return []
    found = []
    for variant in view.plan.variants:
        mine = [w for w in view.workers if w.variant == variant.name]
        if not variant.instance_type or not variant.name:
            continue  # of a pod that somebody has stripped of its labels: no variant of the spec
        found.append(
            VariantStatus(
                name=variant.name,
                instance_type=variant.instance_type,
                desired=variant.desired,
                starting=sum(w.pending and not w.leaving for w in mine),
                stages=_stages(view, mine) or None,
                ready=sum(w.phase is WorkerPhase.READY and not w.leaving for w in mine),
                draining=sum(w.leaving for w in mine),
                requests_per_second=significant(variant.requests_per_second),
                revision=variant.revision,
            )
        )
    return found


_STAGES = {
    "starting": "Starting",
    "downloading-weights": "Downloading",
    "loading-weights": "Loading",
    "compiling": "Compiling",
    "prewarming": "Prewarming",
}
"""What agents say -> what the status says; anything else is Starting."""


def _stages(view: View, workers: Sequence[WorkerRecord]) -> dict[str, int]:
    """How many of the workers that start are at which stage."""
    starting = [worker for worker in workers if worker.pending and not worker.leaving]
    return dict(sorted(Tally(_stage(worker, view.telemetry.get(worker.uid)) for worker in starting).items()))


def _stage(worker: WorkerRecord, told: WorkerTelemetry | None) -> str:
    if not worker.node:
        return "Scheduling"
    if told is None:
        return "Creating"
    return _STAGES.get(told.stage, "Starting")


def without_figures(status: Mapping[str, Any]) -> dict[str, Any]:
    """The status without what follows the traffic."""
    kept: dict[str, Any] = {key: value for key, value in status.items() if (key,) not in _FIGURES}
    scaling = parse.mapping(kept.get("scaling"))
    hidden = {path[1] for path in _FIGURES if len(path) == 2}
    if "scaling" in kept:
        kept["scaling"] = {key: value for key, value in scaling.items() if key not in hidden}
    variants = parse.items(kept.get("variants"))
    kept["variants"] = [{k: v for k, v in item.items() if k != _VARIANT_FIGURE} for item in variants]
    return kept


class StatusWriter:
    """Writes statuses by server-side apply on ``/status`` under a field manager of its own.

    Args:
        api: Guarded client.
        seen: Gets each answer (feeds the store, so that an own write is not mistaken for news).
    """

    def __init__(self, api: KubeApi, seen: Callable[[Any], None]) -> None:
        self._api, self._seen = api, seen
        self._written: dict[Key, tuple[str, dict[str, Any], float]] = {}

    async def write(self, view: View, types: Mapping[str, InstanceTypeRecord], stamp: str, now: float) -> bool:
        """Write the status if it says something new.

        Returns:
            Whether it was written.

        Raises:
            KubeError: It could not be written.
        """
        record = view.record
        status = build(view, types, stamp)
        uid, before, at = self._written.get(record.key, ("", dict(record.status), now - FIGURES_SECONDS))
        if uid != record.uid:
            before = dict(record.status)
        if not _is_news(before, status, now - at):
            return False
        body = {
            "apiVersion": LLM_DEPLOYMENTS.api,
            "kind": LLM_DEPLOYMENTS.kind,
            "metadata": {"name": record.key.name, "namespace": record.key.namespace, "uid": record.uid},
            "status": status,
        }
        answer = await self._api.patch(
            LLM_DEPLOYMENTS,
            record.key.name,
            body,
            record.key.namespace,
            how="apply",
            subresource="status",
            field_manager=labels.STATUS_FIELD_MANAGER,
        )
        self._written[record.key] = (record.uid, status, now)
        self._seen(answer)
        return True

    def forget(self, key: Key) -> None:
        """The deployment is gone."""
        self._written.pop(key, None)


def _is_news(before: Mapping[str, Any], status: Mapping[str, Any], age: float) -> bool:
    if without_figures(before) != without_figures(status):
        return True
    return age >= FIGURES_SECONDS and dict(before) != dict(status)
