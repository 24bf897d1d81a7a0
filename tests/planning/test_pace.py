"""The prefix cache sets the pace of departures: the retained hit ratio, and what a worker's cache is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from planning_specs import KEY, scaling, spec
from planning_specs import deployment as simple
from planning_world import START, Cluster, told, traffic, worker, workers, world
from warmfleet_contracts.reasons import ChosenBy
from warmfleet_operator.planning import pace
from warmfleet_operator.state import checkpoint
from warmfleet_operator.state.memory import DeploymentMemory
from warmfleet_operator.state.revisions import revisions

TICK = 10.0
DOWN = {"maxStep": 10, "stabilizationWindow": "60s", "stepPeriod": "10s"}


def run(floor: float | None, *, there: int = 8, seconds: float = 3600.0, **changes: Any) -> tuple[Cluster, list[float]]:
    """A fleet whose traffic has fallen: the modelled retained ratio after every tick."""
    cache = {} if floor is None else {"kvCache": {"minRetainedHitRatio": floor}}
    record = simple(spec(scaling=scaling(1, 20, **DOWN), **cache, **changes))
    fleet, retained = Cluster(world(workers(there), traffic(1.0), record=record)), []
    while fleet.now < START + seconds:
        at = fleet.now + TICK
        answers = {w.uid: told(hot_tokens=1000) for w in fleet.snapshot.workers}
        fleet.snapshot = replace(fleet.snapshot, telemetry=answers)
        fleet.tick(TICK, {KEY: traffic(1.0, at=at, hit_ratio=0.5)})
        retained.append(pace.modelled(fleet.memory.deployments[KEY], fleet.now))
    return fleet, retained


def test_departures_keep_the_retained_ratio_above_the_floor_and_go_on() -> None:
    hasty, dip = run(None, seconds=900.0)
    assert hasty.serving() == 1
    assert min(dip) < 0.5
    slow, kept = run(0.8)
    assert min(kept[:120]) >= 0.8
    assert slow.serving() < 8
    # Of 3 workers one holds a third: more than the floor leaves room for, so it goes alone and the next one waits.
    assert min(kept) >= 0.5
    assert slow.serving() <= 3


def test_the_wait_is_named() -> None:
    fleet, _ = run(0.8, seconds=200.0)
    made = fleet.last.deployments[KEY]
    assert made.chosen_by is ChosenBy.CACHE_RETENTION
    assert "minRetainedHitRatio is 0.8" in made.message
    assert 0.8 <= made.figures["retained"] < 1.0


def test_a_fall_of_the_measured_ratio_stops_what_the_model_would_allow() -> None:
    memory = DeploymentMemory("u", losses=((START - 200.0, 0.1),), hits_before=0.6)
    people = [worker(f"w{i}") for i in range(10)]
    calm = pace.measure(0.7, 0.58, people, {}, memory, START)
    fallen = pace.measure(0.7, 0.30, people, {}, memory, START)
    assert calm.allows(people[0], 0.0)
    assert not fallen.allows(people[0], 0.0)
    assert pace.left(memory, [], 0.3, START + 3000.0).losses == ()


def test_room_is_for_what_is_younger_than_what_it_pushes_out() -> None:
    full, roomy = told(evicted_after=300.0), told()
    assert pace.room_for([full] * 4, 4) == 75.0, "half of where both would be equally old"
    assert pace.room_for([full] * 6, 2) == 112.5
    assert pace.room_for([full, full, roomy, None], 1) is None, "half of them have room"
    assert pace.room_for([full, full, full, None], 4) == 75.0
    assert pace.room_for([], 3) is None


@pytest.mark.parametrize("ratio", [None, 0.0, 0.5])
def test_where_nothing_is_cached_nothing_waits(ratio: float | None) -> None:
    people = [worker("a"), worker("b")]
    found = pace.measure(0.99, ratio, people, {}, DeploymentMemory("u", losses=((START, 0.4),)), START)
    assert found.allows(people[0], 0.0) == (ratio == 0.0)


def test_shares_follow_hot_tokens_where_all_are_known() -> None:
    people = [worker("a"), worker("b")]
    both = {"uid-a": told(hot_tokens=900), "uid-b": told(hot_tokens=100)}
    known = pace.measure(0.8, 0.5, people, both, DeploymentMemory("u"), START)
    assert (known.share(people[0]), known.share(people[1])) == (0.9, 0.1)
    partly = pace.measure(0.8, 0.5, people, {"uid-a": told(hot_tokens=900)}, DeploymentMemory("u"), START)
    assert partly.share(people[1]) == 0.5


def test_a_large_cache_leaves_once_its_worker_has_not_been_needed_for_as_long_as_it_takes_to_recompute() -> None:
    record = simple(spec(scaling=scaling(1, 20, **DOWN)))
    fleet = Cluster(world(workers(2), traffic(1.0), record=record))
    gone = None
    while gone is None:
        fleet.snapshot = replace(
            fleet.snapshot, telemetry={w.uid: told(hot_tokens=8_000_000) for w in fleet.snapshot.workers}
        )
        fleet.tick(TICK, {KEY: traffic(1.0, at=fleet.now + TICK)})
        gone = fleet.now - START if fleet.removed else None
        if fleet.now == START + 400.0:
            assert fleet.last.deployments[KEY].chosen_by is ChosenBy.CACHE_RETENTION
    assert 780.0 <= gone <= 840.0, "8 M tokens at 10 req/s of 1,000 tokens"


def test_a_rollout_is_paced_too() -> None:
    old = {"image": "vllm:1"}
    body = spec(engine=old, replicas=4, kvCache={"minRetainedHitRatio": 0.8})
    people = workers(4, revision=revisions(body)["main"])
    fleet = Cluster(world(people, None, record=simple(body, revisions=revisions(body))), startup=10.0, drain=5.0)
    newer = spec(engine={"image": "vllm:2"}, replicas=4, kvCache={"minRetainedHitRatio": 0.7})
    record = simple(newer, revisions=revisions(newer), generation=2)
    fleet.snapshot = replace(fleet.snapshot, deployments={KEY: record})
    lowest = 1.0
    while fleet.removed < 4:
        fleet.tick(TICK, {KEY: traffic(1.0, at=fleet.now + TICK, hit_ratio=0.5)})
        lowest = min(lowest, pace.modelled(fleet.memory.deployments[KEY], fleet.now))
    assert 0.7 <= lowest < 0.8
    assert fleet.now - START > 400.0


def test_losses_survive_a_restart() -> None:
    memory = DeploymentMemory("u", losses=((START - 100.0, 0.25), (START, 0.5)), hits_before=0.4)
    again = checkpoint.load(checkpoint.dump(memory, START), 50.0)
    assert again.losses == ((-50.0, 0.25), (50.0, 0.5))
    assert again.hits_before == 0.4
