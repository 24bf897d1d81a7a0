"""The lead-window table: the recursion, the evaluator's promises, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warmfleet_contracts.api.trafficforecast import TrafficForecastStatus
from warmfleet_contracts.leadwindow import (
    LEAST_RATIO,
    MOST_PEAKS,
    MOST_RATIO,
    LeadWindowTable,
    Window,
    change,
    fault,
    outlook,
    outlook_at,
    rise,
)
from warmfleet_contracts.trafficstate import TrafficState, advance

TABLE = LeadWindowTable(
    probabilities=(0.5, 0.9, 0.99),
    windows=(
        Window(60.0, (0.0, 1.3, 2.4), 0.2, 0.1, 0.0, 0.02, 0.3),
        Window(300.0, (0.2, 1.5, 2.9), 0.4, 0.3, 0.8, 0.03, 0.5, 0.2, 0.01, 0.1),
        Window(1200.0, (0.5, 2.0, 4.0), 0.3, 0.9, 0.9, 0.05, 0.6, 0.3),
    ),
    shape=tuple(math.sin(k / 20.0) for k in range(289)),
    peak=120.0,
    floor=0.5,
)
rates = st.floats(0.0, 1e9)
states = st.builds(TrafficState, st.just(0.0), rates, rates, rates, st.floats(0.0, 4.0), st.floats(0.0, 4.0))
leads = st.floats(0.0, 5000.0)
chances = st.floats(0.0, 1.0)


def maximum(table: LeadWindowTable, state: TrafficState, lead_s: float, probability: float, offset_s: float) -> float:
    """The demand that is not exceeded over the next ``lead_s`` seconds with a probability, requests/s."""
    return outlook(table, state, lead_s, offset_s).quantile(probability)


def test_state_is_the_same_at_any_sampling_interval() -> None:
    rows = [20.0, 24.0, 18.0, 30.0, 29.0, 31.0] * 10
    coarse = fine = None
    for minute, rate in enumerate(rows):
        coarse = advance(coarse, rate, 60.0 * minute)
        for tick in range(12):
            fine = advance(fine, rate, 60.0 * minute - 55.0 + 5.0 * tick)
    assert coarse is not None
    assert fine is not None
    assert fine.level == pytest.approx(coarse.level, rel=1e-9)
    assert fine.slow == pytest.approx(coarse.slow, rel=1e-3)
    assert fine.volatility == pytest.approx(coarse.volatility, rel=0.15)


def test_gap_restarts_the_means_and_keeps_the_volatility() -> None:
    state = advance(advance(None, 10.0, 0.0), 30.0, 60.0)
    after = advance(state, 5.0, 60.0 + 3600.0)
    assert (after.level, after.mid, after.slow) == (5.0, 5.0, 5.0)
    assert after.variance == state.variance
    assert advance(state, 99.0, 60.0) is state


@pytest.mark.parametrize(("rate", "at"), [(math.nan, 1.0), (-1.0, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_state_refuses_what_is_no_sample(rate: float, at: float) -> None:
    with pytest.raises(ValueError, match="skip the sample"):
        advance(None, rate, at)


@given(states, leads, leads, chances, chances, st.floats(-1e5, 1e5))
def test_maximum_is_monotone_and_bounded(
    state: TrafficState, lead: float, longer: float, p: float, higher: float, offset: float
) -> None:
    lead, longer = sorted((lead, longer))
    p, higher = sorted((p, higher))
    value = maximum(TABLE, state, lead, p, offset)
    slack = 1e-9 * max(1.0, value)
    assert maximum(TABLE, state, longer, p, offset) >= value - slack
    assert maximum(TABLE, state, lead, higher, offset) >= value - slack
    level = state.level + TABLE.floor
    assert LEAST_RATIO * state.level - slack <= value
    usual = max(state.level, state.mid, state.slow) + TABLE.floor
    assert value <= min(MOST_RATIO * usual, MOST_PEAKS * max(TABLE.peak, level)) + slack


def test_a_short_lead_needs_its_share_of_the_margin() -> None:
    calm = TrafficState(0.0, 100.0, 100.0, 100.0)
    first = TABLE.windows[0].lead_s
    whole, tenth = (maximum(TABLE, calm, lead, 0.99, 0.0) + TABLE.floor for lead in (first, first / 10.0))
    assert math.log(tenth / (100.0 + TABLE.floor)) == pytest.approx(math.log(whole / (100.0 + TABLE.floor)) / 10.0)
    low = TrafficState(0.0, 100.0, 60.0, 60.0)  # the level is expected to fall: no time at all needs no more than that
    assert maximum(TABLE, low, first / 10.0, 0.5, 0.0) <= maximum(TABLE, low, first, 0.5, 0.0) + 1e-9


def test_no_traffic_needs_only_the_floor() -> None:
    idle = TrafficState(0.0, 0.0, 0.0, 0.0)
    assert maximum(TABLE, idle, 300.0, 0.99, 0.0) <= MOST_RATIO * TABLE.floor
    assert maximum(replace(TABLE, floor=0.0), idle, 300.0, 0.99, 0.0) == 0.0


def test_rise_looks_only_into_the_window() -> None:
    table = replace(TABLE, shape=(0.0, 0.0, 0.5, 0.2), shape_step_s=100.0)
    assert rise(table, 0.0, 100.0) == 0.0
    assert rise(table, 0.0, 150.0) == pytest.approx(0.25)
    assert rise(table, 50.0, 1000.0) == pytest.approx(0.5)
    assert rise(table, 200.0, 50.0) == 0.0
    assert rise(table, -1.0, 50.0) == rise(table, 1e9, 50.0) == 0.0


def test_at_the_end_of_the_lead_a_shape_that_falls_says_so() -> None:
    table = replace(TABLE, shape=(0.0, 0.5, 0.2, -0.4), shape_step_s=100.0)
    assert change(table, 0.0, 100.0) == pytest.approx(0.5)
    assert change(table, 50.0, 100.0) == pytest.approx(0.1)
    assert change(table, 100.0, 1e9) == pytest.approx(-0.9)
    assert change(table, -1.0, 50.0) == change(table, 1e9, 50.0) == change(replace(table, shape=()), 0.0, 50.0) == 0.0
    assert outlook_at(TABLE, TrafficState(0.0, 9.0, 9.0, 9.0), 300.0, 0.0) is None, "a table need not tell"
    calm = TrafficState(0.0, 100.0, 100.0, 100.0)
    told = replace(table, floor=0.0, at_lead=(Window(100.0, (0.0, 0.1, 0.2), shape_gain=1.0),))
    for offset, moved in ((0.0, 0.5), (200.0, -0.6)):
        there = outlook_at(told, calm, 100.0, offset)
        assert there is not None
        bounded = [max(100.0 * math.exp(moved + rest), 100.0 * LEAST_RATIO) for rest in (0.0, 0.1, 0.2)]
        assert there.demand == pytest.approx(bounded)


def test_what_comes_at_the_end_may_be_less_the_longer_the_lead() -> None:
    falling = replace(
        TABLE, at_lead=tuple(Window(lead, (0.0, 0.1, 0.2), drift=-lead / 3000.0) for lead in (60.0, 300.0, 600.0))
    )
    calm = TrafficState(0.0, 100.0, 100.0, 100.0)
    at = [outlook_at(falling, calm, lead, 0.0) for lead in (30.0, 60.0, 180.0, 300.0, 600.0, 5000.0)]
    medians = [found.quantile(0.5) for found in at if found is not None]
    assert medians == sorted(medians, reverse=True)
    assert medians[1] > medians[2] > medians[3] > medians[4] == medians[5]


def test_growth_raises_the_need() -> None:
    calm = TrafficState(0.0, 100.0, 100.0, 100.0)
    growing = TrafficState(0.0, 100.0, 92.0, 80.0)
    nervous = replace(calm, variance=0.2**2)
    base = maximum(TABLE, calm, 300.0, 0.9, 0.0)
    assert maximum(TABLE, growing, 300.0, 0.9, 0.0) > base
    assert maximum(TABLE, nervous, 300.0, 0.9, 0.0) > base


def test_a_rise_that_shifts_widens_the_margin_before_it_and_nowhere_else() -> None:
    plain = replace(TABLE, shape=(0.0, 0.0, 0.5, 0.5, 0.5), shape_step_s=300.0)
    wide = replace(plain, windows=tuple(replace(w, rise_spread=0.5) for w in plain.windows))
    calm = TrafficState(0.0, 100.0, 100.0, 100.0)
    ahead, after = ([maximum(table, calm, 300.0, 0.99, offset) for table in (plain, wide)] for offset in (300.0, 900.0))
    assert ahead[1] > ahead[0]
    assert after[1] == after[0]
    again = LeadWindowTable.from_status(TrafficForecastStatus(lead_windows=wide.to_wire()))
    assert isinstance(again, LeadWindowTable)
    assert [w.rise_spread for w in again.windows] == [0.5] * len(wide.windows)
    falls = replace(wide, shape=wide.shape[::-1], at_lead=wide.windows)
    narrow = replace(falls, at_lead=plain.windows)
    assert outlook_at(falls, calm, 300.0, 300.0) == outlook_at(narrow, calm, 300.0, 300.0), "not where it falls"


def test_what_is_usual_at_this_time_draws_the_need() -> None:
    table = replace(TABLE, shape=(math.log(200.0),) * 9)
    calm = TrafficState(0.0, 100.0, 100.0, 100.0)
    drawn = maximum(table, calm, 300.0, 0.9, 0.0) / maximum(table, calm, 300.0, 0.9, -1.0)
    assert drawn == pytest.approx((200.0 / 100.5) ** 0.1, rel=0.01)


def test_wire_form_round_trips_and_is_small() -> None:
    rows = tuple(replace(TABLE.windows[1], lead_s=60.0 * k) for k in (1, 2, 3, 5, 8, 10, 15, 20))
    table = replace(TABLE, windows=rows, at_lead=tuple(replace(row, drift=-0.01) for row in rows))
    status = TrafficForecastStatus(lead_windows=table.to_wire())
    text = json.dumps(status.to_wire())
    assert len(text) < 10_000
    again = LeadWindowTable.from_status(TrafficForecastStatus.model_validate_json(text))
    assert isinstance(again, LeadWindowTable)
    state = TrafficState(0.0, 90.0, 80.0, 85.0)
    assert maximum(again, state, 400.0, 0.95, 900.0) == pytest.approx(
        maximum(table, state, 400.0, 0.95, 900.0), rel=1e-3
    )
    there, here = outlook_at(again, state, 400.0, 900.0), outlook_at(table, state, 400.0, 900.0)
    assert there is not None
    assert here is not None
    assert there.demand == pytest.approx(here.demand, rel=1e-3)


HOSTILE = [
    replace(TABLE, windows=()),
    replace(TABLE, probabilities=(0.9, 0.5, 0.99)),
    replace(TABLE, probabilities=(0.0, 0.5, 0.99)),
    replace(TABLE, probabilities=(0.5, 0.9, math.nan)),
    replace(TABLE, windows=TABLE.windows[::-1]),
    replace(TABLE, at_lead=TABLE.windows[::-1]),
    replace(TABLE, at_lead=(replace(TABLE.windows[0], lead_s=1e12),)),
    replace(TABLE, at_lead=(replace(TABLE.windows[0], drift=math.nan),)),
    replace(TABLE, at_lead=(replace(TABLE.windows[0], residuals=(0.0, 1.0)),)),
    replace(TABLE, shape=(0.0, math.nan)),
    replace(TABLE, shape=(0.0, 1e12)),
    replace(TABLE, shape_step_s=0.0),
    replace(TABLE, peak=1e12),
    replace(TABLE, peak=-1.0),
    replace(TABLE, floor=math.nan),
    *(
        replace(TABLE, windows=(replace(TABLE.windows[0], **change),))  # type: ignore[arg-type]
        for change in (
            {"lead_s": math.nan},
            {"lead_s": -1.0},
            {"lead_s": 1e12},
            {"residuals": (0.0, 1.0)},
            {"residuals": (0.0, 2.0, 1.0)},
            {"residuals": (0.0, 1.0, math.inf)},
            {"momentum_gain": math.nan},
            {"shape_gain": 1e12},
            {"scale_base": -0.1},
            {"volatility_gain": math.nan},
            {"calm_gain": -1e12},
            {"rise_spread": -0.1},
            {"rise_spread": math.inf},
            {"drift": math.nan},
            {"anchor_gain": 1e12},
        )
    ),
]


@pytest.mark.parametrize("table", HOSTILE)
def test_hostile_tables_are_refused_with_a_reason(table: LeadWindowTable) -> None:
    assert fault(table).startswith("leadWindows")
    if table.windows:  # the same numbers, as they would come from outside
        refused = LeadWindowTable.from_status(TrafficForecastStatus.model_construct(lead_windows=_raw(table)))
        assert isinstance(refused, str)


def _raw(table: LeadWindowTable) -> object:
    wire = TABLE.to_wire()
    windows, at_lead = (
        tuple(
            wire.windows[0].model_copy(
                update={
                    "lead": w.lead_s,
                    "residuals": w.residuals,
                    "momentum_gain": w.momentum_gain,
                    "shape_gain": w.shape_gain,
                    "scale_base": w.scale_base,
                    "volatility_gain": w.volatility_gain,
                    "calm_gain": w.calm_gain,
                    "drift": w.drift,
                    "anchor_gain": w.anchor_gain,
                    "rise_spread": w.rise_spread,
                }
            )
            for w in rows
        )
        for rows in (table.windows, table.at_lead)
    )
    return wire.model_copy(
        update={
            "probabilities": table.probabilities,
            "windows": windows,
            "at_lead": at_lead,
            "shape": table.shape,
            "shape_step": table.shape_step_s,
            "peak": table.peak,
            "floor": table.floor,
        }
    )


def test_a_status_without_a_table_says_so() -> None:
    assert LeadWindowTable.from_status(TrafficForecastStatus()) == "the status has no lead windows"
