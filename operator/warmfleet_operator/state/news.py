"""What of the measured is news: something for which the next decision should not wait. Pure."""

from __future__ import annotations

import math

from warmfleet_operator.state.fleetsamples import FleetSample
from warmfleet_operator.state.rates import rate

_SURGE = 2.0
"""Times what its window expects of a worker, and six standard deviations more, that cannot be chance."""
_RISE = 1.3
"""Times what the last decision knew of a fleet's arrivals, and 1/s more, that the next one should not wait for."""


def surges(step: tuple[float, float] | None, before: tuple[float, float] | None) -> bool:
    """Whether what arrived since the last answer is far more than the window before it, and chance, can explain.

    Args:
        step: Increase and seconds since the last answer.
        before: Increase and seconds of the window before.
    """
    expected = rate(before)
    if step is None or expected is None:
        return False
    usual = expected * step[1]
    return step[0] > _SURGE * usual + 6.0 * math.sqrt(usual + 1.0)


def rises(sample: FleetSample, before: FleetSample | None) -> bool:
    """Whether a fleet has more to do than when it was last decided on."""
    if before is None:
        return False
    grown = (sample.arrivals or 0.0) > _RISE * (before.arrivals or 0.0) + 1.0
    waits = bool(sample.queue) and not before.queue
    return grown or waits or (bool(sample.rejects) and not before.rejects)
