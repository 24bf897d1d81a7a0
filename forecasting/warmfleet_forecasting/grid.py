"""The working grid: logarithms of 10-minute means, and what is known of them at each moment.

::

    log[i] = ln(rate[i] + c)          c = 0.1 % of the median rate above zero: a floor, so that zeros count
    now[i] = log[i], or the newest of the 3 cells before it while log[i] is a gap
    y[i]   = log[i + h] - now[i]      what a model at origin i has to say for the lead h

Traffic multiplies (a busy day is busy at every hour), so shapes and errors are those of the logarithm. The cells end
where the history ends: the newest sample always counts, and minutes of the clock carry no meaning.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from warmfleet_forecasting.config import DAY_S, Event
from warmfleet_forecasting.series import Floats, Series

STEP_S = 600.0
"""Length of a cell, seconds; a coarser history keeps its own."""
_CARRY = 3
_PEAK_CELLS = 3
_FLOOR = 1e-3
_LEAST_RATE = 1e-9


def shift(values: Floats, cells: int) -> Floats:
    """``values`` of ``cells`` cells ago (negative: ahead), NaN where there are none; shape kept."""
    moved = np.full(values.shape, np.nan)
    if cells == 0:
        moved[:] = values
    elif 0 < cells < values.size:
        moved[cells:] = values[:-cells]
    elif -values.size < cells < 0:
        moved[:cells] = values[-cells:]
    return moved


def mean_of_last(values: Floats, cells: int) -> Floats:
    """Mean of what is known of the last ``cells`` cells, NaN where nothing is; shape kept."""
    present = np.isfinite(values)
    total = np.cumsum(np.concatenate([[0.0], np.where(present, values, 0.0)]))
    count = np.cumsum(np.concatenate([[0], present]))
    first = np.maximum(np.arange(values.size) + 1 - cells, 0)
    last = np.arange(values.size) + 1
    known = count[last] - count[first]
    return np.where(known > 0, (total[last] - total[first]) / np.maximum(known, 1), np.nan)


@dataclass(frozen=True, eq=False)
class Grid:
    """Logarithms of the rates on the working grid.

    Attributes:
        start: Beginning of the first cell, seconds since the epoch.
        step_s: Length of a cell, seconds.
        log: ln(rate + floor), NaN = gap, shape (N,).
        floor: What was added, requests/s.
    """

    start: float
    step_s: float
    log: Floats
    floor: float

    @property
    def size(self) -> int:
        """Cells."""
        return int(self.log.size)

    @property
    def day(self) -> int:
        """Cells of a day."""
        return max(1, round(DAY_S / self.step_s))

    @property
    def end(self) -> float:
        """End of the last cell, seconds since the epoch."""
        return self.start + self.step_s * self.log.size

    @cached_property
    def now(self) -> Floats:
        """The level at each origin: the newest known cell, at most three cells old."""
        carried = self.log.copy()
        for cells in range(1, _CARRY + 1):
            carried = np.where(np.isfinite(carried), carried, shift(self.log, cells))
        return carried

    @cached_property
    def peak(self) -> Floats:
        """The highest level so far at each cell, reached by as many cells as it takes for a habit, shape (N,)."""
        highest = [-np.inf] * _PEAK_CELLS
        answer = np.empty(self.size)
        for at, value in enumerate(self.log.tolist()):
            if value > highest[0]:
                heapq.heapreplace(highest, value)
            answer[at] = highest[0] if highest[0] > -np.inf else max(highest)
        return answer

    def cells(self, seconds: float) -> int:
        """``seconds`` in cells, at least 1."""
        return max(1, round(seconds / self.step_s))

    def ahead(self, horizon: int) -> Floats:
        """The truth: log change from each origin to ``horizon`` cells later; NaN where not known yet, shape (N,)."""
        return shift(self.log, -horizon) - self.now

    def rate(self, log: Floats) -> Floats:
        """Requests/s of logarithms, never below 0; what is less than one request in 30 years is 0."""
        rate = np.exp(np.minimum(log, 50.0)) - self.floor
        return np.where(rate < _LEAST_RATE, 0.0, rate)

    def tail(self, cells: int) -> Grid:
        """The newest ``cells`` cells."""
        skip = max(0, self.size - cells)
        return Grid(self.start + skip * self.step_s, self.step_s, self.log[skip:], self.floor)

    def cut(self, cells: int) -> Grid:
        """The first ``cells`` cells: what was known then, on the same floor."""
        return Grid(self.start, self.step_s, self.log[:cells], self.floor)


def grid_of(series: Series, history_s: float, events: tuple[Event, ...] = (), floor: float | None = None) -> Grid:
    """The newest ``history_s`` of ``series`` as a working grid.

    Declared events that are over are taken out as gaps: what was exceptional by declaration is no habit. One that is
    under way stays, because the present level is what it is.
    """
    coarse = series.last(history_s).resample(STEP_S)
    rates = np.array(coarse.values)
    times = coarse.times()
    for event in events:
        if event.end <= coarse.end:
            rates[(times + coarse.step_s > event.start) & (times < event.end)] = np.nan
    if floor is None:
        busy = rates[rates > 0]
        floor = _FLOOR * float(np.median(busy)) + 1e-12 if busy.size else 1e-12
    return Grid(coarse.start, coarse.step_s, np.log(rates + floor), floor)
