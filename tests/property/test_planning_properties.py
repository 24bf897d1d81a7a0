"""What holds of every plan."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from planning_specs import KEY, itype, spec, variant
from planning_specs import deployment as simple
from planning_strategies import deployments, worlds
from planning_world import START, Cluster, created, traffic, workers, world
from warmfleet_contracts.reasons import ChosenBy, Reason, VictimReason
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state import checkpoint
from warmfleet_operator.state.decisions import DeploymentPlan, FleetPlan
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import FleetSnapshot, Key, WorkerPhase, WorkerRecord

SAVING = {
    VictimReason.CROWDED,
    VictimReason.LOWEST_KV_VALUE,
    VictimReason.FEWEST_RUNNING,
    VictimReason.OLDEST_NODE,
}


def _staying(snapshot: FleetSnapshot, one: DeploymentPlan) -> list[WorkerRecord]:
    gone = {v.uid for v in one.victims}
    return [w for w in snapshot.workers if w.deployment_key == one.key and not w.leaving and w.uid not in gone]


def _reasons(snapshot: FleetSnapshot, made: FleetPlan) -> None:
    assert set(made.deployments) == set(snapshot.deployments)
    for key, one in made.deployments.items():
        people = {w.uid: w for w in snapshot.workers if w.deployment_key == key}
        assert one.message
        assert isinstance(one.chosen_by, ChosenBy)
        assert not any(p.reason is Reason.OPERATOR_ERROR for p in one.problems)
        assert one.desired == sum(v.desired for v in one.variants)
        assert all(v.create >= 0 and v.desired >= v.create for v in one.variants)
        assert len({v.uid for v in one.victims}) == len(one.victims)
        for victim in one.victims:
            target = people[victim.uid]
            assert victim.message
            assert not target.leaving
            assert victim.reason is VictimReason.DEPLOYMENT_DELETED or not target.protected
            served = target.first_ready is not None or target.phase is WorkerPhase.READY
            assert victim.drain == (served and target.phase is not WorkerPhase.FAILED)
        for cancelled in one.cancels:
            (target,) = [w for w in people.values() if w.key == cancelled]
            assert target.leaving
            assert snapshot.telemetry[target.uid].cancellable is True


def _bounds(snapshot: FleetSnapshot, made: FleetPlan) -> None:
    for key, one in made.deployments.items():
        spec_ = snapshot.deployments[key].spec
        assert spec_ is not None
        most = spec_.scaling.max if spec_.scaling is not None else (spec_.replicas or 0)
        least = spec_.scaling.min if spec_.scaling is not None else most
        if created(one) or one.cancels:
            assert one.desired <= most
        names = {v.name for v in spec_.variants}
        before = [w for w in snapshot.workers if w.deployment_key == key and not w.leaving and w.variant in names]
        saved = [v for v in one.victims if v.reason in SAVING]
        if saved:
            assert len(_staying(snapshot, one)) >= min(least, len(before))
        for v in spec_.variants:
            (mine,) = [p for p in one.variants if p.name == v.name] or [None]
            if mine is not None and mine.create and v.max is not None:
                assert mine.desired <= v.max


def _stock(snapshot: FleetSnapshot, made: FleetPlan) -> None:
    held: Counter[tuple[str, str | None]] = Counter()
    bought: Counter[tuple[str, str | None]] = Counter()
    for w in snapshot.workers:
        held.update({(w.instance_type, None): w.accelerators, (w.instance_type, w.key.namespace): w.accelerators})
    for key, one in made.deployments.items():
        spec_ = snapshot.deployments[key].spec
        assert spec_ is not None
        sizes = {v.name: v.accelerators for v in spec_.variants}
        for v in one.variants:
            if v.create:
                amount = v.create * sizes[v.name]
                bought.update({(v.instance_type, None): amount, (v.instance_type, key.namespace): amount})
    for name, kind in snapshot.instance_types.items():
        assert kind.spec is not None
        limits: dict[tuple[str, str | None], int] = {
            (name, n.namespace): n.accelerators for n in kind.spec.limit.namespaces
        }
        if kind.spec.limit.accelerators is not None:
            limits[name, None] = kind.spec.limit.accelerators
        for slot, limit in limits.items():
            assert not bought[slot] or held[slot] + bought[slot] <= limit


def _pauses(snapshot: FleetSnapshot, made: FleetPlan) -> None:
    for key, one in made.deployments.items():
        record = snapshot.deployments[key]
        if record.deleting or record.namespace_terminating:
            assert created(one) == 0
            assert _staying(snapshot, one) == []
            continue
        words = " ".join(record.annotations)
        if record.annotations and ("scale-out" in words or "paused " in f"{words} "):
            assert created(one) == 0
            assert one.cancels == ()
        if record.annotations and ("scale-in" in words or "paused " in f"{words} "):
            assert one.victims == ()


def _partial(snapshot: FleetSnapshot, made: FleetPlan) -> None:
    for key, one in made.deployments.items():
        spec_, demand = snapshot.deployments[key].spec, snapshot.demand.get(key)
        assert spec_ is not None
        if spec_.scaling is None or one.chosen_by is ChosenBy.MAX:
            continue
        partial = demand is None or demand.silent_workers or "router" not in demand.sources or START - demand.at > 120
        if partial:
            assert not any(v.reason in SAVING for v in one.victims)


@given(worlds())
def test_every_plan_is_explained_within_bounds_and_obeys_pauses(given_: tuple[FleetSnapshot, PlannerMemory]) -> None:
    snapshot, memory = given_
    made, _ = plan(snapshot, memory, START)
    for check in (_reasons, _bounds, _stock, _pauses, _partial, _enough, _traced):
        check(snapshot, made)
    _same_in_any_order(snapshot, memory, made)


def _enough(snapshot: FleetSnapshot, made: FleetPlan) -> None:
    """What serves, starts, is bought or recalled covers the need, unless the plan says what is in the way."""
    for one in made.deployments.values():
        excused = one.limited or one.chosen_by in (ChosenBy.PAUSED, ChosenBy.MAX, ChosenBy.HOLD, ChosenBy.INVALID)
        failing = any(p.reason in (Reason.WORKER_START_FAILED, Reason.IMAGE_PULL_FAILED) for p in one.problems)
        if excused or failing or "need_up_rps" not in one.figures:
            continue
        rates = {v.name: v.requests_per_second or 0.0 for v in one.variants}
        there = one.figures["ready_rps"] + one.figures["starting_rps"]
        back = {w.key: rates[w.variant] for w in snapshot.workers if w.key in one.cancels}
        bought = sum(v.create * rates[v.name] for v in one.variants)
        assert there + bought + sum(back.values()) >= one.figures["need_up_rps"] * (1 - 1e-6)


def _traced(_: FleetSnapshot, made: FleetPlan) -> None:
    """Every decision shows its figures, and they are numbers."""
    for one in made.deployments.values():
        notes = one.trace()
        assert notes or one.chosen_by in (ChosenBy.INVALID, ChosenBy.DELETING)
        assert all(math.isfinite(value) for note in notes for value in note.figures.values())


def _same_in_any_order(snapshot: FleetSnapshot, memory: PlannerMemory, made: FleetPlan) -> None:
    shuffle = random.Random(len(snapshot.workers))

    def mixed(table: object) -> dict[object, object]:
        items = list(table.items())  # type: ignore[attr-defined]
        shuffle.shuffle(items)
        return dict(items)

    people = list(snapshot.workers)
    shuffle.shuffle(people)
    other = FleetSnapshot(
        mixed(snapshot.deployments),  # type: ignore[arg-type]
        mixed(snapshot.instance_types),  # type: ignore[arg-type]
        tuple(people),
        mixed(snapshot.nodes),  # type: ignore[arg-type]
        mixed(snapshot.telemetry),  # type: ignore[arg-type]
        mixed(snapshot.demand),  # type: ignore[arg-type]
    )
    assert made == plan(other, memory, START)[0]


def _acted(snapshot: FleetSnapshot, made: FleetPlan) -> FleetSnapshot:
    return Cluster(snapshot).act(made)


@given(worlds())
def test_nothing_is_decided_twice(given_: tuple[FleetSnapshot, PlannerMemory]) -> None:
    snapshot, memory = given_
    made, after = plan(snapshot, memory, START)
    _done_is_not_done_again(snapshot, made, after)
    _not_done_is_decided_again(snapshot, made, after)


def _done_is_not_done_again(snapshot: FleetSnapshot, made: FleetPlan, after: PlannerMemory) -> None:
    again, _ = plan(_acted(snapshot, made), after, START)
    for key, one in again.deployments.items():
        spec_ = snapshot.deployments[key].spec
        first = made.deployments[key]
        assert spec_ is not None
        if first.limited is None and not (first.cancels or first.victims):
            assert created(one) == 0
            stuck = [v for v in one.victims if v.reason is VictimReason.PENDING]  # replaced by what was bought
            assert len(stuck) == len(one.victims)
            assert one.desired == first.desired - len(stuck)


def _not_done_is_decided_again(snapshot: FleetSnapshot, made: FleetPlan, after: PlannerMemory) -> None:
    again, _ = plan(snapshot, after, START)
    for key, one in again.deployments.items():
        if after.deployments[key].failures or after.deployments[key].avoid:
            continue
        if snapshot.demand.get(key) is None or made.deployments[key].chosen_by is ChosenBy.NO_DATA:
            continue
        assert created(one) <= created(made.deployments[key]) or made.deployments[key].limited is not None


@given(
    st.floats(0, 60),
    st.integers(0, 12),
    st.sampled_from([1.0, 3.0, 10.0]),
    st.sampled_from([2.0, 6.0, 20.0]),
    st.integers(1, 4),
)
def test_constant_load_ends_in_a_fixed_point_with_enough_capacity(
    rate: float, there: int, small: float, price: float, least: int
) -> None:
    kinds = [itype("h100", price=32.0), itype("l40s", "L40S", price=price)]
    variants = [variant("main"), variant("b", "l40s", small)]
    body = spec(
        variants=variants, scaling={"min": least, "max": 400, "scaleDown": {"maxStep": 50, "stabilizationWindow": 60}}
    )
    fleet = Cluster(world(workers(there), traffic(rate), record=simple(body), types=kinds), startup=20.0, drain=10.0)
    calm = i = 0
    while calm < 15:  # longer than any hold; dear workers are exchanged a quarter of the fleet at a time
        before = fleet.created, fleet.removed
        i += 1
        assert i < 300
        fleet.tick(12.0, {KEY: traffic(rate, at=fleet.now + 12.0)})
        capacity = fleet.last.deployments[KEY].figures["ready_rps"]
        if i >= 5:
            assert capacity * 0.85 >= rate * (1 - 1e-6)
        calm = calm + 1 if before == (fleet.created, fleet.removed) else 0
    done = fleet.created, fleet.removed
    for _ in range(12):
        fleet.tick(12.0, {KEY: traffic(rate, at=fleet.now + 12.0)})
    assert (fleet.created, fleet.removed) == done
    assert fleet.serving() >= least


@given(worlds(), st.floats(-1e6, 1e6), st.floats(0, 300))
def test_neither_a_restart_nor_a_jump_of_the_clock_hastens_a_scale_down(
    given_: tuple[FleetSnapshot, PlannerMemory], elsewhere: float, later: float
) -> None:
    snapshot, memory = given_
    _, memory = plan(snapshot, memory, START)
    written = {k: json.dumps(checkpoint.dump(m, START)) for k, m in memory.deployments.items()}
    loaded = PlannerMemory({k: checkpoint.load(json.loads(text), elsewhere) for k, text in written.items()})
    usual = _leaving(snapshot, memory, START + later)
    restarted = _leaving(snapshot, loaded, elsewhere + later)
    jumped = _leaving(snapshot, memory, min(elsewhere, START))
    now = _leaving(snapshot, memory, START)
    for key in snapshot.deployments:
        assert restarted[key] <= usual[key]
        assert jumped[key] <= now[key]
    if elsewhere > START + 300:
        ahead, bound = _leaving(snapshot, memory, elsewhere), _leaving(snapshot, memory, START + 300)
        assert all(ahead[key] <= bound[key] for key in ahead)


def _leaving(snapshot: FleetSnapshot, memory: PlannerMemory, now: float) -> dict[Key, int]:
    made, _ = plan(_shifted(snapshot, now - START), memory, now)
    return {k: sum(v.reason in SAVING for v in p.victims) for k, p in made.deployments.items()}


def _shifted(snapshot: FleetSnapshot, by: float) -> FleetSnapshot:
    return replace(
        snapshot,
        workers=tuple(
            replace(
                w,
                first_seen=w.first_seen + by,
                first_ready=None if w.first_ready is None else w.first_ready + by,
                unschedulable_since=None if w.unschedulable_since is None else w.unschedulable_since + by,
            )
            for w in snapshot.workers
        ),
        nodes={n: replace(r, first_seen=r.first_seen + by) for n, r in snapshot.nodes.items()},
        demand={k: replace(d, at=d.at + by) for k, d in snapshot.demand.items()},
    )


@given(st.data())
def test_a_fresh_start_removes_nobody_to_save_money(data: st.DataObject) -> None:
    record = data.draw(deployments(KEY, calm=True))
    assert record.spec is not None
    assert record.spec.scaling is not None
    count = data.draw(st.integers(0, record.spec.scaling.max))
    name = record.spec.variants[0]
    people = workers(count, variant=name.name, instance_type=name.instance_type)
    kinds = [itype("h100"), itype("l40s", "L40S"), itype("a100", "A100-80GB")]
    snapshot = world(people, traffic(0.0), record=record, types=kinds)
    made, _ = plan(snapshot, PlannerMemory(), START)
    assert not any(v.reason in SAVING for v in made.deployments[KEY].victims)
