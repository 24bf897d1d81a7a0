"""Sliding windows over observations, and the recommendation window of a HorizontalPodAutoscaler."""

from __future__ import annotations

from collections import deque

import numpy as np
from warmfleet_contracts.traces import FloatArray


class Mean:
    """Mean of the newest values."""

    def __init__(self, length: int) -> None:
        self._values: deque[FloatArray] = deque(maxlen=max(1, length))
        self._sum: FloatArray | None = None

    def add(self, value: FloatArray) -> FloatArray:
        """Takes a value in and returns the mean."""
        if self._sum is None:
            self._sum = np.zeros_like(value, dtype=np.float64)
        if len(self._values) == self._values.maxlen:
            self._sum = self._sum - self._values[0]
        self._values.append(np.array(value, dtype=np.float64))
        self._sum = self._sum + value
        return self._sum / len(self._values)


class Highest:
    """Highest of the newest values: what scale-down stabilization keeps."""

    def __init__(self, length: int) -> None:
        self._length = max(1, length)
        self._values: FloatArray | None = None
        self._next = 0

    def add(self, value: FloatArray) -> FloatArray:
        """Takes a value in and returns the highest."""
        if self._values is None:
            self._values = np.full((self._length, *value.shape), -np.inf)
        self._values[self._next] = value
        self._next = (self._next + 1) % self._length
        return np.asarray(self._values.max(axis=0), dtype=np.float64)


def every(time: float, period: float, step_s: float) -> bool:
    """Whether a loop of this period runs in the step that begins at ``time``."""
    return period <= step_s or time % period < step_s
