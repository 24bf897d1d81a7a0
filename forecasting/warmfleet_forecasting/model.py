"""A fitted forecast: quantiles of the demand at any time up to a day ahead.

::

    knots           now; the judged leads (10, 30, 60 min, all models); 2, 4, 8, 16, 24 h (without the boosting)
    middle m(h)   = sum_k weight_k(h) * change_k(h)          point models at every h, weights interpolated between knots
    q_p(h)        = m(h) + interpolated over sqrt(h) of (q_p - m) at the knots

So between the knots the curve has the shape that the models see, and the band grows as their errors did. The first
hour follows the present: at h = 0 the forecast is the last value, without a band.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from warmfleet_forecasting.backtest import (
    FAR_HALF_LIFE_S,
    FAR_WINDOW_S,
    MOST_HELD,
    WINDOW_S,
    Fold,
    Walk,
    folds_of,
    leads,
    models_of,
    walk,
)
from warmfleet_forecasting.calibrate import PROBABILITIES, SCORES, scores_of
from warmfleet_forecasting.config import DAY_S, ForecastConfig
from warmfleet_forecasting.grid import Grid, grid_of
from warmfleet_forecasting.models.protocol import PointModel
from warmfleet_forecasting.result import HorizonSkill
from warmfleet_forecasting.series import Floats, Series
from warmfleet_forecasting.skill import skill_of

_FAR_S = (7_200.0, 14_400.0, 28_800.0, 57_600.0, 86_400.0)
_PATH_S = 9 * DAY_S
_JUDGED = slice(1, 3)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What was fitted on one history.

    Attributes:
        grid: The history.
        folds: What was learned; hand them over as ``warm`` to the next fit.
        skill: Per judged lead, ascending.
        knots: Leads in cells, ascending from 0, shape (K,).
        rest: Quantiles at the knots less their middle, shape (K, P).
        shares: Weight of each point model at the knots, shape (K, M).
        steps: Leads in cells at which the point models were asked, ascending from 0, shape (S,).
        changes: What they expect now, shape (S, M).
    """

    grid: Grid
    folds: tuple[Fold, ...]
    skill: tuple[HorizonSkill, ...]
    knots: Floats
    rest: Floats
    shares: Floats
    steps: Floats
    changes: Floats

    def quantiles(self, horizons_s: npt.ArrayLike, probabilities: npt.ArrayLike) -> Floats:
        """Demand quantiles.

        Args:
            horizons_s: Seconds after the end of the history, 0 to a day, shape (H,); later ones get the last.
            probabilities: In (0, 1), shape (P,); beyond 5 % and 95 % the tail is that of a normal.

        Returns:
            Requests/s, shape (H, P), ascending along P.
        """
        cells = np.clip(np.asarray(horizons_s, dtype=np.float64) / self.grid.step_s, 0.0, self.steps[-1])
        root, at = np.sqrt(cells), np.sqrt(self.knots)
        shares = np.stack([np.interp(root, at, column) for column in self.shares.T], axis=1)
        rest = np.stack([np.interp(root, at, column) for column in self.rest.T], axis=1)
        change = np.stack([np.interp(cells, self.steps, column) for column in self.changes.T], axis=1)
        learned = (shares * change).sum(axis=1)[:, None] + rest
        wanted = _on_normal_scale(learned, np.asarray(probabilities, dtype=np.float64))
        most = max(self.grid.peak[-1], self.grid.now[-1]) + MOST_HELD  # also between the knots, and in the outer tail
        return np.sort(self.grid.rate(np.minimum(self.grid.now[-1] + wanted, most)), axis=1)


def _on_normal_scale(values: Floats, probabilities: Floats) -> Floats:
    """Quantiles at other probabilities: linear in the normal score, beyond the ends with the slope of the tail."""
    scores = scores_of(probabilities)
    place = np.clip(np.searchsorted(SCORES, scores) - 1, 0, SCORES.size - 2)
    left, right = values[:, place], values[:, place + 1]
    share = (scores - SCORES[place]) / (SCORES[place + 1] - SCORES[place])
    return np.asarray(left + share * (right - left))


def fit(series: Series, config: ForecastConfig, *, warm: Sequence[Fold] = ()) -> Model:
    """Fit every model that has enough history, weigh and calibrate them by the backtest.

    Args:
        series: The history; its end is the present and must be known (at most half an hour of gap).
        config: What is asked for.
        warm: :attr:`Model.folds` of an earlier fit of the same series.
    """
    grid = grid_of(series, config.history_s, config.events)
    folds = folds_of(grid, config, warm)
    window = max(0, grid.size - grid.cells(WINDOW_S))
    judged_from = max(0, round((folds[0].begin - grid.start) / grid.step_s))
    early = max(0, grid.size - grid.cells(FAR_WINDOW_S))
    near = [walk(grid, lead, folds, config, window) for lead in leads(grid)]
    far = [
        walk(grid, lead, folds, config, early, FAR_HALF_LIFE_S)
        for lead in sorted({grid.cells(s) for s in _FAR_S} - set(leads(grid)))
    ]
    skill = tuple(skill_of(grid, one, max(judged_from, window)) for one in near)
    recent = grid.tail(grid.cells(_PATH_S))
    models = models_of(recent, folds, config, far=True)
    walks = (*near, *far)
    steps = sorted(
        {0, *range(1, grid.cells(3600.0) + 1), *range(0, grid.day + 1, grid.cells(3600.0)), *(w.horizon for w in walks)}
    )
    changes = np.array([[float(model.change(recent, step)[-1]) if step else 0.0 for model in models] for step in steps])
    changes = np.where(np.isfinite(changes), changes, 0.0)
    shares = np.array([_shares(one, models) for one in walks])
    middle = [float(share @ changes[steps.index(one.horizon)]) for share, one in zip(shares, walks, strict=True)]
    rest = [one.quantiles[-1] - level for one, level in zip(walks, middle, strict=True)]
    return Model(
        grid,
        folds,
        skill,
        knots=np.array([0.0, *(float(one.horizon) for one in walks)]),
        rest=np.array([np.zeros(PROBABILITIES.size), *rest]),
        shares=np.array([shares[0], *shares]),
        steps=np.array(steps, dtype=np.float64),
        changes=changes,
    )


def _shares(one: Walk, models: Sequence[PointModel]) -> Floats:
    """Weights of the point models at the last origin; 0 for one that does not speak at this lead, shape (M,)."""
    weights = dict(zip(one.names, one.weights[-1, :, _JUDGED].mean(axis=1), strict=True))
    return np.array([weights.get(model.name, 0.0) for model in models])
