"""Persistence: the last value holds.

::

    change(i, h) = 0
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warmfleet_forecasting.grid import Grid
from warmfleet_forecasting.series import Floats


@dataclass(frozen=True, slots=True)
class Persistence:
    """The last value holds: the yardstick of skill, and the whole forecast of the first minutes."""

    name: str = "persistence"

    def change(self, grid: Grid, horizon: int) -> Floats:  # noqa: ARG002 - the protocol's shape
        """No change, wherever the present is known."""
        return np.where(np.isfinite(grid.now), 0.0, np.nan)
