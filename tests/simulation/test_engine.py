"""The fluid engine against cases that can be worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warmfleet_contracts.traces import FloatArray, RateTrace, TraceError
from warmfleet_simulation.engine import simulate
from warmfleet_simulation.fleet import Counts, Disturbance, Fleet, Load, Service, SloClass, WorkerType, calm, make_load
from warmfleet_simulation.outcome import Lane, wait_quantile
from warmfleet_simulation.policy import Knob, Observation, Stepper
from warmfleet_simulation.rivals import RIVALS

from .conftest import constant


@dataclass
class Script:
    """Wants a given number of workers from given times on: a policy for tests."""

    plan: dict[float, list[int]]
    name: str = "script"
    knob: Knob = Knob("none", 1.0, more_is_safer=True)  # noqa: RUF009
    seen: list[Observation] | None = None

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:
        return self

    def step(self, seen: Observation) -> Counts | None:
        if self.seen is not None:
            self.seen.append(replace(seen, ready=seen.ready.copy(), starting=seen.starting.copy()))
        wanted = self.plan.get(seen.time)
        return None if wanted is None else np.array([[wanted]], dtype=np.int64)

    def why(self, lane: int, service: int) -> str:
        return "as written"


def flat(fleet: Fleet, per_step: list[float], step_s: float = 10.0) -> Load:
    arrivals = np.array(per_step)[:, None, None]
    ones = np.ones((len(per_step), 1))
    score = np.ones(len(per_step), dtype=np.bool_)
    return Load("flat", step_s, arrivals, ones, ones, ones, score, score)


def one(fleet: Fleet, load: Load, plan: dict[float, list[int]], wrong: Disturbance | None = None) -> Lane:
    return simulate(fleet, load, [(Script(plan), np.ones(1))], seed=1, disturbance=wrong, keep_actions=True)[0]


def test_cost_is_workers_times_time_with_start_and_drain(one_type: Fleet) -> None:
    load = flat(one_type, [0.0] * 20)
    lane = one(one_type, load, {0.0: [1], 50.0: [3], 150.0: [1]})
    # $3.6/h is $0.01 per 10 s; two more for 10 steps, and 30 s of drain for each of them.
    assert lane.score.cost == pytest.approx(20 * 0.01 + 2 * 10 * 0.01 + 2 * 0.03)
    assert lane.scale_actions == 2
    assert lane.workers[10:16].tolist() == [1, 3, 3, 3, 3, 1]  # asked for at 50 s, 60 s to start
    assert [(a.time, a.before, a.after) for a in lane.actions] == [(50.0, 1, 3), (150.0, 3, 1)]
    assert lane.actions[0].reason == "as written"


def test_a_queue_makes_those_behind_it_late_and_the_impatient_leave(one_type: Fleet) -> None:
    # One worker serves 10 per step; 40 come in the first step and 10 in each of the next ones.
    load = flat(one_type, [40.0] + [10.0] * 11)
    lane = one(one_type, load, {0.0: [1]})
    # Number n comes at n/4 s and is served at n s: on time up to n = 40/3. The queue stays 30 s long after that.
    assert lane.score.attainment == pytest.approx(40 / 3 / 150)
    assert lane.score.lost == 0.0
    hurried = replace(one_type, services=(Service("chat", (1.0,), (SloClass(patience_s=20.0),)),))
    lost = one(hurried, load, {0.0: [1]}).score.lost
    assert lost == pytest.approx(10.0)  # 30 s long when the patience of the first 40 ends; then 20 s long


def test_enough_workers_serve_everything_in_time(one_type: Fleet) -> None:
    lane = one(one_type, flat(one_type, [10.0] * 50), {0.0: [1]})
    assert lane.score.attainment == 1.0
    assert lane.score.lost == 0.0


def test_starting_workers_are_cancelled_before_serving_ones(one_type: Fleet) -> None:
    load = flat(one_type, [0.0] * 20)
    lane = one(one_type, load, {0.0: [2], 20.0: [6], 40.0: [3]})
    # One from the beginning, one more 60 s after the first step, and one of the four of 20 s; three were cancelled.
    assert lane.workers[:10].tolist() == [1] * 6 + [2] * 2 + [3] * 2
    assert lane.workers.max() == 3
    assert lane.paid.max() == 6


def test_a_stock_out_refuses_and_grants_later(one_type: Fleet) -> None:
    load = flat(one_type, [0.0] * 30)
    wrong = calm(30, one_type)
    out = wrong.stocked_out.copy()
    out[:10] = True
    script = Script({0.0: [1], 20.0: [4]}, seen=[])
    lane = simulate(one_type, load, [(script, np.ones(1))], seed=1, disturbance=replace(wrong, stocked_out=out))[0]
    assert script.seen is not None
    assert lane.paid[:10].max() == 1
    assert lane.paid[11] == 4
    assert lane.workers[15] == 1
    assert lane.workers[17] == 4


def test_limits_bind_and_the_first_service_goes_first() -> None:
    fleet = Fleet((WorkerType("h100", startup_s=10.0, limit=5),), (Service("a", (1.0,)), Service("b", (1.0,))))
    ones = np.ones((10, 2))
    score = np.ones(10, dtype=np.bool_)
    load = Load("two", 10.0, np.zeros((10, 2, 1)), ones, ones, ones, score, score)

    @dataclass
    class Both(Script):
        def step(self, seen: Observation) -> Counts | None:
            return np.array([[[4], [4]]], dtype=np.int64)

    lane = simulate(fleet, load, [(Both({}), np.ones(1))], seed=1)[0]
    assert lane.paid[-1] == 5


def test_interruptions_take_ready_workers_and_they_are_started_again(one_type: Fleet) -> None:
    load = flat(one_type, [0.0] * 30)
    wrong = calm(30, one_type)
    hit = wrong.interrupted.copy()
    hit[10] = 0.5
    lane = one(one_type, load, {0.0: [4]}, replace(wrong, interrupted=hit))
    assert lane.workers[8:18].tolist() == [4, 4, 2, 2, 2, 2, 2, 2, 4, 4]


def test_urgent_classes_are_served_first() -> None:
    kinds = (SloClass("now", 0.5, 10.0, 1000.0), SloClass("later", 0.5, 10.0, 1000.0))
    fleet = Fleet((WorkerType("h100", startup_s=10.0),), (Service("chat", (1.0,), kinds),))
    ones = np.ones((20, 1))
    score = np.ones(20, dtype=np.bool_)
    load = Load("classes", 10.0, np.full((20, 1, 2), 10.0), ones, ones, ones, score, score)
    lane = one(fleet, load, {0.0: [1]})
    assert lane.score.by_class[0, 0] == 1.0
    assert lane.score.by_class[0, 1] < 0.3


def test_the_same_seed_gives_the_same_run(one_type: Fleet) -> None:
    load = make_load((constant(600, 20.0),), one_type, seed=4, tune_days=0.2)
    runs = [(p, p.knob.values((0.7, 1.0))) for p in RIVALS.values()]
    first, second = (simulate(one_type, load, runs, seed=9) for _ in range(2))
    assert [(a.score.cost, a.score.on_time) for a in first] == [(b.score.cost, b.score.on_time) for b in second]


def test_progress_is_told_from_the_first_step_to_the_last(one_type: Fleet) -> None:
    told: list[tuple[int, int]] = []
    load = flat(one_type, [1.0] * 1000)
    simulate(one_type, load, [(Script({0.0: [1]}), np.ones(1))], seed=1, progress=lambda *now: told.append(now))
    assert told[0] == (0, 1000)
    assert told[-1] == (1000, 1000)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert 100 <= len(told) <= 300


def test_where_no_requests_are_known_tokens_are_the_demand(one_type: Fleet) -> None:
    minutes = np.arange(60, dtype=np.int64)
    tokens = np.where(minutes < 30, 600.0, 1200.0)
    trace = RateTrace("tokens", minutes, None, tokens, None, minutes == 5)
    load = make_load((trace,), one_type, seed=1, step_s=60.0, tune_days=0.0)
    assert load.unit == "input tokens"
    assert load.arrivals[[0, 59], 0, 0].tolist() == [
        600.0,
        1200.0,
    ]  # as they are: single tokens do not arrive by chance
    assert np.flatnonzero(~load.score).tolist() == [5]


def test_lanes_do_not_touch_each_other(one_type: Fleet) -> None:
    load = make_load((constant(120, 20.0),), one_type, seed=4, tune_days=0.05)
    for policy in RIVALS.values():
        knobs = policy.knob.values((0.7, 1.0, 1.4))
        together = simulate(one_type, load, [(policy, knobs)], seed=9)
        alone = [simulate(one_type, load, [(policy, knobs[i : i + 1])], seed=9)[0] for i in range(len(knobs))]
        assert [lane.score.cost for lane in together] == [lane.score.cost for lane in alone], policy.name


@settings(max_examples=40, deadline=None)
@given(
    arrivals=st.lists(st.floats(0, 60), min_size=2, max_size=25),
    plan=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    patience=st.sampled_from([20.0, 60.0]),
)
def test_nothing_is_served_twice_or_out_of_nothing(arrivals: list[float], plan: list[int], patience: float) -> None:
    fleet = Fleet(
        (WorkerType("h100", price=3.6, startup_s=30.0),), (Service("c", (1.0,), (SloClass(patience_s=patience),)),)
    )
    lane = one(fleet, flat(fleet, arrivals), {10.0 * i: [n] for i, n in enumerate(plan)})
    score = lane.score
    assert score.requests == pytest.approx(sum(arrivals))
    assert 0.0 <= score.on_time <= score.requests + 1e-9
    assert score.on_time + score.lost <= score.requests + 1e-6
    assert (lane.workers <= lane.paid).all()


def test_gaps_are_bridged_and_not_scored(one_type: Fleet) -> None:
    minutes = np.arange(100, dtype=np.int64)
    missing = (minutes >= 40) & (minutes < 60)
    requests = np.where(missing, np.nan, 60.0)
    trace = RateTrace("g", minutes, requests, None, None, missing)
    load = make_load((trace,), one_type, seed=1, step_s=60.0, tune_days=0.01)
    assert not load.score[40:60].any()
    assert load.score[60:].all()
    assert load.arrivals[40:60].sum() > 0
    with pytest.raises(TraceError, match="does not divide a minute"):
        make_load((trace,), one_type, seed=1, step_s=7.0)


def test_queueing_time_by_hand(one_type: Fleet) -> None:
    load = flat(one_type, [10.0, 0.0, 0.0, 30.0])
    heads = np.array([0.0, 5.0, 10.0, 10.0, 40.0])[:, None, None, None]
    # The first ten are served one step after they came, the other thirty within theirs.
    assert wait_quantile(load, heads, 0, 0.99)[0] == pytest.approx(10.0)
    assert wait_quantile(load, heads, 0, 0.7)[0] == pytest.approx(0.0)
