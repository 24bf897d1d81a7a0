"""One forecast from several: weights by recent pinball loss at the lead, per probability.

::

    ratio_kp = sum_j 2^(-age_j / T) * pinball_p(rate_j, q_kp) / the same sum for persistence     j: where k spoke
    weight_kp ~ ratio_kp ^ (-10 * sqrt(n_k) / 12),                       n_k = sum of 2^(-age_j / T)
    q_p      = sum_k weight_kp * q_kp                                                      (of logarithms)

T is a day for the first hour, two days for later leads. Each is compared with persistence on the
origins at which it spoke, so one that joins late is not judged by other hours. Averaging quantiles keeps the shape of
the band (Vincentisation); the root of n is how much a relative difference in loss means: with two hours of evidence all
models speak, after a day the better ones do. Weights differ by probability because the model that knows the middle best
is not the one that knows the tail. No origin counts for more than ten times the recent mean loss of persistence, or one
spike nobody saw coming would decide the weights of the next days.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from warmfleet_forecasting.calibrate import PROBABILITIES, pinball
from warmfleet_forecasting.grid import Grid
from warmfleet_forecasting.recursion import remembered
from warmfleet_forecasting.series import Floats

_SHARPNESS = 10.0 / 12.0
HALF_LIFE_S = 86_400.0
_TINY = 1e-12
_MOST_LOSS = 10.0
_LEAST_RATIO = 1e-3
_LEAST_COUNT = 5.0
_PRIOR: Floats = np.array([4.0, 2.0, 2.0, 8.0])
"""Weight of persistence against another model's before any evidence: it is hard to beat where nothing is foreseeable,
and little is ever seen of the tails, least of the upper one, where one spike is most of what a day loses."""


def combine(grid: Grid, experts: Floats, horizon: int, first: int, half_life_s: float) -> tuple[Floats, Floats]:
    """Weigh the experts by what they lost so far.

    Args:
        grid: The history.
        experts: Log ratios, shape (K, N, P), persistence first; NaN where an expert is silent.
        horizon: Lead in cells.
        first: First origin at which losses count.
        half_life_s: Age at which a loss counts half, seconds.

    Returns:
        The combined quantiles, shape (N, P), NaN before ``first``, and the weights, shape (N, K, P), 0 before it.
    """
    mixed = np.full(experts.shape[1:], np.nan)
    shares = np.zeros((experts.shape[1], experts.shape[0], experts.shape[2]))
    said, truth, now = experts[:, first:], grid.ahead(horizon)[first:], grid.now[first:]
    with np.errstate(over="ignore"):
        rate = np.exp(now + truth)
        losses = pinball(rate[None, :, None], np.exp(now[None, :, None] + said), PROBABILITIES)
    speaks: npt.NDArray[np.bool_] = np.asarray(np.isfinite(said).all(axis=2), dtype=np.bool_)
    present = (speaks & np.isfinite(truth) & speaks[0])[:, :, None]
    keep = 0.5 ** (grid.step_s / half_life_s)

    def recent(values: Floats) -> Floats:
        """Sum with memory of what is known at each origin: values of origins ``horizon`` cells ago and before."""
        known = np.zeros(values.shape)
        known[:, horizon:] = values[:, : max(0, values.shape[1] - horizon)]
        return np.moveaxis(remembered(np.moveaxis(known, 1, 0), keep), 0, 1)

    losses = np.minimum(losses, _cap(np.where(present[0], losses[0], 0.0), present[0], keep))
    lost = recent(np.where(present, losses, 0.0))
    held = recent(np.where(present, losses[:1], 0.0))
    seen = recent(present.astype(np.float64))
    weights = _weights(lost, held, seen, speaks[:, :, None]).transpose(1, 0, 2)
    filled = np.where(np.isfinite(said), said, 0.0).transpose(1, 0, 2)
    mixed[first:] = np.sort((weights * filled).sum(axis=1), axis=1)
    mixed[first:][~speaks.any(axis=0)] = np.nan
    shares[first:] = weights
    return mixed, shares


def _cap(held: Floats, counted: npt.NDArray[np.bool_], keep: float) -> Floats:
    """The most that one origin may count: ten times the recent mean loss of persistence, shape (N, P)."""
    count = remembered(counted.astype(np.float64), keep)
    mean = remembered(held, keep) / np.maximum(count, _TINY)
    cap = np.full(held.shape, np.inf)
    cap[1:] = np.where(count[:-1] >= _LEAST_COUNT, _MOST_LOSS * mean[:-1], np.inf)
    return cap


def _weights(lost: Floats, held: Floats, seen: Floats, speaks: npt.NDArray[np.bool_]) -> Floats:
    """Weights of the experts that speak, shape (K, N, P), summing to 1 along K where any does."""
    ratio = (lost + _TINY) / (held + _TINY)
    power = -_SHARPNESS * np.sqrt(seen) * np.log(np.clip(ratio, _LEAST_RATIO, 1.0 / _LEAST_RATIO))
    power = np.where(speaks, power, -np.inf)
    most = power.max(axis=0)
    weights = np.exp(power - np.where(np.isfinite(most), most, 0.0))
    weights[0] *= _PRIOR
    return np.asarray(weights / np.maximum(weights.sum(axis=0), _TINY))
