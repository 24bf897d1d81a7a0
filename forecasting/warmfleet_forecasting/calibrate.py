"""How sure: quantiles of a model's own past errors, and a correction that keeps them true while they drift.

::

    past errors      q_p(i) = change(i) + Q_p{ y[j] - change(j) : j + h <= i, j > i - 7 days }
    online conformal theta_p += gamma * (p - [y <= q_p]);  q_p := q_p + theta_p * (q_0.95 - q_0.05)

The second is adaptive conformal inference (Gibbs and Candes, NeurIPS 2021) on the quantile instead of its level: a
step of the subgradient of the pinball loss, in units of the forecast's own width. Its share of values below q_p tends
to p whatever the traffic does, at most as fast as gamma allows.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from warmfleet_forecasting.series import Floats

PROBABILITIES: Floats = np.array([0.05, 0.5, 0.9, 0.95])
"""Quantiles that are learned; others lie between them on the normal scale."""


def scores_of(probabilities: Floats) -> Floats:
    """Standard normal quantiles of ``probabilities``, shape kept."""
    return np.array([NormalDist().inv_cdf(float(p)) for p in probabilities])


SCORES: Floats = scores_of(PROBABILITIES)
LEAST_ERRORS = 24
"""Past errors needed for a quantile of them."""
_EVERY = 6
"""Origins that share the quantiles of past errors; a quarter of the lead when that is longer."""
_GAMMA: Floats = np.array([0.002, 0.002, 0.004, 0.0005])
"""Rate by probability: every step costs sharpness, and the coverage that counts is that of the 90th percentile. One
value above the 95th moves it 19 times as far as one below, so a spike that nobody saw would widen it for days."""
_MOST_THETA = 1.0
_LEAST_WIDTH = 1e-3
_PRIOR = 0.12
"""Log standard deviation of a 10-minute change while nothing was seen; it grows with the root of the lead."""


def pinball(truth: Floats, quantile: Floats, probability: Floats | float) -> Floats:
    """Pinball (quantile) loss, Koenker and Bassett 1978, in the units of ``truth``."""
    over = truth - quantile
    return np.maximum(probability * over, (probability - 1.0) * over)


def prior_quantiles(lead_cells: float) -> Floats:
    """Log ratios assumed while there are no errors to learn from, shape (P,)."""
    return np.asarray(SCORES * _PRIOR * np.sqrt(max(lead_cells, 0.5)))


def _quantiles(ascending: Floats, count: npt.NDArray[np.int64]) -> Floats:
    """Linearly interpolated quantiles of each row's first ``count`` values, sorted; shape (R, P)."""
    place = PROBABILITIES * (count[:, None] - 1)
    low = place.astype(np.int64)
    high = np.minimum(low + 1, count[:, None] - 1)
    below, above = (np.take_along_axis(ascending, at, axis=1) for at in (low, high))
    return np.asarray(below + (place - low) * (above - below))


def with_past_errors(change: Floats, truth: Floats, horizon: int, first: int, window: int) -> Floats:
    """Quantiles of a point model from its own past errors.

    Args:
        change: Expected log change by origin, shape (N,).
        truth: Realised log change by origin, shape (N,).
        horizon: Lead in cells; an error is known ``horizon`` cells after its origin.
        first: First origin that is asked for.
        window: Cells to look back.

    Returns:
        Shape (N, P), NaN before ``first`` and while fewer than ``LEAST_ERRORS`` errors are known.
    """
    answer = np.full((change.size, PROBABILITIES.size), np.nan)
    every = max(_EVERY, horizon // 4)
    origins = np.arange(first, change.size, every)
    last = origins - horizon
    padded = np.concatenate([np.full(window, np.nan), truth - change])
    past = np.sort(sliding_window_view(padded, window)[np.maximum(last + 1, 0)], axis=1)  # NaN comes last
    count = np.isfinite(past).sum(axis=1)
    enough = count >= LEAST_ERRORS
    found = np.full((origins.size, PROBABILITIES.size), np.nan)
    found[enough] = _quantiles(past[enough], count[enough])
    answer[first:] = change[first:, None] + np.repeat(found, every, axis=0)[: change.size - first]
    return answer


def conformal(quantiles: Floats, truth: Floats, horizon: int, first: int) -> Floats:
    """Correct quantiles online so that each keeps its share of values below it.

    Args:
        quantiles: Shape (N, P), NaN where there is no forecast.
        truth: Realised log change by origin, shape (N,).
        horizon: Lead in cells.
        first: First origin to correct.

    Returns:
        Shape (N, P), ascending along P.
    """
    answer = quantiles.copy()
    wide = np.maximum(quantiles[:, -1] - quantiles[:, 0], _LEAST_WIDTH).tolist()
    judged = (np.isfinite(truth) & np.isfinite(quantiles).all(axis=1)).tolist()
    rates = list(zip(PROBABILITIES.tolist(), _GAMMA.tolist(), strict=True))
    theta = [0.0] * len(rates)
    rows: list[list[float]] = quantiles[first:].tolist()
    truths: list[float] = truth[first:].tolist()
    for at, row in enumerate(rows):  # a few numbers at a time: lists are faster than arrays
        known = at - horizon
        if known >= 0 and judged[first + known]:
            theta = [
                min(max(t + gamma * (p if truths[known] > q else p - 1.0), -_MOST_THETA), _MOST_THETA)
                for t, (p, gamma), q in zip(theta, rates, rows[known], strict=True)
            ]
        low, middle, high, highest = (q + t * wide[first + at] for q, t in zip(row, theta, strict=True))
        high = max(middle, high)  # not sorted: an outer quantile that learns slowly must not hold an inner one back
        rows[at] = [min(low, middle), middle, high, max(high, highest)]
    answer[first:] = np.array(rows).reshape(-1, PROBABILITIES.size)
    return answer
