"""Location, scale and quantiles of the sustained maximum, learned from a history.

For each lead L, over the steps t of the history whose window is over, weighted by age::

    y      = log( (sustained(t, L) + floor) / (level(t) + floor) )            the highest demand within the lead
             log( (sustained(t + L, one step) + floor) / (level(t) + floor) ) the demand at its end
    y      ~ location . (1, momentum, trend, rise, anchor) + scale . (1, volatility, calm[, rise]) * e
    location: weighted least squares, Huber's weights, a little ridge; shape_gain within [0, 1.3], anchor_gain [0, 0.5]
    scale   : not negative, fitted to |y - location| (Glejser 1969), iterated with the location
    e       : its weighted empirical quantiles, so that the table is calibrated on the past whatever its distribution is

The spread grows with the rise only where that is plainly better: where it lowers the pinball loss of the upper
quantiles on the history by PLAINLY. So it is where a steep ramp comes some minutes earlier on one day and later on
another. On traffic without such ramps it would be one more coefficient to get wrong.

Ages count half every three days. The steps of the first day know no earlier day: once half a day of steps knows one,
only these are used, and before that the gains of rise and anchor are 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from warmfleet_contracts.leadwindow import LeadWindowTable, Window

from warmfleet_forecasting.leadwindow.features import Features, after, anchors, day_shape, features, rises, sustained

Floats = npt.NDArray[np.float64]

LEADS_S = (60.0, 120.0, 180.0, 300.0, 480.0, 600.0, 900.0, 1200.0)
"""Leads of the table."""
PROBABILITIES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
"""Probabilities of the table."""
LEAST_HISTORY_S = 6 * 3600.0
MOST_HISTORY_S = 14 * 86_400.0
SHAPE_STEP_S = 300.0
_HALF_LIFE_S = 3 * 86_400.0
_LEAST_SCALE = 0.004
_WARM_UP_S = 1800.0
_FLOOR_SHARE = 0.005
_HUBER = 2.5
_ROUNDS = 3
_ENOUGH_ROWS = 6000
"""Neighbouring windows overlap: from here on every second, third, ... row says as much of eight coefficients."""
_PLAINLY = 0.04
"""Share of the loss that another coefficient must save: the public traces lie within 2 %, shifting ramps at 5 to 13."""
_UPPER = (0.9, 0.95, 0.98)
"""Probabilities whose loss counts for that."""
_MOST_SHAPE = (1.3, 0.5)
"""Largest gains of rise and anchor: a shape that is wrong must not do more harm than that."""


@dataclass(frozen=True, slots=True)
class Untrusted:
    """Why nothing was learned.

    Attributes:
        reason: One word.
        message: The same for a person, with figures.
    """

    reason: str
    message: str


def learn(
    rates: npt.ArrayLike, *, step_s: float, now: float, ended: float | None = None
) -> LeadWindowTable | Untrusted:
    """The table for a history.

    Args:
        rates: Mean requests/s by step, the latest last, NaN where nothing is known, shape (N,). What is negative or
            infinite counts as unknown.
        step_s: Length of a step, s, at most 600.
        now: When the table is issued, s.
        ended: When the last step ended, s, in the clock of ``now``; None for ``now``.

    Returns:
        The table, its shape beginning at ``now``; or why there is none.

    Raises:
        ValueError: The history is not one-dimensional, or the step is not between 1 and 600 s.
    """
    history = np.array(rates, dtype=np.float64)
    if history.ndim != 1 or not 1.0 <= step_s <= 600.0:
        raise ValueError(
            f"rates must have one dimension, not {history.ndim}; step_s must lie in [1, 600], not {step_s!r}"
        )
    history[~(np.isfinite(history) & (history >= 0.0) & (history <= 1e9))] = np.nan
    history = history[-round(MOST_HISTORY_S / step_s) :]
    if (refused := _refused(history, step_s)) is not None:
        return refused
    floor = _FLOOR_SHARE * float(np.nanmean(history))
    known = features(history, step_s, floor)
    anchor = np.clip(anchors(history, step_s, floor) - known.slow, -1.0, 1.0)
    windows, at_lead = (
        [_window(history, known, anchor, step_s, floor, lead, at_end=end) for lead in LEADS_S if lead >= step_s]
        for end in (False, True)
    )
    late = 0.0 if ended is None else max(0.0, now - ended)
    shape = (
        _shape(history, step_s, floor, late)
        if any(w is not None and (w.shape_gain or w.anchor_gain or w.rise_spread) for w in windows + at_lead)
        else ()
    )
    found = tuple(w for w in windows if w is not None)
    if not found:
        return Untrusted("TooLittleHistory", "no window of the history is free of gaps; collect more")
    return LeadWindowTable(
        probabilities=PROBABILITIES,
        windows=found,
        shape=shape,
        shape_step_s=SHAPE_STEP_S,
        peak=float(np.nanmax(history)),
        floor=floor,
        at_lead=tuple(w for w in at_lead if w is not None),
    )


def _refused(history: Floats, step_s: float) -> Untrusted | None:
    known = int(np.isfinite(history).sum())
    hours, least = known * step_s / 3600.0, LEAST_HISTORY_S / 3600.0
    if hours < least:
        return Untrusted("TooLittleHistory", f"{hours:.1f} h of traffic are known; at least {least:g} h are needed")
    if not np.nanmax(history) > 0.0:
        return Untrusted("NoTraffic", f"nothing but zeros in {hours:.1f} h")
    return None


def _window(
    history: Floats, known: Features, anchor: Floats, step_s: float, floor: float, lead_s: float, *, at_end: bool
) -> Window | None:
    """The coefficients for one lead, within it or at its end; None when too few windows are free of gaps."""
    steps = round(lead_s / step_s)
    target = after(sustained(history, step_s, 1), steps) if at_end else sustained(history, step_s, steps)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log((target + floor) / (known.level + floor))
    rise = rises(history, step_s, floor, steps, at_end=at_end)
    warm = np.arange(len(history)) >= _WARM_UP_S / step_s
    rows = np.flatnonzero(warm & np.isfinite(y) & np.isfinite(known.momentum))
    shaped = rows[np.isfinite(rise[rows] + anchor[rows])]
    with_shape = len(shaped) * step_s >= 12 * 3600.0
    rows = shaped if with_shape else rows
    if len(rows) * step_s < LEAST_HISTORY_S / 2:
        return None
    ones = np.ones(len(rows))
    moves = [ones, known.momentum[rows], known.trend[rows]] + ([rise[rows], anchor[rows]] if with_shape else [])
    weight: Floats = np.asarray(0.5 ** ((len(history) - 1 - rows) * step_s / _HALF_LIFE_S), dtype=np.float64)
    located, spreads = np.column_stack(moves), np.column_stack([ones, known.volatility[rows], known.calm[rows]])
    found = _Fitted.of(located, spreads, y[rows], weight)
    if with_shape:
        wider = _Fitted.of(located, np.column_stack([spreads, np.maximum(rise[rows], 0.0)]), y[rows], weight)
        found = wider if wider.loss < (1.0 - _PLAINLY) * found.loss else found
    location, scale = found.location, found.scale
    return Window(
        lead_s=lead_s,
        residuals=found.residuals,
        momentum_gain=float(location[1]),
        trend_gain=float(location[2]),
        shape_gain=float(location[3]) if with_shape else 0.0,
        scale_base=float(scale[0]),
        volatility_gain=float(scale[1]),
        calm_gain=float(scale[2]),
        drift=float(location[0]),
        anchor_gain=float(location[4]) if with_shape else 0.0,
        rise_spread=float(scale[3]) if len(scale) > 3 else 0.0,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """Location and scale, the quantiles of the rest, and the pinball loss of the upper ones."""

    location: Floats
    scale: Floats
    residuals: tuple[float, ...]
    loss: float

    @classmethod
    def of(cls, moves: Floats, spreads: Floats, y: Floats, weight: Floats) -> _Fitted:
        some = slice(None, None, max(1, len(y) // _ENOUGH_ROWS))
        location, scale = _fit(moves[some], spreads[some], y[some], weight[some])
        apart, spread = y - moves @ location, spreads @ scale
        residuals = _quantiles(apart / spread, weight)
        loss = 0.0
        for p in _UPPER:
            short = apart - spread * float(np.interp(p, PROBABILITIES, residuals))
            loss += float((weight * np.maximum(p * short, (p - 1.0) * short)).sum())
        return cls(location, scale, tuple(residuals), loss)


def _fit(moves: Floats, spreads: Floats, y: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Location and scale by turns."""
    location, scale = np.zeros(moves.shape[1]), np.zeros(spreads.shape[1])
    spread = np.full(len(y), max(float(np.std(y)), _LEAST_SCALE))
    robust = np.ones(len(y))
    for _ in range(_ROUNDS):
        weighted = moves * (weight * robust / spread**2)[:, None]
        normal = weighted.T @ moves
        ridge = np.eye(len(normal)) * (1e-4 * np.trace(normal) / len(normal))
        ridge[0, 0] = 1e-9
        location = np.clip(np.linalg.solve(normal + ridge, weighted.T @ y), -3.0, 3.0)
        if len(location) > 3:
            location[3:] = np.clip(location[3:], 0.0, _MOST_SHAPE)
        apart = np.abs(y - moves @ location)
        root = np.sqrt(weight) / spread
        gram = (spreads * root[:, None]).T @ (spreads * root[:, None])
        scale = _not_negative(gram, (spreads * root[:, None]).T @ (apart * root))
        scale = np.minimum(scale, 10.0)
        scale[0] = max(float(scale[0]), _LEAST_SCALE)
        spread = spreads @ scale
        robust = np.minimum(1.0, _HUBER * spread / np.maximum(apart, 1e-12))
    return location, scale


def _not_negative(gram: Floats, moment: Floats) -> Floats:
    """Least squares under x >= 0 from the normal equations: the best of what each choice of columns gives."""
    gram = gram + np.eye(len(gram)) * (1e-12 * np.trace(gram) + 1e-12)
    best, least = np.zeros(len(gram)), 0.0
    for count in range(1, len(gram) + 1):
        for columns in map(list, combinations(range(len(gram)), count)):
            found = np.linalg.solve(gram[np.ix_(columns, columns)], moment[columns])
            loss = -float(found @ moment[columns])  # at its optimum; less than what is left without the columns
            if loss < least and (found >= 0.0).all():
                least, best = loss, np.zeros(len(gram))
                best[columns] = found
    return best


def _quantiles(rest: Floats, weight: Floats) -> list[float]:
    """Weighted empirical quantiles at the probabilities of the table."""
    order = np.argsort(rest)
    share = (np.cumsum(weight[order]) - 0.5 * weight[order]) / weight.sum()
    found = np.clip(np.interp(PROBABILITIES, share, rest[order]), -50.0, 50.0)
    return [float(q) for q in np.maximum.accumulate(found)]


def _shape(history: Floats, step_s: float, floor: float, late_s: float) -> tuple[float, ...]:
    curve = day_shape(history, step_s, floor)
    if not len(curve):
        return ()
    offsets = np.arange(0.0, len(curve) * step_s - late_s, SHAPE_STEP_S)
    at = np.interp(offsets + late_s, np.arange(len(curve)) * step_s, curve)
    return tuple(float(value) for value in at)
