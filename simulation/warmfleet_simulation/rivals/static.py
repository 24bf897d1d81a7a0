"""Static peak: a fixed fleet for the highest demand seen.

Formula: ``n = ceil(margin * q99.9(demand per second over the tuning days, means of 1 min) / capacity of a worker)``.
Default margin 1.0. It is sized from the tuning days, as an operator would size it from last week's graph.
Knob: the margin.
"""

from __future__ import annotations

import numpy as np
from warmfleet_contracts.traces import FloatArray

from warmfleet_simulation.fleet import Counts, Fleet
from warmfleet_simulation.policy import Base, Knob, Observation, Stepper


class _Static:
    def __init__(self, base: Base, peak: FloatArray) -> None:
        self._base = base
        self._counts = base.spread(base.knobs * peak / base.unit)

    def step(self, seen: Observation) -> Counts | None:
        """The same number always."""
        self._base.reason = "fixed"
        return self._counts if seen.time == 0 or seen.refused.any() or self._hit(seen) else None

    def _hit(self, seen: Observation) -> bool:
        return bool((seen.ready + seen.starting < self._counts).any())

    def why(self, lane: int, service: int) -> str:
        """See :class:`Stepper`."""
        return self._base.why(lane, service)


class StaticPeak:
    """A fixed fleet."""

    name = "static-peak"
    knob = Knob("margin over the peak", 1.0, more_is_safer=True)

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:
        """See :class:`Policy`."""
        per_minute = max(1, int(60 / step_s))
        whole = len(history) // per_minute * per_minute
        minutes = history[:whole].reshape(-1, per_minute, history.shape[1]).mean(axis=1) if whole else history
        return _Static(Base.of(fleet, knobs, step_s), np.quantile(minutes, 0.999, axis=0))
