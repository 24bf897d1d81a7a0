"""What the planner decides, one sentence each."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from planning_world import (
    KEY,
    START,
    created,
    decide,
    deployment,
    drain_by_time,
    itype,
    scaling,
    settled,
    spec,
    told,
    traffic,
    variant,
    worker,
    workers,
    world,
)
from warmfleet_contracts import labels
from warmfleet_contracts.reasons import ChosenBy, Reason, VictimReason
from warmfleet_contracts.sketch import sample
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state import checkpoint
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import FleetSnapshot, Key, NodeRecord, WorkerPhase


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
    assert made.figures["need_up"] == pytest.approx(39 / 0.85)


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


# -- victims -------------------------------------------------------------------------------------------------------


def test_what_is_pending_leaves_first() -> None:
    people = [*workers(3), worker("s", WorkerPhase.STARTING), worker("u", WorkerPhase.UNSCHEDULED)]
    record = deployment(spec(scaling=scaling(maxStep=10)))
    made = decide(world(people, traffic(0.0), record=record), settled(1))
    assert [(v.pod.name, v.reason, v.drain) for v in made.victims[:2]] == [
        ("u", VictimReason.PENDING, False),
        ("s", VictimReason.PENDING, False),
    ]


def test_the_lowest_cache_value_leaves_then_the_fewest_running_then_the_oldest_node() -> None:
    people = workers(3)
    nodes = [NodeRecord(f"node-w{i}", START - 100 * i) for i in range(3)]

    def first(telemetry: dict[str, object]) -> tuple[str, VictimReason]:
        snapshot = world(people, traffic(0.0), nodes=nodes, telemetry=telemetry)  # type: ignore[arg-type]
        victim = decide(snapshot, settled(1)).victims[0]
        return victim.pod.name, victim.reason

    hot = {f"uid-w{i}": told(hot_tokens=n, running=9 - i) for i, n in enumerate((50, 10, 90))}
    busy = {f"uid-w{i}": told(running=n) for i, n in enumerate((3, 2, 7))}
    partly = {**busy, "uid-w0": told(running=3, hot_tokens=0)}
    assert first(hot) == ("w1", VictimReason.LOWEST_KV_VALUE)
    assert first(busy) == ("w1", VictimReason.FEWEST_RUNNING)
    assert first(partly) == ("w1", VictimReason.FEWEST_RUNNING)
    assert first({}) == ("w2", VictimReason.OLDEST_NODE)


def test_what_others_hold_too_does_not_keep_a_worker() -> None:
    blocks = {"w0": range(100), "w1": range(100), "w2": range(200, 240)}
    hot = {f"uid-{w}": told(hot_tokens=16 * len(b), hot_sketch=sample(b)) for w, b in blocks.items()}
    record = deployment(spec(scaling=scaling(min=1, maxStep=10)))
    made = decide(world(workers(3), traffic(0.0), record=record, telemetry=hot), settled(1))
    assert [v.pod.name for v in made.victims] == ["w0", "w2"], "with w0 gone, w1 holds the most that is unique"
    assert made.victims[0].message.startswith("0 hot tokens leave with it, with others up to 1600")
    hot["uid-w2"] = told(hot_tokens=640)
    assert decide(world(workers(3), traffic(0.0), telemetry=hot), settled(1)).victims[0].pod.name == "w2"


def test_a_protected_worker_is_passed_over_and_it_is_said() -> None:
    people = [worker("a", protected=True), worker("b")]
    made = decide(world(people, traffic(0.0)), settled(1))
    assert [v.pod.name for v in made.victims] == ["b"]
    assert "1 with do-not-drain passed over" in made.victims[0].message


def test_a_worker_on_a_leaving_node_is_replaced_before_it_drains() -> None:
    nodes = [NodeRecord("node-w0", START, leaving="cordoned")]
    first, memory = plan(world(workers(1), traffic(5.0), nodes=nodes), PlannerMemory(), START)
    assert (created(first.deployments[KEY]), first.deployments[KEY].victims) == (1, ())
    both = world([*workers(1), worker("new")], traffic(5.0), nodes=nodes)
    made = decide(both, memory, START + 30)
    assert [(v.pod.name, v.reason, v.drain) for v in made.victims] == [("w0", VictimReason.NODE_LEAVING, True)]
    assert created(made) == 0


def test_a_replacement_must_be_known_to_routers_before_the_old_worker_drains() -> None:
    nodes = [NodeRecord("node-w0", START, leaving="cordoned")]
    _, memory = plan(world(workers(1), traffic(5.0), nodes=nodes), PlannerMemory(), START)
    both = world([*workers(1), replace(worker("new"), first_ready=START + 25)], traffic(5.0), nodes=nodes)
    assert decide(both, memory, START + 30).victims == ()
    assert [v.pod.name for v in decide(both, memory, START + 36).victims] == ["w0"]


def test_a_node_that_leaves_by_itself_is_waited_for_half_a_minute() -> None:
    nodes = [NodeRecord("node-w0", START, leaving="taint aws-node-termination-handler/spot-itn")]
    snapshot = world([*workers(1), worker("s", WorkerPhase.STARTING)], traffic(5.0), nodes=nodes)
    first, memory = plan(snapshot, settled(1), START)
    assert first.deployments[KEY].victims == ()
    assert [v.pod.name for v in decide(snapshot, memory, START + 31).victims] == ["w0"]


def test_a_leaving_worker_that_blocks_its_own_replacement_goes_first() -> None:
    nodes = [NodeRecord("node-w0", START, leaving="cordoned")]
    types = [itype(limit={"accelerators": 2})]
    made = decide(world(workers(2), traffic(15.0), nodes=nodes, types=types))
    assert [v.pod.name for v in made.victims] == ["w0"]
    assert made.limited is Reason.CAPACITY_EXHAUSTED


def test_workers_of_a_removed_variant_go_once_others_serve() -> None:
    old = workers(2, prefix="o", variant="old")
    first = decide(world(old, traffic(5.0)))
    assert (created(first), first.victims) == (1, ())
    made = decide(world([*old, *workers(1)], traffic(5.0)))
    assert [(v.pod.name, v.reason) for v in made.victims] == [
        ("o0", VictimReason.VARIANT_REMOVED),
        ("o1", VictimReason.VARIANT_REMOVED),
    ]


def test_drains_are_cancelled_before_anything_is_created() -> None:
    away = workers(2, prefix="d", drain_reason=str(VictimReason.LOWEST_KV_VALUE))
    telemetry = {w.uid: told(cancellable=True) for w in away}
    made = decide(world([*workers(1), *away], traffic(20.0), telemetry=telemetry))
    assert ([k.name for k in made.cancels], created(made), made.desired) == (["d0", "d1"], 0, 3)


@pytest.mark.parametrize(
    ("reason", "cancellable"),
    [(VictimReason.LOWEST_KV_VALUE, False), (VictimReason.LOWEST_KV_VALUE, None), (VictimReason.NODE_LEAVING, True)],
)
def test_a_drain_that_cannot_or_must_not_be_cancelled_goes_on(reason: VictimReason, cancellable: bool | None) -> None:
    away = workers(1, prefix="d", drain_reason=str(reason))
    telemetry = {away[0].uid: told(cancellable=cancellable)}
    made = decide(world([*workers(1), *away], traffic(12.0), telemetry=telemetry))
    assert (made.cancels, created(made)) == ((), 1)


# -- failures and stock-outs ---------------------------------------------------------------------------------------


def test_a_failed_worker_is_replaced_at_once() -> None:
    people = [*workers(1), worker("f", WorkerPhase.FAILED, failure="container engine: CrashLoopBackOff")]
    made = decide(world(people, traffic(12.0)))
    assert [(v.pod.name, v.reason, v.drain) for v in made.victims] == [("f", VictimReason.FAILED, False)]
    assert (created(made), made.problems[0].reason) == (1, Reason.WORKER_START_FAILED)
    assert not made.problems[0].stalled


def test_failing_starts_are_tried_again_with_a_growing_back_off_only() -> None:
    failure = {"failure": "ImagePullBackOff: no such image", "failure_reason": "ImagePullBackOff"}
    people = workers(4, WorkerPhase.FAILED, **failure)
    record = deployment(spec(scaling=scaling(4, 8)))
    memory, now, tries = PlannerMemory(), START, []
    for i in range(600):
        snapshot = world(people, traffic(30.0, at=now), record=record)
        made, memory = plan(snapshot, memory, now)
        one = made.deployments[KEY]
        people = [w for w in people if w.uid not in {v.uid for v in one.victims}]
        people += workers(created(one), WorkerPhase.FAILED, prefix=f"n{i}-", first_seen=now, **failure)
        tries += [now - START] * created(one)
        now += 5
    assert len(tries) <= 9
    assert all(b - a >= 60 for a, b in itertools.pairwise(tries))
    assert (one.problems[0].reason, one.problems[0].stalled) == (Reason.IMAGE_PULL_FAILED, True)
    assert "no such image" in one.problems[0].message
    assert len(people) == 4


def test_a_new_generation_starts_anew() -> None:
    people = workers(4, WorkerPhase.FAILED)
    record = deployment(spec(scaling=scaling(4, 8)))
    _, memory = plan(world(people, traffic(30.0), record=record), PlannerMemory(), START)
    made = decide(world(people, traffic(30.0), record=replace(record, generation=2)), memory, START + 5)
    assert (created(made), len(made.victims)) == (4, 4)


def test_a_pod_without_a_node_is_kept_but_is_no_capacity() -> None:
    stuck = worker("u", WorkerPhase.UNSCHEDULED, unschedulable_since=START - 121)
    made = decide(world([*workers(1), stuck], traffic(12.0)))
    assert (made.victims, created(made), made.desired) == ((), 0, 2)
    assert [p.reason for p in made.problems] == [Reason.NO_CAPACITY]
    assert "worker" in made.problems[0].message


def test_another_type_takes_over_when_one_is_out_of_stock() -> None:
    kinds = [itype("h100"), itype("l40s", "L40S", price=80.0)]
    record = deployment(spec(variants=[variant("main"), variant("b", "l40s")], scaling=scaling(1, 2)))
    stuck = worker("u", WorkerPhase.UNSCHEDULED, unschedulable_since=START - 121)
    made, memory = plan(world([*workers(1), stuck], traffic(12.0), record=record, types=kinds), PlannerMemory(), START)
    one = made.deployments[KEY]
    assert {v.name: v.create for v in one.variants} == {"main": 0, "b": 1}
    assert [v.pod.name for v in one.victims] == ["u"], "at max, the stuck one makes room"
    later = decide(world(workers(1), traffic(12.0, at=START + 5), record=record, types=kinds), memory, START + 5)
    assert {v.name: v.create for v in later.variants} == {"main": 0, "b": 1}, "the type is left alone for a while"


# -- mix -----------------------------------------------------------------------------------------------------------


def test_the_cheapest_capacity_is_bought_and_the_last_worker_is_the_smallest_that_covers() -> None:
    kinds = [itype("h100", price=32.0), itype("l40s", "L40S", price=12.0)]
    record = deployment(spec(variants=[variant("big", "h100", 10.0), variant("small", "l40s", 3.0)]))
    made = decide(world([], traffic(27.0 * 0.85 / 1.2), record=record, types=kinds))
    assert {v.name: v.create for v in made.variants} == {"big": 2, "small": 1}


def test_equal_prices_go_to_the_first_of_the_spec() -> None:
    kinds = [itype("a"), itype("b")]
    record = deployment(spec(variants=[variant("x", "b"), variant("y", "a")]))
    assert {v.name: v.create for v in decide(world([], traffic(25.0), record=record, types=kinds)).variants} == {
        "x": 3, "y": 0,
    }  # fmt: skip


def test_variant_minima_and_maxima_hold() -> None:
    kinds = [itype("a"), itype("b", price=64.0)]
    variants = [variant("x", "a", max=2), variant("y", "b", min=1)]
    made = decide(world([], traffic(40.0), record=deployment(spec(variants=variants)), types=kinds))
    assert {v.name: v.create for v in made.variants} == {"x": 2, "y": 3}


def test_short_accelerators_are_shared_fairly() -> None:
    keys = [Key("team-a", "x"), Key("team-b", "y"), Key("team-c", "z")]
    records = {k: deployment(key=k) for k in keys}
    demand = dict(zip(keys, (traffic(80.0), traffic(40.0), traffic(1.0)), strict=True))
    kinds = {"h100": itype(limit={"accelerators": 8})}
    made, _ = plan(FleetSnapshot(records, kinds, demand=demand), PlannerMemory(), START)
    assert {k.name: created(p) for k, p in made.deployments.items()} == {"x": 5, "y": 2, "z": 1}
    assert [made.deployments[k].limited for k in keys] == [Reason.CAPACITY_EXHAUSTED] * 2 + [None]
    assert made.deployments[keys[0]].chosen_by is ChosenBy.CAPACITY_LIMIT


def test_a_namespace_gets_no_more_than_its_share() -> None:
    limit = {"accelerators": 100, "namespaces": [{"namespace": "team-a", "accelerators": 2}]}
    made = decide(world(workers(1), traffic(90.0), types=[itype(limit=limit)]))
    assert (created(made), made.limited) == (1, Reason.CAPACITY_EXHAUSTED)


def test_pods_on_their_way_out_still_hold_their_accelerators() -> None:
    people = [*workers(1), worker("d", drain_reason="NodeLeaving")]
    made = decide(world(people, traffic(90.0), types=[itype(limit={"accelerators": 2})]))
    assert created(made) == 0


# -- variants that cannot be planned -------------------------------------------------------------------------------


def _trouble(variants: list[dict[str, object]], **changes: object) -> tuple[Reason, str, bool, int]:
    kinds = [itype("h100"), itype("l4", "L4", count=1, price=1.0)]
    record = deployment(spec(variants=variants, **changes))
    made = decide(world([], traffic(1.0), record=record, types=kinds))
    problem = made.problems[0]
    return problem.reason, problem.message, problem.stalled, made.desired


def test_an_unknown_instance_type_is_named_and_the_rest_is_planned() -> None:
    reason, message, stalled, desired = _trouble([variant("a", "b300"), variant("b")])
    assert (reason, stalled, desired) == (Reason.UNKNOWN_INSTANCE_TYPE, False, 1)
    assert message == "variants[a].instanceType: there is no InstanceType b300; create it or name one of: h100, l4"
    assert _trouble([variant("a", "b300")])[2:] == (True, 0)


@pytest.mark.parametrize(
    ("model", "changes", "reason", "words"),
    [
        ("llama-3.1-8b", {"tensorParallel": 16}, Reason.VARIANT_CANNOT_FIT, "more than the 8 accelerators"),
        ("llama-3.1-70b", {}, Reason.VARIANT_CANNOT_FIT, "do not fit 1 x H100-SXM"),
        ("phi-99", {}, Reason.NO_PERFORMANCE_DATA, "set variants[a].performance, or model.profile to one of"),
        ("llama-3.1-8b", {"pipelineParallel": 2}, Reason.NO_PERFORMANCE_DATA, "pipelineParallel 2"),
        ("llama-3.1-8b", {"instanceType": "l4"}, Reason.VARIANT_CANNOT_FIT, "meets slo.ttft"),
    ],
)
def test_a_variant_that_cannot_serve_is_explained(
    model: str, changes: dict[str, object], reason: Reason, words: str
) -> None:
    body = {"name": model, "source": {"hf": {"repo": "x/y"}}}
    slo = {"ttft": "30ms" if changes.get("instanceType") else "2s", "tpot": "50ms"}
    found = _trouble([variant("a", rps=None) | changes, variant("b", tensorParallel=8)], model=body, slo=slo)
    assert (found[0], found[2], found[3]) == (reason, False, 1)
    assert words in found[1]
    assert found[1].startswith("variants[a]")


def test_a_context_beyond_the_cache_is_explained() -> None:
    body = {"name": "llama-3.1-8b", "source": {"hf": {"repo": "x/y"}}, "maxModelLen": 1_000_000}
    reason, message, stalled, _ = _trouble([variant("a", rps=None)], model=body)
    assert (reason, stalled) == (Reason.VARIANT_CANNOT_FIT, True)
    assert "model.maxModelLen 1000000 is more than the 432992 tokens" in message


def test_without_performance_data_the_fleet_is_held_as_it_is() -> None:
    body = {"name": "phi-99", "source": {"hf": {"repo": "x/y"}}}
    record = deployment(spec(model=body, variants=[variant(rps=None)]))
    made = decide(world(workers(3), traffic(0.0), record=record), settled(1))
    assert (made.desired, made.victims, made.chosen_by) == (3, (), ChosenBy.INVALID)


def test_when_nothing_meets_the_slo_serving_late_is_better_than_not_serving() -> None:
    record = deployment(spec(variants=[variant(rps=None)], slo={"ttft": "10ms", "tpot": "1ms"}))
    made = decide(world(workers(1), traffic(5.0), record=record))
    assert created(made) > 0
    assert made.problems[0].reason is Reason.VARIANT_CANNOT_FIT


def test_the_performance_model_is_used_without_an_override() -> None:
    made = decide(world([], traffic(50.0), record=deployment(spec(variants=[variant(rps=None)]))))
    assert made.variants[0].requests_per_second == pytest.approx(26.6, rel=0.1)
    assert made.variants[0].cost_per_hour == pytest.approx(4.0)
    assert created(made) == 3


def test_a_variant_s_minimum_stays() -> None:
    kinds = [itype("h100"), itype("l40s", "L40S")]
    record = deployment(spec(variants=[variant("main"), variant("b", "l40s", min=1)], scaling=scaling(maxStep=9)))
    people = [*workers(2), worker("z", variant="b", instance_type="l40s", first_seen=0.0)]
    made = decide(world(people, traffic(0.0), record=record, types=kinds), settled(1))
    assert {v.name: v.desired for v in made.variants} == {"main": 0, "b": 1}


def test_a_drain_is_not_cancelled_beyond_max() -> None:
    record = deployment(spec(scaling=scaling(1, 2)))
    away = workers(2, prefix="d", drain_reason=str(VictimReason.OLDEST_NODE))
    telemetry = {w.uid: told(cancellable=True) for w in away}
    made = decide(world([*workers(1), *away], traffic(90.0), record=record, telemetry=telemetry))
    assert (len(made.cancels), made.desired, made.chosen_by) == (1, 2, ChosenBy.MAX)


def test_a_worker_stays_when_the_hits_it_takes_along_would_be_missed() -> None:
    record = deployment(spec(variants=[variant(rps=None)]))
    shape = {"input_tokens": 4000.0, "output_tokens": 50.0, "hit_ratio": 0.9}
    warm = decide(world(workers(2), traffic(1.0, **shape), record=record), settled(1))
    rate = warm.variants[0].requests_per_second
    assert rate is not None
    assert len(warm.victims) == 1
    fits_only_while_warm = rate * 0.70 * 0.99
    made = decide(world(workers(2), traffic(fits_only_while_warm, **shape), record=record), settled(1))
    assert (made.victims, made.chosen_by) == ((), ChosenBy.HOLD)


def test_a_restart_resumes_the_window_where_it_was() -> None:
    memory = settled(1, wants=((START - 200, 5), (START - 1, 1))).deployments[KEY]
    loaded = PlannerMemory({KEY: checkpoint.load(checkpoint.dump(memory, START), 7.0)})

    def later(seconds: float) -> ChosenBy:
        at = 7.0 + seconds
        return decide(world(workers(5), traffic(0.0, at=at)), loaded, at).chosen_by

    assert (later(95.0), later(105.0)) == (ChosenBy.STABILIZING, ChosenBy.REACTIVE_DOWN)
