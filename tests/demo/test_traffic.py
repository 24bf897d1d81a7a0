from __future__ import annotations

import os
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
    with pytest.raises(TraceError, match="--start-minute must be between 0 and 540"):
        traffic.from_trace(trace, minutes=60, start_minute=541)
    with pytest.raises(TraceError, match="--minutes 601"):
        traffic.from_trace(trace, minutes=601)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        traffic.from_trace(tmp_path / "none.parquet", minutes=60)


def test_amplitude_is_thinned_and_shape_kept() -> None:
    pattern = traffic.generated(minutes=150)
    rates = pattern.rates(0.5)
    assert np.allclose(rates / rates.max(), pattern.requests / pattern.requests.max())
    assert np.convolve(rates, np.ones(5) / 5, "valid").max() == pytest.approx(0.5)


def test_arrivals_follow_the_rates_and_the_seed() -> None:
    rates = np.concatenate([np.full(60, 0.2), np.full(60, 0.8)])
    arrivals = traffic.arrivals(rates, seed=3)
    assert np.array_equal(arrivals, traffic.arrivals(rates, seed=3))
    assert not np.array_equal(arrivals[:50], traffic.arrivals(rates, seed=4)[:50])
    assert (np.diff(arrivals) >= 0).all()
    assert arrivals[0] >= 0
    assert arrivals[-1] < 7200
    early, late = (arrivals < 3600).sum(), (arrivals >= 3600).sum()
    assert abs(early - 720) < 5 * 720**0.5
    assert abs(late - 2880) < 5 * 2880**0.5
    gaps = np.diff(arrivals[arrivals >= 3600])
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.1)  # exponential: Poisson


def test_the_generated_pattern_rises_and_falls_twice_and_says_what_it_is() -> None:
    pattern = traffic.generated(minutes=150)
    assert pattern.generated
    assert pattern.source == "generated"
    turns = np.diff(np.sign(np.diff(pattern.requests)))
    assert (turns == -2).sum() == 2


def test_the_reference_trace_when_present() -> None:
    path = traffic.find_trace()
    if path is None:
        pytest.skip(f"no reference data: set {traffic.DATA_ENV}")
    pattern = traffic.from_trace(path, minutes=150)
    low = pattern.requests.min() / pattern.peak
    assert low < 0.5, "a window worth scaling for"


def test_find_trace_follows_the_environment(tmp_path: Path) -> None:
    assert traffic.find_trace({traffic.DATA_ENV: str(tmp_path)}) is None
    (tmp_path / "traces").mkdir()
    file = tmp_path / "traces" / traffic.DEFAULT_TRACE
    file.touch()
    assert traffic.find_trace({**os.environ, traffic.DATA_ENV: str(tmp_path)}) == file
