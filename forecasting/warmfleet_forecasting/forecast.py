"""One history in, one forecast out: what the service runs in its process pool and the command line runs once.

What goes wrong is answered, never raised: the last good forecast is kept with its own ``issued_at``, so it grows old
in the eyes of whoever reads it, and the reason says what was wrong. A zero is only ever forecast where zeros were
counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from lightgbm.basic import LightGBMError
from warmfleet_contracts.leadwindow import LeadWindowTable

from warmfleet_forecasting.backtest import Fold
from warmfleet_forecasting.config import DAY_S, Event, ForecastConfig
from warmfleet_forecasting.grid import STEP_S
from warmfleet_forecasting.leadwindow import Untrusted, learn
from warmfleet_forecasting.model import Model, fit
from warmfleet_forecasting.result import Curve, ForecastResult, TrustReason
from warmfleet_forecasting.series import Floats, Series
from warmfleet_forecasting.skill import judge

NEAR_S: Floats = np.arange(1, 13, dtype=np.float64) * 300.0
FAR_S: Floats = np.concatenate([np.arange(3.0, 13.0) * 1800.0, np.arange(7.0, 25.0) * 3600.0])
"""Every half hour up to 6 h, then every hour up to 24 h."""
PROBABILITIES: Floats = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
_MOST_GAP_S = 1800.0
_TABLE_S = 14 * DAY_S
_LEAST_STEP_S = 60.0
_LEAST_HISTORY_S = DAY_S


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What the next forecast takes up: the folds, and whether this one was trusted."""

    folds: tuple[Fold, ...]
    trusted: bool


def forecast(series: Series, config: ForecastConfig, previous: ForecastResult | None = None) -> ForecastResult:
    """Forecast a series.

    Args:
        series: The history; its end is the moment the forecast is issued for.
        config: What is asked for.
        previous: The result of the last call for the same series, for speed, hysteresis, and as what is kept when no
            forecast can be made now.

    Returns:
        Always a result; ``carried`` when its curves are those of ``previous``, empty curves when there are none.
    """
    coarse = series.resample(STEP_S)
    problem = _problem(coarse)
    if problem is not None:
        return _carry(series, previous, config, *problem)
    try:
        model = fit(series, config, warm=_folds(previous))
        near, far = (_curve(model, offsets, series.end, config.events) for offsets in (NEAR_S, FAR_S))
    except (ArithmeticError, LookupError, ValueError, RuntimeError, LightGBMError) as error:
        return _carry(series, previous, config, TrustReason.FIT_FAILED, f"the fit raised {error!r}"[:300])
    if not (np.isfinite(near.values).all() and np.isfinite(far.values).all()):
        return _carry(series, previous, config, TrustReason.FIT_FAILED, "the fit gave no finite figures")
    return _judged(series, config, previous, model, near, far)


def _problem(coarse: Series) -> tuple[TrustReason, str] | None:
    """Why no forecast can be made from a series, or None."""
    wrong = f"; {coarse.rejected} values were no rates (negative or infinite)" if coarse.rejected else ""
    if not math.isfinite(coarse.end):
        return TrustReason.BAD_HISTORY, "the history ends at no finite time"
    if coarse.known < 1:
        return TrustReason.TOO_LITTLE_HISTORY, f"no sample is known{wrong}"
    age = float(np.flatnonzero(~np.isnan(coarse.values[::-1]))[0]) * coarse.step_s
    if age > _MOST_GAP_S:
        return TrustReason.HISTORY_GAP, f"nothing is known of the last {age / 60:.0f} minutes{wrong}"
    return None


def _folds(previous: ForecastResult | None) -> tuple[Fold, ...]:
    memory = previous.memory if previous is not None else None
    return memory.folds if isinstance(memory, Memory) else ()


def _judged(
    series: Series, config: ForecastConfig, previous: ForecastResult | None, model: Model, near: Curve, far: Curve
) -> ForecastResult:
    """The result of a fit that worked."""
    before = previous is not None and isinstance(previous.memory, Memory) and previous.memory.trusted
    verdict = judge(model.skill, config.lead_s, before=before)
    trusted, reason, message = verdict.trusted, verdict.reason, verdict.message
    known_s = series.known * series.step_s
    if not np.nanmax(series.values) > 0:
        trusted, reason, message = False, TrustReason.NO_TRAFFIC, "only zeros were counted; the forecast is zero"
    elif known_s < _LEAST_HISTORY_S:
        message = f"{known_s / 3600:.1f} h of history are known; a day is needed. {message}"
        trusted, reason = False, TrustReason.TOO_LITTLE_HISTORY
    table = _lead_table(series)
    if isinstance(table, Untrusted):
        message += f"; no lead-window table: {table.message}"
    if series.rejected:
        message += f"; {series.rejected} values were no rates (negative or infinite) and count as gaps"
    return ForecastResult(
        issued_at=series.end,
        near=near,
        far=far,
        skill=model.skill,
        trusted=trusted,
        reason=reason,
        message=message,
        valid_for_s=config.valid_for_s,
        lead_table=None if isinstance(table, Untrusted) else table,
        memory=Memory(model.folds, trusted),
    )


def _lead_table(series: Series) -> LeadWindowTable | Untrusted:
    """Learned at the history's own resolution: a start-up time is minutes, and the grid's cells are ten of them."""
    fine = series.last(_TABLE_S).resample(_LEAST_STEP_S)
    if not 1.0 <= fine.step_s <= STEP_S:
        return Untrusted("TooCoarse", f"steps of {fine.step_s:g} s say nothing about the next minutes")
    return learn(fine.values, step_s=fine.step_s, now=series.end)


def _carry(
    series: Series, previous: ForecastResult | None, config: ForecastConfig, reason: TrustReason, message: str
) -> ForecastResult:
    """The last good forecast with its own age, or none at all."""
    if previous is None or not math.isfinite(previous.issued_at):
        nothing = Curve.empty()
        return ForecastResult(
            math.nan,
            nothing,
            nothing,
            (),
            trusted=False,
            reason=reason,
            message=message,
            valid_for_s=config.valid_for_s,
        )
    age = series.end - previous.issued_at
    fresh = 0 <= age <= previous.valid_for_s
    kept = f"; the forecast of {age / 60:.0f} minutes ago is kept" if age >= 0 else "; the clock stepped back"
    return replace(previous, trusted=previous.trusted and fresh, reason=reason, message=message + kept, carried=True)


def event_factors(offsets_s: Floats, issued_at: float, events: tuple[Event, ...]) -> Floats:
    """What declared events multiply the curve by, shape (H,).

    One that is under way is in the present level already, so it adds nothing; one that ends lowers nothing: a
    declaration may only raise. Overlapping events: the largest counts.
    """
    factors = np.ones(offsets_s.size)
    for event in events:
        if event.start > issued_at:
            times = issued_at + offsets_s
            inside = (times >= event.start) & (times < event.end)
            factors = np.where(inside, np.maximum(factors, event.factor), factors)
    return factors


def _curve(model: Model, offsets_s: Floats, issued_at: float, events: tuple[Event, ...]) -> Curve:
    """Quantiles at the offsets; on the last point before a coming event's start nothing is raised yet."""
    values = model.quantiles(offsets_s, PROBABILITIES) * event_factors(offsets_s, issued_at, events)[:, None]
    return Curve(offsets_s, PROBABILITIES, values)
