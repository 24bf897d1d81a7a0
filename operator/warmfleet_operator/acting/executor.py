"""Acts on decisions: one task per LLMDeployment, so that a slow one holds up nobody else.

Each task has one slot with the newest job. While it works, newer jobs replace older ones; nothing is queued up. A
failure is logged, shown in the conditions and tried again with the next decision.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from warmfleet_contracts import labels
from warmfleet_contracts.reasons import ConditionType, EventReason, Reason
from warmfleet_runtime.clock import Clock

from warmfleet_operator.acting import diff
from warmfleet_operator.acting.children import ChildrenKeeper, wanted_children
from warmfleet_operator.acting.conditions import PAUSES, View
from warmfleet_operator.acting.events import about_deployment
from warmfleet_operator.acting.rest import Assignment, rests
from warmfleet_operator.acting.status import UPDATED, StatusWriter, fleet_cost
from warmfleet_operator.acting.workers import Tools, WorkerActor
from warmfleet_operator.adapters.kube import KubeError
from warmfleet_operator.adapters.lease import NotLeaderError
from warmfleet_operator.state import parse
from warmfleet_operator.state.decisions import DeploymentPlan, FleetPlan, Problem, RolloutPlan
from warmfleet_operator.state.records import FleetSnapshot, Key, WorkerRecord
from warmfleet_operator.state.snapshot import Kind

_LOG = logging.getLogger(__name__)


class _Worker:
    """The task of one deployment and its slot."""

    def __init__(self) -> None:
        self.slot: Assignment | None = None
        self.done: Assignment | None = None
        """The last one that was carried out in full; None after a failure."""
        self.filled = asyncio.Event()
        self.idle = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class FleetExecutor:
    """Hands each deployment its part of the plan.

    Args:
        tools: What acting needs.
        clock: For timestamps.
        lost: Called when a write was refused because this process no longer leads.
    """

    def __init__(self, tools: Tools, clock: Clock, lost: Callable[[], None]) -> None:
        self._tools, self._clock, self._lost = tools, clock, lost
        self._children = ChildrenKeeper(tools.api)
        self._status = StatusWriter(tools.api, lambda body: tools.store.observe(Kind.DEPLOYMENT, body))
        self._workers: dict[Key, _Worker] = {}
        self._busy: set[Key] = set()
        self._round: float | None = None

    def submit(self, snapshot: FleetSnapshot, plan: FleetPlan) -> None:
        """Give every deployment its newest job, those that scale first, and end the tasks of those that are gone."""
        if self._round is None:
            self._round = asyncio.get_running_loop().time()
        by_deployment: dict[Key, list[WorkerRecord]] = {}
        for record in snapshot.workers:
            by_deployment.setdefault(record.deployment_key, []).append(record)
        moved = {key for key, decided in plan.deployments.items() if _moves(decided)}
        for key in sorted(snapshot.deployments, key=lambda key: key not in moved):  # tasks run in the order of waking
            deployment = snapshot.deployments[key]
            job = diff.Job(
                record=deployment,
                plan=plan.deployments.get(key),
                workers=tuple(by_deployment.get(key, ())),
                now=plan.at,
                shutdown_seconds=self._tools.settings.engine_shutdown_seconds,
                telemetry=snapshot.telemetry,
            )
            self._give(key, Assignment(job, snapshot.demand.get(key), dict(snapshot.instance_types)))
        for key in [k for k in self._workers if k not in snapshot.deployments]:
            self._end(key)
        self._round_over()

    def _give(self, key: Key, assignment: Assignment) -> None:
        worker = self._workers.get(key)
        if worker is None:
            worker = self._workers[key] = _Worker()
            worker.task = asyncio.get_running_loop().create_task(self._run(key, worker), name=f"act {key}")
        if worker.idle.is_set() and worker.done is not None and rests(worker.done, assignment):
            return
        worker.slot = assignment
        worker.idle.clear()
        self._busy.add(key)
        worker.filled.set()

    def _end(self, key: Key) -> None:
        worker = self._workers.pop(key)
        if worker.task is not None:
            worker.task.cancel()
        self._done(key)
        self._children.forget(key)
        self._status.forget(key)
        self._tools.store.expectations.forget([key])

    async def settle(self) -> None:
        """Wait until every job given so far is done."""
        await asyncio.gather(*(w.idle.wait() for w in list(self._workers.values())))

    async def close(self) -> None:
        """End all tasks."""
        tasks = [w.task for w in self._workers.values() if w.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._workers.clear()

    async def _run(self, key: Key, worker: _Worker) -> None:
        actor = WorkerActor(self._tools)
        while True:
            await worker.filled.wait()
            worker.filled.clear()
            given = worker.slot
            if given is not None:
                worker.done = given if await self._guarded(key, actor, given) else None
            if not worker.filled.is_set():
                worker.idle.set()
                self._done(key)

    def _done(self, key: Key) -> None:
        """Nothing is left to do for a deployment; a round of acting ends with the last one."""
        self._busy.discard(key)
        self._round_over()

    def _round_over(self) -> None:
        if not self._busy and self._round is not None:
            self._tools.metrics.tick_seconds.labels("act").observe(asyncio.get_running_loop().time() - self._round)
            self._round = None

    async def _guarded(self, key: Key, actor: WorkerActor, assignment: Assignment) -> bool:
        """Whether all was done and said."""
        try:
            return await self._step(actor, assignment)
        except* NotLeaderError:
            self._lost()
        except* KubeError as group:
            self._failed(key, str(group.exceptions[0]))
        except* Exception as group:  # noqa: BLE001 - one deployment's trouble must not end the others' service
            _LOG.exception("acting failed", exc_info=group, extra={"deployment": str(key)})
            self._failed(key, f"{type(group.exceptions[0]).__name__}: {group.exceptions[0]}")
        return False

    def _failed(self, key: Key, text: str) -> None:
        _LOG.warning("acting failed and is tried again: %s", text, extra={"deployment": str(key)})
        self._tools.metrics.act_failures.labels(*key).inc()

    async def _step(self, actor: WorkerActor, assignment: Assignment) -> bool:
        job = assignment.job
        found = diff.actions(job)
        problems: tuple[Problem, ...] = ()
        keyed = True
        if found:
            problems += await actor.carry_out(job, found, assignment.types)
        if job.plan is not None and not job.record.deleting and not job.record.namespace_terminating and not job.paused:
            keyed = await self._keep_key(job)
            problems += await self._keep_children(job)
        if job.record.deleting and not job.workers:
            return False
        return await self._report(job, assignment, problems) and keyed and not problems

    async def _keep_key(self, job: diff.Job) -> bool:
        """Rotate the agents' key when it is due, or make it again; workers that are there serve on without it."""
        if self._tools.keys is None or not job.workers:
            return True
        try:
            return await self._tools.keys.ensure(job.record)
        except KubeError as error:
            _LOG.warning("key of the agents: %s", error, extra={"deployment": str(job.record.key)})
            return False

    async def _keep_children(self, job: diff.Job) -> tuple[Problem, ...]:
        if job.record.spec is None or job.plan is None:
            return ()
        settings = self._tools.settings
        count = job.plan.desired if job.plan.acts else sum(not w.leaving for w in job.workers)
        children = wanted_children(job.record, settings, count, job.workers, job.now)
        try:
            return await self._children.keep(job.record, children, job.now)
        except KubeError as error:
            _LOG.warning("child object: %s", error, extra={"deployment": str(job.record.key)})
            text = f"a child object was refused: {error.message or error}"[:900]
            self._tools.events.emit(about_deployment(job.record), EventReason.CREATE_FAILED, text, dedupe="child")
            return (Problem(Reason.OPERATOR_ERROR, text, stalled=error.status in (400, 403, 422)),)

    async def _report(self, job: diff.Job, assignment: Assignment, problems: tuple[Problem, ...]) -> bool:
        """Say what there is to say; whether it was said, of the very object that the job is about."""
        store = self._tools.store
        record = store.deployment(job.record.key)
        if record is None or record.uid != job.record.uid:
            return False
        mine = (store.worker(w.key) or w for w in job.workers)
        view = View(record, job.plan, tuple(mine), assignment.demand, problems, job.telemetry)
        self._announce(view)
        cost = fleet_cost(view, assignment.types)
        if cost is not None:
            self._tools.metrics.cost.labels(*record.key).set(cost)
        stamp = self._clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            await self._status.write(view, assignment.types, stamp, self._clock.now())
        except KubeError as error:
            if error.status not in (404, 409):  # deleted or changed meanwhile: the next round sees it
                raise
            return False
        return record is job.record

    def _announce_rollout(self, view: View) -> None:
        rolled = view.plan.rollout if view.plan is not None else None
        news = rollout_news(view, rolled) if rolled is not None else None
        if rolled is not None and news is not None:
            self._tools.events.emit(about_deployment(view.record), news, rolled.message, dedupe=rolled.revision)

    def _announce_pause(self, view: View) -> None:
        annotations = dict(view.record.annotations)
        named = [f"{key}: {what}" for key, what in PAUSES.items() if labels.is_true(annotations, key)]
        conditions = parse.items(view.record.status.get("conditions"))
        was = any(c.get("type") == str(ConditionType.PAUSED) for c in conditions)
        if was == bool(named) or not conditions:
            return
        reason, text = (EventReason.PAUSED, "; ".join(named)) if named else (EventReason.RESUMED, "nothing is paused")
        self._tools.events.emit(about_deployment(view.record), reason, text)

    def _announce(self, view: View) -> None:
        self._announce_rollout(view)
        self._announce_pause(view)
        for problem in view.all_problems:
            invalid = problem.reason is Reason.INVALID_SPEC
            if problem.stalled:
                reason = EventReason.INVALID_SPEC if invalid else EventReason.STALLED
                if _stalled_already(view, problem):
                    continue
                subject = about_deployment(view.record)
                self._tools.events.emit(subject, reason, problem.message, dedupe=str(problem.reason))


def _moves(plan: DeploymentPlan) -> bool:
    """Whether workers come or go; of a thousand fleets few do, and they shall not wait for the others' reports."""
    return bool(plan.victims or plan.cancels or any(variant.create for variant in plan.variants))


def rollout_news(view: View, rolled: RolloutPlan) -> EventReason | None:
    """What happened to the rollout since the last status; None when nothing did, or nothing was known before."""
    before = parse.mapping(view.record.status.get("rollout"))
    was, now = before.get("state"), str(rolled.state) if rolled.state is not None else UPDATED
    if rolled.state is Reason.ROLLED_BACK:
        return EventReason.ROLLED_BACK if was != now else None
    if not was:
        return None
    if now != UPDATED:
        return EventReason.ROLLOUT_STARTED if was == UPDATED or before.get("revision") != rolled.revision else None
    return EventReason.ROLLOUT_COMPLETED if was != UPDATED else None


def _stalled_already(view: View, problem: Problem) -> bool:
    """Whether the status says so already: then the event has been said, perhaps by an earlier process."""
    conditions = view.record.status.get("conditions")
    found = [c for c in conditions if isinstance(c, dict)] if isinstance(conditions, list) else []
    return any(c.get("type") == "Stalled" and c.get("reason") == str(problem.reason) for c in found)
