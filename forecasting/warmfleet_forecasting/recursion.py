"""Sums with a memory, and maxima over a moving window: the two running figures that a history needs, in numpy alone.

scipy has the first as a filter, but importing it costs each fitting process 54 MiB.
"""

from __future__ import annotations

import numpy as np

from warmfleet_forecasting.series import Floats

_NOTHING = 1e-18


def remembered(values: Floats, keep: float) -> Floats:
    """Sums with a memory along the first axis: ``y[i] = values[i] + keep * y[i - 1]``.

    Args:
        values: Shape (N, ...), finite.
        keep: What is kept from one entry to the next, in [0, 1].

    Returns:
        Shape kept. By doubling: after k rounds each entry holds the last 2^k terms of its sum.
    """
    total = np.array(values, dtype=np.float64)
    reach, factor = 1, keep
    while reach < len(total) and factor > _NOTHING:
        total[reach:] += factor * total[:-reach]
        reach, factor = 2 * reach, factor * factor
    return total


def highest(values: Floats, width: int) -> Floats:
    """Maxima of each ``width`` neighbours, shape (N - width + 1,); NaN where one of them is.

    Args:
        values: Shape (N,).
        width: At least 1, at most N.
    """
    top, reach = values, 1
    while 2 * reach <= width:
        top = np.maximum(top[:-reach], top[reach:])
        reach *= 2
    return np.maximum(top[: len(values) - width + 1], top[width - reach :])
