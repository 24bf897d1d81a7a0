"""The forecast of last resort: the level holds. Used when the models raise, and never trusted.

::

    level = mean of the last 10 known minutes within the last half hour
    q(p, h) = level * exp(Q_p[log(x(t + h) / x(t))])           x: 10-minute means of the last two days

With fewer than 30 such pairs the ratio's quantiles are those of a lognormal of 20 % spread.
"""

from __future__ import annotations

import math

import numpy as np

from warmfleet_forecasting.config import ForecastConfig
from warmfleet_forecasting.result import Curve, ForecastResult, TrustReason
from warmfleet_forecasting.series import Series

_MEAN_S = 600.0
_RECENT_S = 1800.0
_LEARN_S = 2 * 86_400.0
_LEAST_PAIRS = 30
_PRIOR = (0.0, 0.256)
PROBABILITIES = np.array([0.5, 0.9])
NEAR_S = np.arange(300.0, 3601.0, 300.0)
FAR_S = np.arange(5400.0, 86_401.0, 1800.0)


def hold(series: Series, config: ForecastConfig, reason: TrustReason, message: str) -> ForecastResult:
    """The last level, held.

    Args:
        series: The history.
        config: What is asked for; only the validity counts.
        reason: Why nothing better is said.
        message: The same for a person.
    """
    recent = series.last(_RECENT_S).values
    known = recent[~np.isnan(recent)][-max(1, round(_MEAN_S / series.step_s)) :]
    if not len(known):
        return ForecastResult(
            math.nan,
            Curve.empty(),
            Curve.empty(),
            (),
            trusted=False,
            reason=reason,
            message=message,
            valid_for_s=config.valid_for_s,
        )
    means = series.last(_LEARN_S).resample(_MEAN_S)
    level = float(known.mean())
    near, far = (_curve(level, means, offsets) for offsets in (NEAR_S, FAR_S))
    return ForecastResult(
        series.end, near, far, (), trusted=False, reason=reason, message=message, valid_for_s=config.valid_for_s
    )


def _curve(level: float, means: Series, offsets: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Curve:
    rows = []
    for offset in offsets:
        lag = max(1, round(float(offset) / means.step_s))
        before, after = means.values[:-lag], means.values[lag:]
        good = (before > 0) & (after > 0)
        ratios = np.log(after[good] / before[good])
        spread = np.quantile(ratios, PROBABILITIES) if len(ratios) >= _LEAST_PAIRS else np.array(_PRIOR)
        rows.append(level * np.exp(np.clip(spread - spread[0], 0.0, 3.0)))
    return Curve(offsets, PROBABILITIES, np.array(rows))
