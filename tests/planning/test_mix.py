"""The cheapest mix, one sentence each."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_specs import KEY, deployment, itype, spec, variant
from planning_world import START, Cluster, created, decide, drain_by_time, settled, traffic, worker, workers, world
from warmfleet_contracts.api import InstanceTypeSpec
from warmfleet_contracts.reasons import ChosenBy, Reason, VictimReason
from warmfleet_contracts.trafficstate import TrafficState
from warmfleet_operator.planning.mix.cover import Item, cover
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.planning.rehearsal import MARGINS
from warmfleet_operator.state.decisions import DeploymentPlan, FleetPlan
from warmfleet_operator.state.memory import DeploymentMemory, PlannerMemory, Rehearsal
from warmfleet_operator.state.records import FleetSnapshot, InstanceTypeRecord, Key, WorkerRecord

HIGH, LOW = Key("team-a", "high"), Key("team-a", "low")


def spot(name: str, price: float, **changes: Any) -> InstanceTypeRecord:
    made = itype(name, "A100-80GB", price=8 * price, **changes)
    assert made.spec is not None
    raw = made.spec.to_wire() | {"capacityType": "spot", "price": {"onDemand": 16 * price, "spot": 8 * price}}
    return replace(made, spec=InstanceTypeSpec.model_validate(raw))


def bought(made: DeploymentPlan) -> dict[str, int]:
    return {v.name: v.create for v in made.variants if v.create}


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.floats(0.5, 8), st.floats(0.1, 9), st.integers(0, 4), st.booleans()), min_size=1, max_size=4),
    st.floats(0.1, 20),
    st.sampled_from([0.0, 0.9]),
    st.integers(1, 12),
)
def test_the_cover_is_the_cheapest_there_is(
    raw: list[tuple[float, float, int, bool]], need: float, firm: float, slots: int
) -> None:
    items = [Item(r, c, m, r * 0.7 if s else r) for r, c, m, s in raw]

    def carries(counts: tuple[int, ...]) -> bool:
        rate = sum(i.rate * n for i, n in zip(items, counts, strict=True))
        steady = sum(i.steady * n for i, n in zip(items, counts, strict=True))
        return sum(counts) <= slots and rate >= need - 1e-6 and steady >= firm * need - 1e-6

    def cost(counts: tuple[int, ...]) -> float:
        return sum(i.cost * n for i, n in zip(items, counts, strict=True))

    found = cover(items, need, steady=firm * need, slots=slots, nodes=100_000)
    assert sum(found) <= slots
    assert all(n <= i.most for n, i in zip(found, items, strict=True))
    ways = [w for w in itertools.product(*(range(i.most + 1) for i in items)) if carries(w)]
    if ways:
        assert carries(found)
        assert cost(found) <= min(cost(w) for w in ways) * (1 + 1e-6) + 1e-6


def test_a_cover_that_does_not_exist_is_filled_as_far_as_it_goes() -> None:
    items = [Item(1.0, 1.0, 50, 1.0), Item(10.0, 20.0, 3, 10.0)]
    assert cover(items, 1e12, slots=5) == (2, 3)
    assert cover(items, 0.0) == (0, 0)


def test_a_budget_bounds_what_is_bought_and_it_is_said() -> None:
    body = spec(scaling={"min": 1, "max": 20, "budget": {"maxCostPerHour": 14}})
    made = decide(world(workers(2), traffic(60.0), record=deployment(body)))
    assert (made.desired, made.chosen_by, made.limited) == (3, ChosenBy.BUDGET, Reason.BUDGET_EXHAUSTED)
    assert "scaling.budget $14/h" in made.message


def test_workers_on_their_way_out_still_cost() -> None:
    body = spec(scaling={"min": 1, "max": 20, "budget": {"maxCostPerHour": 14}})
    leaving = [worker("x", drain_reason="NodeLeaving")]
    assert created(decide(world([*workers(2), *leaving], traffic(60.0), record=deployment(body)))) == 0


def test_beyond_the_budget_the_dearest_leave_but_the_minimum_stays() -> None:
    cheap = workers(2, prefix="c", variant="b", instance_type="l40s")
    variants = [variant("main"), variant("b", "l40s", 5.0)]
    kinds = [itype(), itype("l40s", "L40S", price=8.0)]
    for low, gone in ((1, {"w0", "w1"}), (3, {"w0"})):
        scaling = {"min": low, "max": 20, "budget": {"maxCostPerHour": 3}}
        body = spec(variants=variants, scaling=scaling)
        made = decide(world([*workers(2), *cheap], traffic(20.0), record=deployment(body), types=kinds))
        assert {v.pod.name for v in made.victims} == gone
        assert made.chosen_by is ChosenBy.BUDGET


def test_spot_is_bought_at_its_price_and_carries_the_demand_without_a_third_of_it() -> None:
    body = spec(variants=[variant("main"), variant("s", "spot")])
    made = decide(world([], traffic(40.0), record=deployment(body), types=[itype(price=32.0), spot("spot", 1.0)]))
    assert bought(made) == {"s": 6}  # 40 / 0.7 / 10; 5 would do for 40 / 0.85
    assert made.variants[1].cost_per_hour == pytest.approx(1.0)


def test_a_fleet_of_spot_that_carries_its_demand_is_made_safe() -> None:
    body = spec(variants=[variant("main"), variant("s", "spot")])
    kinds = [itype(price=32.0), spot("spot", 1.0)]
    people = workers(5, variant="s", instance_type="spot")
    made = decide(world(people, traffic(40.0), record=deployment(body), types=kinds))
    assert (bought(made), made.chosen_by) == ({"s": 1}, ChosenBy.SPOT_RESERVE)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, {"main": 5}), (0.5, {"main": 3, "s": 2}), (1.0, {"s": 5})],  # of 40 / 0.85 requests/s
)
def test_spot_carries_no_more_than_its_share(share: float, expected: dict[str, int]) -> None:
    body = spec(variants=[variant("main"), variant("s", "spot")], scaling={"min": 1, "max": 20, "maxSpotShare": share})
    kinds = [itype(price=32.0), spot("spot", 1.0)]
    made = decide(world([], traffic(40.0), record=deployment(body), types=kinds))
    assert bought(made) == expected


def test_spot_serves_beyond_its_share_while_nothing_else_can_be_had_and_never_for_its_own_sake() -> None:
    body = spec(variants=[variant("main"), variant("s", "spot")], scaling={"min": 1, "max": 20, "maxSpotShare": 0.2})
    kinds = [itype(price=32.0, limit={"accelerators": 2}), spot("spot", 1.0)]
    made = decide(world([], traffic(40.0), record=deployment(body), types=kinds))
    assert bought(made) == {"main": 2, "s": 3}
    there = [*workers(2), *workers(3, prefix="s", variant="s", instance_type="spot")]
    again = decide(world(there, traffic(40.0), record=deployment(body), types=kinds))
    assert (bought(again), again.victims) == ({}, ())


def test_of_several_variants_the_dearest_leave() -> None:
    variants = [variant("main"), variant("b", "l40s", 5.0)]
    kinds = [itype(price=32.0), itype("l40s", "L40S", price=8.0)]
    people = [*workers(3), *workers(4, prefix="b", variant="b", instance_type="l40s")]
    body = spec(variants=variants, scaling={"min": 1, "max": 20, "scaleDown": {"maxStep": 9}})
    made, _ = drain_by_time(world(people, traffic(13.0), record=deployment(body), types=kinds), 400)
    assert {v.pod.name for v in made.victims} == {"w0", "w1", "w2"}


def _two(levels: tuple[float, float], people: list[WorkerRecord], limit: int, **classes: int) -> FleetSnapshot:
    """Fleets ``high`` and ``low`` on one type."""
    records = {
        HIGH: deployment(spec(priorityClassName="gold"), HIGH),
        LOW: deployment(spec(), LOW),
    }
    kinds = {"h100": itype(limit={"accelerators": limit})}
    demand = {HIGH: traffic(levels[0]), LOW: traffic(levels[1])}
    return FleetSnapshot(records, kinds, tuple(people), {}, {}, demand, priorities=classes)


def _people(high: int, low: int, **changes: Any) -> list[WorkerRecord]:
    return [
        *workers(high, prefix="high-", deployment="high"),
        *workers(low, prefix="low-", deployment="low", **changes),
    ]


def _plan(snapshot: FleetSnapshot) -> FleetPlan:
    return plan(snapshot, PlannerMemory(), START)[0]


def test_the_higher_priority_class_gets_what_is_free() -> None:
    made = _plan(_two((40.0, 40.0), [], 6, gold=1000)).deployments
    assert (created(made[HIGH]), created(made[LOW])) == (5, 1)
    made = _plan(_two((40.0, 40.0), [], 6)).deployments
    assert (created(made[HIGH]), created(made[LOW])) == (3, 3)  # a class that does not exist counts as 0


def test_the_lower_priority_drains_for_the_higher_down_to_its_minimum() -> None:
    made = _plan(_two((60.0, 40.0), _people(2, 4), 6, gold=1000)).deployments
    assert [v.reason for v in made[LOW].victims] == [VictimReason.PREEMPTED] * 3
    assert all(v.drain for v in made[LOW].victims)
    assert (made[LOW].chosen_by, made[LOW].limited) == (ChosenBy.PREEMPTED, Reason.CAPACITY_EXHAUSTED)
    assert made[LOW].desired == 1
    assert created(made[HIGH]) == 0
    assert not made[HIGH].victims


def test_what_is_draining_already_is_not_asked_for_again() -> None:
    people = _people(2, 1) + workers(3, prefix="out-", deployment="low", drain_reason="Preempted")
    made = _plan(_two((45.0, 40.0), people, 6, gold=1000)).deployments
    assert not made[LOW].victims
    people = _people(2, 1)
    made = _plan(_two((45.0, 40.0), people, 6, gold=1000)).deployments
    assert (created(made[HIGH]), created(made[LOW])) == (3, 0)


def test_protected_workers_and_paused_fleets_do_not_give_way() -> None:
    made = _plan(_two((60.0, 40.0), _people(2, 4, protected=True), 6, gold=1000)).deployments
    assert not made[LOW].victims
    snapshot = _two((60.0, 40.0), _people(2, 4), 6, gold=1000)
    paused = replace(snapshot.deployments[LOW], annotations={"warmfleet.dev/paused-scale-in": "true"})
    made = _plan(replace(snapshot, deployments={**snapshot.deployments, LOW: paused})).deployments
    assert not made[LOW].victims


def _fearful(levels: tuple[float, float], people: list[WorkerRecord], limit: int) -> FleetPlan:
    """Two fleets of one priority that have missed a lot, so that both want all that ever was."""
    body = spec(scaling={"min": 1, "max": 20, "forecast": {}})
    records = {key: deployment(body, key) for key in (HIGH, LOW)}
    demand = {key: traffic(level) for key, level in zip((HIGH, LOW), levels, strict=True)}
    memory = {
        key: DeploymentMemory(
            records[key].uid,
            at=START - 5.0,
            traffic=TrafficState(START - 5.0, level, level, level, 0.04, 0.04),
            peak=90.0,
            rehearsal=Rehearsal(at=START, position=len(MARGINS) - 1.0),
        )
        for key, level in zip((HIGH, LOW), levels, strict=True)
    }
    snapshot = FleetSnapshot(records, {"h100": itype(limit={"accelerators": limit})}, tuple(people), {}, {}, demand)
    return plan(snapshot, PlannerMemory(memory), START)[0]


def test_a_margin_gives_way_to_the_demand_of_a_fleet_of_the_same_priority() -> None:
    made = _fearful((30.0, 20.0), _people(2, 8), 10).deployments
    assert made[LOW].figures["need_up_rps"] >= 80.0
    assert [v.reason for v in made[LOW].victims] == [VictimReason.PREEMPTED] * 2  # 30 / 0.85 needs 4 workers
    assert made[LOW].chosen_by is ChosenBy.PREEMPTED
    assert not made[HIGH].victims
    # What is free goes there first as well, although the other one lacks more of what it would like to have.
    made = _fearful((30.0, 20.0), _people(3, 4), 8).deployments
    assert (created(made[HIGH]), created(made[LOW])) == (1, 0)


@pytest.mark.parametrize(
    ("levels", "high", "low", "leaving"),
    [
        ((16.0, 20.0), 2, 8, 0),  # 20 of capacity are 16 / 0.85 and more: what is missing is a margin
        ((40.0, 48.0), 2, 8, 1),  # 80 of capacity, and 48 / 0.70 = 69 would be kept
        ((40.0, 50.0), 2, 8, 0),  # 71 would be kept
        ((30.0, 1.0), 2, 1, 0),  # the minimum
    ],
)
def test_a_margin_gives_way_to_no_margin_and_what_a_reactive_fleet_would_keep_stays(
    levels: tuple[float, float], high: int, low: int, leaving: int
) -> None:
    made = _fearful(levels, _people(high, low), high + low).deployments
    assert (len(made[HIGH].victims), len(made[LOW].victims)) == (0, leaving)


def test_a_scarce_type_goes_to_whom_nothing_else_serves() -> None:
    only, either = Key("team-a", "only"), Key("team-a", "either")
    records = {
        only: deployment(spec(), only),
        either: deployment(spec(variants=[variant("main"), variant("b", "l40s", 10.0)]), either),
    }
    kinds = {"h100": itype(limit={"accelerators": 5}), "l40s": itype("l40s", "L40S", price=40.0)}
    demand = {only: traffic(40.0), either: traffic(40.0)}
    made = _plan(FleetSnapshot(records, kinds, (), {}, {}, demand)).deployments
    assert bought(made[only]) == {"main": 5}
    assert bought(made[either]) == {"b": 5}


def _dear_and_cheap(price: float) -> Cluster:
    body = spec(variants=[variant("main"), variant("b", "l40s", 10.0)])
    kinds = [itype(price=32.0), itype("l40s", "L40S", price=price)]
    return Cluster(world(workers(3), traffic(20.0), record=deployment(body), types=kinds))


def test_dear_workers_are_exchanged_once_cheaper_ones_serve() -> None:
    fleet = _dear_and_cheap(8.0)
    for _ in range(480):  # one at a time: a quarter of the fleet
        fleet.tick(5.0, {KEY: traffic(20.0, at=fleet.now + 5.0)})
        assert fleet.serving() * 10.0 >= 20.0 / 0.85
    assert {w.variant for w in fleet.snapshot.workers} == {"b"}
    assert fleet.created == fleet.removed == 3


@pytest.mark.parametrize("price", [32.0, 30.0])
def test_a_small_saving_is_not_worth_the_change(price: float) -> None:
    fleet = _dear_and_cheap(price)
    for _ in range(240):
        fleet.tick(5.0, {KEY: traffic(20.0, at=fleet.now + 5.0)})
    assert fleet.created == fleet.removed == 0


def test_limits_below_the_minimum_and_a_budget_below_one_worker_hold_with_a_reason() -> None:
    made = decide(world([], traffic(10.0), types=[itype(limit={"accelerators": 0})]))
    assert (made.desired, made.chosen_by) == (0, ChosenBy.CAPACITY_LIMIT)
    body = spec(scaling={"min": 2, "max": 20, "budget": {"maxCostPerHour": 1}})
    made = decide(world([], traffic(10.0), record=deployment(body)))
    assert (made.desired, made.chosen_by) == (0, ChosenBy.BUDGET)
    made = decide(world(workers(2), traffic(10.0), record=deployment(body)), settled(2))
    assert not made.victims


def test_free_workers_and_ten_thousand_types_are_planned() -> None:
    kinds = [itype(f"t{i}") for i in range(10_000)]
    body = spec(variants=[variant("free", "t0"), variant("b", "t9999", 5.0)])
    free = replace(kinds[0], spec=itype("t0", price=0.0).spec)
    made = decide(world([], traffic(40.0), record=deployment(body), types=[free, *kinds[1:]]))
    assert bought(made) == {"free": 5}
