"""Traffic made smaller, larger or free of its source's artefacts; never by squeezing time.

Thinning keeps each request with probability p (binomial), superposing adds traces up. Both keep the clock. Artefacts:

- *straight lines* between points of a digitised figure: the minutes between two points are drawn anew inside the
  envelope [lo, hi] that the source publishes, with the mean kept (:func:`resample_envelope`);
- *steps on the clock*: rates that change only at 10-minute borders get a random phase (:func:`shift_phase`), so that
  no policy can learn the minute of ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.special import erf
from warmfleet_contracts.traces import FloatArray, RateTrace, TraceError, load_rates

from warmfleet_simulation.importers import detect, import_rates

_COLUMNS = ("requests", "input_tokens", "output_tokens")
_PERSISTENCE_MINUTES = 2.0
"""Correlation time of the noise drawn inside an envelope."""


def thin(trace: RateTrace, share: float, seed: int) -> RateTrace:
    """Each request kept with probability ``share``; tokens follow the kept requests.

    Where a trace has no requests its tokens are scaled: single requests are unknown there.

    Raises:
        TraceError: ``share`` is not in (0, 1].
    """
    if not 0.0 < share <= 1.0:
        raise TraceError(f"{trace.name}: thinning keeps a share in (0, 1], not {share:g}; superpose to grow")
    if trace.requests is None or share == 1.0:
        return _times(trace, np.full(len(trace.minutes), share))
    rng = np.random.default_rng(seed)
    whole = np.nan_to_num(trace.requests).round().astype(np.int64)
    kept = rng.binomial(whole, share).astype(np.float64)
    ratio = np.divide(kept, whole, out=np.full(len(kept), share), where=whole > 0)
    thinned = _times(trace, ratio)
    return replace(thinned, requests=np.where(np.isnan(trace.requests), np.nan, kept))


def superpose(traces: Sequence[RateTrace], name: str | None = None) -> RateTrace:
    """Several streams as one, over the minutes all of them have; a gap of one is a gap of the sum.

    Raises:
        TraceError: There is nothing to add, no common minute, or columns differ.
    """
    if not traces:
        raise TraceError("superpose: no trace given")
    first = traces[0]
    if any((getattr(t, c) is None) != (getattr(first, c) is None) for t in traces for c in _COLUMNS):
        raise TraceError(f"{first.name}: the traces to superpose differ in their columns")
    common = first.minutes
    for trace in traces[1:]:
        common = np.intersect1d(common, trace.minutes, assume_unique=True)
    if not len(common):
        raise TraceError(f"{first.name}: the traces to superpose have no minute in common")
    rows = [np.searchsorted(trace.minutes, common) for trace in traces]
    missing = np.any([t.missing[r] for t, r in zip(traces, rows, strict=True)], axis=0)

    def total(column: str) -> FloatArray | None:
        if getattr(first, column) is None:
            return None
        parts = [getattr(t, column)[r] for t, r in zip(traces, rows, strict=True)]
        return np.asarray(np.sum(parts, axis=0), dtype=np.float64)

    return RateTrace(
        name=name or "+".join(t.name for t in traces),
        minutes=common,
        requests=total("requests"),
        input_tokens=total("input_tokens"),
        output_tokens=total("output_tokens"),
        missing=missing,
    )


def shift_phase(trace: RateTrace, seed: int, window: int = 10) -> RateTrace:
    """The trace from a random minute of its first ``window`` on, so that its steps leave the borders of the clock."""
    lost = int(np.random.default_rng(seed).integers(0, window))
    return window_of(trace, lost, None)


def window_of(trace: RateTrace, start: int, end: int | None) -> RateTrace:
    """Minutes [start, end) of a trace, counted anew from 0.

    Raises:
        TraceError: Nothing is left.
    """
    rows = (trace.minutes >= start) & (trace.minutes < (np.iinfo(np.int64).max if end is None else end))
    if not rows.any():
        raise TraceError(f"{trace.name}: no minute between {start} and {end}")

    def cut(values: FloatArray | None) -> FloatArray | None:
        return None if values is None else values[rows]

    return RateTrace(
        name=trace.name,
        minutes=trace.minutes[rows] - start,
        requests=cut(trace.requests),
        input_tokens=cut(trace.input_tokens),
        output_tokens=cut(trace.output_tokens),
        missing=trace.missing[rows],
    )


def resample_envelope(trace: RateTrace, times_s: FloatArray, low: FloatArray, high: FloatArray, seed: int) -> RateTrace:
    """Minutes drawn anew inside an envelope, with correlation over a few minutes and the mean of the line kept.

    Args:
        trace: Minutes that follow straight lines.
        times_s: When the envelope is given, s, ascending, shape (m,).
        low: Least requests per minute around each time, shape (m,).
        high: Most requests per minute, shape (m,).
        seed: Of the draw.

    Raises:
        TraceError: The trace has no requests, or the envelope is upside down.
    """
    if trace.requests is None:
        raise TraceError(f"{trace.name}: an envelope of requests needs a trace with requests")
    if (wrong := np.flatnonzero(low > high)).size:
        raise TraceError(f"{trace.name}: envelope row {int(wrong[0])}: low is above high")
    at = trace.minutes * 60.0 + 30.0
    line = trace.requests
    below = np.maximum(line - np.interp(at, times_s, low), 0.0)
    above = np.maximum(np.interp(at, times_s, high) - line, 0.0)
    noise = _correlated_uniform(len(at), np.random.default_rng(seed))
    # A triangle on each side, weighted so that the mean stays on the line whatever the two widths are.
    side = np.minimum(below, above)
    drawn = np.maximum(line + side * noise, 0.0)
    ratio = np.divide(drawn, line, out=np.ones(len(line)), where=line > 0)
    return _times(trace, np.where(trace.missing, 1.0, ratio))


def _correlated_uniform(length: int, rng: np.random.Generator) -> FloatArray:
    """Noise in (-1, 1), uniform in the long run, with the memory of an AR(1) process."""
    memory = float(np.exp(-1.0 / _PERSISTENCE_MINUTES))
    shocks = rng.standard_normal(length) * np.sqrt(1.0 - memory**2)
    state = np.empty(length)
    value = float(rng.standard_normal())
    for i in range(length):
        value = memory * value + shocks[i]
        state[i] = value
    return np.asarray(erf(state / np.sqrt(2.0)), dtype=np.float64)


def _times(trace: RateTrace, factor: FloatArray) -> RateTrace:
    def scaled(values: FloatArray | None) -> FloatArray | None:
        return None if values is None else values * factor

    return replace(
        trace,
        requests=scaled(trace.requests),
        input_tokens=scaled(trace.input_tokens),
        output_tokens=scaled(trace.output_tokens),
    )


def load_clean(path: Path, seed: int) -> tuple[RateTrace, tuple[str, ...]]:
    """A Parquet rate trace without the known artefacts of its source, and what was undone.

    Raises:
        TraceError: As :func:`warmfleet_contracts.traces.load_rates`.
    """
    trace = load_rates(path)
    beside = path.with_name(path.name.replace(".rate_1m.parquet", ".native_7m.parquet"))
    if beside != path and beside.is_file():
        table = pq.read_table(beside)
        times, low, high = (
            np.asarray(table.column(c).to_numpy(zero_copy_only=False), dtype=np.float64)
            for c in ("t_s", "requests_per_min_lo", "requests_per_min_hi")
        )
        said = f"{trace.name}: straight lines between 7-minute points resampled inside the envelope, seed {seed}"
        return resample_envelope(trace, times, low, high, seed), (said,)
    if trace.name.startswith("servegen_"):
        return shift_phase(trace, seed), (_phase_drawn(trace, seed),)
    return trace, ()


def load_any(path: Path, form: str | None, seed: int) -> tuple[RateTrace, tuple[str, ...]]:
    """A trace in any known format, without the known artefacts of its source, and what was repaired or undone.

    Args:
        path: File, or folder for ServeGen.
        form: As :func:`warmfleet_simulation.importers.import_trace`.
        seed: Of what is drawn.

    Raises:
        TraceError: The format is unknown or the content cannot be traffic.
    """
    if path.name.endswith(".rate_1m.parquet"):
        return load_clean(path, seed)
    name = form or detect(path)
    trace, said = import_rates(path, name)
    if name != "servegen":
        return trace, said
    return shift_phase(trace, seed), (*said, _phase_drawn(trace, seed))


def _phase_drawn(trace: RateTrace, seed: int) -> str:
    return f"{trace.name}: phase of the 10-minute steps drawn at random, seed {seed}"
