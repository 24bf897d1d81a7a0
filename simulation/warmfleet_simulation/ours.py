"""warmfleet itself: the observation becomes a fleet snapshot, and the shipped ``plan()`` decides.

Nothing of the planner is written again here. Workers that the engine only counts get names, so that the planner can
choose among them; a worker that was wanted and not granted is a pod without a node. Every lane has a planner memory of
its own, and decides in every step (the operator decides every 5 s by default).

Knob: the share of a worker's capacity that is counted on. The planner has its utilisation thresholds built in (0.85 up,
0.70 down), so the knob is applied where a user could apply it: the traffic reported is the traffic divided by the
share. At 1.0, the default, nothing is changed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from warmfleet_contracts.api import InstanceTypeSpec, LLMDeploymentSpec
from warmfleet_contracts.traces import FloatArray
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state.decisions import DeploymentPlan
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import (
    Demand,
    DeploymentRecord,
    FleetSnapshot,
    InstanceTypeRecord,
    Key,
    WorkerPhase,
    WorkerRecord,
)

from warmfleet_simulation.fleet import Counts, Fleet, Service, WorkerType
from warmfleet_simulation.policy import Knob, Observation, Stepper

_WINDOW_S = 30.0
"""Over which arrivals are averaged, as the router's counters are."""
_Z90 = 1.2816
_BOOT = 10_000.0
"""Logical time of the first step: the operator's clock never starts at 0."""


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
        self.memory = PlannerMemory()
        self.workers: tuple[WorkerRecord, ...] = ()
        self.plans: Mapping[Key, DeploymentPlan] = {}


class _Ours:
    def __init__(self, fleet: Fleet, knobs: FloatArray, step_s: float) -> None:
        self._knobs = knobs
        self._names = [t.name for t in fleet.types]
        self._keys = [Key("default", s.name) for s in fleet.services]
        self._types = {t.name: _instance_type(t, fleet) for t in fleet.types}
        self._deployments = {
            key: _deployment(key, service, fleet) for key, service in zip(self._keys, fleet.services, strict=True)
        }
        self._lanes = [_Lane(fleet) for _ in knobs]
        self._arrivals: deque[FloatArray] = deque(maxlen=max(1, round(_WINDOW_S / step_s)))

    def step(self, seen: Observation) -> Counts | None:
        """See :class:`Stepper`."""
        self._arrivals.append(np.array(seen.arrivals))
        rate = np.mean(self._arrivals, axis=0)
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
        knob = float(self._knobs[lane])
        snapshot = FleetSnapshot(
            deployments=self._deployments,
            instance_types=self._types,
            workers=state.workers,
            demand={
                key: Demand(
                    at=now,
                    arrivals=float(rate[d]) / knob,
                    input_tokens=float(seen.input_tokens[d]),
                    output_tokens=float(seen.output_tokens[d]),
                    hit_ratio=0.0,
                    queue=math.ceil(float(seen.queue[lane, d]) / knob),
                    sources=("router",),
                    reporting_workers=int(seen.ready[lane, d].sum()),
                )
                for d, key in enumerate(self._keys)
            },
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

    def why(self, lane: int, service: int) -> str:
        """See :class:`Stepper`."""
        answer = self._lanes[lane].plans.get(self._keys[service])
        return "" if answer is None else f"{answer.chosen_by}: {answer.message}"


def _by_key(worker: WorkerRecord) -> Key:
    return worker.key


def _instance_type(kind: WorkerType, fleet: Fleet) -> InstanceTypeRecord:
    accelerator = fleet.profile.accelerator if fleet.profile is not None else kind.name
    spec = InstanceTypeSpec.model_validate(
        {
            "accelerator": {"name": accelerator, "count": 1},
            "price": {"onDemand": kind.price},
            "limit": {} if kind.limit is None else {"accelerators": kind.limit},
            "startup": {"p50": kind.startup_s, "p90": kind.startup_s * math.exp(_Z90 * kind.startup_sigma)},
        }
    )
    return InstanceTypeRecord(kind.name, kind.name, 1, spec)


def _deployment(key: Key, service: Service, fleet: Fleet) -> DeploymentRecord:
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
    spec = LLMDeploymentSpec.model_validate(
        {
            "model": model,
            "engine": {"image": "simulated"},
            "variants": variants,
            "slo": {"attainment": service.attainment},
            "scaling": {"min": service.min_workers, "max": min(10_000, service.max_workers)},
        }
    )
    return DeploymentRecord(key, key.name, 1, "1", spec)


class Ours:
    """The shipped planner."""

    name = "warmfleet"
    knob = Knob("share of a worker's capacity counted on", 1.0, more_is_safer=False)

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:  # noqa: ARG002
        """See :class:`Policy`."""
        return _Ours(fleet, knobs, step_s)
