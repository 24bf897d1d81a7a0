"""Seasonal-naive, re-levelled: the same time one period ago, moved to the level of the last hour.

::

    change(i, h) = (log[i + h - s] - mean log[last hour before i - s]) + mean log[last hour] - log[i]

    as it was:     log[i + h - s] - log[i]                           for late leads, when the present level is forgotten

``s`` is the period. Where that cell is a gap the period before it stands in, up to seven.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warmfleet_forecasting.grid import Grid, mean_of_last, shift
from warmfleet_forecasting.series import Floats

_PERIODS = 7


@dataclass(frozen=True, slots=True)
class Seasonal:
    """The same time one period ago, at today's level.

    Attributes:
        name: Name in tables.
        period_s: The period, seconds.
        relevel: Whether it is moved to the level of the last hour.
    """

    name: str
    period_s: float
    relevel: bool = True

    def change(self, grid: Grid, horizon: int) -> Floats:
        """Expected log change; NaN until one period is known."""
        level = mean_of_last(grid.log, max(1, round(3600.0 / grid.step_s)))
        period = grid.cells(self.period_s)
        answer = np.full(grid.size, np.nan)
        for back in range(1, _PERIODS + 1):
            ago = back * period
            if ago >= grid.size + horizon or np.isfinite(answer[ago:]).all():
                break
            if horizon > ago:
                continue
            then = shift(grid.log, ago - horizon)
            moved = then + level - shift(level, ago) if self.relevel else then
            answer = np.where(np.isfinite(answer), answer, moved - grid.now)
        return answer
