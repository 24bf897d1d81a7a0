"""When requests arrive, and what the deployment's past looked like: a generated week and a morning, or a trace.

    lambda(m) = peak_rate * requests(m) / P,   P = largest mean of any PEAK_MINUTES minutes of the window, spike aside

The traffic keeps its shape and its pace (a minute is 60 logical seconds); only its amplitude is thinned, until its peak
needs the wanted number of workers. Thinning by chance would add the noise of a small service to that of the source, so
arrivals are spread: one in every stretch of time in which one is expected, anywhere in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from warmfleet_contracts.traces import BoolArray, FloatArray, TraceError, load_rates

PEAK_MINUTES = 5
DAY_MINUTES = 1440
HISTORY_MINUTES = 7 * DAY_MINUTES
"""Past that is behind the window, at most."""
LEAST_HISTORY = 2 * DAY_MINUTES
"""Past that a window of a trace has behind it where the trace is long enough: a forecast is judged on a day of it."""
LEAST_SHARE = 0.4
"""Of the peak, that traffic never falls below in the window: a worker that leaves an idle fleet has nothing to lose."""
ENOUGH_CHANGE = 0.8
"""Score at which a window makes the fleet grow and shrink more than once."""
SMOOTHING_MINUTES = 10
"""Changes shorter than this are noise to the choice of the window."""

GENERATED_START = 7 * 60 + 30
"""Minute of the day at which the generated window begins."""
GENERATED_MINUTES = 100
"""Length that the generated day was drawn for; another one stretches it."""
_BASE = 0.38
_SPIKE = (76.0, 86.0, 2.1)
_NOISE, _NOISE_MEMORY = 0.03, 8.0
_DAY_LEVEL, _DAY_SHIFT = 0.05, 2.0
_SEED = 20


@dataclass(frozen=True, slots=True)
class Spike:
    """A crowd that nothing announced.

    Attributes:
        start: First minute of the window that belongs to it.
        end: First minute that does not any more.
        factor: Traffic over usual traffic.
    """

    start: int
    end: int
    factor: float


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """Traffic per minute of one window, and of the time before it.

    Attributes:
        source: For a person: the trace's name, or ``generated``.
        generated: Whether no trace is behind it.
        start_minute: First minute of the window, counted from the trace's start.
        requests: Requests (or, in a trace without them, prompt tokens) in each minute, shape (n,).
        history: The same of the minutes before, up to the window's first one, NaN where unknown, shape (m,).
        spike: A spike that was put into ``requests``; None when none was.
    """

    source: str
    generated: bool
    start_minute: int
    requests: FloatArray
    history: FloatArray
    spike: Spike | None = None

    @property
    def usual(self) -> FloatArray:
        """The window without its spike, shape (n,)."""
        if self.spike is None:
            return self.requests
        usual = self.requests.copy()
        usual[self.spike.start : self.spike.end] /= self.spike.factor
        return usual

    @property
    def peak(self) -> float:
        """Largest mean of any PEAK_MINUTES consecutive minutes, the spike aside, per minute."""
        usual = self.usual
        return float(_means(usual, min(PEAK_MINUTES, len(usual))).max())

    def rates(self, peak_rate: float) -> FloatArray:
        """Requests per logical second in each minute, such that the peak is ``peak_rate``, shape (n,)."""
        return self.requests * (peak_rate / self.peak)

    def past(self, peak_rate: float) -> FloatArray:
        """Requests per logical second in each minute of the history, on the scale of :meth:`rates`, shape (m,)."""
        return self.history * (peak_rate / self.peak)


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
        first = min(LEAST_HISTORY, (len(series) - minutes) // 2)
        start_minute = busiest_window(series, known, minutes, first=first)
        if start_minute is None:
            raise TraceError(f"{trace.name}: no {minutes} minutes without a gap; use a smaller --minutes")
    elif not 0 <= start_minute <= len(series) - minutes:
        raise TraceError(
            f"{trace.name}: --start-minute {start_minute}: write a number from 0 to {len(series) - minutes}"
        )
    window = slice(start_minute, start_minute + minutes)
    if not known[window].all() or not series[window].max() > 0:
        raise TraceError(f"{trace.name}: the source has a gap or no traffic in the window; choose another start")
    before = slice(max(0, start_minute - HISTORY_MINUTES), start_minute)
    history = np.where(known[before], series[before], np.nan)
    return Pattern(trace.name, generated=False, start_minute=start_minute, requests=series[window], history=history)


def generated(*, minutes: int) -> Pattern:
    """A made-up week and the morning after it, labelled so.

    Every day has a morning rush of half an hour and a lower evening; days differ in level and by minutes in time. The
    window holds the rise, the plateau, the fall and, later, a spike that no day before had.
    """
    random = np.random.default_rng(_SEED)
    noise = _noise(random, 8 * DAY_MINUTES)
    levels = 1.0 + _DAY_LEVEL * random.uniform(-1.0, 1.0, 8)
    shifts = _DAY_SHIFT * random.uniform(-1.0, 1.0, 8)
    day = np.arange(DAY_MINUTES, dtype=np.float64)
    week = np.concatenate([level * _day(day - shift) for level, shift in zip(levels, shifts, strict=True)])
    traffic = 100.0 * week * np.exp(noise)
    start = 7 * DAY_MINUTES + GENERATED_START
    scale = minutes / GENERATED_MINUTES
    at = start + np.arange(minutes) / scale
    window = np.interp(at, np.arange(len(traffic)), traffic)
    first, end, factor = _SPIKE
    spike = Spike(round(first * scale), max(round(first * scale) + 1, round(end * scale)), factor)
    window[spike.start : spike.end] *= factor
    history = traffic[start - HISTORY_MINUTES : start]
    return Pattern("generated", generated=True, start_minute=start, requests=window, history=history, spike=spike)


def _day(minute: FloatArray) -> FloatArray:
    """Traffic by minute of the day, 1 at the height of the morning rush."""
    rush = _step(minute, GENERATED_START + 17.0, 2.4) * (1.0 - _step(minute, GENERATED_START + 53.0, 2.8))
    evening = np.exp(-(((minute - 1170.0) / 90.0) ** 2))
    night = np.exp(-(((minute - 180.0) / 150.0) ** 2))
    return np.asarray(_BASE * (1.0 - 0.35 * night) + (1.0 - _BASE) * (rush + 0.5 * evening), dtype=np.float64)


def _step(minute: FloatArray, at: float, width: float) -> FloatArray:
    """From 0 to 1 around ``at``; 10 % to 90 % takes 4.4 widths."""
    return np.asarray(1.0 / (1.0 + np.exp(-(minute - at) / width)), dtype=np.float64)


def _noise(random: np.random.Generator, count: int) -> FloatArray:
    """Logarithms of factors around 1 that forget themselves within minutes, shape (count,)."""
    keep = np.exp(-1.0 / _NOISE_MEMORY)
    shocks = random.normal(0.0, _NOISE * np.sqrt(1.0 - keep**2), count)
    noise = np.zeros(count)
    for i in range(1, count):
        noise[i] = keep * noise[i - 1] + shocks[i]
    return noise


def busiest_window(series: FloatArray, known: BoolArray, minutes: int, *, first: int = 0) -> int | None:
    """Start of the window whose traffic both rises and falls most, from a low start to a low end.

    score = (min(total rise, total fall) - (start - low) - (end - low)) / peak, over SMOOTHING_MINUTES means: a fleet
    that is started for the window begins small, must grow, and shrinks again. None when every window has a gap.

    Args:
        series: Traffic per minute, shape (n,).
        known: Whether it is known, shape (n,).
        minutes: Length of the window.
        first: Earliest start.
    """
    step = SMOOTHING_MINUTES
    best: tuple[bool, float, int] | None = None
    for start in range(first, len(series) - minutes + 1, 5):
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
    """Arrival times, logical seconds from the window's start, ascending: one in each stretch in which one is expected.

    Args:
        rates: Requests per logical second, one value per minute, shape (n,).
        seed: The same seed gives the same arrivals.
    """
    random = np.random.default_rng(seed)
    expected = np.concatenate([[0.0], np.cumsum(rates * 60.0)])
    count = int(expected[-1])
    at = np.arange(count) + random.random(count)
    return np.asarray(np.interp(at, expected, np.arange(len(expected)) * 60.0), dtype=np.float64)


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
