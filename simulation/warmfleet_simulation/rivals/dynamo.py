"""NVIDIA Dynamo's planner, SLA mode: a forecast sets a floor, a load loop moves by one above it.

Formula (ai-dynamo/dynamo, components/src/dynamo/planner)::

    every 180 s: floor = ceil(predicted requests/s of the next interval / engine requests/s)
    every 5 s:   +1 when all engines are above the SLA; -1 when N/(N-1) of the load still fits with sensitivity 0.8
    the load loop does nothing while workers start

Predictor: the Kalman local linear trend (level noise 1.0, trend noise 0.1, observation noise 10, 5 points), one
interval ahead; the default ARIMA is a last-value forecast on most of these series and costs minutes to fit. "Above the
SLA" is a queue, or full utilisation. The engine's rate is the capacity within the SLO times the knob.
Knob: share of the engine's rate counted on, default 1.0.
"""

from __future__ import annotations

import numpy as np
from warmfleet_contracts.traces import FloatArray

from warmfleet_simulation.fleet import Counts, Fleet
from warmfleet_simulation.policy import Base, Knob, Observation, Stepper
from warmfleet_simulation.rivals.windows import every

_INTERVAL_S, _SENSITIVITY = 180.0, 0.8
_Q_LEVEL, _Q_TREND, _R, _MIN_POINTS = 1.0, 0.1, 10.0, 5


class _Trend:
    """Kalman filter of a local linear trend, one per service."""

    def __init__(self, services: int) -> None:
        self._state = np.zeros((services, 2))
        self._cov = np.repeat(np.eye(2)[None] * 1e3, services, axis=0)
        self._points = 0

    def add(self, value: FloatArray) -> FloatArray:
        """Takes in the mean of an interval and predicts the next; shapes (D,)."""
        move = np.array([[1.0, 1.0], [0.0, 1.0]])
        if self._points == 0:
            self._state[:, 0] = value
        self._state = self._state @ move.T
        self._cov = move @ self._cov @ move.T + np.diag([_Q_LEVEL, _Q_TREND])
        gain = self._cov[:, :, 0] / (self._cov[:, 0, 0] + _R)[:, None]
        self._state = self._state + gain * (value - self._state[:, 0])[:, None]
        self._cov = self._cov - gain[:, :, None] * self._cov[:, None, 0, :]
        self._points += 1
        if self._points < _MIN_POINTS:
            return value
        return np.asarray(np.maximum(0.0, self._state.sum(axis=1)), dtype=np.float64)


class _Dynamo:
    def __init__(self, base: Base) -> None:
        self._base = base
        self._trend = _Trend(len(base.fleet.services))
        self._sum = np.zeros(len(base.fleet.services))
        self._seen = 0
        self._floor: FloatArray | None = None

    def step(self, seen: Observation) -> Counts | None:
        """See the module's formula."""
        base = self._base
        self._sum, self._seen = self._sum + seen.arrivals, self._seen + 1
        ready, starting = base.workers(seen.ready), base.workers(seen.starting)
        have = ready + starting
        if self._floor is None or every(seen.time, _INTERVAL_S, base.step_s):
            predicted = self._trend.add(self._sum / self._seen)
            self._floor = np.ceil(predicted / (base.unit * base.knobs))
            self._sum, self._seen = np.zeros_like(self._sum), 0
        up = (seen.queue > 0) | (seen.utilisation >= 0.999)
        fits = seen.utilisation * ready <= _SENSITIVITY * base.knobs * np.maximum(ready - base.stride, 0.0)
        step = np.where(starting > 0, 0.0, np.where(up, 1.0, np.where(fits, -1.0, 0.0)))
        base.reason = "throughput floor and load loop"
        return base.spread(np.maximum(self._floor, have + step * base.stride))

    def why(self, lane: int, service: int) -> str:
        """See :class:`Stepper`."""
        return self._base.why(lane, service)


class DynamoPlanner:
    """Dynamo's planner."""

    name = "dynamo-planner"
    knob = Knob("share of the engine's rate counted on", 1.0, more_is_safer=False)

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:  # noqa: ARG002
        """See :class:`Policy`."""
        return _Dynamo(Base.of(fleet, knobs, step_s))
