"""Conditions of an LLMDeployment, as kstatus reads them. Pure.

Messages carry counts that change with the fleet, never measurements that change with every tick: a condition is written
only when it says something new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from warmfleet_contracts import labels
from warmfleet_contracts.reasons import ChosenBy, ConditionType, Reason

from warmfleet_operator.state import parse
from warmfleet_operator.state.decisions import DeploymentPlan, Problem
from warmfleet_operator.state.records import Demand, DeploymentRecord, WorkerPhase, WorkerRecord, WorkerTelemetry
from warmfleet_operator.state.words import counted

_IMAGE_REASONS = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"})


PAUSES = {
    labels.PAUSED: "nothing but the status is written",
    labels.PAUSED_SCALE_IN: "no worker is removed or replaced; drains that have begun go on",
    labels.PAUSED_SCALE_OUT: "no worker is added or replaced, and no drain is cancelled",
}
"""What each pause annotation holds back."""


@dataclass(frozen=True, slots=True)
class View:
    """What conditions and status are derived from.

    Attributes:
        record: The deployment.
        plan: The decision; None before the first one.
        workers: Its workers.
        demand: Its traffic; None while nothing was measured.
        problems: Problems of acting, beside those of the plan.
        telemetry: Last agent answers by pod UID.
    """

    record: DeploymentRecord
    plan: DeploymentPlan | None
    workers: Sequence[WorkerRecord]
    demand: Demand | None = None
    problems: tuple[Problem, ...] = ()
    telemetry: Mapping[str, WorkerTelemetry] = field(default_factory=dict)

    @property
    def all_problems(self) -> tuple[Problem, ...]:
        """Those of spec, plan and acting."""
        own: tuple[Problem, ...] = ()
        planned = self.plan.problems if self.plan is not None else ()
        if self.record.spec_error is not None and not any(p.reason is Reason.INVALID_SPEC for p in planned):
            own = (Problem(Reason.INVALID_SPEC, self.record.spec_error),)
        return own + planned + self.problems

    @property
    def ready(self) -> int:
        """Workers that take traffic."""
        return sum(w.phase is WorkerPhase.READY and w.drain_reason is None for w in self.workers)

    @property
    def floor(self) -> int:
        """Smallest number of workers that the spec allows."""
        spec = self.record.spec
        if spec is None:
            return 0
        return spec.scaling.min if spec.scaling is not None else spec.replicas or 0


@dataclass(frozen=True, slots=True)
class _State:
    kind: ConditionType
    holds: bool
    reason: Reason
    message: str = ""


def conditions(view: View, stamp: str) -> list[dict[str, Any]]:
    """The conditions, in wire form.

    Args:
        view: What is known.
        stamp: Wall time (RFC 3339) for conditions whose status changed.
    """
    states = [
        _ready(view),
        *_reconciling(view),
        *_stalled(view),
        _scaling_active(view),
        _scaling_limited(view),
        *_draining(view),
        *_rolling_out(view),
        *_paused(view),
    ]
    before = {c.get("type"): c for c in parse.items(view.record.status.get("conditions"))}
    return [_wire(state, before.get(str(state.kind), {}), view.record.generation, stamp) for state in states]


def _wire(state: _State, before: Mapping[str, Any], generation: int, stamp: str) -> dict[str, Any]:
    status = "True" if state.holds else "False"
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    return {
        "type": str(state.kind),
        "status": status,
        "reason": str(state.reason),
        "message": state.message[:1024],
        "observedGeneration": generation,
        "lastTransitionTime": since if isinstance(since, str) else stamp,
    }


def _ready(view: View) -> _State:
    kind = ConditionType.READY
    if view.record.spec is None:
        return _State(kind, holds=False, reason=Reason.INVALID_SPEC, message=view.record.spec_error or "")
    text = f"{view.ready} of at least {view.floor} workers serve"
    if view.ready >= view.floor:
        idle = view.floor == 0 and view.ready == 0
        return _State(kind, holds=True, reason=Reason.SCALED_TO_ZERO if idle else Reason.SERVING, message=text)
    why = _obstacle(view)
    return _State(kind, holds=False, reason=why.reason, message=f"{text}; {why.message}" if why.message else text)


def _obstacle(view: View) -> Problem:
    """Why too few workers serve."""
    for problem in view.all_problems:
        return problem
    for worker in view.workers:
        if worker.phase is WorkerPhase.FAILED:
            image = worker.failure_reason in _IMAGE_REASONS
            reason = Reason.IMAGE_PULL_FAILED if image else Reason.WORKER_START_FAILED
            return Problem(reason, worker.failure, stalled=False)
    waiting = [w for w in view.workers if w.pending]
    lost = [w for w in waiting if w.unschedulable_since is not None]
    if lost:
        return Problem(Reason.NO_CAPACITY, counted(len(lost), "waits for a node", "wait for a node"), stalled=False)
    return Problem(Reason.WAITING_FOR_WORKERS, counted(len(waiting), "is starting", "are starting"), stalled=False)


def _was_ready(view: View) -> bool:
    """Whether this generation has been Ready already."""
    for condition in parse.items(view.record.status.get("conditions")):
        if condition.get("type") == str(ConditionType.READY):
            same = condition.get("observedGeneration") == view.record.generation
            return same and condition.get("status") == "True"
    return False


def _reconciling(view: View) -> list[_State]:
    stalled = any(p.stalled for p in view.all_problems)
    rolled = view.plan.rollout if view.plan is not None else None
    if rolled is not None and rolled.state is Reason.ROLLING_OUT and not stalled:
        return [_State(ConditionType.RECONCILING, holds=True, reason=Reason.ROLLING_OUT, message=rolled.message)]
    known = {c.get("type") for c in parse.items(view.record.status.get("conditions"))}
    started = view.record.status.get("observedGeneration") == view.record.generation
    under_way = not started or str(ConditionType.RECONCILING) in known
    if stalled or view.ready >= view.floor or _was_ready(view) or not under_way:
        return []
    text = f"{view.ready} of {view.floor} workers serve"
    return [_State(ConditionType.RECONCILING, holds=True, reason=Reason.PROVISIONING, message=text)]


def _stalled(view: View) -> list[_State]:
    problems = [p for p in view.all_problems if p.stalled]
    if not problems:
        return []
    text = "; ".join(p.message for p in problems)
    return [_State(ConditionType.STALLED, holds=True, reason=problems[0].reason, message=text)]


def _scaling_active(view: View) -> _State:
    kind, spec, demand = ConditionType.SCALING_ACTIVE, view.record.spec, view.demand
    if spec is not None and spec.scaling is None:
        return _State(kind, holds=True, reason=Reason.FIXED_REPLICAS, message="spec.replicas is set")
    held = view.plan is not None and view.plan.chosen_by is ChosenBy.NO_DATA
    if demand is None or demand.arrivals is None or held:
        text = "neither router nor agents report; the last decision is held"
        return _State(kind, holds=False, reason=Reason.METRICS_MISSING, message=text)
    if view.plan is not None and not view.plan.acts:
        there = sum(not w.leaving for w in view.workers)
        text = f"scaling.mode is Advisory: {counted(view.plan.desired)} instead of {there} would do; nothing is done"
        return _State(kind, holds=False, reason=Reason.ADVISORY, message=text)
    if demand.silent_workers:
        text = "some workers do not report; nothing is scaled down on what the others say for ten minutes"
        return _State(kind, holds=True, reason=Reason.METRICS_PARTIAL, message=text)
    return _State(kind, holds=True, reason=Reason.METRICS_AVAILABLE, message=f"from {', '.join(demand.sources)}")


def _scaling_limited(view: View) -> _State:
    limit = view.plan.limited if view.plan is not None else None
    if view.plan is None or limit is None:
        return _State(ConditionType.SCALING_LIMITED, holds=False, reason=Reason.WITHIN_LIMITS)
    text = f"{counted(view.plan.unlimited)} wanted, {view.plan.desired} allowed by {_limit(view.plan, limit)}"
    return _State(ConditionType.SCALING_LIMITED, holds=True, reason=limit, message=text)


def _limit(plan: DeploymentPlan, reason: Reason) -> str:
    if plan.chosen_by is ChosenBy.SCHEDULE:
        return "a schedule's max" if reason is Reason.TOO_MANY_REPLICAS else "a schedule's min"
    match reason:
        case Reason.TOO_MANY_REPLICAS:
            return "scaling.max and the variants' max"
        case Reason.TOO_FEW_REPLICAS:
            return "scaling.min and the variants' min"
        case Reason.CAPACITY_EXHAUSTED:
            types = dict.fromkeys(variant.instance_type for variant in plan.variants)
            return f"the limit of InstanceType {', '.join(types)}; raise spec.limit or add a variant on another type"
        case _:
            return reason.value


def _draining(view: View) -> list[_State]:
    count = sum(w.leaving for w in view.workers)
    if not count:
        return []
    text = counted(count, "is on its way out", "are on their way out")
    return [_State(ConditionType.DRAINING, holds=True, reason=Reason.WORKERS_DRAINING, message=text)]


def _rolling_out(view: View) -> list[_State]:
    rolled = view.plan.rollout if view.plan is not None else None
    if rolled is None or rolled.state is None:
        return []
    under_way = rolled.state is not Reason.ROLLED_BACK or rolled.updated < rolled.total
    return [_State(ConditionType.ROLLING_OUT, holds=under_way, reason=rolled.state, message=rolled.message)]


def _paused(view: View) -> list[_State]:
    annotations = dict(view.record.annotations)
    found = [key for key in PAUSES if labels.is_true(annotations, key)]
    if not found:
        return []
    text = "; ".join(f"{key}: {PAUSES[key]}" for key in found)
    return [_State(ConditionType.PAUSED, holds=True, reason=Reason.PAUSED_BY_ANNOTATION, message=text)]
