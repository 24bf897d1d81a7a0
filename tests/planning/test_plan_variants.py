"""Failed starts, stock-outs, the mix of types, and variants that cannot be planned: one sentence each."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from planning_specs import KEY, deployment, itype, scaling, spec, variant
from planning_world import START, created, decide, settled, told, traffic, worker, workers, world
from warmfleet_contracts.reasons import ChosenBy, Reason, VictimReason
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state import checkpoint
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import FleetSnapshot, Key, WorkerPhase


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


def test_variants_of_one_type_share_its_limit() -> None:
    kinds = [itype(limit={"accelerators": 20})]
    variants = [variant(rps=10.0), variant("b", rps=15.0, tensorParallel=2)]
    record = deployment(spec(variants=variants, scaling=scaling(high=11)))
    made = decide(world([], traffic(1000.0), record=record, types=kinds))
    assert {v.name: v.create for v in made.variants} == {"main": 2, "b": 9}, "not 1 and 10"


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
