"""What is known at each step of a history, and what came after it; arrays of shape (N,), one entry per step.

The features are those of :mod:`warmfleet_contracts.leadwindow`, computed for a whole history at once. The target is::

    sustained(t, L) = max over stretches s of steps in (t, t + max(L, 5 min)] that begin within (t, t + L] of
                      requests(s) / (length(s) + wait * grace(s))
    grace(s)        = 1 for one step, falling to 0 for a stretch of 5 minutes and more

the least constant capacity with which nobody waits longer than ``wait`` when there is no queue at the beginning: a
busy minute is carried over as a short queue, a longer stretch must be served as it comes, because it would use up the
grace and leave a queue. A longer lead never needs less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from warmfleet_contracts.trafficstate import (
    CALM_S,
    FAST_S,
    MID_S,
    PRIOR_VOLATILITY,
    RESTART_AFTER_S,
    SLOW_S,
    VOLATILE_S,
)

from warmfleet_forecasting.recursion import highest, remembered

Floats = npt.NDArray[np.float64]

WAIT_S = 10.0
"""Seconds that a request may wait and still be in time."""
_GRACE_S = 300.0
DAY_S = 86_400.0
_SMOOTH_S = 600.0
_DAY_WEIGHTS = {1: 0.5, 2: 0.3, 3: 0.2, 7: 0.3}
"""Weights of earlier days in the shape; days that are not known drop out."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The traffic as it was known at the end of each step.

    Attributes:
        level: Mean with a memory of 1 minute, requests/s; NaN where nothing was known yet.
        momentum: log(level/mid), within [-3, 3].
        trend: log(mid/slow), within [-3, 3].
        slow: log(slow).
        volatility: Of the last half hour.
        calm: Volatility of the last six hours.
    """

    level: Floats
    momentum: Floats
    trend: Floats
    slow: Floats
    volatility: Floats
    calm: Floats


def features(rates: Floats, step_s: float, floor: float) -> Features:
    """The features of a history; NaN in ``rates`` is a gap, after which the recursion goes on as in the contract."""
    known = np.flatnonzero(np.isfinite(rates))
    means = np.full((3, len(rates)), np.nan)
    volatile = np.full((2, len(rates)), np.nan)
    variance = [PRIOR_VOLATILITY**2] * 2
    breaks = np.flatnonzero(np.diff(known) * step_s > RESTART_AFTER_S) + 1
    for part in np.split(known, breaks):
        if not len(part):
            continue
        span = slice(int(part[0]), int(part[-1]) + 1)
        values = _next_known(rates[span])
        for row, memory in enumerate((FAST_S, MID_S, SLOW_S)):
            means[row, span] = _smoothed(values, step_s / memory, float(values[0]))
        level, mid = means[0, span], means[1, span]
        apart = np.divide(2.0 * (level - mid), level + mid, out=np.zeros(len(values)), where=level + mid > 0)
        for row, memory in enumerate((VOLATILE_S, CALM_S)):
            volatile[row, span] = _smoothed(apart**2, step_s / memory, variance[row])
            variance[row] = float(volatile[row, span.stop - 1])
    level, mid, slow = means + floor
    ratios = [
        np.clip(np.log(np.maximum(a, 1e-12) / np.maximum(b, 1e-12)), -3.0, 3.0) for a, b in ((level, mid), (mid, slow))
    ]
    return Features(
        means[0], ratios[0], ratios[1], np.log(np.maximum(slow, 1e-12)), np.sqrt(volatile[0]), np.sqrt(volatile[1])
    )


def _next_known(values: Floats) -> Floats:
    """Short gaps filled with the rate that follows, as the recursion does; the last value is known."""
    index = np.where(np.isfinite(values), np.arange(len(values)), len(values) - 1)
    return np.asarray(values[np.minimum.accumulate(index[::-1])[::-1]], dtype=np.float64)


def _smoothed(values: Floats, memories: float, start: float) -> Floats:
    keep = math.exp(-memories)
    inflow = (1.0 - keep) * values
    inflow[0] += keep * start
    return remembered(inflow, keep)


def sustained(rates: Floats, step_s: float, steps: int) -> Floats:
    """The target for a lead of ``steps`` steps; NaN where a gap or the end of the history lies within the window."""
    length = len(rates)
    out = np.full(length, np.nan)
    ahead = max(steps, round(_GRACE_S / step_s))
    if ahead >= length:
        return out
    sums = np.concatenate([[0.0], np.cumsum(np.nan_to_num(rates))]) * step_s
    gaps = np.concatenate([[0], np.cumsum(np.isnan(rates))])
    kept = length - ahead
    best = np.full(kept, -np.inf)
    for k in range(1, ahead + 1):
        share = max(0.0, (_GRACE_S - k * step_s) / (_GRACE_S - step_s)) if step_s < _GRACE_S else 0.0
        stretch = (sums[k:] - sums[:-k]) / (k * step_s + WAIT_S * share)
        top = highest(stretch[1:], min(steps, ahead - k + 1))  # entry t: stretches that begin at t + 1 and on
        best = np.maximum(best, top[:kept])
    best[gaps[ahead + 1 :] - gaps[1 : kept + 1] > 0] = np.nan
    out[:kept] = best
    return out


def day_shape(rates: Floats, step_s: float, floor: float) -> Floats:
    """Expected log demand of the next day as it was known at the end, at offsets of one step; empty without a day.

    A weighted mean of the smoothed logarithms of earlier days, each from the same offset on.
    """
    day = round(DAY_S / step_s)
    ahead = np.concatenate([smooth_log(rates, step_s, floor), np.full(day, np.nan)])
    curve = _earlier(ahead, day)[len(rates) :]
    known = np.flatnonzero(np.isfinite(curve))
    if not len(known):
        return np.empty(0)
    return np.asarray(np.interp(np.arange(day), known, curve[known]), dtype=np.float64)


def anchors(rates: Floats, step_s: float, floor: float) -> Floats:
    """Expected log demand at the end of each step, as earlier days had it; NaN where none is known."""
    return _earlier(smooth_log(rates, step_s, floor), round(DAY_S / step_s))


def _earlier(values: Floats, day: int) -> Floats:
    """Weighted mean over earlier days at the same time; NaN where none is known."""
    length = len(values)
    total, weight = np.zeros(length), np.zeros(length)
    for days, share in _DAY_WEIGHTS.items():
        shift = days * day
        if shift >= length:
            continue
        past = values[: length - shift]
        good = np.isfinite(past)
        total[shift:] += np.where(good, past, 0.0) * share
        weight[shift:] += good * share
    return np.asarray(np.divide(total, weight, out=np.full(length, np.nan), where=weight > 0), dtype=np.float64)


def smooth_log(rates: Floats, step_s: float, floor: float) -> Floats:
    """Logarithm of the mean over 20 minutes around each step; NaN where nothing is known around it."""
    half = max(0, round(_SMOOTH_S / step_s))
    known = np.isfinite(rates)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, rates, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    at = np.arange(len(rates))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(rates))
    count = counts[high] - counts[low]
    mean = np.divide(sums[high] - sums[low], count, out=np.full(len(rates), np.nan), where=count > 0)
    return np.asarray(np.log(np.maximum(mean + floor, 1e-12)), dtype=np.float64)


def after(values: Floats, steps: int) -> Floats:
    """What ``values`` are ``steps`` steps later; NaN at the end."""
    return np.concatenate([values[steps:], np.full(min(steps, len(values)), np.nan)])


def rises(rates: Floats, step_s: float, floor: float, steps: int, *, at_end: bool = False) -> Floats:
    """What the shape, as known a day before at the latest, said about the rise within the window; NaN where unknown.

    For each step the weighted mean of the rises of earlier days at the same time; ``at_end``: of the changes until the
    end of the window.
    """
    day, length = round(DAY_S / step_s), len(rates)
    curve = smooth_log(rates, step_s, floor)
    if length <= day + steps:
        return np.full(length, np.nan)
    top = np.full(length, np.nan)
    top[: length - steps] = curve[steps:] if at_end else highest(curve, steps + 1)
    return _earlier(top - curve, day)
