"""Is it worth believing? Skill against persistence, and a switch that does not flutter.

::

    gain     = 1 - loss / loss of calibrated persistence          loss: mean pinball of q50 and q90, requests/s
    trusted := gain >= 5 %  to become so,  gain >= 1 %  to stay so          at the lead at which the planner buys
    coverage = share of truths at or below q90

Both sides were forecast before the fact, on the same origins. Persistence is calibrated (quantiles of its own past
errors), because beating an uncalibrated one proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warmfleet_forecasting.backtest import Walk
from warmfleet_forecasting.calibrate import PROBABILITIES, pinball
from warmfleet_forecasting.grid import Grid
from warmfleet_forecasting.result import HorizonSkill, TrustReason
from warmfleet_forecasting.series import Floats

BECOME, STAY = 0.05, 0.01
LEAST_SAMPLES = 48
"""Judged forecasts before anything is believed: 8 hours of them."""
_JUDGED = [1, 2]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to believe it.

    Attributes:
        trusted: The switch.
        reason: Why.
        message: The same for a person.
    """

    trusted: bool
    reason: TrustReason
    message: str


def losses(grid: Grid, quantiles: Floats, horizon: int) -> Floats:
    """Pinball loss by origin and probability, requests/s, NaN where it cannot be judged, shape (N, P)."""
    truth = grid.ahead(horizon)
    rate = grid.rate(grid.now + truth)[:, None]
    return pinball(rate, grid.rate(grid.now[:, None] + quantiles), PROBABILITIES)


def skill_of(grid: Grid, walk: Walk, first: int) -> HorizonSkill:
    """Skill over the origins from ``first`` on."""
    mine = losses(grid, walk.quantiles, walk.horizon)[first:, _JUDGED].mean(axis=1)
    held = losses(grid, walk.experts[0], walk.horizon)[first:, _JUDGED].mean(axis=1)
    judged = np.isfinite(mine) & np.isfinite(held)
    horizon_s = walk.horizon * grid.step_s
    count = int(np.count_nonzero(judged))
    if not count:
        return HorizonSkill(horizon_s, 0.0, None, 0)
    base = float(held[judged].mean())
    gain = 1.0 - float(mine[judged].mean()) / base if base > 0 else 0.0
    below = grid.ahead(walk.horizon)[first:] <= walk.quantiles[first:, 2]
    shares = walk.weights[-1].mean(axis=1)
    weights = tuple((name, round(float(share), 3)) for name, share in zip(walk.names, shares, strict=True))
    return HorizonSkill(horizon_s, gain, float(below[judged].mean()), count, weights)


def judge(skill: tuple[HorizonSkill, ...], lead_s: float, *, before: bool) -> Verdict:
    """Trust at the lead where the forecast is used.

    Args:
        skill: Per lead, ascending.
        lead_s: The start-up lead; the shortest judged lead that covers it counts, else the longest.
        before: Whether the last forecast was trusted.
    """
    at = next((entry for entry in skill if entry.horizon_s >= lead_s), skill[-1])
    minutes = at.horizon_s / 60
    if at.samples < LEAST_SAMPLES:
        message = f"{at.samples} of {LEAST_SAMPLES} forecasts judged; the reactive rule is used until then"
        return Verdict(trusted=False, reason=TrustReason.TOO_LITTLE_HISTORY, message=message)
    side = "better" if at.pinball_gain >= 0 else "worse"
    message = (
        f"{minutes:.0f} min ahead {abs(at.pinball_gain):.0%} {side} than holding the last value over {at.samples} "
        f"forecasts; {at.coverage90 or 0.0:.0%} of the demand stayed below the 90th percentile"
    )
    trusted = at.pinball_gain >= (STAY if before else BECOME)
    if trusted:
        return Verdict(trusted=True, reason=TrustReason.SKILFUL, message=message)
    need = f"; at least {STAY:.0%} keeps it trusted" if before else f"; at least {BECOME:.0%} makes it trusted"
    return Verdict(trusted=False, reason=TrustReason.NO_SKILL, message=message + need)
