"""When requests arrive: a trace, or a generated day, as a seeded Poisson process in logical time.

    lambda(m) = peak_rate * requests(m) / P,   P = largest mean of any PEAK_MINUTES minutes of the window

The trace keeps its shape and its pace (one trace minute is 60 logical seconds); only its amplitude is thinned, until
its peak needs the wanted number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from warmfleet_contracts.traces import BoolArray, FloatArray, TraceError, load_rates

DATA_ENV = "WARMFLEET_DATA"
DEFAULT_TRACE = "servegen_m_large.rate_1m.parquet"
"""Used when the reference data is present: a day-less production trace with steep rises and falls."""
PEAK_MINUTES = 5
LEAST_SHARE = 0.4
"""Of the peak, that traffic never falls below in the window: a worker that leaves an idle fleet has nothing to lose."""
ENOUGH_CHANGE = 0.8
"""Score at which a window makes the fleet grow and shrink more than once."""
SMOOTHING_MINUTES = 10
"""Changes shorter than this are noise to the choice of the window."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Traffic per minute of one window.

    Attributes:
        source: For a person: the trace's name, or ``generated``.
        generated: Whether no trace is behind it.
        start_minute: First minute of the window, counted from the trace's start.
        requests: Requests (or, in a trace without them, prompt tokens) in each minute, shape (n,).
    """

    source: str
    generated: bool
    start_minute: int
    requests: FloatArray

    @property
    def peak(self) -> float:
        """Largest mean of any PEAK_MINUTES consecutive minutes, per minute."""
        return float(_means(self.requests, min(PEAK_MINUTES, len(self.requests))).max())

    def rates(self, peak_rate: float) -> FloatArray:
        """Requests per logical second in each minute, such that the peak is ``peak_rate``, shape (n,)."""
        return self.requests * (peak_rate / self.peak)


def find_trace(environ: Mapping[str, str] | None = None) -> Path | None:
    """The default trace beside this checkout or below WARMFLEET_DATA; None when there is none."""
    named = (os.environ if environ is None else environ).get(DATA_ENV)
    data = Path(named) if named else Path(__file__).resolve().parents[4] / "shared" / "data"
    path = data / "traces" / DEFAULT_TRACE
    return path if path.is_file() else None


def from_trace(path: Path, *, minutes: int, start_minute: int | None = None) -> Pattern:
    """A window of a rate trace: the one that changes most, unless ``start_minute`` says which.

    Raises:
        TraceError: The trace cannot be read or has no such window.
    """
    trace = load_rates(path)
    values = trace.requests if trace.requests is not None else trace.input_tokens
    if values is None:
        raise TraceError(f"{trace.name}: neither requests nor input_tokens")
    series, known = _dense(trace.minutes, values, trace.missing)
    if minutes > len(series):
        raise TraceError(f"{trace.name}: has {len(series)} minutes; --minutes {minutes} is too long")
    if start_minute is None:
        start_minute = busiest_window(series, known, minutes)
        if start_minute is None:
            raise TraceError(f"{trace.name}: no {minutes} minutes without a gap; use a smaller --minutes")
    elif not 0 <= start_minute <= len(series) - minutes:
        raise TraceError(f"{trace.name}: --start-minute must be between 0 and {len(series) - minutes}")
    window = slice(start_minute, start_minute + minutes)
    if not known[window].all() or not series[window].max() > 0:
        raise TraceError(f"{trace.name}: the source has a gap or no traffic in the window; choose another start")
    return Pattern(trace.name, generated=False, start_minute=start_minute, requests=series[window])


def generated(*, minutes: int) -> Pattern:
    """A made-up pattern, labelled so: two rises and two falls within the window, as over a working day."""
    x = np.linspace(0.0, 1.0, minutes)
    humps = np.exp(-(((x - 0.30) / 0.13) ** 2)) + 0.9 * np.exp(-(((x - 0.72) / 0.11) ** 2))
    return Pattern("generated", generated=True, start_minute=0, requests=100.0 * (0.3 + 0.7 * humps))


def busiest_window(series: FloatArray, known: BoolArray, minutes: int) -> int | None:
    """Start of the window whose traffic both rises and falls most, from a low start to a low end.

    score = (min(total rise, total fall) - (start - low) - (end - low)) / peak, over SMOOTHING_MINUTES means: a fleet
    that is started for the window begins small, must grow, and shrinks again. None when every window has a gap.
    """
    step = SMOOTHING_MINUTES
    best: tuple[bool, float, int] | None = None
    for start in range(0, len(series) - minutes + 1, 5):
        if not known[start : start + minutes].all():
            continue
        blocks = series[start : start + minutes - minutes % step].reshape(-1, step).mean(axis=1)
        peak, low = float(blocks.max(initial=0.0)), float(blocks.min(initial=np.inf))
        if peak <= 0:
            continue
        change = np.diff(blocks)
        rise, fall = float(change[change > 0].sum()), float(-change[change < 0].sum())
        score = (min(rise, fall) - (float(blocks[0]) - low) - (float(blocks[-1]) - low)) / peak
        busy = low >= LEAST_SHARE * peak and score >= ENOUGH_CHANGE
        if best is None or (busy, score) > (best[0], best[1] + 1e-12 * (busy == best[0])):
            best = (busy, score, start)
    return None if best is None else best[2]


def arrivals(rates: FloatArray, *, seed: int) -> FloatArray:
    """Arrival times of a Poisson process, logical seconds from the window's start, ascending.

    Args:
        rates: Requests per logical second, one value per minute, shape (n,).
        seed: The same seed gives the same arrivals.
    """
    random = np.random.default_rng(seed)
    counts = random.poisson(rates * 60.0)
    minutes = np.repeat(np.arange(len(rates)), counts)
    return np.sort((minutes + random.random(len(minutes))) * 60.0)


def _dense(
    minutes: np.typing.NDArray[np.int64], values: FloatArray, missing: BoolArray
) -> tuple[FloatArray, BoolArray]:
    """One value per minute from minute 0 on, and which of them are known."""
    series = np.zeros(int(minutes[-1]) + 1)
    known = np.zeros(len(series), dtype=np.bool_)
    good = ~missing & np.isfinite(values)
    series[minutes[good]] = values[good]
    known[minutes[good]] = True
    return series, known


def _means(values: FloatArray, width: int) -> FloatArray:
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray((sums[width:] - sums[:-width]) / width, dtype=np.float64)
