"""The protocol of the models."""

from __future__ import annotations

from typing import Protocol

from warmfleet_forecasting.grid import Grid
from warmfleet_forecasting.series import Floats


class PointModel(Protocol):
    """Says what is expected; how sure one may be of it, calibration learns from its errors."""

    @property
    def name(self) -> str:
        """Name in tables and messages."""
        ...

    def change(self, grid: Grid, horizon: int) -> Floats:
        """Expected log change from each origin to ``horizon`` cells later.

        Args:
            grid: The history; entry i of the answer uses cells 0..i only.
            horizon: Lead in cells.

        Returns:
            Log ratios, NaN where the model has nothing to say, shape (N,).
        """
        ...
