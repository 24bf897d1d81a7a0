"""The grid every model is fitted on."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from warmfleet_forecasting.series import BadHistoryError, Series


def test_zero_and_missing_differ_and_wrong_rates_become_gaps() -> None:
    series = Series(0.0, 60.0, np.array([0.0, np.nan, -3.0, np.inf, 5.0]))
    assert series.known == 2
    assert series.rejected == 2
    assert series.values[0] == 0.0
    assert np.isnan(series.values[1:4]).all()


def test_resampling_ends_where_the_series_ends_and_keeps_gaps() -> None:
    series = Series(100.0, 60.0, np.array([9.0, 1.0, 3.0, np.nan, np.nan]))
    coarse = series.resample(120.0)
    assert coarse.end == series.end
    assert coarse.values[0] == 2.0
    assert np.isnan(coarse.values[1])
    assert series.resample(10.0) is series


def test_until_holds_nothing_of_a_later_moment() -> None:
    series = Series(0.0, 60.0, np.arange(10.0))
    assert list(series.until(179.9).values) == [0.0, 1.0]
    assert series.until(180.0).end == 180.0
    assert len(series.until(-5.0)) == 0
    assert list(series.last(120.0).values) == [8.0, 9.0]


def test_samples_meet_on_the_grid_in_any_order() -> None:
    series = Series.from_samples([(65.0, 4.0), (5.0, 2.0), (185.0, 7.0), (66.0, 6.0), (10.0, -1.0)], 60.0)
    assert series.start == 0.0
    assert list(series.values[[0, 1, 3]]) == [2.0, 5.0, 7.0]
    assert np.isnan(series.values[2])
    assert series.rejected == 1


def test_a_clock_that_jumped_years_is_refused_with_the_fix() -> None:
    with pytest.raises(BadHistoryError, match="longer steps"):
        Series.from_samples([(0.0, 1.0), (1.7e9, 1.0)], 60.0)
    with pytest.raises(BadHistoryError, match="finite"):
        Series.from_samples([(float("nan"), 1.0)], 60.0)


def test_it_crosses_a_process_border() -> None:
    series = pickle.loads(pickle.dumps(Series(3.0, 60.0, np.array([1.0, np.nan]))))
    assert series.start == 3.0
    assert np.isnan(series.values[1])
    assert not series.values.flags.writeable
