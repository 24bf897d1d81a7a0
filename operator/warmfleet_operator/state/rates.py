"""Rates from cumulative counters that may restart, appear late or stop answering. Pure.

A counter is turned into a sum of increases: a value below the last one means that its process restarted, and counts
from zero. Windows look back from the newest sample, so that a source that fell silent does not fade into a false zero:
when its newest sample is too old it simply has no rate.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

MOST_SERIES = 10_000
"""Series of one counter of one process that are remembered; the longest absent are forgotten first."""


class Counter:
    """One counter of one process, as (time, sum of increases) over a window.

    Args:
        window: Logical seconds that are kept.
        grain: Least logical seconds between two readings that are kept, the newest excepted. The increase is exact at
            its end; where the window begins it is interpolated over at most this long.
    """

    __slots__ = ("_grain", "_last", "_samples", "_sum", "_window")

    def __init__(self, window: float, grain: float = 0.0) -> None:
        self._window, self._grain = window, grain
        self._last: float | None = None
        self._sum = 0.0
        self._samples = array("d")  # time, sum, time, sum, ...: of thousands of workers there are a hundred thousand

    def add(self, at: float, value: float) -> tuple[float, float] | None:
        """A reading at logical second ``at``; readings come in order of time.

        Returns:
            Increase and seconds since the reading before; None for the first.
        """
        kept, before = self._samples, self._sum
        step: tuple[float, float] | None = None
        if self._last is not None:
            self._sum += value - self._last if value >= self._last else value
            step = self._sum - before, at - kept[-2]
        self._last = value
        if len(kept) > 2 and kept[-2] - kept[-4] < self._grain:
            kept[-2], kept[-1] = at, self._sum
        else:
            kept.extend((at, self._sum))
        while len(kept) > 4 and kept[2] <= at - self._window:
            del kept[:2]
        return step

    @property
    def newest(self) -> float | None:
        """Time of the newest reading."""
        return self._samples[-2] if self._samples else None

    def increase(self, now: float) -> tuple[float, float] | None:
        """Increase within the window before ``now`` and the seconds it was measured over; None without two readings.

        The part of an interval that reaches back beyond the window is left out in proportion.
        """
        start, kept = now - self._window, self._samples
        if len(kept) < 4 or kept[-2] <= start:
            return None
        first = 0
        while first + 4 < len(kept) and kept[first + 2] <= start:
            first += 2  # readings are dropped as others come, and this one may have fallen silent
        t0, s0, t1, s1 = kept[first : first + 4]
        if t0 < start < t1:
            s0, t0 = s0 + (s1 - s0) * (start - t0) / (t1 - t0), start
        end, total = kept[-2:]
        return (total - s0, end - t0) if end > t0 else None


class SeriesCounter:
    """A counter split over labelled series of one process, summed.

    A series that was absent in an earlier scrape of the same process starts at zero: exporters create a labelled series
    with its first increment. Series that are shown no more are remembered, up to :data:`MOST_SERIES` in all, because
    one that pauses would count anew.
    """

    __slots__ = ("_counter", "_last", "_total")

    def __init__(self, window: float) -> None:
        self._counter = Counter(window)
        self._last: dict[str, float] | None = None
        self._total = 0.0

    def add(self, at: float, series: Mapping[str, float]) -> None:
        """A scrape: value by series."""
        if self._last is not None:
            for name, value in series.items():
                before = self._last.get(name, 0.0)
                self._total += value - before if value >= before else value
        absent = {name: value for name, value in (self._last or {}).items() if name not in series}
        for name in list(absent)[: max(0, len(absent) + len(series) - MOST_SERIES)]:
            del absent[name]
        self._last = {**absent, **series}
        self._counter.add(at, self._total)

    def increase(self, now: float) -> tuple[float, float] | None:
        """See :meth:`Counter.increase`."""
        return self._counter.increase(now)


def pooled(parts: Iterable[tuple[float, float] | None]) -> tuple[float, float] | None:
    """Sum of increases and the longest span they were measured over; None when nothing was measured."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return sum(increase for increase, _ in known), max(span for _, span in known)


def rate(part: tuple[float, float] | None) -> float | None:
    """Increase per second; None when unknown."""
    return None if part is None or part[1] <= 0 else max(0.0, part[0]) / part[1]


def ratio(top: tuple[float, float] | None, bottom: tuple[float, float] | None) -> float | None:
    """Quotient of two increases; None when either is unknown or the lower one is zero."""
    if top is None or bottom is None or bottom[0] <= 0:
        return None
    return max(0.0, top[0]) / bottom[0]
