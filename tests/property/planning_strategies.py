"""Random fleets: any mixture of phases, telemetry, limits and memory that a cluster may show."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from planning_specs import deployment, itype, spec, variant
from planning_world import START, told
from warmfleet_contracts import labels
from warmfleet_operator.state.memory import DeploymentMemory, FailedStarts, PlannerMemory
from warmfleet_operator.state.records import (
    Demand,
    DeploymentRecord,
    FleetSnapshot,
    Key,
    NodeRecord,
    WorkerPhase,
    WorkerRecord,
    WorkerTelemetry,
)

KEYS = [Key("ns-a", "one"), Key("ns-a", "two"), Key("ns-b", "one")]
TYPES = ["h100", "l40s", "a100"]
ODD = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 1e12, 1e300, None])


def number(low: float, high: float, *, odd: bool) -> st.SearchStrategy[float | None]:
    usual = st.one_of(st.just(low), st.floats(low, high))
    return st.one_of(usual, ODD) if odd else usual


@st.composite
def demands(draw: st.DrawFn, *, odd: bool = True) -> Demand:
    queue = draw(
        st.one_of(st.none(), st.integers(-5 if odd else 0, 5000), st.just(10**15)) if odd else st.integers(0, 50)
    )
    return Demand(
        at=START - draw(st.sampled_from([0.0, 5.0, 119.0, 500.0] if odd else [0.0, 5.0])),
        arrivals=draw(number(0, 120, odd=odd)),
        input_tokens=draw(number(1, 5000, odd=odd)),
        output_tokens=draw(number(1, 800, odd=odd)),
        hit_ratio=draw(number(0, 1, odd=odd)),
        queue=queue,
        sources=draw(st.sampled_from([("router", "agents"), ("agents",), ()])) if odd else ("router", "agents"),
        silent_workers=draw(st.sampled_from([0, 0, 1])) if odd else 0,
    )


@st.composite
def variants(draw: st.DrawFn) -> list[dict[str, Any]]:
    names = draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3, unique=True))
    made = []
    for name in names:
        low = draw(st.sampled_from([0, 0, 0, 1]))
        extra: dict[str, Any] = {"min": low, "tensorParallel": draw(st.sampled_from([1, 1, 2]))}
        if draw(st.booleans()):
            extra["max"] = low + draw(st.integers(1, 6))
        kind = draw(st.sampled_from([*TYPES, *TYPES, "gone"]))
        made.append(variant(name, kind, draw(st.sampled_from([None, 1.0, 3.0, 10.0])), **extra))
    return made


@st.composite
def deployments(draw: st.DrawFn, key: Key, *, calm: bool = False) -> DeploymentRecord:
    changes: dict[str, Any] = {"variants": draw(variants())}
    if not calm and draw(st.integers(0, 3)) == 0:
        changes["replicas"] = draw(st.integers(0, 8))
    else:
        low = draw(st.integers(1, 3))
        room = sum(v.get("max", 100) for v in changes["variants"])
        high = max(low, sum(v["min"] for v in changes["variants"])) + draw(st.integers(0, 12))
        down = {"maxStep": draw(st.integers(1, 4)), "stabilizationWindow": draw(st.sampled_from([0, 60, 600]))}
        changes["scaling"] = {"min": min(low, room), "max": high, "scaleDown": down}
    record = deployment(spec(**changes), key)
    if calm:
        return record
    pauses = st.sampled_from([labels.PAUSED, labels.PAUSED_SCALE_IN, labels.PAUSED_SCALE_OUT])
    return replace(
        record,
        annotations=draw(st.one_of(st.just({}), st.just({}), st.dictionaries(pauses, st.just("true"), max_size=2))),
        deleting=draw(st.integers(0, 9)) == 0,
        namespace_terminating=draw(st.integers(0, 19)) == 0,
    )


def some_workers(dice: random.Random, count: int, key: Key, record: DeploymentRecord) -> list[WorkerRecord]:
    assert record.spec is not None
    kinds = {v.name: (v.instance_type, v.accelerators) for v in record.spec.variants}
    made = []
    for i in range(count):
        name = dice.choice([*kinds, *kinds, "removed"])
        phase = dice.choice([WorkerPhase.READY, WorkerPhase.READY, WorkerPhase.READY, *WorkerPhase])
        served = phase in (WorkerPhase.READY, WorkerPhase.NOT_READY) or dice.random() < 0.5
        seen = START - age(dice)
        pod = f"{key.name}-{i}"
        instance_type, accelerators = kinds.get(name, ("h100", 1))
        made.append(
            WorkerRecord(
                Key(key.namespace, pod),
                f"uid-{key.namespace}-{pod}",
                "1",
                key.name,
                name,
                instance_type,
                "r",
                phase,
                accelerators,
                seen,
                node="" if phase is WorkerPhase.UNSCHEDULED else f"node-{dice.randrange(4)}",
                first_ready=seen + 1 if served and phase is not WorkerPhase.UNSCHEDULED else None,
                unschedulable_since=seen if phase is WorkerPhase.UNSCHEDULED and dice.random() < 0.5 else None,
                drain_reason=dice.choice([None, None, None, None, "OldestNode", "NodeLeaving"]),
                protected=dice.randrange(8) == 0,
            )
        )
    return made


def age(dice: random.Random) -> float:
    return dice.choice([0.0, 1.0, dice.uniform(0, 400), dice.uniform(0, 2000)])


def memory_of(dice: random.Random, snapshot: FleetSnapshot) -> PlannerMemory:
    """Whatever an earlier decision may have left behind."""
    made = {}
    for key, record in snapshot.deployments.items():
        if record.spec is None or dice.random() < 0.3:
            continue
        uids = [w.uid for w in snapshot.workers if w.deployment_key == key]

        def some(uids: list[str] = uids) -> dict[str, float]:
            return {uid: START - age(dice) for uid in dice.sample(uids, min(len(uids), dice.choice([0, 0, 1, 3])))}

        wants = sorted((START - age(dice), dice.randrange(13)) for _ in range(dice.randrange(4)))
        made[key] = DeploymentMemory(
            record.uid,
            desired={v.name: dice.randrange(7) for v in record.spec.variants},
            wants=tuple(wants),
            steps=tuple(START - dice.uniform(0, 100) for _ in range(dice.randrange(3))),
            panic_until=dice.choice([None, None, START - 30, START + 30]),
            at=START - dice.choice([0.0, 5.0, 250.0, 5000.0, -5000.0]),
            generation=1,
            chosen=some(),
            since=some(),
            failures={"main": FailedStarts(some())},
            avoid=dice.choice([{}, {}, {"h100": START + 100}]),
        )
    return PlannerMemory(made)


def _telemetry(dice: random.Random) -> WorkerTelemetry:
    figures = [None, *range(50)]
    return told(
        running=dice.choice(figures), hot_tokens=dice.choice(figures), cancellable=dice.choice([None, True, False])
    )


_LIMITS = [
    {},
    {"accelerators": 0},
    {"accelerators": 6},
    {"accelerators": 20},
    {"accelerators": 20, "namespaces": [{"namespace": "ns-a", "accelerators": 5}]},
]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[FleetSnapshot, PlannerMemory]:
    """A snapshot and a memory. What is plenty comes from one seed, to be quick; what decides is drawn."""
    dice = random.Random(draw(st.integers(0, 2**32)))
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True))
    records = {key: draw(deployments(key)) for key in keys}
    people = [w for key in keys for w in some_workers(dice, draw(st.integers(0, 9)), key, records[key])]
    kinds = [
        itype("h100", "H100-SXM", price=32.0, limit=draw(st.sampled_from(_LIMITS))),
        itype("l40s", "L40S", price=dice.choice([4.0, 8.0]), limit=draw(st.sampled_from(_LIMITS))),
        itype("a100", "A100-80GB", price=0.0),
    ]
    telemetry = {w.uid: _telemetry(dice) for w in people if dice.random() < 0.8}
    leaving = [None, None, None, None, "cordoned", "being deleted"]
    nodes = {f"node-{i}": NodeRecord(f"node-{i}", START - age(dice), dice.choice(leaving)) for i in range(4)}
    demand = {key: draw(demands(odd=draw(st.booleans()))) for key in keys if draw(st.integers(0, 5))}
    snapshot = FleetSnapshot(records, {k.name: k for k in kinds}, tuple(people), nodes, telemetry, demand)
    return snapshot, memory_of(dice, snapshot)
