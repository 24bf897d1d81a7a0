"""How much capacity is needed, in requests/s of capacity within the SLO (the reactive rule).

::

    need.up   = rate / 0.85      create while  ready + starting < need.up
    need.down = rate / 0.70      remove while  ready - worker   >= need.down
    panic     : rate >= 2 * ready     nothing is removed for a while

Between the two lies the band in which nothing changes. What is starting is credited upwards only: it never justifies
the removal of a worker that serves. The comparison is in units of capacity, so variants may be mixed.
"""

from __future__ import annotations

from dataclasses import dataclass

from warmfleet_operator.planning.demand import Traffic

UP = 0.85
"""Utilisation above which workers are created."""
DOWN = 0.70
"""Utilisation below which workers are removed."""
PANIC_FACTOR = 2.0
SLACK = 1e-9
"""Relative slack of comparisons, so that rounding never buys a worker."""


@dataclass(frozen=True, slots=True)
class Need:
    """Capacity needed.

    Attributes:
        up: At least this much shall be there or starting, requests/s.
        down: At least this much must stay ready when workers leave, requests/s.
        now: What is asked for right now without any margin, requests/s.
    """

    up: float
    down: float
    now: float

    def lacks(self, capacity: float) -> float:
        """Requests/s by which ``capacity`` falls short of the upper need, 0 when it does not."""
        gap = self.up - capacity
        return gap if gap > SLACK * max(1.0, self.up) else 0.0

    def stays_met(self, capacity: float) -> bool:
        """Whether ``capacity`` is still above the lower need."""
        return capacity >= self.down * (1.0 - SLACK)


def reactive(traffic: Traffic) -> Need | None:
    """The need by the reactive rule; None while the demand is unknown."""
    if traffic.rate is None:
        return None
    return Need(traffic.rate / UP, traffic.rate / DOWN, traffic.rate)


def panics(need: Need, ready: float) -> bool:
    """Whether demand is so far above what serves that nothing may be removed for a while."""
    return ready > 0 and need.now >= PANIC_FACTOR * ready
