"""Rivals and the adapter of the shipped planner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from warmfleet_contracts.leadwindow import LeadWindowTable
from warmfleet_contracts.traces import FloatArray
from warmfleet_simulation.engine import simulate
from warmfleet_simulation.fleet import Fleet, Service, WorkerType, calm, make_load
from warmfleet_simulation.foreknown import Foreknown
from warmfleet_simulation.ours import Ours, Reactive, nothing, shipped
from warmfleet_simulation.policy import GRID, Base, Observation, Policy
from warmfleet_simulation.rivals import RIVALS
from warmfleet_simulation.rivals.sageserve import ForecastFault, SageServe
from warmfleet_simulation.scenarios import priorities, synthetic
from warmfleet_simulation.sweep import cost_at, crossing, rows, sweep, tuned

from .conftest import constant

ALL: list[Policy] = [*RIVALS.values(), Reactive(), Ours()]


def seen(
    time: float, *, ready: int, starting: int = 0, rate: float = 0.0, queue: float = 0.0, kv: float = 0.0
) -> Observation:
    full = np.array([[kv / 0.9]])
    return Observation(
        time=time,
        arrivals=np.array([rate]),
        input_tokens=np.ones(1),
        output_tokens=np.ones(1),
        queue=np.array([[queue]]),
        running=np.array([[kv / 0.9 * 64 * ready]]),
        utilisation=full,
        kv_usage=np.array([[kv]]),
        ready=np.array([[[ready]]]),
        starting=np.array([[[starting]]]),
        refused=np.zeros((1, 1, 1), dtype=np.int64),
    )


def wanted(policy: Policy, fleet: Fleet, *observations: Observation) -> int:
    stepper = policy.start(fleet, np.array([policy.knob.default]), 15.0, np.full((10, 1), 8.0))
    answers = [stepper.step(o) for o in observations]
    last = next(a for a in reversed(answers) if a is not None)
    return int(last[0, 0, 0])


@pytest.mark.parametrize("policy", ALL, ids=lambda p: p.name)
def test_more_traffic_never_means_fewer_workers_in_the_end(policy: Policy, one_type: Fleet) -> None:
    if policy.name in ("static-peak", "hpa-queue"):
        pytest.skip("fixed, or blind between queues: its formula does not have this property")
    sizes = []
    for rate in (5.0, 20.0):
        load = make_load((constant(240, rate),), one_type, seed=2, tune_days=0.05)
        lane = simulate(one_type, load, [(policy, np.array([policy.knob.default]))], seed=2)[0]
        sizes.append(float(lane.paid[-200:].mean()))
    assert sizes[1] > 1.5 * sizes[0]


def test_hpa_follows_its_formula(one_type: Fleet) -> None:
    hpa = RIVALS["hpa-kv"]
    assert wanted(hpa, one_type, seen(0.0, ready=10, kv=0.85)) == 10  # inside the tolerance
    assert wanted(hpa, one_type, seen(0.0, ready=20, kv=1.0)) == 25
    assert wanted(hpa, one_type, seen(0.0, ready=10, starting=15, kv=1.0)) == 25  # unready pods count as idle
    assert wanted(hpa, one_type, seen(0.0, ready=10, kv=0.4), seen(15.0, ready=10, kv=0.2)) == 5  # window keeps 5
    queue = RIVALS["hpa-queue"]
    assert wanted(queue, one_type, seen(0.0, ready=10, queue=100.0)) == 20
    assert wanted(queue, one_type, seen(0.0, ready=2, queue=1000.0)) == 6  # at most 4 pods or 100 %


def test_knative_panics_and_does_not_shrink_in_panic(one_type: Fleet) -> None:
    kpa = RIVALS["knative-kpa"]
    burst = seen(0.0, ready=2, kv=0.9, queue=400.0)
    assert wanted(kpa, one_type, burst) == 12
    assert wanted(kpa, one_type, burst, seen(15.0, ready=12, kv=0.1)) == 12


def test_wva_counts_starting_workers_and_waits_with_scale_down(one_type: Fleet) -> None:
    wva = RIVALS["llmd-wva"]
    need = 9.0 / 0.85 / 0.8  # ten KV caches at 0.9
    assert wanted(wva, one_type, seen(0.0, ready=10, kv=0.9)) == int(np.ceil(need))
    assert wanted(wva, one_type, seen(0.0, ready=10, starting=4, kv=0.9)) == 14
    assert wanted(wva, one_type, seen(0.0, ready=10, starting=1, kv=0.1)) == 11
    assert wanted(wva, one_type, seen(0.0, ready=10, kv=0.27)) == 5


def test_static_is_the_peak_of_the_tuning_days(one_type: Fleet) -> None:
    assert wanted(RIVALS["static-peak"], one_type, seen(0.0, ready=1)) == 8


def test_the_hourly_program_fills_the_cheap_type_to_its_limit() -> None:
    fleet = Fleet(
        (WorkerType("dear", price=4.0), WorkerType("cheap", price=1.0, limit=3)), (Service("chat", (2.0, 1.0)),)
    )
    policy = SageServe()
    stepper = policy.start(fleet, np.array([0.7]), 15.0, np.ones((1, 1)))
    zero = np.zeros((1, 1, 2), dtype=np.int64)
    base = seen(0.0, ready=1, rate=7.0)
    answer = stepper.step(replace(base, ready=zero, starting=zero, refused=zero))
    assert answer is not None
    assert answer[0, 0].tolist() == [4, 2]  # 7 / 0.7 = 10 requests/s: 4 * 2 + 2, and a third cheap one would be idle


def test_rivals_without_types_get_the_cheapest_first() -> None:
    fleet = Fleet(
        (WorkerType("dear", price=4.0), WorkerType("cheap", price=1.0, limit=3)), (Service("chat", (2.0, 1.0)),)
    )
    base = Base.of(fleet, np.ones(2), 15.0)
    assert base.spread(np.array([[2.0], [8.0]])).tolist() == [[[0, 2]], [[3, 3]]]


def test_a_wrong_forecast_changes_the_plan(one_type: Fleet) -> None:
    day = 60.0 + 40.0 * np.sin(np.arange(3 * 1440) * 2 * np.pi / 1440)
    load = make_load((synthetic("sine", day),), one_type, seed=1, step_s=60.0, tune_days=1.5)
    costs = [
        simulate(one_type, load, [(SageServe(fault), np.array([0.7]))], seed=1)[0].score.cost
        for fault in (None, ForecastFault(factor=1.5), ForecastFault(shift_s=7200.0), ForecastFault(absent=True))
    ]
    assert costs[1] > 1.2 * costs[0]
    assert len({round(c, 3) for c in costs}) == 4


@pytest.mark.parametrize("policy", ALL, ids=lambda p: p.name)
def test_every_knob_starts_at_its_default_and_goes_from_cheap_to_safe(policy: Policy) -> None:
    values = policy.knob.values(GRID)
    assert policy.knob.default in [pytest.approx(v) for v in values]
    ordered = np.diff(values) > 0
    assert ordered.all() if policy.knob.more_is_safer else not ordered.any()


def test_the_forecast_is_learned_from_the_past_alone_and_the_planner_steers(one_type: Fleet) -> None:
    minutes = np.arange(1440)
    rate = 20.0 + 10.0 * np.sin(minutes / 1440 * 6 * np.pi)
    load = make_load((synthetic("waves", rate),), one_type, seed=3, step_s=30.0, tune_days=0.3)
    given: list[int] = []

    def learner(rates: FloatArray) -> LeadWindowTable | None:
        given.append(len(rates))
        past = load.arrivals[: len(rates) * 2 - 1, 0, 0]  # a step is seen when it is over
        assert rates.mean() == pytest.approx((past.sum() + past[0]) / len(rates) / 60.0)
        return shipped(rates)

    lane = simulate(one_type, load, [(Ours(learner, 6 * 3600.0), np.ones(1))], seed=3, keep_actions=True)[0]
    assert given == [360, 720, 1080]
    assert "learned from its own traffic" in " ".join(a.reason for a in lane.actions)
    assert lane.score.attainment > 0.97


def test_a_forecast_that_is_wrong_by_half_costs_little(one_type: Fleet) -> None:
    rate = np.full(540, 20.0)
    load = make_load((synthetic("flat", rate),), one_type, seed=3, step_s=30.0, tune_days=0.26)
    faults = [ForecastFault(), ForecastFault(absent=True), ForecastFault(factor=1.5), ForecastFault(factor=0.5)]
    lanes = [simulate(one_type, load, [(Ours(fault=f), np.ones(1))], seed=3)[0] for f in faults]
    for lane in lanes:
        assert lane.score.cost < 1.35 * lanes[0].score.cost
        assert lane.score.attainment > 0.95


def test_ours_is_the_shipped_planner_and_gives_its_reasons(one_type: Fleet) -> None:
    rate = np.concatenate([np.full(60, 8.0), np.full(120, 30.0), np.full(120, 8.0)])
    load = make_load((synthetic("jump", rate),), one_type, seed=3, tune_days=0.01)
    lane = simulate(one_type, load, [(Reactive(), np.ones(1))], seed=3, keep_actions=True)[0]
    reasons = " ".join(a.reason for a in lane.actions)
    assert "ReactiveUp" in reasons
    assert "ReactiveDown" in reasons
    # need.up = rate / 0.85 of capacity 1: the planner's own formula, not the adapter's.
    assert 30 / 0.85 - 1 <= lane.paid[170 * 4] <= 30 / 0.70 + 3
    assert lane.paid[-1] < 20


def test_ours_survives_stock_outs_and_interruptions() -> None:
    fleet = Fleet(
        (
            WorkerType("spot", price=1.0, startup_s=60.0, limit=12, spot=True),
            WorkerType("sure", price=3.0, startup_s=60.0),
        ),
        (Service("chat", (1.0, 1.0)),),
    )
    load = make_load((constant(240, 10.0),), fleet, seed=3, step_s=30.0, tune_days=0.01)
    wrong = calm(load.steps, fleet)
    out, hit = wrong.stocked_out.copy(), wrong.interrupted.copy()
    out[100:300, 0] = True
    hit[100, 0] = 0.5
    broken = type(wrong)(out, hit, wrong.limits)
    lane = simulate(fleet, load, [(Ours(), np.ones(1))], seed=3, disturbance=broken)[0]
    assert lane.workers[95] >= 10
    assert lane.workers[-1] >= 10
    assert lane.score.attainment > 0.7


def test_the_tuned_lane_is_chosen_on_the_tuning_days_alone(one_type: Fleet) -> None:
    rate = np.concatenate([np.full(720, 10.0), np.full(720, 20.0)])
    load = make_load((synthetic("grows", rate),), one_type, seed=3, step_s=60.0, tune_days=0.5)
    result = sweep("grows", one_type, load, [RIVALS["static-peak"]], seed=1, grid=(0.8, 1.0, 1.3, 3.0))
    curve = result.curves[0]
    assert curve.tuned.tune.attainment >= 0.99
    assert curve.tuned.score.attainment < 0.9  # what came after was not looked at
    assert curve.cost_at_objective is not None
    assert curve.cost_at_objective > curve.tuned.score.cost
    assert tuned(curve.lanes, 2.0).knob == curve.lanes[-1].knob or curve.lanes[-1].tune.attainment == 1.0
    keys = set(rows(result)[0])
    assert {
        "policy",
        "cost",
        "optimum",
        "over_provisioning",
        "slo_attainment",
        "lost_requests",
        "scale_actions",
    } <= keys


def test_cost_at_the_objective_is_none_when_it_is_never_reached(one_type: Fleet) -> None:
    load = make_load((constant(120, 10.0),), one_type, seed=3, step_s=60.0, tune_days=0.01)
    result = sweep("never", one_type, load, [RIVALS["static-peak"]], seed=1, grid=(0.3, 0.5))
    assert result.curves[0].cost_at_objective is None
    assert cost_at(result.curves[0].lanes, 0.0) == min(lane.score.cost for lane in result.curves[0].lanes)


def test_a_higher_priority_waits_less_where_the_pool_is_too_small() -> None:
    def urgent(*, ranked: bool) -> float:
        case = priorities(1.2, 1, ranked=ranked, days=0.5)
        (lane,) = simulate(case.fleet, case.load, [(Ours(nothing), np.ones(1))], seed=1)
        return float(lane.wait_p99[1])

    assert urgent(ranked=True) < 0.6 * urgent(ranked=False)


def test_where_a_curve_crosses_the_objective_knobs_in_between_are_looked_at(one_type: Fleet) -> None:
    rate = np.concatenate([np.full(720, 10.0), np.tile(np.repeat([10.0, 20.0], 60), 6)])
    load = make_load((synthetic("plateaus", rate),), one_type, seed=3, step_s=60.0, tune_days=0.5)
    result = sweep("plateaus", one_type, load, [RIVALS["static-peak"]], seed=1, grid=(1.0, 3.0))
    curve = result.curves[0]
    assert [lane.knob for lane in curve.lanes] == [1.0, 3.0]
    assert 1.0 < curve.between[0].knob < curve.between[-1].knob < 3.0
    # Ten workers miss every second hour whole, and nothing in between but twenty serves it.
    assert curve.cost_at_objective is not None
    assert curve.cost_at_objective > 0.9 * 20.0 * load.score.sum() / 60.0 * one_type.types[0].price
    assert curve.cost_at_objective < cost_at(curve.lanes[1:], 0.99)  # type: ignore[operator]


def test_crossing_asks_for_nothing_where_neighbours_are_close_or_nothing_crosses(one_type: Fleet) -> None:
    load = make_load((constant(120, 10.0),), one_type, seed=3, step_s=60.0, tune_days=0.01)
    never = sweep("never", one_type, load, [RIVALS["static-peak"]], seed=1, grid=(0.3, 0.5)).curves[0]
    assert never.between == ()
    assert not len(crossing(never.lanes, 0.0))


def test_who_knows_the_mean_is_in_time_before_a_ramp(one_type: Fleet) -> None:
    rate = np.concatenate([np.full(120, 10.0), np.linspace(10.0, 40.0, 60), np.full(60, 40.0)])
    load = make_load((synthetic("ramp", rate),), one_type, seed=3, tune_days=0.01)
    lane = simulate(one_type, load, [(Foreknown(load), np.array([1.15]))], seed=3)[0]
    assert lane.score.attainment > 0.99
    assert lane.workers[60 * 4] == 12.0
    assert lane.workers[119 * 4] > 12.0  # a minute before anything is to be seen
    assert 46.0 <= lane.workers[-1] <= 48.0  # 1.15 * 40, and what the drawn arrivals add
