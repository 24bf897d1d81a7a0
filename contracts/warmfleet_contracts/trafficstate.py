"""What the arrivals so far say about the next minutes, as a recursion: means and volatilities with exponential memory.

::

    level, mid, slow = means of the rate with a memory of 1, 5 and 20 minutes
    volatility       = root mean square of 2 (level - mid) / (level + mid), memory of 30 minutes;  calm: of 6 hours

Every mean is exact for any sampling interval, so what is learned from minutes serves an operator that ticks every 5 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FAST_S, MID_S, SLOW_S = 60.0, 300.0, 1200.0
"""Memory of the three means of the rate, s."""
VOLATILE_S, CALM_S = 1800.0, 21_600.0
"""Memory of the two volatilities, s."""
RESTART_AFTER_S = 900.0
"""A gap longer than this starts the means anew; shorter ones count as if the rate had been the next one."""
PRIOR_VOLATILITY = 0.05
"""Relative volatility assumed until it was seen."""
MOST_RATE = 1e9
"""Highest rate that is believed, requests/s."""


@dataclass(frozen=True, slots=True)
class TrafficState:
    """What the arrivals so far say about the next minutes; causal.

    Attributes:
        at: Time of the last sample, s.
        level: Mean rate with a memory of 1 minute, requests/s.
        mid: Mean rate with a memory of 5 minutes, requests/s.
        slow: Mean rate with a memory of 20 minutes, requests/s.
        variance: Mean square of the relative distance of level and mid, memory of 30 minutes.
        calm_variance: The same with a memory of 6 hours.
    """

    at: float
    level: float
    mid: float
    slow: float
    variance: float = PRIOR_VOLATILITY**2
    calm_variance: float = PRIOR_VOLATILITY**2

    @property
    def volatility(self) -> float:
        """Relative volatility of the last half hour."""
        return math.sqrt(self.variance)


def advance(state: TrafficState | None, rate: float, at: float) -> TrafficState:
    """The state after one more sample.

    Args:
        state: The state before; None at the start.
        rate: Mean requests/s since the last sample; what is not known is not a sample and must not be passed.
        at: Time of the sample, s. A sample that is not newer than the state changes nothing.

    Raises:
        ValueError: The rate or the time is not a finite number, or the rate is negative.
    """
    if not (math.isfinite(rate) and rate >= 0.0 and math.isfinite(at)):
        raise ValueError(
            f"a rate must be a finite number >= 0 at a finite time, not {rate!r} at {at!r}; skip the sample"
        )
    rate = min(rate, MOST_RATE)
    if state is None:
        return TrafficState(at, rate, rate, rate)
    passed = at - state.at
    if passed <= 0.0:
        return state
    if passed > RESTART_AFTER_S:
        return TrafficState(at, rate, rate, rate, state.variance, state.calm_variance)
    level = _toward(state.level, rate, passed / FAST_S)
    mid = _toward(state.mid, rate, passed / MID_S)
    square = _distance(level, mid) ** 2
    return TrafficState(
        at=at,
        level=level,
        mid=mid,
        slow=_toward(state.slow, rate, passed / SLOW_S),
        variance=_toward(state.variance, square, passed / VOLATILE_S),
        calm_variance=_toward(state.calm_variance, square, passed / CALM_S),
    )


def _toward(mean: float, value: float, memories: float) -> float:
    return value + (mean - value) * math.exp(-memories)


def _distance(a: float, b: float) -> float:
    """Relative distance, symmetric, within [-2, 2]; 0 when both are 0."""
    return 2.0 * (a - b) / (a + b) if a + b > 0.0 else 0.0
