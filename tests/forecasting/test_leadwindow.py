"""The learner of the lead-window table: calibrated, causal, quick, and sober about bad histories."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from warmfleet_contracts.api.trafficforecast import TrafficForecastStatus
from warmfleet_contracts.leadwindow import LeadWindowTable, fault, outlook, outlook_at, rise
from warmfleet_contracts.trafficstate import TrafficState, advance
from warmfleet_forecasting.leadwindow import LEADS_S, Untrusted, learn
from warmfleet_forecasting.leadwindow.features import features, sustained

Floats = npt.NDArray[np.float64]
DAY = 1440


def maximum(table: LeadWindowTable, state: TrafficState, lead_s: float, probability: float, offset_s: float) -> float:
    """The demand that is not exceeded over the next ``lead_s`` seconds with a probability, requests/s."""
    return outlook(table, state, lead_s, offset_s).quantile(probability)


def daily(days: float, seed: int = 1, noise: float = 0.05) -> Floats:
    """Traffic with a daily shape, levels that differ by day, and noise that is correlated over minutes."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(days * DAY)) / DAY
    level = np.interp(t, np.arange(int(days) + 2), np.exp(0.15 * rng.standard_normal(int(days) + 2)))
    wander = np.zeros(len(t))
    for i, shock in enumerate(rng.standard_normal(len(t))):
        wander[i] = 0.97 * wander[i - 1] + noise * 0.24 * shock if i else 0.0
    ramp = 1.0 / (1.0 + np.exp(-((t % 1) * 24 - 9.0) * 3.0)) * 1.0 / (1.0 + np.exp(((t % 1) * 24 - 18.0) * 1.5))
    return np.asarray(50.0 * level * (0.2 + ramp) * np.exp(wander), dtype=np.float64)


def states(rates: Floats) -> list[TrafficState]:
    """The state at the end of each minute; the index is the minute."""
    out: list[TrafficState] = []
    state: TrafficState | None = None
    for minute, rate in enumerate(rates):
        if np.isfinite(rate):
            state = advance(state, float(rate), 60.0 * (minute + 1))
        assert state is not None
        out.append(state)
    return out


def table_of(rates: Floats, step_s: float = 60.0) -> LeadWindowTable:
    found = learn(rates, step_s=step_s, now=step_s * len(rates))
    assert isinstance(found, LeadWindowTable), found
    assert fault(found) == ""
    return found


def test_quantiles_hold_on_the_next_day() -> None:
    rates = daily(5.0)
    table = table_of(rates[: 4 * DAY])
    seen = states(rates)
    for lead in (180.0, 300.0, 600.0):
        truth = sustained(rates, 60.0, round(lead / 60.0))
        rows = range(4 * DAY, 5 * DAY - 20, 3)
        for p, low, high in ((0.5, 0.38, 0.62), (0.9, 0.84, 0.96), (0.98, 0.955, 1.0)):
            kept = [truth[t] <= maximum(table, seen[t], lead, p, 60.0 * (t + 1 - 4 * DAY)) for t in rows]
            assert low <= np.mean(kept) <= high, (lead, p, np.mean(kept))


def test_quantiles_at_the_end_of_the_lead_hold_on_the_next_day_and_fall_with_the_day() -> None:
    rates = daily(5.0)
    table = table_of(rates[: 4 * DAY])
    assert [w.lead_s for w in table.at_lead] == list(LEADS_S)
    seen, truth = states(rates), sustained(rates, 60.0, 1)
    for lead in (180.0, 300.0, 600.0):
        steps, rows = round(lead / 60.0), range(4 * DAY, 5 * DAY - 20, 3)
        for p, low, high in ((0.5, 0.38, 0.62), (0.9, 0.84, 0.96), (0.98, 0.955, 1.0)):
            at = [outlook_at(table, seen[t], lead, 60.0 * (t + 1 - 4 * DAY)) for t in rows]
            kept = [truth[t + steps] <= found.quantile(p) for t, found in zip(rows, at, strict=True) if found]
            assert len(kept) == len(rows)
            assert low <= np.mean(kept) <= high, (lead, p, np.mean(kept))
    evening = 4 * DAY + 18 * 60 + 10
    at_end = outlook_at(table, seen[evening], 600.0, 60.0 * (evening + 1 - 4 * DAY))
    assert at_end is not None
    assert (
        at_end.quantile(0.5)
        < 0.95 * seen[evening].level
        < maximum(table, seen[evening], 600.0, 0.5, 60.0 * (evening + 1 - 4 * DAY))
    )


def test_shape_is_used_before_a_ramp() -> None:
    rates = daily(4.0, noise=0.01)
    table = table_of(rates)
    assert all(w.shape_gain > 0.4 for w in table.windows if w.lead_s >= 600.0)
    assert rise(table, 8.5 * 3600.0, 1200.0) > 0.2 > rise(table, 13.0 * 3600.0, 1200.0)
    flat = TrafficState(0.0, 20.0, 20.0, 20.0)
    assert maximum(table, flat, 600.0, 0.9, 8.6 * 3600.0) > 1.1 * maximum(table, flat, 600.0, 0.9, 13.0 * 3600.0)


def steep(days: int, shift_minutes: float, seed: int = 4) -> Floats:
    """Traffic that doubles and a half within ten minutes each morning, some minutes early or late."""
    rng = np.random.default_rng(seed)
    minute = np.arange(days * DAY) % DAY - np.repeat(rng.normal(0.0, shift_minutes, days), DAY)
    ramp = 1.0 / (1.0 + np.exp(-(minute - 540.0) / 2.4)) / (1.0 + np.exp((minute - 1020.0) / 40.0))
    noise = np.exp(0.02 * rng.standard_normal(len(minute)))
    return np.asarray(20.0 * (1.0 + 1.5 * ramp) * noise, dtype=np.float64)


def test_a_steep_ramp_that_shifts_has_a_margin_of_its_own() -> None:
    rates, split = steep(12, 3.0), 6 * DAY
    table = table_of(rates[:split])
    assert all(w.rise_spread > 0.0 for w in table.windows if w.lead_s <= 600.0)
    lead, seen = 300.0, states(rates)
    truth = sustained(rates, 60.0, 5)
    ramps = [t for t in range(split, len(rates) - 20) if 525 <= t % DAY < 550]
    without = replace(table, windows=tuple(replace(w, rise_spread=0.0) for w in table.windows))

    def kept(of: LeadWindowTable) -> float:
        now = (60.0 * (t + 1 - split) % 86_400.0 for t in ramps)
        return float(
            np.mean([truth[t] <= maximum(of, seen[t], lead, 0.95, at) for t, at in zip(ramps, now, strict=True)])
        )

    assert kept(table) > kept(without) + 0.1
    calm = [w.rise_spread for w in table_of(daily(5.0)).windows]
    assert calm == [0.0] * len(calm), "where it would save next to nothing it is left out"


def test_shape_begins_when_it_is_issued() -> None:
    rates = daily(4.0, noise=0.01)
    late = learn(rates[: -2 * 60], step_s=60.0, now=4.0 * 86_400.0, ended=4.0 * 86_400.0 - 7200.0)
    assert isinstance(late, LeadWindowTable)
    assert rise(late, 8.5 * 3600.0, 1200.0) > 0.2


def test_a_day_is_too_short_for_a_shape_and_enough_for_a_margin() -> None:
    table = table_of(daily(1.0))
    assert table.shape == ()
    assert all(w.shape_gain == w.anchor_gain == 0.0 for w in table.windows)


def test_noise_buys_more_than_calm() -> None:
    state = TrafficState(0.0, 50.0, 50.0, 50.0, 1e-4, 1e-4)
    rng = np.random.default_rng(3)
    wild = table_of(50.0 * np.exp(0.25 * rng.standard_normal(3 * DAY)))
    calm = table_of(50.0 * np.exp(0.01 * rng.standard_normal(3 * DAY)))
    assert maximum(wild, state, 300.0, 0.95, 0.0) > maximum(calm, state, 300.0, 0.95, 0.0)
    assert maximum(calm, state, 300.0, 0.95, 0.0) < 1.05 * 50.0


def test_features_are_those_of_the_recursion() -> None:
    rates = daily(0.5, seed=7)
    rates[100:104] = np.nan
    rates[300:340] = np.nan
    known = features(rates, 60.0, 0.0)
    seen = states(rates)
    for t in (50, 99, 104, 299, 340, 341, 600, 719):
        assert known.level[t] == pytest.approx(seen[t].level, rel=1e-9)
        assert known.momentum[t] == pytest.approx(np.log(seen[t].level / seen[t].mid), abs=1e-9)
        assert known.volatility[t] == pytest.approx(seen[t].volatility, rel=0.05)


def test_the_past_of_the_table_ends_where_the_history_ends() -> None:
    rates = daily(3.0)
    again = np.concatenate([rates, rates[:DAY] * 9.0])
    assert table_of(rates) == table_of(again[: 3 * DAY])


def test_sustained_maximum_by_hand() -> None:
    rates = np.array([10.0, 10.0, 70.0, 10.0, 10.0, 10.0, 10.0, 10.0, np.nan, 10.0, 10.0, 10.0])
    one = sustained(rates, 60.0, 1)
    assert one[1] == pytest.approx(70.0 * 60.0 / 70.0)  # one busy minute is carried over as a queue of 10 s
    assert one[2] == pytest.approx(10.0)  # five minutes are served as they come
    np.testing.assert_array_equal(np.isfinite(one), [True] * 3 + [False] * 9)
    two = sustained(rates, 60.0, 2)
    assert two[0] == pytest.approx(70.0 * 60.0 / 70.0)
    assert two[0] > one[0]
    steady = sustained(np.full(20, 8.0), 60.0, 3)
    np.testing.assert_allclose(steady[:15], 8.0)


@pytest.mark.parametrize("step_s", [60.0, 300.0])
def test_wire_form_is_small(step_s: float) -> None:
    rates = daily(7.0)
    table = table_of(rates if step_s == 60.0 else rates.reshape(-1, 5).mean(axis=1), step_s)
    assert [w.lead_s for w in table.windows] == [lead for lead in LEADS_S if lead >= step_s]
    text = TrafficForecastStatus(lead_windows=table.to_wire()).model_dump_json(by_alias=True, exclude_none=True)
    assert len(text) < 8_000
    again = LeadWindowTable.from_status(TrafficForecastStatus.model_validate_json(text))
    assert isinstance(again, LeadWindowTable)
    state = TrafficState(0.0, 50.0, 48.0, 40.0)
    close = outlook(again, state, 400.0, 7200.0).demand, outlook(table, state, 400.0, 7200.0).demand
    np.testing.assert_allclose(*close, rtol=2e-3)


def test_a_week_is_learned_in_a_second() -> None:
    rates = daily(7.0)
    learn(rates, step_s=60.0, now=0.0)
    begin = time.process_time()
    learn(rates, step_s=60.0, now=0.0)
    assert time.process_time() - begin < 1.0


@pytest.mark.parametrize(
    ("rates", "reason"),
    [
        (np.array([]), "TooLittleHistory"),
        (np.array([3.0, 4.0]), "TooLittleHistory"),
        (np.full(3 * DAY, np.nan), "TooLittleHistory"),
        (np.zeros(3 * DAY), "NoTraffic"),
        (np.full(3 * DAY, -1.0), "TooLittleHistory"),
        (np.full(3 * DAY, np.inf), "TooLittleHistory"),
    ],
)
def test_histories_that_teach_nothing(rates: Floats, reason: str) -> None:
    found = learn(rates, step_s=60.0, now=0.0)
    assert isinstance(found, Untrusted)
    assert found.reason == reason


def _hostile(kind: str) -> Floats:
    rng = np.random.default_rng(5)
    rates = daily(3.0, seed=5)
    if kind == "constant":
        return np.full(3 * DAY, 7.0)
    if kind == "gaps":
        return np.where(rng.random(3 * DAY) < 0.3, np.nan, rates)
    if kind == "week of gaps":
        return np.concatenate([rates, np.full(7 * DAY, np.nan), rates[: DAY // 2]])
    if kind == "vanishes":
        return np.concatenate([rates, np.zeros(2 * DAY)])
    if kind == "rare":
        return np.where(rng.random(3 * DAY) < 0.99, 0.0, 5.0)
    return np.where(rng.random(3 * DAY) < 0.01, 1e12, np.where(rng.random(3 * DAY) < 0.01, -5.0, rates))


@pytest.mark.parametrize("kind", ["constant", "gaps", "week of gaps", "vanishes", "rare", "nonsense"])
def test_odd_histories_give_a_sane_table_or_a_reason(kind: str) -> None:
    found = learn(_hostile(kind), step_s=60.0, now=0.0)
    if isinstance(found, Untrusted):
        assert found.message
        return
    assert fault(found) == ""
    value = maximum(found, TrafficState(0.0, 7.0, 7.0, 7.0), 300.0, 0.95, 0.0)
    assert 0.7 * 7.0 <= value <= 5.0 * 7.0 + 5.0 * found.floor
    if kind == "constant":
        assert value < 7.0 * 1.1


@pytest.mark.parametrize(("rates", "step_s"), [(np.ones((3, 3)), 60.0), (np.ones(9), 0.0), (np.ones(9), 3600.0)])
def test_what_is_no_history_is_refused(rates: Floats, step_s: float) -> None:
    with pytest.raises(ValueError, match="must"):
        learn(rates, step_s=step_s, now=0.0)
