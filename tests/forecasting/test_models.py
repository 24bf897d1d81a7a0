"""Models, weights, calibration and trust, each alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warmfleet_forecasting.backtest import bounded
from warmfleet_forecasting.calibrate import PROBABILITIES, SCORES, conformal, pinball, with_past_errors
from warmfleet_forecasting.ensemble import combine
from warmfleet_forecasting.grid import Grid, grid_of
from warmfleet_forecasting.models.boosting import boosted
from warmfleet_forecasting.models.features import features
from warmfleet_forecasting.models.prophet import load, predicted
from warmfleet_forecasting.models.seasonal import Seasonal
from warmfleet_forecasting.recursion import highest, remembered
from warmfleet_forecasting.result import HorizonSkill, TrustReason
from warmfleet_forecasting.series import Floats, Series
from warmfleet_forecasting.skill import judge

DAY, HOUR = 144, 6


def grid(log: Floats) -> Grid:
    return Grid(0.0, 600.0, np.asarray(log, dtype=float), 1e-9)


def shape(days: float, noise: float = 0.0) -> Floats:
    x = np.arange(int(days * DAY)) / DAY
    return np.sin(2 * np.pi * x) + noise * np.random.default_rng(0).normal(size=x.size)


def test_yesterday_is_moved_to_the_level_of_today_and_skips_a_gap() -> None:
    log = shape(3)
    log[2 * DAY :] += 0.7
    change = Seasonal("yesterday", 86_400.0).change(grid(log), 3)
    at = 2 * DAY + 60
    assert change[at] == pytest.approx(log[at + 3] - log[at], abs=1e-9)
    assert np.isnan(change[: DAY - 3]).all()
    log[DAY : 2 * DAY] = np.nan
    assert Seasonal("yesterday", 86_400.0).change(grid(log), 3)[at] == pytest.approx(change[at], abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(200, 400))
def test_no_feature_and_no_model_sees_ahead(horizon: int, at: int) -> None:
    log = shape(3, 0.1)
    bent = log.copy()
    bent[at + 1 :] += 3.0
    a, b = (features(grid(one), horizon)[: at + 1] for one in (log, bent))
    assert np.array_equal(a, b, equal_nan=True)
    seasonal = Seasonal("yesterday", 86_400.0)
    a, b = (seasonal.change(grid(one), horizon)[: at + 1] for one in (log, bent))
    assert np.array_equal(a, b, equal_nan=True)


def test_the_boosting_learns_from_nothing_after_its_fold() -> None:
    log = shape(3, 0.1)
    bent = log.copy()
    bent[300:] = 5.0
    first = boosted(grid(log), 3, 288, 300)
    assert np.array_equal(first, boosted(grid(np.concatenate([log[:300], bent[300:]])), 3, 288, 300))
    assert first.shape == (12, PROBABILITIES.size)
    assert (np.diff(first, axis=1) >= 0).all()
    assert np.isnan(boosted(grid(log[:60]), 3, 50, 55)).all()


def test_the_minute_of_the_hour_is_no_feature() -> None:
    log = shape(3, 0.1)
    early, late = (features(Grid(start, 600.0, log, 1e-9), 3) for start in (0.0, 7 * 86_400.0))
    assert early[400] == pytest.approx(late[400], nan_ok=True)
    clock = features(Grid(0.0, 600.0, np.zeros(3 * DAY), 1e-9), 3)[:, -4:]
    assert np.abs(np.diff(clock, axis=0)).max() < 0.1


def test_conformal_correction_restores_the_share_below_each_quantile() -> None:
    truth = 1.5 * np.random.default_rng(1).normal(size=4000)
    narrow = np.tile(0.8 * SCORES, (truth.size, 1))
    fixed = conformal(narrow, truth, 3, 0)
    before, after = ((truth[2000:] <= q[2000:, 2]).mean() for q in (narrow, fixed))
    assert before < 0.78
    assert after == pytest.approx(0.9, abs=0.03)


def test_past_errors_are_those_known_at_the_time() -> None:
    truth = np.concatenate([np.zeros(100), np.full(100, 9.0)])
    quantiles = with_past_errors(np.zeros(200), truth, 5, 0, 50)
    assert np.isnan(quantiles[:24]).all()
    assert (quantiles[96:102] == 0.0).all()
    assert (quantiles[199] == 9.0).all()


def experts(truth: Floats, errors: tuple[float, ...]) -> Floats:
    rng = np.random.default_rng(2)
    filled = np.where(np.isfinite(truth), truth, 0.0)
    return np.stack([(filled + e * rng.normal(size=truth.size))[:, None] + 0.1 * SCORES for e in errors])


def test_the_better_model_gets_the_weight_and_a_silent_one_none() -> None:
    history = grid(shape(4, 0.05))
    table = experts(history.ahead(3), (0.5, 0.05, 0.5))
    table[2, 300:] = np.nan
    mixed, weights = combine(history, table, 3, DAY, 86_400.0)
    assert (weights[-1, 1] > 0.9).all()
    assert (weights[300:, 2] == 0).all()
    assert weights[DAY:].sum(axis=1) == pytest.approx(np.ones((history.size - DAY, 4)))
    assert np.isfinite(mixed[DAY:]).all()


def test_a_model_that_joined_an_hour_ago_does_not_take_over() -> None:
    history = grid(shape(4, 0.05))
    table = experts(history.ahead(3), (0.3, 0.1, 0.02))
    table[2, : history.size - 9] = np.nan
    _, weights = combine(history, table, 3, DAY, 86_400.0)
    assert (weights[-1, 1, 1:3] > 0.5).all()
    assert (weights[-1, 2, 1:3] < 0.5).all()


def test_one_spike_does_not_decide_the_weights_of_the_next_days() -> None:
    log = shape(4, 0.02)
    log[400] += 6.0
    history = grid(log)
    table = experts(history.ahead(3), (0.1, 0.03))
    table[1, 397] -= 8.0
    table[0, 397] = history.ahead(3)[397] + 0.05 * SCORES
    _, weights = combine(history, table, 3, DAY, 86_400.0)
    assert (weights[-1, 1, 1:3] > 0.5).all()


def test_nobody_says_more_than_what_was_seen_makes_likely() -> None:
    history = grid(np.array([0.0, 0.0, 0.0, 3.0, 3.0, 3.0, -2.0, 5.0, -2.0]))
    after = bounded(history, np.full((2, 9, 4), 9.0))
    twice, above = np.log(2.0), np.log(1.25)
    assert after[0, 6:, 0] == pytest.approx([5 + twice, twice, 5 + twice])  # the one cell at 5 is no peak yet
    assert after[1, 6:, 0] == pytest.approx([5 + twice, twice, 5 + twice])
    modest = np.stack([np.full((9, 4), 0.1), np.full((9, 4), 9.0)])
    after = bounded(history, modest)
    assert np.array_equal(after[0], modest[0])
    assert after[1, 6:, 0] == pytest.approx([5 + above, 0.1, 5 + above])
    assert np.array_equal(bounded(history, np.full((2, 9, 4), -1.0)), np.full((2, 9, 4), -1.0))


def test_pinball_is_the_loss_its_quantile_minimises() -> None:
    sample = np.random.default_rng(3).normal(size=5000)
    losses = [pinball(sample, np.full(5000, q), 0.9).mean() for q in (0.8, 1.2816, 1.7)]
    assert min(losses) == losses[1]


def test_trust_has_hysteresis_and_names_its_figures() -> None:
    def skill(gain: float, samples: int = 400) -> tuple[HorizonSkill, ...]:
        return (HorizonSkill(600.0, 0.3, 0.9, samples), HorizonSkill(1800.0, gain, 0.91, samples))

    assert judge(skill(0.06), 1200.0, before=False).trusted
    assert not judge(skill(0.03), 1200.0, before=False).trusted
    assert judge(skill(0.03), 1200.0, before=True).trusted
    assert not judge(skill(-0.01), 1200.0, before=True).trusted
    assert "30 min ahead 6% better" in judge(skill(0.06), 1200.0, before=False).message
    assert judge(skill(0.06), 300.0, before=False).message.startswith("10 min")
    assert judge(skill(0.06), 9000.0, before=False).message.startswith("30 min")
    assert judge(skill(0.5, 10), 1200.0, before=True).reason is TrustReason.TOO_LITTLE_HISTORY


def test_the_grid_floors_zeros_carries_short_gaps_and_gives_rates_back() -> None:
    values = np.array([0.0, 10.0, np.nan, np.nan, np.nan, np.nan, 20.0])
    found = grid_of(Series(0.0, 600.0, values), 86_400.0)
    assert found.rate(found.log)[[0, 1, 6]] == pytest.approx([0.0, 10.0, 20.0])
    assert np.isfinite(found.now[:5]).all()
    assert np.isnan(found.now[5])
    assert found.ahead(1)[5] != found.ahead(1)[5]


def test_what_is_remembered_and_the_highest_of_neighbours_by_hand() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 2))
    expected = np.zeros_like(values)
    for at, value in enumerate(values):
        expected[at] = value + (0.9 * expected[at - 1] if at else 0.0)
    assert remembered(values, 0.9) == pytest.approx(expected, rel=1e-12)
    assert np.array_equal(remembered(values, 0.0), values)
    assert remembered(np.ones(50), 1.0) == pytest.approx(np.arange(1.0, 51.0))
    one = values[:, 0]
    for width in (1, 2, 5, 8, 300):
        by_hand = [one[at : at + width].max() for at in range(300 - width + 1)]
        assert np.array_equal(highest(one, width), by_hand)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # Prophet's own, of pandas
def test_prophets_curve_is_the_one_that_it_predicts_itself() -> None:
    table = pd.DataFrame({"ds": pd.date_range("2026-03-01", periods=200, freq="h")})
    table["off"] = (np.arange(200) // 24 == 3).astype(float)
    table["y"] = np.sin(np.arange(200) * 2 * np.pi / 24) - 0.5 * table["off"] + 0.01 * np.arange(200)
    model = load()(daily_seasonality=False, weekly_seasonality=False, yearly_seasonality=False, uncertainty_samples=0)
    model.add_seasonality("daily", period=1.0, fourier_order=4)
    model.add_seasonality("weekly", period=7.0, fourier_order=2)
    model.add_regressor("off", standardize=False)
    model.fit(table)
    assert predicted(model, table) == pytest.approx(model.predict(table)["yhat"].to_numpy(), abs=1e-9)
