"""The planner and a made-up cluster over a synthetic day."""

from __future__ import annotations

import math
import random

import pytest
from planning_specs import KEY, itype, scaling, spec
from planning_specs import deployment as simple
from planning_world import Cluster, traffic, workers, world

TICK = 15.0


def _cluster(there: int, startup: float, high: int = 60) -> Cluster:
    record = simple(spec(scaling=scaling(1, high, maxStep=2)))
    snapshot = world(workers(there), traffic(0.0), record=record, types=[itype(startup=startup)])
    return Cluster(snapshot, startup=startup, drain=30.0)


def test_over_a_day_capacity_covers_demand_with_few_actions() -> None:
    dice, fleet = random.Random(5), _cluster(4, startup=120.0)
    short = total = worker_ticks = 0.0
    ticks = int(86_400 / TICK)
    for i in range(ticks):
        hour = i * TICK / 3600
        demand = 90 + 70 * math.sin(2 * math.pi * (hour - 9) / 24) + dice.gauss(0, 4)
        fleet.tick(TICK, {KEY: traffic(max(0.0, demand), at=fleet.now + TICK)})
        short += max(0.0, demand - 10.0 * fleet.serving())
        total += demand
        worker_ticks += fleet.serving()
    assert short / total < 0.002
    assert fleet.created + fleet.removed <= 80, "up by about 17 and down again, and a little noise"
    assert worker_ticks * 10.0 / total < 1.55, "the margins are 0.70 and 0.85"


@pytest.mark.parametrize("level", [12.0, 55.0, 140.0])
def test_noise_of_a_fifth_does_not_make_the_fleet_flap(level: float) -> None:
    dice, fleet = random.Random(7), _cluster(2, startup=60.0)
    actions = 0
    for i in range(2000):
        if i == 200:
            actions = fleet.created + fleet.removed
        demand = level * dice.uniform(0.8, 1.2)
        fleet.tick(TICK, {KEY: traffic(demand, at=fleet.now + TICK, input_tokens=1000 * dice.uniform(0.8, 1.2))})
    assert fleet.created + fleet.removed - actions <= 1


def test_a_jump_to_the_double_is_bought_at_once_and_kept_through_the_dip() -> None:
    fleet = _cluster(6, startup=60.0)
    for i in range(40):
        fleet.tick(TICK, {KEY: traffic(45.0 if i < 10 else 110.0, at=fleet.now + TICK)})
    assert fleet.serving() == 13
    for _ in range(12):
        fleet.tick(TICK, {KEY: traffic(30.0, at=fleet.now + TICK)})
    assert fleet.removed == 0, "three minutes are shorter than the window"


def test_a_long_queue_buys_what_it_takes_and_no_more() -> None:
    fleet, queue = _cluster(2, startup=60.0), 0.0
    for _ in range(120):
        served = 10.0 * fleet.serving()
        queue = max(0.0, queue + (40.0 - served) * TICK)
        fleet.tick(TICK, {KEY: traffic(40.0, at=fleet.now + TICK, queue=int(queue))})
    assert queue == 0
    assert fleet.created <= 40


def test_two_fleets_that_share_too_few_accelerators_both_keep_serving() -> None:
    other = KEY._replace(name="other")
    kind = itype(limit={"accelerators": 10})
    first = world([], None, types=[kind])
    both = {KEY: simple(), other: simple(key=other)}
    fleet = Cluster(
        type(first)(both, {"h100": kind}),
        startup=30.0,
    )
    for _ in range(80):
        at = fleet.now + TICK
        fleet.tick(TICK, {KEY: traffic(90.0, at=at), other: traffic(45.0, at=at)})
        assert len(fleet.snapshot.workers) <= 10
    by_name = [sum(w.deployment == k.name for w in fleet.snapshot.workers) for k in (KEY, other)]
    assert by_name == [7, 3]
