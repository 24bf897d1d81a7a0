"""Demand over time on a regular grid: what every model of this package is fitted on.

::

    values[i] = mean rate over [start + i * step, start + (i + 1) * step)        requests/s, NaN where nothing is known

A gap is NaN, never 0: zero requests were counted, a gap was not. The end of the series is the present; everything a
model is asked is relative to it, so a forecast can be issued for any moment of a history by cutting it there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_MOST_CELLS = 2_000_000
"""Cells of a grid: 28 days at 5 s are 484 k; more is a mistake or an attack."""
_MOST_RATE = 1e9


class BadHistoryError(ValueError):
    """The history cannot be put on a grid; the message names the field and the fix."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Mean request rates on a regular grid.

    Attributes:
        start: Beginning of the first cell, seconds since the epoch (UTC).
        step_s: Length of a cell, seconds.
        values: Rates in requests/s, NaN = gap; read-only, shape (N,).
        rejected: How many cells or samples were no rates (negative or infinite) and became gaps.
    """

    start: float
    step_s: float
    values: Floats
    rejected: int = 0

    def __post_init__(self) -> None:
        """Check the grid; negative and infinite rates become gaps and are counted."""
        if not (np.isfinite(self.start) and np.isfinite(self.step_s) and self.step_s > 0):
            msg = f"start and step_s must be finite and step_s above 0, got {self.start} and {self.step_s}"
            raise BadHistoryError(msg)
        values = np.array(self.values, dtype=np.float64)
        if values.ndim != 1 or values.size > _MOST_CELLS:
            msg = f"values must have one dimension and at most {_MOST_CELLS} cells, got shape {values.shape}"
            raise BadHistoryError(msg)
        wrong = ~np.isnan(values) & ~((values >= 0) & (values <= _MOST_RATE))
        values[wrong] = np.nan
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "rejected", self.rejected + int(wrong.sum()))

    def __len__(self) -> int:
        return int(self.values.size)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by value, so that a fit can run in another process."""
        return (Series, (self.start, self.step_s, np.asarray(self.values), self.rejected))

    @property
    def end(self) -> float:
        """End of the last cell, seconds since the epoch: the moment a forecast from this series is issued for."""
        return self.start + self.step_s * self.values.size

    @property
    def known(self) -> int:
        """Cells that are no gap."""
        return int(np.count_nonzero(~np.isnan(self.values)))

    def times(self) -> Floats:
        """Beginnings of the cells, seconds since the epoch, shape (N,)."""
        return self.start + self.step_s * np.arange(self.values.size, dtype=np.float64)

    def until(self, at: float) -> Series:
        """The cells that were complete at ``at``: nothing of a later moment is in it."""
        count = int(np.clip(np.floor((at - self.start) / self.step_s + 1e-9), 0, self.values.size))
        return Series(self.start, self.step_s, self.values[:count], self.rejected)

    def last(self, seconds: float) -> Series:
        """The newest ``seconds`` of the series."""
        skip = max(0, self.values.size - int(np.ceil(seconds / self.step_s)))
        return Series(self.start + skip * self.step_s, self.step_s, self.values[skip:], self.rejected)

    def resample(self, step_s: float, *, at_least: float = 0.5) -> Series:
        """Means over cells of ``step_s``, laid so that the last cell ends where this series ends.

        So the newest sample always counts, and where cells begin on the clock has no meaning. Cells of which less than
        the share ``at_least`` is known are gaps. A step finer than the series' own returns the series unchanged.

        Args:
            step_s: Length of the new cells, seconds; rounded to a multiple of ``self.step_s``.
            at_least: Share of a new cell that must be known.
        """
        factor = round(step_s / self.step_s)
        if factor <= 1:
            return self
        count = self.values.size // factor
        tail = self.values[self.values.size - count * factor :].reshape(count, factor)
        present = np.count_nonzero(~np.isnan(tail), axis=1)
        means = np.where(
            present >= max(1.0, at_least * factor), np.nansum(tail, axis=1) / np.maximum(present, 1), np.nan
        )
        step = self.step_s * factor
        return Series(self.end - count * step, step, means, self.rejected)

    @classmethod
    def from_samples(cls, samples: Iterable[tuple[float, float]], step_s: float) -> Series:
        """Put (epoch seconds, requests/s) samples on a grid aligned to multiples of ``step_s``.

        Samples in one cell are averaged; order does not matter, so a clock that stepped back only mixes what it
        overlaps; NaN, negative and infinite rates count as no sample.

        Raises:
            BadHistoryError: The times are not finite or span more cells than a grid may have.
        """
        pairs = np.array(list(samples), dtype=np.float64).reshape(-1, 2)
        if not pairs.size:
            return cls(0.0, step_s, np.empty(0))
        if not np.isfinite(pairs[:, 0]).all():
            raise BadHistoryError("timestamps must be finite seconds since the epoch")
        good = (pairs[:, 1] >= 0) & (pairs[:, 1] <= _MOST_RATE)
        cell = np.floor(pairs[:, 0] / step_s)
        first, span = float(cell.min()), float(cell.max() - cell.min()) + 1
        if span > _MOST_CELLS:
            msg = f"times span {span:.0f} cells of {step_s:g} s, more than {_MOST_CELLS}; ask for less or longer steps"
            raise BadHistoryError(msg)
        index = (cell - first).astype(np.int64)[good]
        count = np.bincount(index, minlength=int(span))
        total = np.bincount(index, weights=pairs[good, 1], minlength=int(span))
        values = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return cls(first * step_s, step_s, values, int(np.count_nonzero(~good & ~np.isnan(pairs[:, 1]))))
