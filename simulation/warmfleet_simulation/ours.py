"""warmfleet itself: the observation becomes a fleet snapshot, and the shipped ``plan()`` decides.

Nothing of the planner is written again here. Workers that the engine only counts get names, so that the planner can
choose among them; a worker that was wanted and not granted is a pod without a node. Every lane has a planner memory of
its own, and decides every 30 s (the operator, every 5 s by default: here it is quicker to run and later to act).

``warmfleet`` has ``scaling.forecast`` set: every ``refit_s`` the shipped learner is given the minutes so far, nothing
of the future, and what it answers becomes the TrafficForecast that the planner sees. Knob: the late share that the
SLO allows (``1 - slo.attainment``), as multiples of the service's own; the planner steers towards it.

``warmfleet-reactive`` has no forecast. Knob: the share of a worker's capacity that is counted on. The planner has its
utilisation thresholds built in (0.85 up, 0.70 down), so the knob is applied where a user could apply it: the traffic
reported is the traffic divided by the share. At 1.0, the default, nothing is changed.

A fleet may let a twentieth of its largest size leave in a minute (``scaleDown.maxStep``), as a user of a large one
would set it. The attainment that the planner is told is what agents would measure: whether the queue is longer than
can be served within the objective. Where a service has classes, the objective is that of the queue as a whole.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from warmfleet_contracts.api import InstanceTypeSpec, LLMDeploymentSpec
from warmfleet_contracts.leadwindow import LeadWindowTable
from warmfleet_contracts.traces import FloatArray
from warmfleet_forecasting.leadwindow import learn
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state.decisions import DeploymentPlan
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import (
    Demand,
    DeploymentRecord,
    FleetSnapshot,
    ForecastRecord,
    InstanceTypeRecord,
    Key,
    WorkerPhase,
    WorkerRecord,
)

from warmfleet_simulation.fleet import Counts, Fleet, Service, WorkerType
from warmfleet_simulation.policy import Knob, Observation, Stepper
from warmfleet_simulation.rivals.sageserve import ForecastFault
from warmfleet_simulation.rivals.windows import every

_WINDOW_S = 30.0
"""Over which arrivals are averaged, as the router's counters are."""
_DECIDE_S = 30.0
_Z90 = 1.2816
_BOOT = 10_000.0
"""Logical time of the first step: the operator's clock never starts at 0."""
_LEAST_HISTORY_S = 6 * 3600.0
"""Before this much traffic nothing is learned."""
_HISTORY_MINUTES = 14 * 1440
_STEPS_PER_FLEET = 20

Learner = Callable[[FloatArray], LeadWindowTable | None]
"""Requests/s by minute, the newest last; the table, or None when it does not trust what it learned."""


@dataclass(slots=True)
class _Pool:
    """Named workers of one service and type, oldest first."""

    service: str
    kind: str
    made: int = 0
    ready: list[WorkerRecord] = field(default_factory=list)
    starting: list[WorkerRecord] = field(default_factory=list)
    waiting: list[WorkerRecord] = field(default_factory=list)

    def sync(self, ready: int, starting: int, waiting: int, now: float) -> bool:
        """Makes names and counts agree; whether anything changed."""
        if (ready, starting, waiting) == (len(self.ready), len(self.starting), len(self.waiting)):
            return False
        coming = max(0, ready - len(self.ready))
        up, self.starting = self.starting[:coming], self.starting[coming:]
        self.ready += [replace(w, phase=WorkerPhase.READY, first_ready=now) for w in up]
        while len(self.ready) < ready:
            self.ready.append(replace(self._make(now), phase=WorkerPhase.READY, first_ready=now))
        del self.ready[: len(self.ready) - ready]  # interrupted: the oldest are as good as any
        granted = max(0, starting - len(self.starting))
        found, self.waiting = self.waiting[:granted], self.waiting[granted:]
        self.starting += [replace(w, phase=WorkerPhase.STARTING, unschedulable_since=None) for w in found]
        while len(self.starting) < starting:
            self.starting.append(self._make(now))
        del self.starting[starting:]
        while len(self.waiting) < waiting:
            self.waiting.append(replace(self._make(now), phase=WorkerPhase.UNSCHEDULED, unschedulable_since=now))
        del self.waiting[waiting:]
        return True

    def drop(self, uids: set[str]) -> None:
        """Forgets workers that were chosen to leave."""
        self.ready = [w for w in self.ready if w.uid not in uids]
        self.starting = [w for w in self.starting if w.uid not in uids]
        self.waiting = [w for w in self.waiting if w.uid not in uids]

    def _make(self, now: float) -> WorkerRecord:
        self.made += 1
        name = f"{self.service}-{self.kind}-{self.made:06d}"
        return WorkerRecord(
            key=Key("default", name),
            uid=name,
            resource_version="1",
            deployment=self.service,
            variant=self.kind,
            instance_type=self.kind,
            revision="1",
            phase=WorkerPhase.STARTING,
            accelerators=1,
            first_seen=now,
            node=name,
            routed=True,
        )


class _Lane:
    """One planner with its memory."""

    def __init__(self, fleet: Fleet) -> None:
        self.pools = [[_Pool(s.name, t.name) for t in fleet.types] for s in fleet.services]
        self.deployments: Mapping[Key, DeploymentRecord] = {}
        self.memory = PlannerMemory()
        self.workers: tuple[WorkerRecord, ...] = ()
        self.plans: Mapping[Key, DeploymentPlan] = {}


def shipped(rates: FloatArray) -> LeadWindowTable | None:
    """What the shipped learner makes of requests/s by minute; None when it does not trust it."""
    found = learn(rates, step_s=60.0, now=60.0 * len(rates))
    return found if isinstance(found, LeadWindowTable) else None


def nothing(rates: FloatArray) -> None:
    """No forecast at all."""


class _Forecaster:
    """What a forecaster beside the operator would publish, for every service."""

    def __init__(self, keys: Sequence[Key], learner: Learner, refit_s: float, fault: ForecastFault) -> None:
        self._keys, self._learner, self._fault = keys, learner, fault
        self._refit_s = refit_s
        self._minutes: list[FloatArray] = []
        self._sum = np.zeros(len(keys))
        self._seen = 0
        self._next = _LEAST_HISTORY_S
        self.records: dict[Key, tuple[ForecastRecord, ...]] = {}

    def add(self, time: float, step_s: float, arrivals: FloatArray) -> None:
        """Takes in the last step and learns when it is time."""
        self._sum, self._seen = self._sum + arrivals, self._seen + 1
        if self._seen * step_s >= 60.0 - 1e-6:
            self._minutes.append(self._sum / self._seen)
            self._sum, self._seen = np.zeros(len(self._keys)), 0
        if time + 1e-6 < self._next:
            return
        self._next = time + self._refit_s
        history = np.array(self._minutes[-_HISTORY_MINUTES:])
        for d, key in enumerate(self._keys):
            table = self._learner(history[:, d])
            self.records[key] = () if table is None else (self._record(key, table, time),)

    def _record(self, key: Key, table: LeadWindowTable, time: float) -> ForecastRecord:
        shift = self._fault.shift_s
        return ForecastRecord(
            key=key,
            uid=key.name,
            target=key.name,
            issued_at=_BOOT + time - shift,
            valid_for=2 * self._refit_s + abs(shift),
            trusted=True,
            table=_scaled(table, self._fault.factor),
        )


def _scaled(table: LeadWindowTable, factor: float) -> LeadWindowTable:
    """A table whose every quantile is wrong by a factor."""
    if factor == 1.0:
        return table
    wrong = [
        tuple(replace(w, drift=w.drift + math.log(factor)) for w in rows) for rows in (table.windows, table.at_lead)
    ]
    return replace(table, windows=wrong[0], at_lead=wrong[1])


@dataclass(frozen=True, slots=True)
class _Setting:
    """What a lane's knob changes: the objective of the services, or the traffic that is reported."""

    late: float = 1.0
    share: float = 1.0


class _Ours:
    def __init__(
        self, fleet: Fleet, settings: Sequence[_Setting], step_s: float, forecaster: _Forecaster | None
    ) -> None:
        self._settings = settings
        self._step_s = step_s
        self._forecaster = forecaster
        self._names = [t.name for t in fleet.types]
        self._keys = _keys(fleet)
        self._types = {t.name: _instance_type(t, fleet) for t in fleet.types}
        self._priorities = {_class_name(s): s.priority for s in fleet.services if s.priority}
        self._objective = [_waits(s) for s in fleet.services]
        self._capacity = fleet.capacity()
        self._lanes = [_Lane(fleet) for _ in settings]
        for lane, setting in zip(self._lanes, settings, strict=True):
            lane.deployments = {
                key: _deployment(key, service, fleet, setting.late, foresees=forecaster is not None)
                for key, service in zip(self._keys, fleet.services, strict=True)
            }
        self._arrivals: deque[FloatArray] = deque(maxlen=max(1, round(_WINDOW_S / step_s)))

    def step(self, seen: Observation) -> Counts | None:
        """See :class:`Stepper`."""
        self._arrivals.append(np.array(seen.arrivals))
        rate = np.mean(self._arrivals, axis=0)
        if self._forecaster is not None:
            self._forecaster.add(seen.time, self._step_s, seen.arrivals)
        if not every(seen.time, _DECIDE_S, self._step_s):
            return None
        wanted = np.empty_like(seen.ready)
        for lane, state in enumerate(self._lanes):
            self._decide(lane, state, rate, seen, wanted)
        return wanted

    def _decide(self, lane: int, state: _Lane, rate: FloatArray, seen: Observation, wanted: Counts) -> None:
        now = _BOOT + seen.time
        changed = False
        for d, pools in enumerate(state.pools):
            for v, pool in enumerate(pools):
                counts = seen.ready[lane, d, v], seen.starting[lane, d, v], seen.refused[lane, d, v]
                changed |= pool.sync(int(counts[0]), int(counts[1]), int(counts[2]), now)
        if changed or not state.workers:
            state.workers = tuple(
                sorted((w for p in state.pools for q in p for w in (*q.ready, *q.starting, *q.waiting)), key=_by_key)
            )
        snapshot = FleetSnapshot(
            deployments=state.deployments,
            instance_types=self._types,
            workers=state.workers,
            demand={key: self._demand(lane, d, rate, seen, now) for d, key in enumerate(self._keys)},
            forecasts=self._forecaster.records if self._forecaster is not None else {},
            priorities=self._priorities,
        )
        decided, state.memory = plan(snapshot, state.memory, now)
        state.plans = decided.deployments
        for d, key in enumerate(self._keys):
            answer = decided.deployments[key]
            desired = {v.name: v.desired for v in answer.variants}
            wanted[lane, d] = [desired.get(name, 0) for name in self._names]
            if answer.victims:
                gone = {victim.uid for victim in answer.victims}
                for pool in state.pools[d]:
                    pool.drop(gone)
                state.workers = ()

    def _demand(self, lane: int, d: int, rate: FloatArray, seen: Observation, now: float) -> Demand:
        share = self._settings[lane].share
        queue, capacity = float(seen.queue[lane, d]), float(seen.ready[lane, d] @ self._capacity[d])
        return Demand(
            at=now,
            arrivals=float(rate[d]) / share,
            input_tokens=float(seen.input_tokens[d]),
            output_tokens=float(seen.output_tokens[d]),
            hit_ratio=0.0,
            queue=math.ceil(queue / share),
            slo_attainment=1.0 if queue <= capacity * self._objective[d] else 0.0,
            sources=("router",),
            reporting_workers=int(seen.ready[lane, d].sum()),
        )

    def why(self, lane: int, service: int) -> str:
        """See :class:`Stepper`."""
        answer = self._lanes[lane].plans.get(self._keys[service])
        return "" if answer is None else f"{answer.chosen_by}: {answer.message}"


def _keys(fleet: Fleet) -> list[Key]:
    return [Key("default", s.name) for s in fleet.services]


def _by_key(worker: WorkerRecord) -> Key:
    return worker.key


def _instance_type(kind: WorkerType, fleet: Fleet) -> InstanceTypeRecord:
    accelerator = fleet.profile.accelerator if fleet.profile is not None else kind.name
    spec = InstanceTypeSpec.model_validate(
        {
            "accelerator": {"name": accelerator, "count": 1},
            "price": {"onDemand": kind.price, "spot": kind.price},
            "capacityType": "spot" if kind.spot else "on-demand",
            "limit": {} if kind.limit is None else {"accelerators": kind.limit},
            "startup": {"p50": kind.startup_s, "p90": kind.startup_s * math.exp(_Z90 * kind.startup_sigma)},
        }
    )
    return InstanceTypeRecord(kind.name, kind.name, 1, spec)


def _class_name(service: Service) -> str:
    """Name of the PriorityClass of a service."""
    return f"priority-{service.priority}"


def _waits(service: Service) -> float:
    """Seconds for which a queue may take to be served: with classes in order, each has its share of the queue."""
    return sum(c.share * c.objective_s for c in service.classes)


def _deployment(key: Key, service: Service, fleet: Fleet, late: float, *, foresees: bool) -> DeploymentRecord:
    variants: Sequence[Mapping[str, object]] = [
        {"name": kind.name, "instanceType": kind.name}
        | ({} if fleet.profile is not None else {"performance": {"requestsPerSecond": rate}})
        for kind, rate in zip(fleet.types, service.capacity, strict=True)
        if rate > 0
    ]
    model: dict[str, object] = {"name": service.name, "source": {"hostPath": {"path": "/models"}}}
    if fleet.profile is not None:
        model |= {"profile": fleet.profile.model} | (
            {"quantization": fleet.profile.dtype} if fleet.profile.dtype in ("fp8", "mxfp4") else {}
        )
    most = min(10_000, service.max_workers)
    scaling: dict[str, object] = {
        "min": service.min_workers,
        "max": most,
        "scaleDown": {"maxStep": math.ceil(most / _STEPS_PER_FLEET)},
    } | ({"forecast": {}} if foresees else {})
    slo: dict[str, object] = {"attainment": min(0.9999, max(0.5, 1.0 - (1.0 - service.attainment) * late))}
    if len(service.classes) > 1 or fleet.profile is None:  # a profile's capacities hold for an objective of their own
        slo["ttft"] = _waits(service)
    spec = LLMDeploymentSpec.model_validate(
        {
            "model": model,
            "engine": {"image": "simulated"},
            "variants": variants,
            "slo": slo,
            "scaling": scaling,
        }
        | ({"priorityClassName": _class_name(service)} if service.priority else {})
    )
    return DeploymentRecord(key, key.name, 1, "1", spec)


class Ours:
    """The shipped planner with the shipped learner.

    Args:
        learner: What learns from the minutes so far; the shipped one by default.
        refit_s: Seconds between two fits.
        fault: What is wrong with the forecast.
    """

    name = "warmfleet"
    knob = Knob("late share that the SLO allows, over the service's own", 1.0, more_is_safer=False)

    def __init__(
        self, learner: Learner = shipped, refit_s: float = 6 * 3600.0, fault: ForecastFault | None = None
    ) -> None:
        self._learner, self._refit_s = learner, refit_s
        self._fault = fault if fault is not None else ForecastFault()

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:  # noqa: ARG002
        """See :class:`Policy`."""
        learner = nothing if self._fault.absent else self._learner
        forecaster = _Forecaster(_keys(fleet), learner, self._refit_s, self._fault)
        return _Ours(fleet, [_Setting(late=float(k)) for k in knobs], step_s, forecaster)


class Reactive:
    """The shipped planner without a forecast."""

    name = "warmfleet-reactive"
    knob = Knob("share of a worker's capacity counted on", 1.0, more_is_safer=False)

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:  # noqa: ARG002
        """See :class:`Policy`."""
        return _Ours(fleet, [_Setting(share=float(k)) for k in knobs], step_s, None)
