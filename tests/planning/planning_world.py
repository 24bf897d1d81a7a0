"""A made-up world for tests of the planner: what is observed of a fleet, and a cluster that acts on plans."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from planning_specs import KEY, deployment, itype
from warmfleet_contracts.agent import Phase
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state.decisions import DeploymentPlan, FleetPlan
from warmfleet_operator.state.memory import DeploymentMemory, PlannerMemory
from warmfleet_operator.state.records import (
    Demand,
    DeploymentRecord,
    FleetSnapshot,
    InstanceTypeRecord,
    Key,
    NodeRecord,
    WorkerPhase,
    WorkerRecord,
    WorkerTelemetry,
)
from warmfleet_operator.state.revisions import revisions

START = 10_000.0


def worker(name: str, phase: WorkerPhase = WorkerPhase.READY, **changes: Any) -> WorkerRecord:
    served = phase in (WorkerPhase.READY, WorkerPhase.NOT_READY)
    made = WorkerRecord(
        key=Key(KEY.namespace, name),
        uid=f"uid-{name}",
        resource_version="1",
        deployment=KEY.name,
        variant="main",
        instance_type="h100",
        revision="r1",
        phase=phase,
        accelerators=1,
        first_seen=START - 1000,
        node="" if phase is WorkerPhase.UNSCHEDULED else f"node-{name}",
        first_ready=START - 900 if served else None,
    )
    return replace(made, **changes)


def workers(
    count: int, phase: WorkerPhase = WorkerPhase.READY, prefix: str = "w", **changes: Any
) -> list[WorkerRecord]:
    return [worker(f"{prefix}{i}", phase, **changes) for i in range(count)]


def told(uid: str = "", **changes: Any) -> WorkerTelemetry:
    """An agent's answer."""
    return replace(WorkerTelemetry(START, Phase.SERVING), **changes)


def traffic(arrivals: float | None = 0.0, at: float = START, **changes: Any) -> Demand:
    made = Demand(at, arrivals, 1000.0, 200.0, 0.0, 0, sources=("router", "agents"))
    return replace(made, **changes)


def world(
    people: Sequence[WorkerRecord] = (),
    demand: Demand | None = None,
    *,
    record: DeploymentRecord | None = None,
    types: Sequence[InstanceTypeRecord] = (),
    nodes: Sequence[NodeRecord] = (),
    telemetry: Mapping[str, WorkerTelemetry] | None = None,
) -> FleetSnapshot:
    record = record if record is not None else deployment()
    kinds = types or (itype(),)
    return FleetSnapshot(
        {record.key: record},
        {t.name: t for t in kinds},
        tuple(people),
        {n.name: n for n in nodes},
        telemetry or {},
        {} if demand is None else {record.key: demand},
    )


def settled(want: int, at: float = START, **changes: Any) -> PlannerMemory:
    """Memory of a planner that has wanted ``want`` workers for longer than any window."""
    made = DeploymentMemory(
        deployment().uid, desired={"main": want}, wants=((at - 1.0, want),), at=at - 1.0, generation=1
    )
    return PlannerMemory({KEY: replace(made, **changes)})


def decide(snapshot: FleetSnapshot, memory: PlannerMemory | None = None, now: float = START) -> DeploymentPlan:
    """The plan of the one deployment of the snapshot."""
    made, _ = plan(snapshot, memory if memory is not None else PlannerMemory(), now)
    (only,) = made.deployments.values()
    return only


def created(made: DeploymentPlan) -> int:
    return sum(v.create for v in made.variants)


def drain_by_time(snapshot: FleetSnapshot, seconds: float, step: float = 5.0) -> tuple[DeploymentPlan, PlannerMemory]:
    """Plan over and over with the same workers; the demand is measured anew each time."""
    memory, now = PlannerMemory(), START
    (key,) = snapshot.deployments
    while True:
        fresh = {k: replace(d, at=now) for k, d in snapshot.demand.items()}
        made, memory = plan(replace(snapshot, demand=fresh), memory, now)
        if now >= START + seconds or made.deployments[key].victims:
            return made.deployments[key], memory
        now += step


@dataclass
class Cluster:
    """A cluster that does what plans say: pods start after ``startup`` seconds and drain for ``drain`` seconds.

    Pods of a ``broken`` revision fail, those of a ``hanging`` one never become ready.
    """

    snapshot: FleetSnapshot
    startup: float = 60.0
    drain: float = 20.0
    now: float = START
    memory: PlannerMemory = field(default_factory=PlannerMemory)
    created: int = 0
    removed: int = 0
    broken: set[str] = field(default_factory=set)
    hanging: set[str] = field(default_factory=set)
    last: FleetPlan = field(default_factory=lambda: FleetPlan(START))
    _names: Any = field(default_factory=itertools.count)

    def tick(self, seconds: float, demand: Mapping[Key, Demand]) -> None:
        """Let time pass, plan, act."""
        self.now += seconds
        people = [self._aged(w) for w in self.snapshot.workers]
        self.snapshot = replace(self.snapshot, workers=tuple(w for w in people if w is not None), demand=dict(demand))
        self.last, self.memory = plan(self.snapshot, self.memory, self.now)
        self.snapshot = self.act(self.last)

    def act(self, made: FleetPlan) -> FleetSnapshot:
        """The snapshot once the plan has been carried out."""
        people = {w.uid: w for w in self.snapshot.workers}
        for key, one in made.deployments.items():
            for victim in one.victims:
                self.removed += 1
                if victim.drain:
                    people[victim.uid] = replace(
                        people[victim.uid], drain_reason=str(victim.reason), drain_since=self.now
                    )
                else:
                    del people[victim.uid]
            for uid, w in list(people.items()):
                if w.key in one.cancels and w.deployment_key == key:
                    people[uid] = replace(w, drain_reason=None, drain_since=None)
            for v in one.variants:
                for n in range(v.create):
                    self.created += 1
                    revision = v.revision or "r1"
                    if n < v.create_previous and one.rollout is not None and one.rollout.previous is not None:
                        revision = revisions(one.rollout.previous)[v.name]
                    name = f"{key.name}-new{next(self._names)}"
                    people[f"uid-{key.namespace}-{name}"] = WorkerRecord(
                        Key(key.namespace, name), f"uid-{key.namespace}-{name}", "1", key.name, v.name,
                        v.instance_type, revision, WorkerPhase.UNSCHEDULED, 1, self.now,
                    )  # fmt: skip
        return replace(self.snapshot, workers=tuple(sorted(people.values(), key=lambda w: w.key)))

    def _aged(self, w: WorkerRecord) -> WorkerRecord | None:
        if w.drain_reason is not None and w.drain_since is not None and self.now - w.drain_since >= self.drain:
            return None
        if w.pending and w.revision in self.broken:
            failed = self.now - w.first_seen >= self.startup / 2
            return replace(w, phase=WorkerPhase.FAILED, failure="ImagePullBackOff", node="n") if failed else w
        if w.pending and w.revision in self.hanging:
            return replace(w, phase=WorkerPhase.STARTING, node="n")
        if w.pending and self.now - w.first_seen >= self.startup:
            return replace(w, phase=WorkerPhase.READY, first_ready=self.now, node=f"node-{w.key.name}")
        return w

    def serving(self) -> int:
        return sum(w.phase is WorkerPhase.READY and not w.leaving for w in self.snapshot.workers)
