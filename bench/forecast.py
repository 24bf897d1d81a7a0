"""The forecast against holding the last value and against yesterday, on real traces.

10-minute means, 30 minutes ahead, from every origin after day 3, fitted on what was known then (a new fold every 12
hours). Baselines are persistence and re-levelled yesterday with quantiles of their own past log-residuals; the better
one of a trace counts. Loss: mean pinball of q50 and q90. One configuration for all traces; nothing was tuned on what
is scored. Then what it costs: fit and predict of 28 days, and the shipped service with a thousand deployments
(``forecast_service.py``). Times are of the processor, so that what else the machine does has little say in them; one
fit runs on one core.

    python bench/forecast.py [--refits 1000] [--ablate] [--traces NAME ...]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from forecast_service import measure, tell
from pyarrow import parquet
from reference import data_dir
from rich.console import Console
from rich.table import Table
from warmfleet_forecasting.backtest import FAR_HALF_LIFE_S, Fold, Walk, fit_fold, walk
from warmfleet_forecasting.calibrate import PROBABILITIES, conformal, pinball
from warmfleet_forecasting.config import DAY_S, ForecastConfig
from warmfleet_forecasting.ensemble import HALF_LIFE_S, combine
from warmfleet_forecasting.forecast import forecast
from warmfleet_forecasting.grid import Grid, grid_of
from warmfleet_forecasting.result import ForecastResult
from warmfleet_forecasting.series import Series

Floats = npt.NDArray[np.float64]
OUT = Path("out") / "forecast"
STEP_S, DAY, LEAD = 600.0, 144, 3
FAR = (12, 36)
"""Later leads, cells: 2 and 6 h."""
_COLD = 20
FROM = 3 * DAY
GOOD = ("azure2024_code", "servegen_m_small_8d", "sageserve_A")
STEADY = ("client 5",)
BAD = ("servegen_m_large", "client 38", "sageserve_B", "sageserve_D")
CONFIG = ForecastConfig(lead_s=1800.0)
_FILES = {
    "azure2024_code": ("azure2024_code_digitised.rate_1m", "requests"),
    "servegen_m_small_8d": ("servegen_m_small_8d.rate_1m", "requests"),
    "sageserve_A": ("sageserve_A.rate_1m", "input_tokens"),
    "servegen_m_large": ("servegen_m_large.rate_1m", "requests"),
    "sageserve_B": ("sageserve_B.rate_1m", "input_tokens"),
    "sageserve_D": ("sageserve_D.rate_1m", "input_tokens"),
}


def load(name: str) -> Series:
    """A trace as 10-minute means per second; gaps are NaN."""
    if name.startswith("client "):
        table = parquet.read_table(data_dir() / "traces" / "servegen_m_small_clients_8d.rate_10m.parquet").to_pydict()
        rows = [i for i, client in enumerate(table["client"]) if client == int(name.split()[1])]
        values = np.full(8 * DAY, np.nan)
        for i in rows:
            values[int(table["window_s"][i] // STEP_S)] = table["rate_rps"][i]
        return Series(0.0, STEP_S, values)
    file, column = _FILES[name]
    table = parquet.read_table(data_dir() / "traces" / f"{file}.parquet").to_pydict()
    values = np.array(table[column], dtype=float) / 60.0
    values[np.array(table["missing"], dtype=bool)] = np.nan
    return Series(0.0, 60.0, values).resample(STEP_S)


@dataclass
class Scored:
    """What one trace gave."""

    name: str
    grid: Grid
    walk: Walk
    truth: Floats
    mine: Floats
    persistence: Floats
    yesterday: Floats
    judged: npt.NDArray[np.bool_]

    def loss(self, quantiles: Floats, *columns: int) -> float:
        """Mean pinball loss of the columns on the judged rows."""
        rows = pinball(self.truth[self.judged, None], quantiles[self.judged], PROBABILITIES)
        return float(rows[:, columns].mean())

    def coverage(self, column: int = 2) -> float:
        """Share of judged truths at or below a quantile."""
        return float((self.truth[self.judged] <= self.mine[self.judged, column]).mean())

    @property
    def best(self) -> float:
        """Loss of the better baseline."""
        return min(self.loss(self.persistence, 1, 2), self.loss(self.yesterday, 1, 2))

    @property
    def gain(self) -> float:
        """Against the better baseline."""
        return 1 - self.loss(self.mine, 1, 2) / self.best

    def ramp_gain(self) -> tuple[float, int]:
        """How much less q90 falls short on up-ramps than persistence scaled to the same mean over-forecast."""
        truth, q90, now = self.truth[self.judged], self.mine[self.judged, 2], self.grid.rate(self.grid.now)[self.judged]
        over = np.maximum(q90 - truth, 0).mean()
        low, high = 0.0, 50.0
        for _ in range(60):
            scale = (low + high) / 2
            low, high = (scale, high) if np.maximum(scale * now - truth, 0).mean() < over else (low, scale)
        ramps = truth > 1.15 * now
        mine = np.maximum(truth - q90, 0)[ramps].sum()
        held = np.maximum(truth - low * now, 0)[ramps].sum()
        return (1 - float(mine / held) if held > 0 else 0.0), int(ramps.sum())


def baseline(change: Floats, truth: Floats, lead: int) -> Floats:
    """Quantiles of a baseline from all its own past log-residuals, shape (N, P)."""
    answer = np.full((truth.size, PROBABILITIES.size), np.nan)
    residuals = truth - change
    for at in range(DAY, truth.size):
        known = residuals[: at - lead + 1]
        known = known[np.isfinite(known)]
        if known.size >= 12:
            answer[at] = change[at] + np.quantile(known, PROBABILITIES)
    return answer


def yesterday(grid: Grid, lead: int) -> Floats:
    """Log change of yesterday's curve moved to the level of the last hour, from the rates themselves."""
    rates = grid.rate(grid.log)
    hour = np.array(
        [
            np.nanmean(rates[max(0, i - 5) : i + 1]) if np.isfinite(rates[max(0, i - 5) : i + 1]).any() else np.nan
            for i in range(rates.size)
        ]
    )
    answer = np.full(rates.size, np.nan)
    at = np.arange(DAY, rates.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        curve = rates[at + lead - DAY] * hour[at] / hour[at - DAY]
        answer[at] = np.log(curve + grid.floor) - grid.now[at]
    return np.where(np.isfinite(answer), answer, np.nan)


def run(name: str, series: Series) -> tuple[Scored, list[Scored]]:
    """Walk one trace: 30 minutes ahead, and the later leads."""
    floor = grid_of(series.until(FROM * STEP_S), CONFIG.history_s).floor
    grid = grid_of(series, CONFIG.history_s, floor=floor)
    folds: list[Fold] = []
    for first in range(DAY, grid.size, 72):
        folds.append(fit_fold(grid, first, 72, CONFIG, folds[-1] if folds else None))
    far = [walk(grid, lead, folds, CONFIG, DAY, FAR_HALF_LIFE_S) for lead in FAR]
    return scored(name, grid, walk(grid, LEAD, folds, CONFIG, DAY)), [scored(name, grid, walked) for walked in far]


def scored(name: str, grid: Grid, walked: Walk) -> Scored:
    """Compare a walk with the baselines, on the rows all of them answer."""
    lead = walked.horizon
    truth = grid.ahead(lead)
    held, shaped = baseline(np.zeros(grid.size), truth, lead), baseline(yesterday(grid, lead), truth, lead)
    rows = np.isfinite(truth) & np.isfinite(walked.quantiles).all(axis=1) & np.isfinite(held).all(axis=1)
    rows &= np.isfinite(shaped).all(axis=1) & (np.arange(grid.size) >= FROM)
    rate = [grid.rate(grid.now[:, None] + q) for q in (walked.quantiles, held, shaped)]
    return Scored(name, grid, walked, grid.rate(grid.now + truth), *rate, rows)


def ablation(one: Scored, without: tuple[str, ...], *, correct: bool = True) -> float:
    """Gain of the ensemble without some of its parts."""
    keep = [i for i, name in enumerate(one.walk.names) if name not in without]
    mixed, _ = combine(one.grid, one.walk.experts[keep], LEAD, DAY, HALF_LIFE_S)
    final = conformal(mixed, one.grid.ahead(LEAD), LEAD, DAY) if correct else mixed
    return 1 - one.loss(one.grid.rate(one.grid.now[:, None] + final), 1, 2) / one.best


def picture(one: Scored) -> None:
    """Truth, median, band and what persistence would have said, all as said 30 minutes before."""
    at = (np.arange(one.truth.size) + LEAD + 0.5) / DAY
    shown = slice(FROM, None)
    figure, axes = plt.subplots(2, 1, figsize=(14, 7), height_ratios=(3, 1), sharex=True, layout="constrained")
    axes[0].fill_between(at[shown], one.mine[shown, 0], one.mine[shown, 3], alpha=0.25, label="5-95 %")
    axes[0].plot(at[shown], one.mine[shown, 2], lw=0.8, color="tab:orange", label="q90")
    axes[0].plot(at[shown], one.mine[shown, 1], lw=1.0, color="tab:blue", label="median, 30 min before")
    axes[0].plot(at[shown], one.truth[shown], lw=0.8, color="black", label="demand")
    axes[0].set_ylabel("requests/s" if "sageserve" not in one.name else "prompt tokens/s")
    axes[0].set_ylim(0, 1.15 * np.nanquantile(one.truth[shown], 0.999))
    axes[0].legend(loc="upper left", ncols=4)
    held = f"gain {one.gain:+.1%}, {one.coverage():.1%} below q90"
    axes[0].set_title(f"{one.name}: 10-minute means forecast 30 minutes before ({held})")
    shares = one.walk.weights[shown, :, 1:3].mean(axis=2)
    axes[1].stackplot(at[shown], shares.T, labels=one.walk.names)
    axes[1].set(ylim=(0, 1), ylabel="weights", xlabel="day")
    axes[1].legend(loc="upper left", ncols=len(one.walk.names), fontsize=8)
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / f"{one.name.replace(' ', '_')}.png", dpi=80)
    plt.close(figure)


def months(seed: int) -> Series:
    """29 days at 5 minutes: day, week, drift, correlated noise."""
    rng = np.random.default_rng(seed)
    x = np.arange(29 * 288) / 288
    drift = np.cumsum(0.01 * rng.normal(size=x.size))
    shape = 0.8 * np.sin(2 * np.pi * x) + 0.2 * np.sin(4 * np.pi * x) - 0.6 * (x % 7 >= 5)
    return Series(0.0, 300.0, 80 * np.exp(shape + drift - x / x[-1] * drift[-1] + 0.05 * rng.normal(size=x.size)))


def seconds_of(series: Series, previous: ForecastResult | None) -> tuple[float, float, ForecastResult]:
    """Wall and processor seconds (this process and its children) of one forecast."""
    wall, before = time.perf_counter(), os.times()
    result = forecast(series, CONFIG, previous)
    after = os.times()
    return time.perf_counter() - wall, sum(after[:4]) - sum(before[:4]), result


def speed() -> tuple[list[float], list[float]]:
    """Wall and processor seconds of fit + predict of 28 days from nothing, by series."""
    forecast(months(99).until(3 * DAY_S), CONFIG)
    found = [seconds_of(months(seed).until(28 * DAY_S), None) for seed in range(_COLD)]
    return [wall for wall, _, _ in found], [used for _, used, _ in found]


def table(results: list[Scored]) -> Table:
    """A row per trace."""
    rows = Table(title="30 min ahead, from day 3")
    for heading in ("trace", "rows", "persistence", "yesterday", "gain", "vs held", "q05", "q95", "below q90", "ramps"):
        rows.add_column(heading, justify="left" if heading == "trace" else "right")
    for one in results:
        held, shaped, mine = (one.loss(q, 1, 2) for q in (one.persistence, one.yesterday, one.mine))
        tails = [1 - one.loss(one.mine, c) / one.loss(one.persistence, c) for c in (0, 3)]
        ramp, count = one.ramp_gain()
        rows.add_row(one.name, f"{int(one.judged.sum())}", f"{held:.3g}", f"{shaped:.3g}", f"{one.gain:+.1%}",
                     f"{1 - mine / held:+.1%}", f"{tails[0]:+.1%}", f"{tails[1]:+.1%}", f"{one.coverage():.1%}",
                     f"{ramp:+.1%} ({count})")  # fmt: skip
    return rows


def far_table(results: list[Scored]) -> Table:
    """A row per trace and later lead: nothing there is a target, and nothing is hidden."""
    rows = Table(title="2 and 6 h ahead, from day 3 (no target)")
    for heading in ("trace", "ahead", "rows", "persistence", "yesterday", "gain", "vs held", "below q90", "below q95"):
        rows.add_column(heading, justify="left" if heading == "trace" else "right")
    for one in results:
        held, shaped, mine = (one.loss(q, 1, 2) for q in (one.persistence, one.yesterday, one.mine))
        rows.add_row(one.name, f"{one.walk.horizon * STEP_S / 3600:g} h", f"{int(one.judged.sum())}", f"{held:.3g}",
                     f"{shaped:.3g}", f"{one.gain:+.1%}", f"{1 - mine / held:+.1%}", f"{one.coverage():.1%}",
                     f"{one.coverage(3):.1%}")  # fmt: skip
    return rows


def ablations(results: list[Scored]) -> Table:
    """Gain without each part."""
    cases: dict[str, tuple[str, ...]] = {
        "all": (),
        "no boosting": ("boosting",),
        "no prophet": ("prophet",),
        "no yesterday": ("yesterday", "last week"),
        "no persistence": ("persistence",),
        "boosting alone": ("persistence", "yesterday", "last week", "prophet"),
        "prophet alone": ("persistence", "yesterday", "last week", "boosting"),
    }
    rows = Table(title="gain against the better baseline, by part")
    rows.add_column("trace")
    for heading in (*cases, "no conformal"):
        rows.add_column(heading, justify="right")
    for one in results:
        figures = [f"{ablation(one, without):+.1%}" for without in cases.values()]
        rows.add_row(one.name, *figures, f"{ablation(one, (), correct=False):+.1%}")
    return rows


def main() -> int:
    """Score, draw, time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--refits", type=int, default=1000, help="deployments of the service that is measured")
    parser.add_argument("--ablate", action="store_true", help="what each part buys")
    parser.add_argument("--traces", nargs="*", default=[*GOOD, *STEADY, *BAD])
    arguments = parser.parse_args()
    console = Console(width=150)
    results, later = [], []
    for name in arguments.traces:
        one, far = run(name, load(name))
        picture(one)
        results.append(one)
        later += far
    console.print(table(results))
    console.print(far_table(later))
    if arguments.ablate:
        console.print(ablations(results))
    wall, used = speed()
    console.print(
        f"28 days at 5 min, fit + predict: {statistics.median(used):.2f} s of processor "
        f"({min(used):.2f}-{max(used):.2f}, {_COLD} series), {statistics.median(wall):.2f} s wall"
    )
    service = asyncio.run(measure(arguments.refits))
    console.print(tell(service))
    console.print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}"
    )
    good = [one for one in results if one.name in GOOD]
    bad = [one for one in results if one.name in BAD]
    pooled = np.concatenate([one.truth[one.judged] <= one.mine[one.judged, 2] for one in results])
    summary = {
        "gain_mean": round(statistics.mean(one.gain for one in good), 4) if good else None,
        "gain_min": round(min(one.gain for one in good), 4) if good else None,
        "ramp_gain_mean": round(statistics.mean(one.ramp_gain()[0] for one in good), 4) if good else None,
        "distrusted_excess_max": round(max(o.loss(o.mine, 1, 2) / o.loss(o.persistence, 1, 2) - 1 for o in bad), 4)
        if bad
        else None,
        "coverage_pooled": round(float(pooled.mean()), 4),
        "fit28_s": round(statistics.median(used), 2),
        "refit_1000_s": round(service.thousand_s),
        "rss_mb": round(service.grown_mb),
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
