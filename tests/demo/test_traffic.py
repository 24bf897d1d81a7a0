from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from warmfleet_cli.demo import traffic
from warmfleet_contracts.traces import TraceError


def write_trace(path: Path, requests: list[float], missing: list[bool] | None = None) -> Path:
    columns = {
        "minute": list(range(len(requests))),
        "requests": requests,
        "missing": missing or [False] * len(requests),
    }
    pq.write_table(pa.table(columns), path)
    return path


def hump(at: int, length: int = 600) -> list[float]:
    minutes = np.arange(length)
    return (100 + 400 * np.exp(-(((minutes - at) / 25.0) ** 2))).tolist()


def test_the_window_holds_the_rise_and_the_fall(tmp_path: Path) -> None:
    pattern = traffic.from_trace(write_trace(tmp_path / "t.parquet", hump(400)), minutes=150)
    assert pattern.start_minute + 40 < 400 < pattern.start_minute + 110
    assert not pattern.generated
    again = traffic.from_trace(tmp_path / "t.parquet", minutes=150)
    assert again.start_minute == pattern.start_minute


def test_a_gap_is_never_in_the_window(tmp_path: Path) -> None:
    missing = [380 <= minute < 390 for minute in range(600)]
    trace = write_trace(tmp_path / "t.parquet", hump(400), missing)
    pattern = traffic.from_trace(trace, minutes=150)
    assert pattern.start_minute >= 390 or pattern.start_minute + 150 <= 380
    with pytest.raises(TraceError, match="gap"):
        traffic.from_trace(trace, minutes=150, start_minute=300)


def test_the_start_can_be_named_and_is_checked(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.parquet", hump(400))
    assert traffic.from_trace(trace, minutes=60, start_minute=7).start_minute == 7
    with pytest.raises(TraceError, match="--start-minute 541: write a number from 0 to 540"):
        traffic.from_trace(trace, minutes=60, start_minute=541)
    with pytest.raises(TraceError, match="--minutes 601"):
        traffic.from_trace(trace, minutes=601)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        traffic.from_trace(tmp_path / "none.parquet", minutes=60)


def test_amplitude_is_thinned_and_shape_kept() -> None:
    pattern = traffic.generated(minutes=100)
    rates = pattern.rates(0.5)
    assert np.allclose(rates / rates.max(), pattern.requests / pattern.requests.max())
    usual = pattern.usual * (0.5 / pattern.peak)
    assert np.convolve(usual, np.ones(5) / 5, "valid").max() == pytest.approx(0.5)
    assert np.allclose(pattern.past(0.5) / pattern.history, 0.5 / pattern.peak)


def test_arrivals_follow_the_rates_and_the_seed_and_are_spread() -> None:
    rates = np.concatenate([np.full(60, 0.2), np.full(60, 0.8)])
    arrivals = traffic.arrivals(rates, seed=3)
    assert np.array_equal(arrivals, traffic.arrivals(rates, seed=3))
    assert not np.array_equal(arrivals[:50], traffic.arrivals(rates, seed=4)[:50])
    assert (np.diff(arrivals) >= 0).all()
    assert arrivals[0] >= 0
    assert arrivals[-1] <= 7200
    assert (arrivals < 3600).sum() == pytest.approx(720, abs=1)
    counts = np.histogram(arrivals, np.arange(0, 7201, 60.0))[0]
    assert np.abs(counts - rates * 60.0).max() <= 1, "no more noise than the source has"
    gaps = np.diff(arrivals[arrivals >= 3600])
    assert 0.3 < gaps.std() / gaps.mean() < 0.6, "and not a clock's either"


def test_the_generated_morning_is_one_of_its_week() -> None:
    pattern = traffic.generated(minutes=100)
    assert (pattern.generated, pattern.source) == (True, "generated")
    assert len(pattern.history) == 7 * 1440
    day_before = pattern.history[-1440 : -1440 + 100]
    usual = pattern.usual
    assert np.corrcoef(day_before, usual)[0, 1] > 0.95, "the rise of the day before is the rise of today"
    assert usual[:10].mean() < 0.45 * pattern.peak
    assert usual[30:45].mean() > 0.9 * pattern.peak
    assert usual[70:].mean() < 0.5 * pattern.peak


def test_the_spike_is_in_no_history_and_not_the_height_of_the_day() -> None:
    pattern = traffic.generated(minutes=100)
    assert pattern.spike is not None
    spike = slice(pattern.spike.start, pattern.spike.end)
    same_time = pattern.history[-1440 : -1440 + 100][spike]
    assert pattern.requests[spike].mean() > 1.8 * same_time.mean()
    assert pattern.requests[spike].max() < pattern.peak


def test_a_trace_brings_its_past_with_its_gaps(tmp_path: Path) -> None:
    values = hump(400) * 20  # twenty times ten hours
    missing = [5000 <= minute < 5060 for minute in range(len(values))]
    trace = write_trace(tmp_path / "t.parquet", values, missing)
    pattern = traffic.from_trace(trace, minutes=100)
    assert pattern.start_minute >= traffic.LEAST_HISTORY
    assert pattern.spike is None
    assert np.allclose(pattern.usual, pattern.requests)
    late = traffic.from_trace(trace, minutes=100, start_minute=11_000)
    assert len(late.history) == traffic.HISTORY_MINUTES
    assert np.isnan(late.history).sum() == 60
    assert len(traffic.from_trace(trace, minutes=100, start_minute=0).history) == 0
