"""The rolling backtest, which is also the forecast: both are one walk over the origins.

::

    fold      12 hours of origins; models of a fold are fitted on the cells before it, and nothing later
    experts   persistence, yesterday, last week, prophet: change + quantiles of past errors;   boosting: quantiles
    walk      q(i) = conformal( combine( experts(i) ) ),   i = first .. N - 1;       the last one is the forecast

So what is published was made exactly as what was judged: same folds, same weights, same corrections. Folds are
remembered (``Fold``, a few kilobytes), so that a refit costs one fit. Without memory the last day is done again, which
is enough to weigh the models and to judge them: with the present fold as one, by one fit, when there is so much
history before it that a day more teaches little; as a fold of its own when there is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warmfleet_forecasting.calibrate import conformal, prior_quantiles, with_past_errors
from warmfleet_forecasting.config import DAY_S, HORIZONS_S, ForecastConfig
from warmfleet_forecasting.ensemble import HALF_LIFE_S, combine
from warmfleet_forecasting.grid import Grid
from warmfleet_forecasting.models import boosting, prophet
from warmfleet_forecasting.models.persistence import Persistence
from warmfleet_forecasting.models.protocol import PointModel
from warmfleet_forecasting.models.seasonal import Seasonal
from warmfleet_forecasting.series import Floats

Singles = npt.NDArray[np.float32]
FOLD_S = 43_200.0
WINDOW_S = 3 * DAY_S
"""How far back origins are judged and weighed, up to an hour ahead."""
FAR_WINDOW_S = 8 * DAY_S
"""The same for later leads: a week and a day, so that a week is seen whole."""
FAR_HALF_LIFE_S = 2 * DAY_S
"""Age at which a loss counts half in the weights of later leads."""
_ERRORS_S = 7 * DAY_S
_PLENTY_S = 6 * DAY_S
_MOST_ABOVE_PEAK = float(np.log(1.25))
MOST_HELD = float(np.log(2.0))
"""How far above the present and the peak so far anything is expected, logarithm."""


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """What models that knew nothing later said about the origins of one fold, in single precision: it is kept.

    Attributes:
        begin: Beginning of its first cell, seconds since the epoch.
        cells: Origins in it.
        floor: Floor of the logarithms it was made on, requests/s.
        curve: Prophet's curve from the first cell on, a day longer than the fold, shape (cells + day,).
        boosted: Quantiles of the boosting by lead, shape (leads, known origins, P).
        warm: Prophet's parameters, for the next fit to start from.
    """

    begin: float
    cells: int
    floor: float
    curve: Singles
    boosted: Singles
    warm: prophet.Warm | None


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """Forecasts from every origin for one lead.

    Attributes:
        horizon: Lead in cells.
        first: First origin walked.
        quantiles: Combined and corrected log ratios, shape (N, P).
        experts: Log ratios of each model, shape (K, N, P).
        names: Names of the models.
        weights: Shape (N, K, P).
    """

    horizon: int
    first: int
    quantiles: Floats
    experts: Floats
    names: tuple[str, ...]
    weights: Floats


def leads(grid: Grid) -> tuple[int, ...]:
    """The judged leads in cells, ascending, each once."""
    return tuple(sorted({grid.cells(seconds) for seconds in HORIZONS_S}))


def fit_fold(grid: Grid, first: int, cells: int, config: ForecastConfig, earlier: Fold | None = None) -> Fold:
    """Fit Prophet and the boosting on what was known before cell ``first`` and let them speak for the fold.

    Args:
        grid: The history; cells from ``first`` on give features of later origins, never anything to learn from.
        first: First origin of the fold.
        cells: Origins in it.
        config: Seasons, holidays, time zone.
        earlier: An earlier fold, or this fold made when fewer of its origins were known.
    """
    begin = grid.start + first * grid.step_s
    offset = prophet.local_offset(config.time_zone, begin)
    same = earlier is not None and abs(earlier.begin - begin) < 1.0 and earlier.cells == cells
    if earlier is not None and same and abs(earlier.floor - grid.floor) <= 0.5 * grid.floor:
        shape, warm, floor = earlier.curve, earlier.warm, earlier.floor
    else:
        start = earlier.warm if earlier is not None else None
        found, warm = prophet.curve(grid, first, cells + grid.day, config, start)
        shape, floor = found.astype(np.float32), grid.floor
    stop = min(first + cells, grid.size)
    boosted = np.stack([boosting.boosted(grid, lead, first, stop, offset) for lead in leads(grid)], dtype=np.float32)
    return Fold(begin, cells, floor, shape, boosted, warm)


def folds_of(grid: Grid, config: ForecastConfig, remembered: Sequence[Fold] = ()) -> tuple[Fold, ...]:
    """The folds of the last eight days: remembered ones, what is missing of the last day, and the present one."""
    length = max(1, round(FOLD_S / grid.step_s))
    present = grid.size - 1 - int((grid.end - grid.step_s) % FOLD_S // grid.step_s)
    kept = [fold for fold in remembered if _usable(fold, grid, present)]
    done = {round((fold.begin - grid.start) / grid.step_s): fold for fold in kept}
    if not any(first < present for first in done):
        back = max(0, present - grid.day)
        if int(np.isfinite(grid.log[:back]).sum()) * grid.step_s >= _PLENTY_S:
            return (fit_fold(grid, back, present - back + length, config),)
        if present - back >= length // 2:
            done[back] = fit_fold(grid.cut(present), back, present - back, config)
    newest = done[max(done)] if done else None
    past = [done[first] for first in sorted(done) if first < present]
    return (*past, fit_fold(grid, max(present, 0), length, config, newest))


def _usable(fold: Fold, grid: Grid, present: int) -> bool:
    """On the same cells, within the window, and of the past (or the present fold)."""
    place = (fold.begin - grid.start) / grid.step_s
    aligned = abs(place - round(place)) < 1e-3
    return aligned and max(0, present - round(FAR_WINDOW_S / grid.step_s)) <= round(place) <= present


def models_of(grid: Grid, folds: Sequence[Fold], config: ForecastConfig, *, far: bool) -> list[PointModel]:
    """The point models that take part, persistence first; for late leads one more, which comes last."""
    curves = tuple((round((f.begin - grid.start) / grid.step_s), f.curve.astype(np.float64)) for f in folds)
    models: list[PointModel] = [Persistence()]
    if config.daily:
        models.append(Seasonal("yesterday", DAY_S))
    if config.weekly and grid.size > 8 * grid.day:
        models.append(Seasonal("last week", 7 * DAY_S))
    models.append(prophet.shape_of(grid.size, curves))
    if far and config.daily:
        models.append(Seasonal("yesterday as it was", DAY_S, relevel=False))
    return models


def _boosted(grid: Grid, folds: Sequence[Fold], lead: int) -> Floats:
    """The boosting's quantiles by origin, joined over the folds, shape (N, P)."""
    answer = np.full((grid.size, folds[0].boosted.shape[2]), np.nan)
    for fold in folds:
        first = round((fold.begin - grid.start) / grid.step_s)
        values = fold.boosted[lead]
        stop = min(grid.size, first + values.shape[0])
        answer[first:stop] = values[: stop - first]
    return answer


def bounded(grid: Grid, experts: Floats) -> Floats:
    """What the experts say, within what has been seen.

    Shapes and errors are those of logarithms, and after an outage they know changes by a thousand. So persistence says
    at most twice the present or the peak so far, and the others at most a quarter above the peak, or what persistence
    says if that is more.

    Args:
        grid: The history.
        experts: Log ratios, persistence first, shape (K, N, P).
    """
    peak = grid.peak
    said = experts.copy()
    said[0] = np.minimum(experts[0], (np.fmax(peak - grid.now, 0.0) + MOST_HELD)[:, None])
    said[1:] = np.minimum(experts[1:], np.maximum(said[0], (peak + _MOST_ABOVE_PEAK - grid.now)[:, None]))
    return said


def walk(
    grid: Grid,
    horizon: int,
    folds: Sequence[Fold],
    config: ForecastConfig,
    first: int,
    half_life_s: float = HALF_LIFE_S,
) -> Walk:
    """Forecast from every origin from ``first`` on, each with what was known then.

    Args:
        grid: The history.
        horizon: Lead in cells.
        folds: Folds in time order.
        config: Which models take part.
        first: First origin.
        half_life_s: Age at which a loss counts half in the weights, seconds.
    """
    truth = grid.ahead(horizon)
    window = round(_ERRORS_S / grid.step_s)
    near = horizon in leads(grid)
    models = models_of(grid, folds, config, far=not near)
    experts = [with_past_errors(m.change(grid, horizon), truth, horizon, first, window) for m in models]
    blank = ~np.isfinite(experts[0]).all(axis=1) & np.isfinite(grid.now)
    experts[0][blank] = prior_quantiles(horizon)
    names = [model.name for model in models]
    if near:
        experts.append(_boosted(grid, folds, leads(grid).index(horizon)))
        names.append(boosting.NAME)
    stacked = bounded(grid, np.stack(experts))
    mixed, weights = combine(grid, stacked, horizon, first, half_life_s)
    final = conformal(mixed, truth, horizon, first) if near else mixed
    return Walk(horizon, first, final, stacked, tuple(names), weights)
