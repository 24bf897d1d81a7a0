"""The margin that is forecast: quantiles of the highest demand over the time a worker needs to start.

What is bought now serves after the start-up lead L, so what matters is not the demand now but that of then; and what
leaves must not be missed until then, so for that it is the highest demand within the lead. Both distributions depend on
how the traffic has been moving, and are learned from the deployment's own history::

    need(L, p)  = (level + floor) * exp(location + scale * residual_p) - floor
    location    = drift + momentum_gain * log(level/mid) + trend_gain * log(mid/slow)
                  + shape_gain * rise(offset, L) + anchor_gain * (shape(offset) - log(slow))
    scale       = scale_base + volatility_gain * volatility + calm_gain * calm_volatility
                  + rise_spread * rise(offset, L)
    rise(o, L)  = max of shape over [o, o + L] - shape(o)          shape: log of the expected demand since issuedAt
                  at the end of the lead: shape(o + L) - shape(o), and the spread grows with it where it is positive
    level, mid, slow, volatility, calm_volatility                 trafficstate

One row of coefficients per lead; ``residual_p`` are the quantiles of the standardised rest. Between leads the logarithm
is interpolated, below the first one towards the level, which no time at all needs at most; a longer lead never needs
less, the demand at its end may. The distributions are those of the *sustained* maximum: the least constant
capacity with which nobody waits longer than a few seconds (see the learner), so single busy seconds buy nothing.

Bounds, whatever a table says: at least ``LEAST_RATIO`` times the level, at most ``MOST_RATIO`` times the largest of the
three means (the level alone is often far below what is usual where traffic is noise), and at most
``MOST_PEAKS`` times the larger of the level and the highest rate in the history. ``floor`` is added to each mean first.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from warmfleet_contracts.api.trafficforecast import LeadWindow, LeadWindows, TrafficForecastStatus
from warmfleet_contracts.trafficstate import MOST_RATE, TrafficState

LEAST_RATIO, MOST_RATIO, MOST_PEAKS = 0.7, 5.0, 2.0
_MOST_LOG = 50.0
_MOST_GAIN = 10.0
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Window:
    """The distribution for one lead; see the module for the formula.

    Attributes:
        lead_s: Length of the window, s.
        residuals: Quantiles of the standardised rest, ascending, one per probability of the table.
        momentum_gain: Location per log(level/mid).
        trend_gain: Location per log(mid/slow).
        shape_gain: Location per rise of the shape.
        scale_base: Scale without volatility.
        volatility_gain: Scale per volatility.
        calm_gain: Scale per calm volatility.
        drift: Location when nothing moves.
        anchor_gain: Location per distance of the shape from log(slow), within [-1, 1]: how much traffic returns to
            what it usually is at this time.
        rise_spread: Scale per rise of the shape: how far a ramp may be early or late.
    """

    lead_s: float
    residuals: tuple[float, ...]
    momentum_gain: float = 0.0
    trend_gain: float = 0.0
    shape_gain: float = 0.0
    scale_base: float = 1.0
    volatility_gain: float = 0.0
    calm_gain: float = 0.0
    drift: float = 0.0
    anchor_gain: float = 0.0
    rise_spread: float = 0.0


@dataclass(frozen=True, slots=True)
class LeadWindowTable:
    """What the forecaster learned; everything the evaluator needs.

    Attributes:
        probabilities: Ascending, each in (0, 1).
        windows: By ascending lead.
        shape: Logarithm of the expected demand at equal steps since issuedAt; empty without a shape.
        shape_step_s: Length of a step of the shape, s.
        peak: Highest rate in the history, requests/s.
        floor: Rate below which relative changes mean nothing, requests/s; added to the
            means, and taken away from the result.
        at_lead: By ascending lead: of the demand when the lead is over, not of the highest until then; may be empty.
    """

    probabilities: tuple[float, ...]
    windows: tuple[Window, ...]
    shape: tuple[float, ...] = ()
    shape_step_s: float = 300.0
    peak: float = 0.0
    floor: float = 0.0
    at_lead: tuple[Window, ...] = ()

    @classmethod
    def from_status(cls, status: TrafficForecastStatus) -> LeadWindowTable | str:
        """The table of a status, or the reason why there is none; never raises on numbers."""
        wire = status.lead_windows
        if wire is None or not wire.windows:
            return "the status has no lead windows"
        windows, at_lead = (tuple(map(_from_wire, rows)) for rows in (wire.windows, wire.at_lead))
        table = cls(wire.probabilities, windows, wire.shape, wire.shape_step, wire.peak, wire.floor, at_lead)
        return fault(table) or table

    def to_wire(self) -> LeadWindows:
        """The CRD form, rounded to what matters: a table of eight leads with a day's shape is about 8 KB."""
        return LeadWindows(
            probabilities=self.probabilities,
            windows=tuple(map(_to_wire, self.windows)),
            at_lead=tuple(map(_to_wire, self.at_lead)),
            shape=tuple(round(value, 4) for value in self.shape),
            shape_step=self.shape_step_s,
            peak=float(f"{self.peak:.6g}"),
            floor=float(f"{self.floor:.6g}"),
        )


def _from_wire(wire: LeadWindow) -> Window:
    return Window(
        lead_s=wire.lead,
        residuals=wire.residuals,
        momentum_gain=wire.momentum_gain,
        trend_gain=wire.trend_gain,
        shape_gain=wire.shape_gain,
        scale_base=wire.scale_base,
        volatility_gain=wire.volatility_gain,
        calm_gain=wire.calm_gain,
        drift=wire.drift,
        anchor_gain=wire.anchor_gain,
        rise_spread=wire.rise_spread,
    )


def _to_wire(window: Window) -> LeadWindow:
    return LeadWindow(
        lead=window.lead_s,
        residuals=tuple(round(r, 4) for r in window.residuals),
        momentum_gain=round(window.momentum_gain, 4),
        trend_gain=round(window.trend_gain, 4),
        shape_gain=round(window.shape_gain, 4),
        scale_base=round(window.scale_base, 5),
        volatility_gain=round(window.volatility_gain, 4),
        calm_gain=round(window.calm_gain, 4),
        drift=round(window.drift, 5),
        anchor_gain=round(window.anchor_gain, 4),
        rise_spread=round(window.rise_spread, 4),
    )


def fault(table: LeadWindowTable) -> str:
    """Why a table must not be used; empty when it may."""
    chances = table.probabilities
    if not chances or not _ascends(chances) or not 0.0 < chances[0] <= chances[-1] < 1.0:
        return "leadWindows.probabilities must ascend within (0, 1)"
    if not table.windows:
        return "leadWindows.windows must not be empty"
    for name, windows in (("windows", table.windows), ("atLead", table.at_lead)):
        leads = [w.lead_s for w in windows]
        if leads and not (_ascends(leads) and 0.0 < leads[0] <= leads[-1] <= _DAY_S):
            return f"leadWindows.{name} must have ascending leads of at most a day"
    if not _within(table.shape, _MOST_LOG) or not 1.0 <= table.shape_step_s <= _DAY_S:
        return "leadWindows.shape must be finite logarithms at steps between 1 s and a day"
    if not (0.0 <= table.peak <= MOST_RATE and 0.0 <= table.floor <= MOST_RATE):
        return "leadWindows.peak and floor must be rates, finite and not negative"
    named = [("windows", w) for w in table.windows] + [("atLead", w) for w in table.at_lead]
    return next((text for text in (_window_fault(w, name, len(chances)) for name, w in named) if text), "")


def _window_fault(window: Window, name: str, length: int) -> str:
    where = f"leadWindows.{name} at lead {window.lead_s:g} s"
    rest = window.residuals
    if len(rest) != length or not _within(rest, _MOST_LOG) or any(b < a for a, b in pairwise(rest)):
        return f"{where}: residuals must be finite, ascend, and be as many as the probabilities"
    gains = (window.momentum_gain, window.trend_gain, window.shape_gain, window.anchor_gain, window.drift)
    if not _within(gains, _MOST_GAIN):
        return f"{where}: drift and gains must be finite and within {_MOST_GAIN:g}"
    scales = (window.scale_base, window.volatility_gain, window.calm_gain, window.rise_spread)
    if not _within(scales, _MOST_GAIN) or min(scales) < 0.0:
        names = "scaleBase, volatilityGain, calmGain and riseSpread"
        return f"{where}: {names} must be finite, not negative, at most {_MOST_GAIN:g}"
    return ""


def _within(values: Sequence[float], most: float) -> bool:
    return all(-most <= value <= most for value in values)


def _ascends(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def rise(table: LeadWindowTable, offset_s: float, lead_s: float) -> float:
    """By how much the logarithm of the expected demand rises within the window; 0 outside of the shape.

    Args:
        table: With the shape.
        offset_s: Seconds since issuedAt.
        lead_s: Length of the window, s.
    """
    if len(table.shape) < 2:
        return 0.0
    begin, end = offset_s / table.shape_step_s, (offset_s + lead_s) / table.shape_step_s
    last = len(table.shape) - 1
    if not 0.0 <= begin <= last:
        return 0.0
    end = min(end, float(last))
    inside = table.shape[math.floor(begin) + 1 : math.ceil(end)]
    base = _at(table.shape, begin)
    return max((*inside, base, _at(table.shape, end))) - base


def change(table: LeadWindowTable, offset_s: float, lead_s: float) -> float:
    """By how much the logarithm of the expected demand changes until the end of the lead; 0 outside of the shape.

    Args:
        table: With the shape.
        offset_s: Seconds since issuedAt.
        lead_s: Until when, s.
    """
    begin, last = offset_s / table.shape_step_s, len(table.shape) - 1.0
    if last < 1.0 or not 0.0 <= begin <= last:
        return 0.0
    return _at(table.shape, min(begin + lead_s / table.shape_step_s, last)) - _at(table.shape, begin)


def _anchor(table: LeadWindowTable, offset_s: float, slow: float) -> float:
    """Distance of the expected from the present demand, logarithm within [-1, 1]; 0 outside of the shape."""
    x = offset_s / table.shape_step_s
    if len(table.shape) < 2 or not 0.0 <= x <= len(table.shape) - 1 or slow <= 0.0:
        return 0.0
    return min(max(_at(table.shape, x) - math.log(slow), -1.0), 1.0)


def _at(curve: Sequence[float], x: float) -> float:
    i = min(int(x), len(curve) - 2)
    return curve[i] + (curve[i + 1] - curve[i]) * (x - i)


@dataclass(frozen=True, slots=True)
class Outlook:
    """The distribution of the sustained maximum, evaluated for one state and lead.

    Attributes:
        probabilities: As in the table.
        demand: The quantiles, ascending, requests/s.
    """

    probabilities: tuple[float, ...]
    demand: tuple[float, ...]

    def quantile(self, probability: float) -> float:
        """The demand that is not exceeded with a probability; between nodes linear in log(1 - p)."""
        low, high, share = _between(self.probabilities, probability)
        return self.demand[low] + (self.demand[high] - self.demand[low]) * share


@lru_cache(maxsize=1024)  # few tables and few probabilities, asked for again with every decision
def _between(nodes: tuple[float, ...], probability: float) -> tuple[int, int, float]:
    """(node below, node above, how far between them, linear in log(1 - p)) of a probability."""
    if len(nodes) == 1:
        return 0, 0, 0.0
    p = min(max(probability, nodes[0]), nodes[-1])
    i = min(bisect_right(nodes, p) - 1, len(nodes) - 2)
    a, b = math.log1p(-nodes[i]), math.log1p(-nodes[i + 1])
    return i, i + 1, (math.log1p(-p) - a) / (b - a)


def outlook(table: LeadWindowTable, state: TrafficState, lead_s: float, offset_s: float) -> Outlook:
    """The distribution of the sustained maximum over the next ``lead_s`` seconds.

    Args:
        table: A table without :func:`fault`.
        state: The state now.
        lead_s: Length of the window, s; at most the last lead of the table counts.
        offset_s: Seconds since issuedAt.
    """
    return Outlook(table.probabilities, _demand(table, state, lead_s, offset_s, at_end=False))


def outlook_at(table: LeadWindowTable, state: TrafficState, lead_s: float, offset_s: float) -> Outlook | None:
    """The distribution of the demand when ``lead_s`` seconds are over; None where the table does not tell.

    Args:
        table: A table without :func:`fault`.
        state: The state now.
        lead_s: Until when, s; at most the last lead of the table counts.
        offset_s: Seconds since issuedAt.
    """
    if not table.at_lead:
        return None
    return Outlook(table.probabilities, _demand(table, state, lead_s, offset_s, at_end=True))


def _demand(
    table: LeadWindowTable, state: TrafficState, lead_s: float, offset_s: float, *, at_end: bool
) -> tuple[float, ...]:
    """The quantiles of the table, requests/s: of the highest demand within the lead, or of that at its end."""
    level, mid, slow = (value + table.floor for value in (state.level, state.mid, state.slow))
    if level <= 0.0:
        return (0.0,) * len(table.probabilities)
    momentum, trend = _log_ratio(level, mid), _log_ratio(mid, slow)
    apart = _anchor(table, offset_s, slow)
    volatility, calm = math.sqrt(state.variance), math.sqrt(state.calm_variance)
    rising = change if at_end else rise
    best: list[float] = []
    before: tuple[float, list[float]] | None = None
    for window in table.at_lead if at_end else table.windows:
        rises = rising(table, offset_s, window.lead_s) if window.shape_gain or window.rise_spread else 0.0
        location = (
            window.drift
            + window.momentum_gain * momentum
            + window.trend_gain * trend
            + window.shape_gain * rises
            + window.anchor_gain * apart
        )
        scale = window.scale_base + window.volatility_gain * volatility + window.calm_gain * calm
        scale += window.rise_spread * max(rises, 0.0)
        logs = [location + scale * rest for rest in window.residuals]
        if window.lead_s > lead_s:
            since, lower = before if before is not None else (0.0, [min(0.0, value) for value in logs])
            share = (lead_s - since) / (window.lead_s - since)
            logs = [a + (b - a) * share for a, b in zip(lower, logs, strict=True)]
        best = logs if at_end or not best else [max(a, b) for a, b in zip(best, logs, strict=True)]
        if window.lead_s >= lead_s:
            break
        before = window.lead_s, logs
    most = min(max(level, mid, slow) * MOST_RATIO, MOST_PEAKS * max(table.peak, level))
    least, top = state.level * LEAST_RATIO, math.log(most / level)
    return tuple(min(max(level * math.exp(min(value, top)) - table.floor, least), most) for value in best)


def _log_ratio(a: float, b: float) -> float:
    """Logarithm of a/b within [-3, 3]."""
    return min(max(math.log(a / b), -3.0), 3.0) if a > 0.0 and b > 0.0 else 0.0
