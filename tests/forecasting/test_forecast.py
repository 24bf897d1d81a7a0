"""The forecast: what it says of good histories, and that it survives bad ones."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from warmfleet_contracts.leadwindow import LeadWindowTable
from warmfleet_forecasting.backtest import folds_of
from warmfleet_forecasting.config import DAY_S, Event, ForecastConfig, Holiday, Seasonality
from warmfleet_forecasting.forecast import event_factors, forecast
from warmfleet_forecasting.grid import grid_of
from warmfleet_forecasting.model import fit
from warmfleet_forecasting.models import prophet
from warmfleet_forecasting.result import ForecastResult, TrustReason
from warmfleet_forecasting.series import Floats, Series

START = 1_700_006_400.0 // DAY_S * DAY_S
CONFIG = ForecastConfig(lead_s=1800.0)


def daily(days: float, seed: int = 1, noise: float = 0.04) -> Floats:
    """Ten-minute means with a strong shape of the day."""
    rng = np.random.default_rng(seed)
    x = np.arange(int(days * 144)) / 144
    return 50.0 * np.exp(0.9 * np.sin(2 * np.pi * x) + 0.3 * np.sin(4 * np.pi * x) + noise * rng.normal(size=x.size))


def series(values: Floats, step_s: float = 600.0) -> Series:
    return Series(START, step_s, np.asarray(values, dtype=float))


@pytest.fixture(scope="module")
def good() -> ForecastResult:
    return forecast(series(daily(4.25)), CONFIG)


def test_a_daily_shape_is_forecast_trusted_and_explained(good: ForecastResult) -> None:
    truth = daily(5.25, noise=0.0)[int(4.25 * 144) :]
    assert good.trusted
    assert good.reason is TrustReason.SKILFUL
    assert "better than holding the last value" in good.message
    assert [entry.horizon_s for entry in good.skill] == [600.0, 1800.0, 3600.0]
    at = (good.near.offsets_s / 600.0 - 0.5).clip(0)
    expected = np.interp(at, np.arange(truth.size), truth)
    assert np.abs(good.near.quantile(0.5) / expected - 1).max() < 0.08
    later = np.interp(good.far.offsets_s / 600.0 - 0.5, np.arange(truth.size), truth)
    assert np.abs(good.far.quantile(0.5) / later - 1).max() < 0.2


def test_the_lead_window_table_comes_with_it_or_the_message_says_why_not(good: ForecastResult) -> None:
    assert isinstance(good.lead_table, LeadWindowTable)
    hourly = forecast(series(daily(2)[::6], 3600.0), CONFIG)
    assert hourly.lead_table is None
    assert "no lead-window table" in hourly.message


def test_quantiles_ascend_and_the_first_hour_follows_the_present(good: ForecastResult) -> None:
    for curve in (good.near, good.far):
        assert (np.diff(curve.values, axis=1) >= 0).all()
    jumped = daily(4.25)
    jumped[-6:] *= 1.6
    after = forecast(series(jumped), CONFIG)
    assert after.near.quantile(0.5)[0] / good.near.quantile(0.5)[0] == pytest.approx(1.6, rel=0.12)
    half_a_day = list(good.far.offsets_s).index(43_200.0)
    assert after.far.quantile(0.5)[half_a_day] < 1.45 * good.far.quantile(0.5)[half_a_day]


def test_nothing_later_than_the_origin_is_used() -> None:
    past = daily(3.0)
    cut = series(past[: 2 * 144 + 60])
    other = series(np.concatenate([past[: 2 * 144 + 60], 7.0 * past[2 * 144 + 60 :]]))
    now = cut.end
    a, b = (forecast(one, CONFIG).near.values for one in (cut, other.until(now)))
    assert np.array_equal(a, b)
    early = folds_of(grid_of(cut, DAY_S * 28), CONFIG)
    full = grid_of(other, DAY_S * 28, floor=grid_of(cut, DAY_S * 28).floor)
    late = folds_of(full.cut(len(cut)), CONFIG)
    assert np.array_equal(early[-1].boosted, late[-1].boosted, equal_nan=True)


def test_what_is_remembered_changes_the_speed_not_the_kind_of_answer(good: ForecastResult) -> None:
    longer = series(daily(5.25))
    warm = forecast(longer, CONFIG, pickle.loads(pickle.dumps(good)))
    cold = forecast(longer, CONFIG)
    assert warm.trusted
    assert warm.skill[1].samples > cold.skill[1].samples
    assert np.abs(np.log(warm.near.values / cold.near.values)).max() < 0.1


def test_with_plenty_of_history_a_first_forecast_is_one_fit_and_the_next_takes_it_up() -> None:
    values = daily(8.25)
    first = forecast(series(values), CONFIG)
    assert [fold.cells for fold in first.memory.folds] == [216]
    assert first.skill[1].samples > 130
    again = forecast(series(np.append(values, values[-144])), CONFIG, first)
    assert [fold.cells for fold in again.memory.folds] == [216, 72]
    assert again.trusted


def test_traffic_back_from_an_outage_is_not_expected_to_be_a_thousand_times_what_it_was() -> None:
    values = daily(5.0)
    for start in range(150, values.size - 20, 97):
        values[start : start + 5] = 0.0
    result = forecast(series(values), CONFIG)
    for curve in (result.near, result.far):
        assert curve.values.max() <= 2.01 * values.max()


def test_a_random_walk_is_not_trusted_and_does_no_harm() -> None:
    rng = np.random.default_rng(4)
    result = forecast(series(50.0 * np.exp(np.cumsum(0.05 * rng.normal(size=4 * 144)))), CONFIG)
    assert not result.trusted
    assert result.reason is TrustReason.NO_SKILL
    assert result.skill[1].pinball_gain > -0.06


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([5.0, 6.0]), TrustReason.TOO_LITTLE_HISTORY),
        (np.empty(0), TrustReason.TOO_LITTLE_HISTORY),
        (np.full(500, np.nan), TrustReason.TOO_LITTLE_HISTORY),
        (np.full(500, -4.0), TrustReason.TOO_LITTLE_HISTORY),
        (np.zeros(500), TrustReason.NO_TRAFFIC),
        (np.full(500, 7.0), TrustReason.NO_SKILL),
        (np.concatenate([daily(3), np.full(8, np.nan)]), TrustReason.HISTORY_GAP),
        (np.concatenate([daily(3), np.full(6, np.inf)]), TrustReason.HISTORY_GAP),
    ],
    ids=["two", "none", "nan", "negative", "zeros", "constant", "gap", "infinite"],
)
def test_bad_histories_are_answered_with_a_reason(values: Floats, reason: TrustReason) -> None:
    result = forecast(series(values), CONFIG)
    assert result.reason is reason
    assert not result.trusted
    assert result.message
    level = values[np.isfinite(values) & (values >= 0)]
    if reason in {TrustReason.HISTORY_GAP, TrustReason.TOO_LITTLE_HISTORY} and level.size != 2:
        assert result.near.values.size == 0
    elif level.any():
        assert (result.near.quantile(0.5) > 0.5 * level[-1]).all()
        assert (result.near.quantile(0.9) < 3.0 * level[-1]).all()
    else:
        assert (result.near.values == 0).all()


def test_an_outage_keeps_the_last_good_forecast_and_lets_it_age(good: ForecastResult) -> None:
    silent = series(np.concatenate([daily(4.25), np.full(5, np.nan)]))
    kept = forecast(silent, replace(CONFIG, valid_for_s=3600.0), replace(good, valid_for_s=3600.0))
    assert kept.carried
    assert kept.trusted
    assert kept.issued_at == good.issued_at
    assert kept.reason is TrustReason.HISTORY_GAP
    old = forecast(series(np.concatenate([daily(4.25), np.full(1008, np.nan)])), CONFIG, kept)
    assert not old.trusted
    assert old.issued_at == good.issued_at
    assert "is kept" in old.message


def test_a_week_of_gaps_and_a_clock_that_jumped_are_survived(good: ForecastResult) -> None:
    week = np.concatenate([daily(4), np.full(1008, np.nan), daily(1.25)])
    result = forecast(series(week), CONFIG, good)
    assert not result.carried
    assert np.isfinite(result.near.values).all()
    back = forecast(Series(START - 40 * DAY_S, 600.0, daily(2)), CONFIG, good)
    assert back.issued_at < good.issued_at
    assert np.isfinite(back.near.values).all()
    lost = forecast(Series(START - 40 * DAY_S, 600.0, np.full(50, np.nan)), CONFIG, good)
    assert "clock stepped back" in lost.message
    assert not lost.trusted


def test_a_fit_that_raises_keeps_the_last_forecast(good: ForecastResult, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("cmdstan is gone")

    monkeypatch.setattr("warmfleet_forecasting.models.prophet.curve", broken)
    result = forecast(series(daily(2.5)), CONFIG, good)
    assert result.reason is TrustReason.FIT_FAILED
    assert "cmdstan is gone" in result.message
    assert np.array_equal(result.near.values, good.near.values)


def test_declared_events_raise_and_never_lower() -> None:
    offsets = np.array([600.0, 1200.0, 3600.0])
    coming = Event("launch", 1000.0, 2000.0, 3.0)
    running = Event("sale", -500.0, 800.0, 2.0)
    assert list(event_factors(offsets, 0.0, (coming, running))) == [1.0, 3.0, 1.0]
    values = daily(3)
    plain = forecast(series(values), CONFIG)
    end = START + values.size * 600.0
    raised = forecast(series(values), replace(CONFIG, events=(Event("launch", end + 1500, end + 9000, 3.0),)))
    ratio = raised.near.quantile(0.5) / plain.near.quantile(0.5)
    assert ratio[:4] == pytest.approx(np.ones(4))
    assert ratio[4:] == pytest.approx(np.full(8, 3.0))


def test_a_holiday_seen_before_lowers_the_next_one_and_seasons_are_configurable() -> None:
    values = daily(15, noise=0.02)
    first, second = START + 5 * DAY_S, START + 15 * DAY_S
    values[5 * 144 : 6 * 144] *= 0.4
    days = (Holiday("feast", first, first + DAY_S), Holiday("feast", second, second + DAY_S))
    config = replace(CONFIG, holidays=days, seasonalities=(Seasonality("twelve hours", DAY_S / 2, 2),))
    grid = grid_of(series(values), 28 * DAY_S)
    learned, _ = prophet.curve(grid, grid.size, 144, config, None)
    plain, warm = prophet.curve(grid, grid.size, 144, CONFIG, None)
    again, _ = prophet.curve(grid, grid.size, 144, CONFIG, warm)
    assert np.exp(np.median(learned - plain)) < 0.6
    assert again == pytest.approx(plain, abs=0.05)


def test_the_day_begins_where_the_traffic_lives_and_moves_with_its_clock() -> None:
    # Berlin's clock goes forward in the night to 2026-03-29; what is known ends before.
    change = datetime(2026, 3, 28, 23, tzinfo=UTC).timestamp()
    times = change - 14 * DAY_S + 600.0 * np.arange(16 * 144)
    berlin = [datetime.fromtimestamp(at, UTC).astimezone(ZoneInfo("Europe/Berlin")) for at in times]
    hours = np.array([at.hour + at.minute / 60 for at in berlin])
    values = 50.0 * np.exp(np.cos(2 * np.pi * (hours - 9.0) / 24.0))
    known = 14 * 144
    grid = grid_of(Series(float(times[0]), 600.0, values[:known]), 28 * DAY_S)

    def error(time_zone: str) -> float:
        found, _ = prophet.curve(grid, known, 288, replace(CONFIG, time_zone=time_zone, weekly=False), None)
        return float(np.abs(found[60:] - np.log(values[known + 60 :])).mean())

    assert error("Europe/Berlin") < 0.05
    assert error("Etc/UTC") > 0.1


def test_a_refit_starts_from_the_parameters_of_the_one_before(
    good: ForecastResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Any] = []
    fitted = prophet.load().fit

    def spy(model: Any, table: Any, **how: Any) -> Any:
        starts.append(how.get("init"))
        return fitted(model, table, **how)

    monkeypatch.setattr(prophet.load(), "fit", spy)
    longer = series(daily(4.75))
    forecast(longer, CONFIG, good)
    assert len(starts) == 1
    assert np.array_equal(starts[0]["beta"], good.memory.folds[-1].warm["beta"])
    starts.clear()
    forecast(longer, CONFIG)
    assert starts[0] is None
    # other terms than before: what was found for those is of no use
    starts.clear()
    forecast(longer, replace(CONFIG, seasonalities=(Seasonality("8h", DAY_S / 3),)), good)
    assert starts == [None]


def test_any_probability_and_any_time_up_to_a_day() -> None:
    model = fit(series(daily(2.5)), CONFIG)
    table = model.quantiles([0.0, 300.0, 1800.0, 50_000.0, 1e9], [0.01, 0.5, 0.9, 0.999])
    assert table.shape == (5, 4)
    assert np.isfinite(table).all()
    assert (np.diff(table, axis=1) >= 0).all()
    assert table[0] == pytest.approx(np.full(4, model.grid.rate(model.grid.now[-1])))


def test_prophet_says_nothing(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.DEBUG):
        forecast(series(daily(1.6)), CONFIG)
    assert not [record for record in caplog.records if record.name.startswith(("prophet", "cmdstan"))]
    out, err = capfd.readouterr()
    assert not out
    assert not err
