"""Hourly forecast and integer program, with a reactive scaler between the hours (SageServe-like).

Formula (Jaiswal et al., POMACS 9(3), 2025)::

    hourly: f = forecast of the next hour's peak of 5-minute means
            min sum_v price_v * (n_v + start-up_v/1h * up_v)   s.t.  sum_v capacity_v * n_v >= f / target,
            up_v >= n_v - now_v,  n_v <= limit_v,  whole numbers      (HiGHS; closed form with one type)
    each minute: utilisation > target and below the plan: move to the plan; still above at the plan: +1 per minute;
            utilisation < 0.3 / 0.7 * target and above the plan: -1 per minute

The paper forecasts with ARIMA; here it is yesterday's shape re-levelled to the last hour, which is better on these
traces, and the last hour's peak on the first day. Start-ups of the next hour are seen one start-up time ahead.
Defaults: target 0.7, lower threshold 0.3. Knob: the target utilisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from warmfleet_contracts.traces import FloatArray

from warmfleet_simulation.fleet import Counts, Fleet
from warmfleet_simulation.policy import Base, Knob, Observation, Stepper
from warmfleet_simulation.rivals.windows import Mean, every

_HOUR, _BIN, _DAY = 3600.0, 300.0, 86400.0
_TARGET, _LOWER = 0.7, 0.3


@dataclass(frozen=True, slots=True)
class ForecastFault:
    """What is wrong with the forecast.

    Attributes:
        shift_s: How much later than in truth the forecast's shape comes, s.
        factor: Forecast over what it would be.
        absent: There is none: the last hour's peak is used.
    """

    shift_s: float = 0.0
    factor: float = 1.0
    absent: bool = False


class _SageServe:
    def __init__(self, base: Base, fault: ForecastFault) -> None:
        self._base, self._fault = base, fault
        self._bins: list[FloatArray] = []
        self._sum = np.zeros(len(base.fleet.services))
        self._seen = 0
        self._busy = Mean(int(60 / base.step_s))
        self._plan: FloatArray | None = None
        self._counts: Counts | None = None
        self._lead = max(t.startup_s for t in base.fleet.types)

    def step(self, seen: Observation) -> Counts | None:
        """See the module's formula."""
        base = self._base
        self._sum, self._seen = self._sum + seen.arrivals, self._seen + 1
        if every(seen.time, _BIN, base.step_s) and seen.time > 0:
            self._bins.append(self._sum / self._seen)
            self._sum, self._seen = np.zeros_like(self._sum), 0
        busy = self._busy.add(seen.utilisation)
        have = base.workers(seen.ready) + base.workers(seen.starting)
        if self._plan is None or every(seen.time + self._lead, _HOUR, base.step_s):
            self._hour(seen)
            base.reason = "hourly plan"
            return self._counts
        if not every(seen.time, 60.0, base.step_s) or self._plan is None or self._counts is None:
            return None
        hot = busy > base.knobs
        cold = busy < base.knobs * (_LOWER / _TARGET)
        up = np.where(hot, np.where(have < self._plan, self._plan, have + base.stride), have)
        wanted = np.where(cold & (have > self._plan), have - base.stride, up)
        base.reason = "utilisation between the hours"
        if len(base.fleet.types) == 1:
            return base.spread(wanted)
        return np.where((np.abs(wanted - have) > 0)[..., None], np.maximum(base.spread(wanted), 0), self._counts)

    def _hour(self, seen: Observation) -> None:
        base = self._base
        forecast = self._forecast(seen)
        self._plan = np.maximum(np.ceil(forecast / (base.unit * base.knobs)), base.lowest)
        if len(base.fleet.types) == 1:
            self._counts = base.spread(self._plan)
        else:
            now = seen.ready + seen.starting
            self._counts = np.stack(
                [_program(base, forecast / float(k), now[lane]) for lane, k in enumerate(base.knobs[:, 0])]
            )

    def _forecast(self, seen: Observation) -> FloatArray:
        """Peak of the 5-minute means of the next hour, shape (D,)."""
        hour, day = int(_HOUR / _BIN), int(_DAY / _BIN)
        if not self._bins:
            return seen.arrivals
        last = np.array(self._bins[-hour:])
        shift = int(self._fault.shift_s / _BIN)
        if len(self._bins) < day + shift or self._fault.absent:
            return np.asarray(last.max(axis=0), dtype=np.float64)
        ahead = int(self._lead / _BIN)
        begin = len(self._bins) - day - shift
        then = np.array(self._bins[max(0, begin - hour) : begin + 1])
        coming = np.array(self._bins[begin + ahead : begin + ahead + hour + 1])
        ratio = np.clip(last.mean(axis=0) / np.maximum(then.mean(axis=0), 1e-9), 0.2, 5.0)
        return np.asarray(coming.max(axis=0) * ratio * self._fault.factor, dtype=np.float64)

    def why(self, lane: int, service: int) -> str:
        """See :class:`Stepper`."""
        return self._base.why(lane, service)


def _program(base: Base, demand: FloatArray, now: Counts) -> Counts:
    """The hour's integer program over services and types, shape (D, V); as much as the limits allow."""
    d, v = base.capacity.shape
    size = d * v
    price = base.fleet.prices()
    startup = np.array([t.startup_s for t in base.fleet.types]) / _HOUR
    short = 1e3 * float(price.max()) / float(base.capacity[base.capacity > 0].min())
    cost = np.concatenate([np.tile(price, d), np.tile(price * startup, d), np.full(d, short)])
    rows, low, high = [], [], []
    for i in range(d):
        row = np.zeros(2 * size + d)
        row[i * v : (i + 1) * v], row[2 * size + i] = base.capacity[i], 1.0
        rows.append(row)
        low.append(demand[i])
        high.append(np.inf)
    for j in range(size):
        row = np.zeros(2 * size + d)
        row[j], row[size + j] = -1.0, 1.0
        rows.append(row)
        low.append(-float(now.ravel()[j]))
        high.append(np.inf)
    for j, kind in enumerate(base.fleet.types):
        row = np.zeros(2 * size + d)
        row[j:size:v] = 1.0
        rows.append(row)
        low.append(0.0)
        high.append(np.inf if kind.limit is None else float(kind.limit))
    whole = np.concatenate([np.ones(size), np.zeros(size + d)])
    upper = np.full(2 * size + d, np.inf)
    upper[:size] = np.where(base.capacity.ravel() > 0, np.inf, 0.0)
    solved = milp(
        cost,
        constraints=LinearConstraint(np.array(rows), np.array(low), np.array(high)),
        integrality=whole,
        bounds=Bounds(np.zeros(2 * size + d), upper),
        options={"mip_rel_gap": 1e-3, "node_limit": 1000},
    )
    if solved.x is None:
        return now
    return np.asarray(np.rint(solved.x[:size]), dtype=np.int64).reshape(d, v)


class SageServe:
    """Hourly forecast and integer program.

    Args:
        fault: What is wrong with its forecast; nothing by default.
    """

    name = "hourly-ilp"
    knob = Knob("target utilisation", _TARGET, more_is_safer=False, high=1.0)

    def __init__(self, fault: ForecastFault | None = None) -> None:
        self._fault = fault or ForecastFault()

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:  # noqa: ARG002
        """See :class:`Policy`."""
        return _SageServe(Base.of(fleet, knobs, step_s), self._fault)
