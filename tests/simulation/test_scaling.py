"""Thinning, superposing and the undoing of artefacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from warmfleet_contracts.traces import RateTrace, TraceError, load_rates
from warmfleet_simulation.scaling import load_clean, resample_envelope, shift_phase, superpose, thin, window_of

from .conftest import constant


def test_thinning_keeps_the_clock_and_the_share() -> None:
    trace = constant(2000, 10.0)
    thinned = thin(trace, 0.25, seed=3)
    assert thinned.requests is not None
    assert thinned.minutes.tolist() == trace.minutes.tolist()
    assert thinned.requests.mean() == pytest.approx(150.0, rel=0.02)
    assert thinned.requests.var() == pytest.approx(600 * 0.25 * 0.75, rel=0.15)  # binomial, not scaled down
    assert thinned.input_tokens is not None
    assert thinned.input_tokens == pytest.approx(thinned.requests * 100)
    with pytest.raises(TraceError, match="superpose to grow"):
        thin(trace, 1.5, seed=3)


def test_a_gap_of_one_stream_is_a_gap_of_the_sum() -> None:
    a, b = constant(5, 1.0), constant(4, 2.0)
    gap = RateTrace("g", b.minutes, b.requests, b.input_tokens, b.output_tokens, b.minutes == 2)
    both = superpose([a, gap])
    assert both.requests is not None
    assert both.requests.tolist() == [180.0] * 4
    assert both.missing.tolist() == [False, False, True, False]


def test_the_envelope_is_kept_and_the_mean_too() -> None:
    trace = constant(5000, 1.0)
    times = np.array([0.0, 5000 * 60.0])
    drawn = resample_envelope(trace, times, np.full(2, 40.0), np.full(2, 90.0), seed=1)
    assert drawn.requests is not None
    assert drawn.requests.min() >= 40.0
    assert drawn.requests.max() <= 90.0
    assert drawn.requests.mean() == pytest.approx(60.0, rel=0.02)
    assert drawn.requests.std() > 5.0
    with pytest.raises(TraceError, match="row 0: low is above high"):
        resample_envelope(trace, times, np.full(2, 90.0), np.full(2, 40.0), seed=1)


def test_the_phase_depends_on_the_seed_alone() -> None:
    trace = constant(100, 1.0)
    lengths = {len(shift_phase(trace, seed).minutes) for seed in range(40)}
    assert lengths == set(range(91, 101))
    assert len(shift_phase(trace, 5).minutes) == len(shift_phase(trace, 5).minutes)


def test_a_window_counts_from_zero() -> None:
    assert window_of(constant(100, 1.0), 30, 40).minutes.tolist() == list(range(10))
    with pytest.raises(TraceError, match="no minute between"):
        window_of(constant(10, 1.0), 30, 40)


def test_known_artefacts_are_undone(data_dir: Path) -> None:
    path = data_dir / "traces" / "azure2024_code_digitised.rate_1m.parquet"
    raw, (clean, said) = load_rates(path), load_clean(path, seed=2)
    assert raw.requests is not None
    assert clean.requests is not None
    assert "resampled inside the envelope" in said[0]
    straight = np.abs(np.diff(raw.requests, n=2)) <= 2
    assert straight.mean() > 0.7  # the artefact
    assert (np.abs(np.diff(clean.requests, n=2)) <= 2).mean() < 0.1
    assert clean.requests.mean() == pytest.approx(raw.requests.mean(), rel=0.01)
    other, _ = load_clean(path, seed=3)
    assert other.requests is not None
    assert not np.array_equal(other.requests, clean.requests)
