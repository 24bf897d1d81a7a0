"""A picture of a history and what is expected of it."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from warmfleet_forecasting.result import ForecastResult
from warmfleet_forecasting.series import Series

mpl.use("Agg")

from matplotlib import dates
from matplotlib import pyplot as plt

_SHOWN_S = 3 * 86_400.0
_MEAN_S = 600.0
_PAST, _FUTURE = "#3b4252", "#c2571a"


def draw(path: Path, series: Series, result: ForecastResult, *, title: str, unit: str = "requests/s") -> None:
    """Writes a PNG: the last three days and the next one on top, the hours around the present below.

    Args:
        path: Where to.
        series: The history.
        result: What is expected of it.
        title: Name of the history.
        unit: Of the rates.
    """
    figure, (whole, near) = plt.subplots(2, 1, figsize=(12, 8), layout="constrained")
    verdict = "trusted" if result.trusted else "not trusted"
    figure.suptitle(f"{title}: {verdict} ({result.reason})")
    end = series.end
    for axes, before, after in ((whole, _SHOWN_S, 86_400.0), (near, 4 * 3600.0, 2 * 3600.0)):
        _history(axes, series.last(before))
        _band(axes, result, after)
        axes.axvline(_days(end), color="0.6", linewidth=0.8, linestyle=":")
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        locator = dates.AutoDateLocator(tz=UTC)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
    whole.legend(loc="upper left", ncols=4, frameon=False)
    skill = ", ".join(
        f"{s.horizon_s / 60:g} min {s.pinball_gain:+.0%}" for s in result.skill if np.isfinite(s.pinball_gain)
    )
    whole.set_title(f"Gain over persistence: {skill or 'not judged yet'}", loc="left", fontsize=10)
    near.set_title("The hours around the present (UTC)", loc="left", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _history(axes: Any, shown: Series) -> None:
    axes.plot(_days(shown.times() + shown.step_s / 2), shown.values, color=_PAST, linewidth=0.5, alpha=0.35)
    means = shown.resample(_MEAN_S)
    axes.plot(
        _days(means.times() + means.step_s / 2), means.values, color=_PAST, linewidth=1.4, label="10-minute means"
    )


def _band(axes: Any, result: ForecastResult, after_s: float) -> None:
    curves = [curve for curve in (result.near, result.far) if len(curve.offsets_s)]
    if not curves:
        return
    offsets = np.concatenate([curve.offsets_s for curve in curves])
    order = np.argsort(offsets)
    kept = order[offsets[order] <= after_s]
    at = _days(result.issued_at + offsets[kept])
    low, median, q90, high = (
        np.concatenate([curve.quantile(p) for curve in curves])[kept] for p in (0.05, 0.5, 0.9, 0.95)
    )
    axes.fill_between(at, low, high, color=_FUTURE, alpha=0.18, linewidth=0, label="5-95 %")
    axes.plot(at, median, color=_FUTURE, linewidth=1.6, label="median")
    axes.plot(at, q90, color=_FUTURE, linewidth=1.0, linestyle="--", label="90 %")


def _days(times: Any) -> Any:
    """Epoch seconds as matplotlib counts: days since the epoch."""
    return np.asarray(times) / 86_400.0
