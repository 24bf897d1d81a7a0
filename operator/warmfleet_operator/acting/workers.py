"""Carries out the actions of :mod:`warmfleet_operator.acting.diff` on pods, agents and finalizers.

Creates are POSTs with deterministic names: repeating one collides instead of doubling. Everything destructive carries
the UID of what was meant, and the resourceVersion too where the decision depends on the pod's present state; a pod that
is Drained is deleted by UID alone, because its status may change with every probe and the decision would never land.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from warmfleet_contracts import labels
from warmfleet_contracts.agent import DrainRequest, Strategy
from warmfleet_contracts.reasons import EventReason, Reason, VictimReason
from warmfleet_runtime.resources import LLM_DEPLOYMENTS, PODS

from warmfleet_operator.acting import diff
from warmfleet_operator.acting.events import EventRecorder, about_deployment, about_pod
from warmfleet_operator.adapters.agentkeys import AgentKeys
from warmfleet_operator.adapters.agents import AgentClient, NoAnswerError, address
from warmfleet_operator.adapters.kube import KubeApi, KubeError
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.settings import Settings
from warmfleet_operator.specs.common import Object
from warmfleet_operator.specs.kv import budget_bytes, resolve
from warmfleet_operator.specs.worker import WorkerTemplate, free_names, worker_pod
from warmfleet_operator.state.decisions import Problem
from warmfleet_operator.state.records import (
    DeploymentRecord,
    InstanceTypeRecord,
    Key,
    WorkerPhase,
    WorkerRecord,
)
from warmfleet_operator.state.snapshot import FleetStore, Kind
from warmfleet_operator.state.words import counted

_LOG = logging.getLogger(__name__)
_BACKOFF = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""Logical seconds between attempts to create what the API server refused."""
_NO_LONGER_SAFE = (labels.KARPENTER_DO_NOT_DISRUPT, "cluster-autoscaler.kubernetes.io/safe-to-evict")


@dataclass(slots=True)
class _Refusals:
    count: int = 0
    until: float = 0.0
    problem: Problem | None = None
    taken: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Tools:
    """What acting needs.

    Attributes:
        api: Guarded client.
        agents: Client of the agents.
        store: Gets the answers of writes.
        events: Event recorder.
        metrics: Counters.
        settings: Images and times.
        keys: Keys of the agents; None: they ask for none.
    """

    api: KubeApi
    agents: AgentClient
    store: FleetStore
    events: EventRecorder
    metrics: Metrics
    settings: Settings
    keys: AgentKeys | None = None


class WorkerActor:
    """Acts on the workers of one deployment.

    Args:
        tools: What acting needs.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._refusals = _Refusals()

    async def carry_out(
        self, job: diff.Job, found: Sequence[diff.Action], types: Mapping[str, InstanceTypeRecord]
    ) -> tuple[Problem, ...]:
        """Carry out all actions; each on its own, so that one failure does not hold up the rest.

        Returns:
            What could not be done.

        Raises:
            ExceptionGroup: Failures other than those of the API server or an agent.
        """
        first = [a for a in found if isinstance(a, diff.AddFinalizer)]
        for _ in first:
            await self._finalizer(job.record, present=True)
        creates = [a for a in found if isinstance(a, diff.Create)]
        others = [a for a in found if not isinstance(a, diff.Create | diff.AddFinalizer)]
        results = await asyncio.gather(
            *(self._one(job, action) for action in others),
            self._create_all(job, creates, types),
            return_exceptions=True,
        )
        failures = [r for r in results if isinstance(r, BaseException)]
        serious = [f for f in failures if not isinstance(f, KubeError)]
        if serious:
            raise BaseExceptionGroup("acting failed", serious)
        for failure in failures:
            _LOG.warning("action failed: %s", failure, extra={"deployment": str(job.record.key)})
        return (self._refusals.problem,) if self._refusals.problem is not None else ()

    async def _one(self, job: diff.Job, action: diff.Action) -> None:
        match action:
            case diff.StartDrain():
                await self._start_drain(job, action)
            case diff.TellAgent():
                await self._tell(job, action.worker, action.reason)
            case diff.CancelDrain():
                await self._cancel(job, action.worker)
            case diff.Unroute():
                if await self._mark(action.worker, drain_reason=None):
                    await self._tell(job, action.worker, VictimReason.DELETED_OUTSIDE)
            case diff.Delete():
                await self._delete(job, action)
            case diff.RemoveFinalizer():
                await self._finalizer(job.record, present=False)
            case _:
                raise TypeError(f"not an action on a single pod: {action!r}")

    async def _create_all(
        self, job: diff.Job, creates: Sequence[diff.Create], types: Mapping[str, InstanceTypeRecord]
    ) -> None:
        if not creates or job.now < self._refusals.until:
            return
        if not await self._has_key(job):
            return
        taken = {w.key.name for w in job.workers} | self._refusals.taken
        names = free_names(job.record, [c.variant for c in creates], taken)
        templates = [self._template(job, create, types) for create in creates]
        pairs = [(t, n) for t, n in zip(templates, names, strict=True) if t is not None]
        outcomes = await asyncio.gather(*(self._create(job, t, n) for t, n in pairs))
        made = sum(outcomes)
        if made:
            self._refusals.count, self._refusals.problem = 0, None
            reason = job.plan.message if job.plan is not None else ""
            text = f"created {counted(made)}: {reason}"
            self._tools.events.emit(about_deployment(job.record), EventReason.SCALED_UP, text, dedupe=text)

    async def _has_key(self, job: diff.Job) -> bool:
        """Whether new workers of the deployment will find the key that their agents ask for."""
        if self._tools.keys is None:
            return True
        try:
            await self._tools.keys.ensure(job.record)
        except KubeError as error:
            self._hold(job, error, "the Secret with the agents' key")
            return False
        return True

    def _template(
        self, job: diff.Job, create: diff.Create, types: Mapping[str, InstanceTypeRecord]
    ) -> WorkerTemplate | None:
        record, rolled = job.record, job.plan.rollout if job.plan is not None else None
        spec = record.spec
        if rolled is not None:
            spec = (rolled.previous if create.previous else rolled.spec) or spec
        found = next((v for v in spec.variants if v.name == create.variant), None) if spec is not None else None
        itype = types.get(found.instance_type) if found is not None else None
        if spec is None or found is None or itype is None or itype.spec is None:
            return None
        token = secrets.token_urlsafe(24) if self._tools.keys is not None else ""
        return WorkerTemplate(record, spec, found, itype.spec, self._tools.settings, token)

    async def _create(self, job: diff.Job, template: WorkerTemplate, name: str) -> bool:
        body = worker_pod(template, name)
        store, key = self._tools.store, Key(job.record.key.namespace, name)
        expected = _expected(body, key, template, job.now)
        if not store.has_room(expected, template.instance_type.limit):
            _LOG.info("not created: others took the accelerators since the decision", extra={"pod": str(key)})
            return False
        store.expectations.creating(expected, job.now)
        try:
            store.observe(Kind.POD, await self._tools.api.create(PODS, body, key.namespace))
        except KubeError as error:
            if not error.uncertain:
                store.expectations.settled(key)
            await self._refused(job, key, error)
            return False
        store.expectations.settled(key)
        _LOG.info("worker created", extra={"pod": str(key), "variant": template.variant.name})
        return True

    async def _refused(self, job: diff.Job, key: Key, error: KubeError) -> None:
        if error.status == 409 and error.reason == "AlreadyExists":
            await self._adopt(job.record, key)
            return
        if error.uncertain:
            _LOG.warning("create without an answer: %s", error)
            return
        self._hold(job, error, "a worker pod")

    def _hold(self, job: diff.Job, error: KubeError, what: str) -> None:
        """Create nothing for a while, and say why."""
        self._refusals.until = job.now + _BACKOFF[min(self._refusals.count, len(_BACKOFF) - 1)]
        self._refusals.count += 1
        quota = "exceeded quota" in error.message
        reason = Reason.CAPACITY_EXHAUSTED if quota else Reason.OPERATOR_ERROR
        text = f"the API server refused {what}: {error.message}"
        self._refusals.problem = Problem(reason, text[:900], stalled=error.status in (400, 403, 422))
        self._tools.events.emit(about_deployment(job.record), EventReason.CREATE_FAILED, text, dedupe=str(error.status))

    async def _adopt(self, record: DeploymentRecord, key: Key) -> None:
        """The name is taken: by a pod that the watch has not shown yet, or by somebody else's."""
        try:
            live = await self._tools.api.get(PODS, key.name, key.namespace)
        except KubeError as error:
            if error.status != 404:
                raise
            return
        if ((live.get("metadata") or {}).get("labels") or {}).get(labels.DEPLOYMENT) == record.key.name:
            self._tools.store.observe(Kind.POD, live)
        else:
            self._refusals.taken.add(key.name)

    async def _start_drain(self, job: diff.Job, action: diff.StartDrain) -> None:
        if not await self._mark(action.worker, drain_reason=action.reason):
            return
        text = f"{action.reason}: {action.message}" if action.message else str(action.reason)
        events = self._tools.events
        events.emit(about_pod(action.worker), EventReason.DRAIN_STARTED, text)
        message = f"draining {action.worker.key.name}: {text}"
        events.emit(about_deployment(job.record), EventReason.SCALED_DOWN, message, dedupe=action.worker.uid)
        await self._tell(job, action.worker, action.reason)

    async def _mark(self, worker: WorkerRecord, *, drain_reason: str | None) -> bool:
        """Take the pod off the route, and note the drain's reason on it; False when it has changed meanwhile."""
        meta: Object = {"resourceVersion": worker.resource_version, "labels": {labels.ROUTE: None}}
        if drain_reason is not None:
            meta["annotations"] = {labels.DRAINING: str(drain_reason), **dict.fromkeys(_NO_LONGER_SAFE)}
        return await self._patch_pod(worker, {"metadata": {**meta, "uid": worker.uid}})

    async def _patch_pod(self, worker: WorkerRecord, body: Object) -> bool:
        try:
            answer = await self._tools.api.patch(PODS, worker.key.name, body, worker.key.namespace)
        except KubeError as error:
            if error.status in (404, 409):
                _LOG.info("the pod has changed meanwhile: %s", error)
                return False
            raise
        self._tools.store.observe(Kind.POD, answer)
        return True

    async def _tell(self, job: diff.Job, worker: WorkerRecord, reason: str) -> None:
        spec = job.record.spec
        chosen = tuple(Strategy(s) for s in resolve(spec)) if spec is not None else (Strategy.NONE,)
        spent = job.now - worker.drain_since if worker.drain_since is not None else 0.0
        request = DrainRequest(
            reason=str(reason),
            deadline_seconds=max(0.0, job.deadline - spent),
            strategies=chosen,
            budget_bytes=budget_bytes(spec) if spec is not None else None,
            used_within_seconds=diff.room_for(job),
            endpoint=self._router_url(job) if {Strategy.REPLAY, Strategy.MIGRATE} & set(chosen) else "",
        )
        try:
            await self._tools.agents.drain(worker, request)
        except NoAnswerError as error:
            _LOG.warning("agent not told to drain: %s", error, extra={"pod": str(worker.key)})

    def _router_url(self, job: diff.Job) -> str:
        """A ready router by its address: where no cluster DNS is, as on one machine, the endpoint's name is no use."""
        routers = (r for r in self._tools.store.routers() if r.deployment_key == job.record.key and r.ready and r.ip)
        found = min(routers, key=lambda r: r.key, default=None)
        return "" if found is None else f"http://{address(found.ip)}:{labels.ROUTER_PORT}"

    async def _cancel(self, job: diff.Job, worker: WorkerRecord) -> None:
        try:
            result = await self._tools.agents.cancel(worker)
        except NoAnswerError as error:
            _LOG.warning("drain not cancelled: %s", error, extra={"pod": str(worker.key)})
            return
        if not result.cancelled:
            return
        meta: Object = {
            "uid": worker.uid,
            "labels": {labels.ROUTE: labels.ROUTE_VALUE},
            "annotations": {labels.DRAINING: None, _NO_LONGER_SAFE[0]: "true", _NO_LONGER_SAFE[1]: "false"},
        }
        if await self._patch_pod(worker, {"metadata": meta}):
            self._tools.events.emit(about_pod(worker), EventReason.DRAIN_CANCELLED, "the worker is needed again")
            self._tools.metrics.drain_ended(job.record.key, "cancelled", _age(job, worker))

    async def _delete(self, job: diff.Job, action: diff.Delete) -> None:
        worker, settings = action.worker, self._tools.settings
        forced = action.outcome is diff.Outcome.FORCED
        precise = action.outcome is diff.Outcome.NOT_SERVING
        if worker.uid == "":
            return  # asked for and never seen: there is nothing to delete yet
        live = self._tools.store.worker(worker.key)
        if live is None or live.uid != worker.uid or live.phase is WorkerPhase.TERMINATING:
            return  # deleted since this was decided, perhaps by the attempt before, whose answer was late
        try:
            answer = await self._tools.api.delete(
                PODS,
                worker.key.name,
                worker.key.namespace,
                uid=worker.uid,
                resource_version=worker.resource_version if precise else None,
                # A hanging agent would hang the preStop hook too, up to the whole grace period.
                grace_seconds=settings.engine_shutdown_seconds + 5 if forced else None,
            )
        except KubeError as error:
            if error.status not in (404, 409):
                raise
            _LOG.info("the pod has changed meanwhile: %s", error)
            if error.status == 404:
                self._tools.store.observe(Kind.POD, _ghost(worker), deleted=True)
            return
        if (answer.get("metadata") or {}).get("deletionTimestamp"):  # it is leaving, however late the watch says so
            self._tools.store.observe(Kind.POD, answer)
        self._say_deleted(job, action)

    def _say_deleted(self, job: diff.Job, action: diff.Delete) -> None:
        worker, events, outcome = action.worker, self._tools.events, action.outcome
        told = job.telemetry.get(worker.uid)
        report = told.drain_report if told is not None else None
        self._tools.metrics.drain_ended(job.record.key, outcome, _age(job, worker), report)
        if outcome is diff.Outcome.FORCED:
            events.emit(about_pod(worker), EventReason.DRAIN_FORCED, action.message)
            text = f"{worker.key.name}: {action.message}"
            events.emit(about_deployment(job.record), EventReason.DRAIN_FORCED, text, dedupe=worker.uid)
        elif outcome is diff.Outcome.COMPLETED:
            text = f"drained in {_age(job, worker):.0f} s"
            if report is not None:
                text += f": {report.kept_tokens} tokens kept, {report.dropped_tokens} dropped, "
                text += f"{report.aborted_requests} requests aborted"
                text += f"; {report.message}" if report.message else ""
            events.emit(about_pod(worker), EventReason.DRAIN_COMPLETED, text)
        elif worker.phase is WorkerPhase.FAILED:
            text = f"{worker.key.name}: {worker.failure or 'failed'}"
            events.emit(about_deployment(job.record), EventReason.WORKER_FAILED, text, dedupe=worker.failure_reason)
        _LOG.info("worker deleted", extra={"pod": str(worker.key), "outcome": str(outcome), "reason": action.reason})

    async def _finalizer(self, record: DeploymentRecord, *, present: bool) -> None:
        others = [f for f in record.finalizers if f != diff.FINALIZER]
        finalizers = [*others, diff.FINALIZER] if present else others
        meta = {"uid": record.uid, "resourceVersion": record.resource_version, "finalizers": finalizers}
        try:
            answer = await self._tools.api.patch(
                LLM_DEPLOYMENTS, record.key.name, {"metadata": meta}, record.key.namespace
            )
        except KubeError as error:
            if error.status == 404 and not present:
                return
            if error.status == 409:
                await self._refresh(record)
            raise
        gone = not present and not others and record.deleting
        self._tools.store.observe(Kind.DEPLOYMENT, answer, deleted=gone)

    async def _refresh(self, record: DeploymentRecord) -> None:
        live = await self._tools.api.get(LLM_DEPLOYMENTS, record.key.name, record.key.namespace)
        self._tools.store.observe(Kind.DEPLOYMENT, live)


def _age(job: diff.Job, worker: WorkerRecord) -> float:
    return job.now - worker.drain_since if worker.drain_since is not None else 0.0


def _ghost(worker: WorkerRecord) -> Object:
    return {"metadata": {"name": worker.key.name, "namespace": worker.key.namespace, "uid": worker.uid}}


def _expected(body: Object, key: Key, template: WorkerTemplate, now: float) -> WorkerRecord:
    return WorkerRecord(
        key=key,
        uid="",
        resource_version="",
        deployment=template.record.key.name,
        variant=template.variant.name,
        instance_type=template.variant.instance_type,
        revision=body["metadata"]["labels"][labels.REVISION],
        phase=WorkerPhase.UNSCHEDULED,
        accelerators=template.variant.accelerators,
        first_seen=now,
        routed=True,
    )
