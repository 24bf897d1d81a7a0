"""Who leaves, when, and what keeps a worker: one sentence each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning_specs import KEY, deployment, itype, scaling, spec
from planning_world import START, created, decide, settled, told, traffic, worker, workers, world
from warmfleet_contracts.reasons import Reason, VictimReason
from warmfleet_contracts.sketch import sample
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import NodeRecord, WorkerPhase


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


def test_a_worker_that_cannot_keep_its_conversations_leaves_while_others_have_room() -> None:
    def first(*ages: float | None, handover: str = "migrate") -> tuple[str, VictimReason]:
        hot = {f"uid-w{i}": told(hot_tokens=(i + 1) * 10, evicted_after=age) for i, age in enumerate(ages)}
        record = deployment(spec(kvCache={"handover": [handover]}))
        victim = decide(world(workers(4), traffic(0.0), telemetry=hot, record=record), settled(1)).victims[0]
        return victim.pod.name, victim.reason

    assert first(400.0, 300.0, 500.0, 60.0) == ("w3", VictimReason.CROWDED), "although it holds the most"
    assert first(100.0, 90.0, 110.0, 60.0) == ("w0", VictimReason.LOWEST_KV_VALUE), "all are as full"
    assert first(900.0, 900.0, 900.0, 100.0) == ("w0", VictimReason.LOWEST_KV_VALUE), "not asked for again so soon"
    assert first(None, None, None, 60.0) == ("w0", VictimReason.LOWEST_KV_VALUE), "the others may just not be full yet"
    assert first(None, None, 400.0, 60.0) == ("w3", VictimReason.CROWDED)
    kept = first(400.0, 300.0, 500.0, 60.0, handover="none")
    assert kept == ("w0", VictimReason.LOWEST_KV_VALUE), "all that it holds would be lost"


def test_of_a_crowded_worker_it_is_said_why_it_leaves() -> None:
    hot = {f"uid-w{i}": told(hot_tokens=10, evicted_after=age) for i, age in enumerate((400.0, 45.4))}
    record = deployment(spec(kvCache={"handover": ["replay"]}))
    made = decide(world(workers(2), traffic(0.0), telemetry=hot, record=record), settled(1))
    assert made.victims[0].message == "it evicts what was used 45 s ago, others keep it for longer"


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
