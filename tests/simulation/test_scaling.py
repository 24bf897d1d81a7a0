"""Thinning, superposing and the undoing of artefacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from warmfleet_contracts.traces import RateTrace, TraceError, load_rates
from warmfleet_simulation.scaling import (
    load_any,
    load_clean,
    resample_envelope,
    shift_phase,
    superpose,
    thin,
    window_of,
)

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


def test_the_envelope_of_the_source_is_kept(data_dir: Path) -> None:
    path = data_dir / "traces" / "azure2024_code_digitised.rate_1m.parquet"
    clean, raw = load_clean(path, seed=2)[0], load_rates(path)
    assert clean.requests is not None
    assert raw.requests is not None
    table = pq.read_table(path.with_name("azure2024_code_digitised.native_7m.parquet"))
    at = clean.minutes * 60.0 + 30.0
    low, high = (
        np.interp(at, table.column("t_s").to_numpy(), table.column(f"requests_per_min_{side}").to_numpy())
        for side in ("lo", "hi")
    )
    inside = (raw.requests >= low) & (raw.requests <= high)  # the line itself leaves it here and there
    assert inside.mean() > 0.7
    assert (clean.requests[inside] >= low[inside] - 1e-6).all()
    assert (clean.requests[inside] <= high[inside] + 1e-6).all()


def test_steps_on_the_clock_get_a_phase_in_parquet_and_in_a_raw_folder(tmp_path: Path, data_dir: Path) -> None:
    path = data_dir / "traces" / "servegen_m_small_8d.rate_1m.parquet"
    raw = load_rates(path)
    lost = {len(raw.minutes) - len(load_clean(path, seed)[0].minutes) for seed in range(12)}
    assert len(lost) > 4
    assert lost <= set(range(10))

    (tmp_path / "chunk-1-trace.csv").write_text("".join(f"{600 * i},{i + 1},1,Gamma,1,1\n" for i in range(6)))
    (tmp_path / "chunk-1-dataset.json").write_text('{"0": {"input_tokens": {"9": 1}, "output_tokens": {"9": 1}}}')
    borders = set()
    for seed in range(12):
        trace, said = load_any(tmp_path, None, seed)
        assert trace.requests is not None
        steps = np.flatnonzero(np.diff(trace.requests)) + 1
        assert set(np.diff(steps)) == {10}
        borders.add(int(steps[0]) % 10)
        assert "phase of the 10-minute steps" in said[-1]
        assert np.array_equal(trace.requests, load_any(tmp_path, "servegen", seed)[0].requests, equal_nan=True)
    assert len(borders) > 4
