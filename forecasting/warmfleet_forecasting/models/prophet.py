"""Prophet: the shape of day and week, configured seasons and holidays, with a bounded number of change-points.

::

    g(t)         = trend(t) + day(t) + week(t) + seasons(t) + holidays(t)       Prophet on hourly means of logarithms
    change(i, h) = b1 * (g(i + h) - g(i)) + b2 * (log[i] - g(i))

Prophet alone forecasts the curve, not the present: its error now is most of its error in an hour. So only its *change*
is used, and what the present is off by decays at the rate at which it did (``b2 < 0``); both coefficients are ridge
regressions on the past errors of curves made before the fact, drawn towards (1, 0). Logarithms (Prophet's usual log1p,
with the floor of the grid in place of 1) make the shape multiplicative.

Prophet (Taylor and Letham, The American Statistician 2018) runs cmdstan, which talks: its loggers are switched off.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from warmfleet_forecasting.config import DAY_S, ForecastConfig, Holiday
from warmfleet_forecasting.grid import Grid, shift
from warmfleet_forecasting.series import Floats

NAME = "prophet"
_HOUR = 3600.0
_MOST_POINTS = 400
_CHANGE_POINTS = 8
_RIDGE = 1e-2
_WINDOW_S = 7 * DAY_S
_LEAST_ERRORS = 24
_PRIOR_HALF_LIFE_S = 6 * _HOUR
_PRECISION = {"tol_obj": 1e-3, "tol_rel_obj": 1e7}
"""Log-likelihood at which L-BFGS stops: absolute, and relative in units of the machine's precision."""

Warm = dict[str, Any]
"""Parameters of an earlier fit, from which the next one starts."""


@cache
def load() -> Any:
    """Prophet's class, imported late (it takes a second) and silenced."""
    for name in ("cmdstanpy", "prophet", "prophet.plot"):
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        logger.setLevel(logging.CRITICAL)
    from prophet import Prophet  # noqa: PLC0415 - heavy, and not needed before there is a day of history

    return Prophet


def local_offset(time_zone: str, at: float) -> float:
    """Seconds that the clock on the wall is ahead of UTC at ``at``."""
    offset = datetime.fromtimestamp(at, UTC).astimezone(ZoneInfo(time_zone)).utcoffset()
    return offset.total_seconds() if offset is not None else 0.0


def _frame(times: Floats, config: ForecastConfig, holidays: dict[str, list[Holiday]]) -> Any:
    """Prophet's table: local naive time and one 0/1 column per holiday."""
    import pandas as pd  # noqa: PLC0415 - with Prophet only

    hours = np.unique(np.floor(times / _HOUR))
    offsets = {hour: local_offset(config.time_zone, hour * _HOUR) for hour in hours}
    local = times + np.array([offsets[hour] for hour in np.floor(times / _HOUR)])
    frame = pd.DataFrame({"ds": pd.to_datetime(local, unit="s")})
    for name, spans in holidays.items():
        inside = np.zeros(times.size, dtype=bool)
        for span in spans:
            inside |= (times >= span.start) & (times < span.end)
        frame[name] = inside.astype(float)
    return frame


def _learnable(config: ForecastConfig, times: Floats) -> dict[str, list[Holiday]]:
    """Holidays of which at least one occurrence lies in the history and not all of it does."""
    named: dict[str, list[Holiday]] = {}
    for holiday in config.holidays:
        named.setdefault(f"holiday_{holiday.name}", []).append(holiday)

    def seen(spans: list[Holiday]) -> bool:
        inside = sum(int(np.count_nonzero((times >= x.start) & (times < x.end))) for x in spans)
        return 0 < inside < times.size

    return {name: spans for name, spans in named.items() if seen(spans)}


def _model(config: ForecastConfig, span_s: float, step_s: float, holidays: dict[str, list[Holiday]]) -> Any:
    weekly = config.weekly and span_s >= 14 * DAY_S
    fine = 6 if step_s <= 2 * _HOUR else 3
    model = load()(
        daily_seasonality=False,
        weekly_seasonality=False,
        yearly_seasonality=False,
        n_changepoints=_CHANGE_POINTS,
        uncertainty_samples=0,
    )
    if config.daily:
        model.add_seasonality("daily", period=1.0, fourier_order=fine)
    if weekly:
        model.add_seasonality("weekly", period=7.0, fourier_order=3)
    for season in config.seasonalities:
        if span_s >= 2 * season.period_s and season.period_s >= 2 * season.order * step_s:
            model.add_seasonality(season.name, period=season.period_s / DAY_S, fourier_order=season.order)
    for name in holidays:
        model.add_regressor(name, standardize=False)
    return model


def curve(grid: Grid, fold: int, ahead: int, config: ForecastConfig, warm: Warm | None) -> tuple[Floats, Warm | None]:
    """The curve from cell ``fold`` on, fitted on the cells before it.

    Args:
        grid: The history.
        fold: First cell of the curve; only earlier ones are learned from.
        ahead: Cells of the curve.
        config: Seasons, holidays, time zone.
        warm: Parameters to start from; ignored when they do not fit.

    Returns:
        Logarithms, shape (ahead,), and the parameters; NaN and None with less than a day known.
    """
    group = max(1, round(_HOUR / grid.step_s))
    while fold // group > _MOST_POINTS:
        group *= 2
    count = fold // group
    cells = grid.log[fold - count * group : fold].reshape(count, group)
    present = np.isfinite(cells)
    known = present.any(axis=1)
    step_s = group * grid.step_s
    if int(present.sum()) * grid.step_s < DAY_S:
        return np.full(ahead, np.nan), None
    means = np.where(present, cells, 0.0).sum(axis=1)[known] / present.sum(axis=1)[known]
    times: Floats = np.asarray(
        (grid.start + grid.step_s * (fold - count * group) + step_s * (np.arange(count) + 0.5))[known], dtype=np.float64
    )
    if float(np.ptp(means)) < 1e-9:
        return np.full(ahead, means[0]), None
    holidays = _learnable(config, times)
    table = _frame(times, config, holidays)
    table["y"] = means
    wanted: Floats = np.asarray(grid.start + grid.step_s * (fold + np.arange(ahead) + 0.5), dtype=np.float64)
    with warnings.catch_warnings():  # of what Prophet does with pandas, which nobody here can mend
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        model = _fit(lambda: _model(config, float(np.ptp(times)), step_s, holidays), table, warm)
        answer = predicted(model, _frame(wanted, config, holidays))
    return answer, _parameters(model)


def _fit(make: Callable[[], Any], table: Any, warm: Warm | None) -> Any:
    """Fit, from ``warm`` when it has the same shape; Prophet refuses a start of another one only deep in cmdstan.

    L-BFGS to its usual precision often fails within a hair of the optimum, where the change-points' prior has its
    kinks, and Newton's method, Prophet's answer to that, costs ten times as much. It is asked for less precision, then
    for Newton's.
    """
    model = make()
    model.stan_backend.set_options(newton_fallback=False)
    if warm is None or warm["terms"] != _terms(model):
        start = {}
    else:
        start = {"init": {name: value for name, value in warm.items() if name != "terms"}}
    try:
        return model.fit(table, algorithm="LBFGS", **_PRECISION, **start)
    except RuntimeError:
        return make().fit(table, algorithm="Newton")


def predicted(model: Any, table: Any) -> Floats:
    """What a fitted model expects, without the components that Prophet's ``predict`` spends most of its time on."""
    table = model.setup_dataframe(table)
    columns = [model.fourier_series(table["ds"], s["period"], s["fourier_order"]) for s in model.seasonalities.values()]
    columns += [np.asarray(table[[name]]) for name in model.extra_regressors]
    trend = np.asarray(model.predict_trend(table), dtype=np.float64)
    if not columns:
        return trend
    return np.asarray(trend + np.hstack(columns) @ model.params["beta"].ravel() * model.y_scale)


def _terms(model: Any) -> list[str]:
    """What the coefficients stand for: a start is only good for the same terms."""
    seasons = [f"{name}:{value['fourier_order']}" for name, value in model.seasonalities.items()]
    return sorted([*seasons, *model.extra_regressors])


def _parameters(model: Any) -> Warm | None:
    """The fitted parameters in the form Prophet takes as a start; None when they have another length than usual."""
    found = {name: np.asarray(model.params[name]) for name in ("k", "m", "sigma_obs", "delta", "beta")}
    if found["delta"].size != _CHANGE_POINTS:
        return None
    return {
        "k": float(found["k"].ravel()[0]),
        "m": float(found["m"].ravel()[0]),
        "sigma_obs": float(found["sigma_obs"].ravel()[0]),
        "delta": found["delta"].ravel(),
        "beta": found["beta"].ravel(),
        "terms": _terms(model),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """Prophet's curves as a point model.

    Attributes:
        here: The curve at each origin, by the fit of the origin's fold, shape (N,); NaN where there was none.
        curves: Per fold (first cell, curve from there on).
        name: Name in tables.
    """

    here: Floats
    curves: tuple[tuple[int, Floats], ...]
    name: str = NAME

    def change(self, grid: Grid, horizon: int) -> Floats:
        """Expected log change, with what the present is off by decaying as it did."""
        there = np.full(grid.size, np.nan)
        for number, (fold, values) in enumerate(self.curves):
            stop = self.curves[number + 1][0] if number + 1 < len(self.curves) else grid.size
            origins = np.arange(max(fold, 0), min(stop, grid.size, fold + values.size - horizon))
            there[origins] = values[origins - fold + horizon]
        slope, off = there - self.here, grid.now - self.here
        prior = 0.5 ** (horizon * grid.step_s / _PRIOR_HALF_LIFE_S) - 1.0
        b1, b2 = _coefficients(slope, off, grid.ahead(horizon), horizon, grid.cells(_WINDOW_S), prior)
        return np.asarray(b1 * slope + b2 * off)


def shape_of(size: int, curves: tuple[tuple[int, Floats], ...]) -> Shape:
    """Join the curves of the folds; between two folds the earlier one's curve holds."""
    here = np.full(size, np.nan)
    for fold, values in curves:
        first, stop = max(fold, 0), min(size, fold + values.size)
        here[first:stop] = values[first - fold : stop - fold]
    return Shape(here, curves)


def _coefficients(
    slope: Floats, off: Floats, truth: Floats, horizon: int, window: int, prior: float
) -> tuple[Floats, Floats]:
    """Ridge regression of ``truth - slope`` on (slope, off) over the errors known at each origin, shapes (N,).

    While there are too few errors the slope is taken as it is and what the present is off by decays by ``prior``.
    """
    error = truth - slope
    known = np.isfinite(error) & np.isfinite(off)

    def running(product: Floats) -> Floats:
        total = np.cumsum(np.where(known, product, 0.0))
        return np.nan_to_num(shift(total, horizon)) - np.nan_to_num(shift(total, horizon + window))

    count = running(np.ones(slope.size))
    ss, so, oo = running(slope * slope), running(slope * off), running(off * off)
    se, oe = running(slope * error), running(off * error)
    a, d = ss * (1 + _RIDGE) + 1e-9, oo * (1 + _RIDGE) + 1e-9
    determinant = np.maximum(a * d - so * so, 1e-18)
    b1 = 1.0 + (d * se - so * oe) / determinant
    b2 = (a * oe - so * se) / determinant
    enough = count >= _LEAST_ERRORS
    return np.where(enough, np.clip(b1, 0.0, 2.0), 1.0), np.where(enough, np.clip(b2, -1.5, 0.5), prior)
