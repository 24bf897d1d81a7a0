"""Rates from cumulative counters that may restart or stop answering.

::

    rate over (t[i-1], t[i]] = (v[i] - v[i-1]) / (t[i] - t[i-1])       if v[i] >= v[i-1]
                             =  v[i]           / (t[i] - t[i-1])       else: the process restarted and counts from zero

Between readings further apart than ``most_s`` nothing is known: the mean over a long silence would hide what happened
in it, and a counter that restarted twice has lost count.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from warmfleet_forecasting.series import Floats


def increase(before: float, after: float) -> float:
    """Events counted between two readings; a fall means a restart from zero."""
    return after - before if after >= before else after


class CounterRates:
    """Turns readings of one counter, one at a time, into rates.

    Args:
        most_s: Longest time between readings over which a rate is believed, seconds.
    """

    __slots__ = ("_at", "_most_s", "_value")

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._at, self._value = math.nan, math.nan

    def add(self, at: float, value: float) -> float | None:
        """Events/s since the reading before; None when there is none, or it is too old, or the clock went back."""
        passed, counted = at - self._at, increase(self._value, value)
        self._at, self._value = at, value
        return counted / passed if 0 < passed <= self._most_s else None


def cell_rates(times: Floats, values: Floats, edges: Floats, most_s: float) -> Floats:
    """Mean rates in cells from a counter's readings.

    The count is interpolated linearly between readings, so a cell's rate is what was counted between its edges.

    Args:
        times: Times of the readings, ascending, shape (N,).
        values: Readings, shape (N,).
        edges: Borders of the cells, ascending, shape (M + 1,).
        most_s: Longest time between two readings over which a rate is believed, seconds.

    Returns:
        Events/s per cell, NaN where a cell is not fully covered by readings, shape (M,).
    """
    good = np.isfinite(times) & np.isfinite(values)
    times, values = times[good], values[good]
    if len(times) < 2:
        return np.full(len(edges) - 1, np.nan)
    steps = np.diff(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(steps >= 0, steps, values[1:]))])
    at_edges = np.interp(edges, times, total, left=np.nan, right=np.nan)
    rates = np.diff(at_edges) / np.diff(edges)
    for before, after in pairwise(times):
        if after - before > most_s:
            rates[(edges[:-1] < after) & (edges[1:] > before)] = np.nan
    return np.asarray(rates)
