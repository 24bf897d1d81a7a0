"""What the planner decides, one sentence each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning_specs import KEY, deployment, itype, scaling, spec, variant
from planning_world import START, created, decide, drain_by_time, settled, traffic, worker, workers, world
from warmfleet_contracts import labels
from warmfleet_contracts.reasons import ChosenBy, Reason, VictimReason
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import FleetSnapshot, Key, WorkerPhase


@pytest.mark.parametrize(
    ("demand", "there", "wanted", "rule"),
    [
        (0.0, 0, 1, ChosenBy.MIN),
        (8.4, 1, 1, ChosenBy.HOLD),
        (8.6, 1, 2, ChosenBy.REACTIVE_UP),
        (39.0, 3, 5, ChosenBy.REACTIVE_UP),
        (16.9, 2, 2, ChosenBy.HOLD),
        (14.1, 3, 3, ChosenBy.HOLD),
        (1e12, 3, 20, ChosenBy.MAX),
    ],
)
def test_the_count_follows_demand_over_capacity(demand: float, there: int, wanted: int, rule: ChosenBy) -> None:
    made = decide(world(workers(there), traffic(demand)))
    assert (made.desired, created(made), made.chosen_by) == (wanted, wanted - there, rule)
    assert made.message


def test_the_message_carries_the_figures() -> None:
    made = decide(world(workers(3), traffic(39.0)))
    assert made.message == "demand 39 req/s / 0.85 over 10 req/s per worker -> 5 workers (now 3)"
    assert made.figures["need_up_rps"] == pytest.approx(39 / 0.85)


def test_a_queue_is_drained_within_the_start_up_time() -> None:
    made = decide(world(workers(2), traffic(10.0, queue=900)))
    assert made.chosen_by is ChosenBy.QUEUE
    assert made.demand == pytest.approx(10 + 900 / 60)
    assert made.desired == 3


def test_what_is_starting_is_credited_upwards() -> None:
    made = decide(world(workers(1) + workers(2, WorkerPhase.STARTING, "s"), traffic(25.0)))
    assert (created(made), made.chosen_by, made.desired) == (0, ChosenBy.STARTING, 3)


def test_what_is_starting_never_justifies_removing_a_worker_that_serves() -> None:
    people = workers(2) + workers(1, WorkerPhase.STARTING, "s", protected=True)
    made, _ = drain_by_time(world(people, traffic(12.0)), 900.0)
    assert made.victims == ()


def test_fewer_are_wanted_only_after_the_window() -> None:
    snapshot = world(workers(5), traffic(10.0))
    early, _ = drain_by_time(snapshot, 290.0)
    late, _ = drain_by_time(snapshot, 400.0)
    assert (early.chosen_by, early.victims) == (ChosenBy.STABILIZING, ())
    assert (late.chosen_by, len(late.victims), late.desired) == (ChosenBy.REACTIVE_DOWN, 1, 4)


def test_the_hold_is_at_least_the_start_up_time() -> None:
    record = deployment(spec(scaling=scaling(stabilizationWindow="0s")))
    snapshot = world(workers(5), traffic(10.0), record=record, types=[itype(startup=500.0)])
    assert drain_by_time(snapshot, 490.0)[0].chosen_by is ChosenBy.STABILIZING
    assert drain_by_time(snapshot, 600.0)[0].chosen_by is ChosenBy.REACTIVE_DOWN


def test_a_peak_inside_the_window_holds_the_fleet() -> None:
    memory = settled(2, wants=((START - 200, 5), (START - 1, 2)))
    assert decide(world(workers(5), traffic(10.0)), memory).chosen_by is ChosenBy.STABILIZING


def test_the_step_limit_bounds_how_many_drain_in_a_period() -> None:
    record = deployment(spec(scaling=scaling(maxStep=2)))
    snapshot = world(workers(9), traffic(1.0), record=record)
    first, memory = plan(snapshot, settled(1), START)
    assert len(first.deployments[KEY].victims) == 2
    gone = {v.uid for v in first.deployments[KEY].victims}
    rest = replace(snapshot, workers=tuple(w for w in snapshot.workers if w.uid not in gone))
    again = decide(rest, memory, START + 5)
    assert (again.victims, again.chosen_by) == ((), ChosenBy.STEP_LIMIT)


def test_a_chosen_worker_stays_chosen_until_it_is_seen_leaving() -> None:
    snapshot = world(workers(9), traffic(1.0))
    first, memory = plan(snapshot, settled(1), START)
    for i in range(1, 5):
        again, memory = plan(snapshot, memory, START + 5 * i)
        assert again.deployments[KEY].victims[0].uid == first.deployments[KEY].victims[0].uid
        assert len(again.deployments[KEY].victims) == 1


def test_nothing_leaves_in_panic() -> None:
    snapshot = world(workers(5), traffic(120.0))
    _, memory = plan(snapshot, settled(1), START)
    calm = world(workers(5), traffic(1.0, at=START + 30))
    memory = PlannerMemory({KEY: replace(memory.deployments[KEY], wants=((START, 1),))})
    made = decide(calm, memory, START + 30)
    assert (made.victims, made.chosen_by) == ((), ChosenBy.PANIC)


def test_zero_requests_scale_down_and_no_data_holds() -> None:
    assert len(decide(world(workers(5), traffic(0.0)), settled(1)).victims) == 1
    unknown = decide(world(workers(5), traffic(None, queue=None)), settled(5))
    assert (unknown.victims, unknown.desired, unknown.chosen_by) == ((), 5, ChosenBy.NO_DATA)
    assert [p.reason for p in unknown.problems] == [Reason.METRICS_MISSING]


def test_without_data_a_lost_worker_is_replaced() -> None:
    made = decide(world(workers(3)), settled(5))
    assert (created(made), made.desired, made.chosen_by) == (2, 5, ChosenBy.NO_DATA)


def test_old_data_is_no_data() -> None:
    assert decide(world(workers(5), traffic(0.0, at=START - 121)), settled(1)).chosen_by is ChosenBy.NO_DATA


@pytest.mark.parametrize("change", [{"silent_workers": 1}, {"sources": ("agents",)}])
def test_partial_metrics_scale_up_but_never_down(change: dict[str, object]) -> None:
    down = decide(world(workers(5), traffic(0.0, **change)), settled(1))
    up = decide(world(workers(2), traffic(40.0, **change)), settled(1))
    assert (down.victims, created(up)) == ((), 3)
    assert [p.reason for p in up.problems] == [Reason.METRICS_PARTIAL]


def test_agents_alone_are_complete_without_a_router() -> None:
    record = deployment(spec(routing={"mode": "service"}))
    made = decide(world(workers(5), traffic(0.0, sources=("agents",)), record=record), settled(1))
    assert len(made.victims) == 1


def test_min_and_max_bound_the_count() -> None:
    record = deployment(spec(scaling=scaling(3, 4)))
    low = decide(world(workers(3), traffic(0.0), record=record), settled(3))
    high = decide(world(workers(3), traffic(90.0), record=record))
    assert (low.desired, low.chosen_by, low.limited, low.unlimited) == (3, ChosenBy.MIN, Reason.TOO_FEW_REPLICAS, 0)
    assert (high.desired, high.chosen_by, high.limited, high.unlimited) == (
        4, ChosenBy.MAX, Reason.TOO_MANY_REPLICAS, 11,
    )  # fmt: skip


def test_a_lowered_max_holds_at_once() -> None:
    record = deployment(spec(scaling=scaling(1, 3)))
    made = decide(world(workers(5), traffic(90.0), record=record))
    assert (made.desired, len(made.victims), made.chosen_by) == (3, 2, ChosenBy.MAX)
    assert all(v.drain for v in made.victims)


def test_a_fixed_count_is_bought_from_the_cheapest_variant() -> None:
    kinds = [itype("h100"), itype("l40s", "L40S", price=8.0)]
    record = deployment(spec(replicas=4, variants=[variant("a"), variant("b", "l40s", None)]))
    made = decide(world([], None, record=record, types=kinds))
    assert [(v.name, v.desired, v.create) for v in made.variants] == [("a", 0, 0), ("b", 4, 4)]
    assert (made.chosen_by, made.problems) == (ChosenBy.FIXED, ())


def test_a_fixed_count_that_was_lowered_drains_the_rest_at_once() -> None:
    record = deployment(spec(replicas=0))
    made = decide(world(workers(3), None, record=record))
    assert (made.desired, len(made.victims), made.chosen_by) == (0, 3, ChosenBy.FIXED)


@pytest.mark.parametrize(
    ("annotations", "demand", "creates", "leaves"),
    [
        ({labels.PAUSED: "true"}, 90.0, False, False),
        ({labels.PAUSED: "true"}, 0.0, False, False),
        ({labels.PAUSED_SCALE_IN: "true"}, 90.0, True, False),
        ({labels.PAUSED_SCALE_IN: "true"}, 0.0, False, False),
        ({labels.PAUSED_SCALE_OUT: "true"}, 90.0, False, False),
        ({labels.PAUSED_SCALE_OUT: "true"}, 0.0, False, True),
        ({labels.PAUSED: "false"}, 0.0, False, True),
    ],
)
def test_pause_annotations_hold(annotations: dict[str, str], demand: float, creates: bool, leaves: bool) -> None:
    record = deployment(annotations=annotations)
    made = decide(world(workers(4), traffic(demand), record=record), settled(1))
    assert (created(made) > 0, len(made.victims) > 0) == (creates, leaves)
    if not creates and not leaves:
        assert (made.chosen_by, made.desired) == (ChosenBy.PAUSED, 4)


def test_a_deployment_that_is_deleted_drains_all_that_served_and_deletes_the_rest() -> None:
    people = [*workers(2), worker("p", WorkerPhase.STARTING), worker("x", WorkerPhase.TERMINATING)]
    made = decide(world(people, traffic(50.0), record=deployment(deleting=True)))
    assert [(v.pod.name, v.drain) for v in made.victims] == [("p", False), ("w0", True), ("w1", True)]
    assert {v.reason for v in made.victims} == {VictimReason.DEPLOYMENT_DELETED}
    assert (made.desired, created(made), made.chosen_by) == (0, 0, ChosenBy.DELETING)


def test_nothing_is_created_in_a_namespace_that_is_deleted() -> None:
    made = decide(world(workers(1), traffic(50.0), record=deployment(namespace_terminating=True)))
    assert (created(made), len(made.victims)) == (0, 1)
    assert [p.reason for p in made.problems] == [Reason.NAMESPACE_TERMINATING]


def test_a_spec_that_cannot_be_parsed_holds_everything() -> None:
    record = deployment(spec=None, spec_error="variants: Field required")
    made = decide(world(workers(3), traffic(0.0), record=record), settled(1))
    assert (made.desired, made.victims, created(made), made.chosen_by) == (3, (), 0, ChosenBy.INVALID)
    assert made.problems[0].reason is Reason.INVALID_SPEC
    assert "variants: Field required" in made.problems[0].message


def test_an_error_in_one_deployment_holds_it_alone() -> None:
    other = Key("team-a", "other")
    snapshot = world(workers(2), traffic(90.0))
    broken = replace(deployment(), spec="not a spec")  # type: ignore[arg-type]
    both = FleetSnapshot(
        {KEY: broken, other: deployment(key=other)},
        snapshot.instance_types,
        snapshot.workers,
        demand={other: traffic(90.0)},
    )
    made, _ = plan(both, PlannerMemory(), START)
    assert made.deployments[KEY].problems[0].reason is Reason.OPERATOR_ERROR
    assert (made.deployments[KEY].desired, created(made.deployments[other])) == (2, 11)
