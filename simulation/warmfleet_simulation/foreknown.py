"""What no planner can know: a bound for all of them, which is not a rival.

Formula::

    mean(t)  = mean of the arrivals over the 15 minutes around t, the coming half included
    wanted   = ceil(knob * max of mean over [now, now + start-up time] / a worker's rate)

It knows the course of the traffic exactly and in time; only what happens within a quarter of an hour is unknown to it,
and is covered by one margin, the knob. What it costs at equal attainment over the optimum is the price of that noise
alone. A planner that sees only the past pays at least about as much; the rest of its cost is what it cannot foresee.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import uniform_filter1d
from warmfleet_contracts.traces import FloatArray

from warmfleet_simulation.fleet import Counts, Fleet, Load
from warmfleet_simulation.policy import Base, Knob, Observation, Stepper

_AROUND_S = 900.0


class _Foreknown:
    def __init__(self, base: Base, highest: FloatArray) -> None:
        self._base, self._highest = base, highest

    def step(self, seen: Observation) -> Counts:
        """See the module's formula."""
        at = min(len(self._highest) - 1, round(seen.time / self._base.step_s))
        self._base.reason = "it knows the mean to come"
        return self._base.spread(self._base.knobs * self._highest[at] / self._base.unit)

    def why(self, lane: int, service: int) -> str:
        """See :class:`Stepper`."""
        return self._base.why(lane, service)


class Foreknown:
    """See the module.

    Args:
        load: The traffic that will come.
    """

    name = "knows-the-mean"
    knob = Knob("capacity over the mean that is known", 1.1, more_is_safer=True)

    def __init__(self, load: Load) -> None:
        self._load = load

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:  # noqa: ARG002
        """See :class:`Policy`."""
        base = Base.of(fleet, knobs, step_s)
        work = self._load.arrivals.sum(axis=2) * self._load.work / step_s
        mean = uniform_filter1d(work, max(1, round(_AROUND_S / step_s)), axis=0)
        ahead = max(1, round(max(t.startup_s for t in fleet.types) / step_s))
        padded = np.concatenate([mean, np.repeat(mean[-1:], ahead, axis=0)])
        return _Foreknown(base, sliding_window_view(padded, ahead + 1, axis=0).max(axis=2))
