"""What must be done now for one deployment: plan and pods in, actions out. Pure and level-triggered.

Everything needed to go on after a restart of the operator is in the pods themselves: a worker that was told to drain
carries the draining annotation, so the next process, or the next leader, finds and finishes what was begun.

A drain ends in one of three ways: the agent reports Drained; the worker never served or has failed; or the deadline is
over, with or without an answer, and the worker is removed by force. So no drain lasts for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from warmfleet_contracts import labels
from warmfleet_contracts.agent import Phase
from warmfleet_contracts.reasons import VictimReason

from warmfleet_operator.planning import pace
from warmfleet_operator.state.decisions import DeploymentPlan, Victim
from warmfleet_operator.state.records import DeploymentRecord, WorkerPhase, WorkerRecord, WorkerTelemetry

DRAIN_MARGIN = 15.0
"""Logical seconds beyond the drain deadline that an agent has to report before the worker is removed by force."""
FINALIZER_MARGIN = 90.0
"""Logical seconds beyond the last possible end of a worker after which the finalizer is removed all the same."""
FALLBACK_DEADLINE = 300.0
"""Drain deadline of a deployment whose spec cannot be read."""


class Outcome(StrEnum):
    """How a worker left."""

    COMPLETED = "completed"
    """Its agent reported Drained."""
    FORCED = "forced"
    """The deadline passed."""
    NOT_SERVING = "not-serving"
    """It never served, or has failed: nothing to drain."""


@dataclass(frozen=True, slots=True)
class Create:
    """Create a worker of a variant, from the wanted template or (canary) from the previous one."""

    variant: str
    previous: bool = False


@dataclass(frozen=True, slots=True)
class StartDrain:
    """Mark the pod as draining, take it off the route and tell its agent."""

    worker: WorkerRecord
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class TellAgent:
    """Tell the agent (again) to drain: it does not seem to know."""

    worker: WorkerRecord
    reason: str


@dataclass(frozen=True, slots=True)
class CancelDrain:
    """Bring a draining worker back."""

    worker: WorkerRecord


@dataclass(frozen=True, slots=True)
class Unroute:
    """Somebody else deleted the pod: take it off the route and hand its agent the deadline."""

    worker: WorkerRecord


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the pod."""

    worker: WorkerRecord
    outcome: Outcome
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class AddFinalizer:
    """Put the drain finalizer on the LLMDeployment."""


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Let the LLMDeployment go."""


Action = Create | StartDrain | TellAgent | CancelDrain | Unroute | Delete | AddFinalizer | RemoveFinalizer


@dataclass(frozen=True, slots=True)
class Job:
    """What one deployment's actions are derived from.

    Attributes:
        record: The deployment.
        plan: The decision; None before the first one.
        workers: Its workers, expectations included.
        telemetry: Last agent answers by pod UID.
        now: Logical seconds.
        shutdown_seconds: The engine's shutdown time.
    """

    record: DeploymentRecord
    plan: DeploymentPlan | None
    workers: tuple[WorkerRecord, ...]
    now: float
    shutdown_seconds: float = 30.0
    telemetry: Mapping[str, WorkerTelemetry] = field(default_factory=dict)

    @property
    def deadline(self) -> float:
        """Longest drain, logical seconds."""
        spec = self.record.spec
        return spec.kv_cache.drain_deadline if spec is not None else FALLBACK_DEADLINE

    @property
    def paused(self) -> bool:
        """Whether nothing but the status may be written. Deletion goes on: a paused object must not hang."""
        return labels.is_true(dict(self.record.annotations), labels.PAUSED) and not self.record.deleting


FINALIZER = f"{labels.DOMAIN}/drain"
"""On an LLMDeployment with workers: its deletion waits until they are drained, so that router and Service outlive
them. Background garbage collection would take all of them down at once."""


def actions(job: Job) -> list[Action]:
    """What to do now, in order."""
    if job.paused:
        return []
    if job.record.deleting:
        return [*_leaving(job), *_deletion(job)]
    found: list[Action] = [*_leaving(job)]
    if job.plan is None or job.plan.uid != job.record.uid or job.record.namespace_terminating:
        return found
    found += _planned(job, job.plan)
    wanted = any(v.create for v in job.plan.variants) or bool(job.workers)
    if wanted and FINALIZER not in job.record.finalizers:
        found.insert(0, AddFinalizer())
    return found


def room_for(job: Job) -> float | None:
    """What a worker that leaves shall hand over: what was used so many logical seconds ago or later; None: all."""
    sent = {v.uid for v in job.plan.victims} if job.plan is not None else set()
    going = {w.uid for w in job.workers if w.leaving or w.uid in sent}
    staying = [w for w in job.workers if w.uid not in going and w.phase is WorkerPhase.READY]
    return pace.room_for([job.telemetry.get(w.uid) for w in staying], len(going))


def _planned(job: Job, plan: DeploymentPlan) -> Iterator[Action]:
    by_key = {w.key: w for w in job.workers}
    for key in plan.cancels:
        worker = by_key.get(key)
        if worker is not None and worker.drain_reason is not None and worker.phase is not WorkerPhase.TERMINATING:
            yield CancelDrain(worker)
    for variant in plan.variants:
        yield from (Create(variant.name, previous=n < variant.create_previous) for n in range(variant.create))
    for victim in plan.victims:
        worker = by_key.get(victim.pod)
        if worker is not None and worker.uid == victim.uid and not worker.leaving:
            yield _sent_away(worker, victim)


def _sent_away(worker: WorkerRecord, victim: Victim) -> Action:
    if victim.drain:
        return StartDrain(worker, victim.reason, victim.message)
    return Delete(worker, Outcome.NOT_SERVING, victim.reason, victim.message)


def _deletion(job: Job) -> Iterator[Action]:
    """The deployment is being deleted: drain everybody, then let it go.

    In a namespace that is being deleted the pods are deleted anyway, each with its own grace and preStop, so nothing is
    waited for; the same holds when the children shall be orphaned. The garbage collector may have orphaned them, and
    taken its finalizer away, before this is asked for the first time: pods without an owner stay, too.
    """
    record = job.record
    mine = [worker for worker in job.workers if not worker.orphaned]
    alone = record.namespace_terminating or "orphan" in record.finalizers
    if not alone:
        for worker in mine:
            if not worker.leaving:
                yield _farewell(worker)
    waited = job.now - (record.deleting_since if record.deleting_since is not None else job.now)
    limit = job.deadline + DRAIN_MARGIN + job.shutdown_seconds + FINALIZER_MARGIN
    if FINALIZER in record.finalizers and (alone or not mine or waited > limit):
        yield RemoveFinalizer()


def _farewell(worker: WorkerRecord) -> Action:
    reason = VictimReason.DEPLOYMENT_DELETED
    if worker.pending or worker.phase is WorkerPhase.FAILED:
        return Delete(worker, Outcome.NOT_SERVING, reason)
    return StartDrain(worker, reason)


def _leaving(job: Job) -> Iterator[Action]:
    cancelled = set(job.plan.cancels) if job.plan is not None and not job.record.deleting else set()
    for worker in job.workers:
        if worker.phase is WorkerPhase.TERMINATING:
            if worker.routed and worker.first_ready is not None:
                yield Unroute(worker)
        elif worker.drain_reason is not None and worker.key not in cancelled:
            yield from _draining(job, worker, worker.drain_reason)


def _draining(job: Job, worker: WorkerRecord, reason: str) -> Iterator[Action]:
    told = job.telemetry.get(worker.uid)
    since = worker.drain_since if worker.drain_since is not None else job.now
    if worker.phase is WorkerPhase.FAILED or worker.pending:
        yield Delete(worker, Outcome.NOT_SERVING, reason)
    elif told is not None and told.phase is Phase.DRAINED and told.at >= since:
        yield Delete(worker, Outcome.COMPLETED, reason)
    elif job.now - since > job.deadline + DRAIN_MARGIN:
        cause = "its agent did not answer" if told is None else f"it was still {told.phase}"
        yield Delete(worker, Outcome.FORCED, reason, f"{cause} {job.now - since:.0f} s after the drain began")
    elif told is None or told.phase in (Phase.SERVING, Phase.STARTING):
        yield TellAgent(worker, reason)
