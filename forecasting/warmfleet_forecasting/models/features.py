"""Causal features of an origin, for the boosting.

All are differences of logarithms, so they hold at any size of traffic: momentum over 10-120 minutes, distance to
recent means, what yesterday, the day before, last week and the mean of all days did from here on, how unusual today
is, volatility, and the time of day as two harmonics. The minute of the hour is none of them: steps at round minutes
are how some traces were made, not how people behave.
"""

from __future__ import annotations

import numpy as np

from warmfleet_forecasting.grid import Grid, mean_of_last, shift
from warmfleet_forecasting.models.seasonal import Seasonal
from warmfleet_forecasting.series import Floats

_HARMONICS = 2
_DAYS = 7


def _ahead_of(smooth: Floats, ago: int, horizon: int) -> Floats:
    """How the smoothed curve went on ``ago`` cells before, over the same lead; centred, hence one cell later."""
    return shift(smooth, ago - horizon - 1) - shift(smooth, ago - 1)


def features(grid: Grid, horizon: int, utc_offset_s: float = 0.0) -> Floats:
    """Features of every origin.

    Args:
        grid: The history; row i uses cells 0..i only.
        horizon: Lead in cells; at least 2 cells less than a day.
        utc_offset_s: Of the local clock, seconds.

    Returns:
        Shape (N, F), NaN where not known.
    """
    now, day, hour = grid.now, grid.day, max(1, round(3600.0 / grid.step_s))
    smooth = mean_of_last(grid.log, 3)
    level = mean_of_last(grid.log, hour)
    unusual = level - shift(level, day)
    steps = (grid.log - shift(grid.log, 1)) ** 2
    columns = [now - shift(grid.log, cells) for cells in (1, 2, 3, 6, 12)]
    columns += [now - mean_of_last(grid.log, cells) for cells in (3, 6, 24, day)]
    columns += [Seasonal("yesterday", 86_400.0).change(grid, horizon)]
    columns += [shift(grid.log, day - horizon) - shift(grid.log, day)]
    past = [_ahead_of(smooth, back * day, horizon) for back in range(1, min(_DAYS, max(2, grid.size // day)) + 1)]
    columns += [past[0], past[1], _mean_known(past), _ahead_of(smooth, 7 * day, horizon)]
    columns += [unusual, unusual - shift(unusual, hour)]
    columns += [np.sqrt(mean_of_last(steps, 6)), np.sqrt(mean_of_last(steps, 36))]
    phase = 2 * np.pi * (grid.start + utc_offset_s + grid.step_s * np.arange(grid.size)) / 86_400.0
    for harmonic in range(1, _HARMONICS + 1):
        columns += [np.sin(harmonic * phase), np.cos(harmonic * phase)]
    return np.stack(columns, axis=1)


def _mean_known(curves: list[Floats]) -> Floats:
    stacked = np.stack(curves)
    present = np.isfinite(stacked)
    count = present.sum(axis=0)
    return np.where(count > 0, np.where(present, stacked, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
