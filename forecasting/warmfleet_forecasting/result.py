"""What a forecast is: curves with quantiles, the skill they showed, and whether to believe them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from warmfleet_forecasting.series import Floats


class TrustReason(StrEnum):
    """Why a forecast is trusted or not: `status.reason` of a TrafficForecast."""

    SKILFUL = "Skilful"
    """It beat holding the last value, at the lead where it is used."""
    NO_SKILL = "NoSkill"
    """It did not."""
    TOO_LITTLE_HISTORY = "TooLittleHistory"
    """There is not enough history to judge."""
    NO_TRAFFIC = "NoTraffic"
    """Nothing but zeros were counted: the curve is zero because the traffic is."""
    HISTORY_GAP = "HistoryGap"
    """The present is not known; the last good forecast is kept and grows old."""
    BAD_HISTORY = "BadHistory"
    """The history makes no sense (times or values)."""
    FIT_FAILED = "FitFailed"
    """The fit raised; the last good forecast is kept and grows old."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Quantiles of the demand by time.

    Attributes:
        offsets_s: Seconds after ``issued_at``, ascending, shape (H,).
        probabilities: Ascending, shape (P,).
        values: Requests/s, shape (H, P), ascending along P.
    """

    offsets_s: Floats
    probabilities: Floats
    values: Floats

    def quantile(self, probability: float) -> Floats:
        """The column of one of ``probabilities`` (the nearest), shape (H,)."""
        return np.asarray(self.values[:, int(np.argmin(np.abs(self.probabilities - probability)))])

    @classmethod
    def empty(cls) -> Curve:
        """No curve: nothing is known, which is not the same as a curve of zeros."""
        return cls(np.empty(0), np.empty(0), np.empty((0, 0)))


@dataclass(frozen=True, slots=True)
class HorizonSkill:
    """How good the forecast was at one lead, from forecasts made before the fact.

    Attributes:
        horizon_s: The lead, seconds.
        pinball_gain: 1 - loss / loss of calibrated persistence; the loss is the mean pinball of q50 and q90.
        coverage90: Share of values at or below the 90th percentile.
        samples: How many forecasts were judged.
        weights: Share of each model in the ensemble, (name, weight).
    """

    horizon_s: float
    pinball_gain: float
    coverage90: float | None
    samples: int
    weights: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ForecastResult:
    """One forecast of one series.

    Attributes:
        issued_at: The moment it was made for: end of the history, seconds since the epoch; NaN when nothing is known.
        near: The next hour, every 5 minutes; empty when nothing is known.
        far: The next day, every 30 minutes.
        skill: One entry per lead of 10, 30 and 60 minutes.
        trusted: Whether the planner may buy on it.
        reason: Why.
        message: The same for a person, with figures.
        valid_for_s: How long after ``issued_at`` it may be used, seconds.
        lead_table: The lead-window table; None when there is none.
        carried: Whether the curves are those of an earlier forecast, because none could be made now.
        memory: What the next call takes up again (hand the whole result over as ``previous``); picklable, opaque.
    """

    issued_at: float
    near: Curve
    far: Curve
    skill: tuple[HorizonSkill, ...]
    trusted: bool
    reason: TrustReason
    message: str
    valid_for_s: float = 1800.0
    lead_table: Any = None
    carried: bool = False
    memory: Any = None
