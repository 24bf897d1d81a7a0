"""``warmfleet forecast``: what is expected of a history, and how far to trust it."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmfleet_cli import output

if TYPE_CHECKING:
    from warmfleet_forecasting.result import ForecastResult
    from warmfleet_forecasting.series import Series

_DAY_S = 86_400.0
_SHOWN_S = (300.0, 600.0, 1200.0, 1800.0, 2700.0, 3600.0, 7200.0, 21_600.0, 43_200.0, 86_400.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--history", type=Path, metavar="FILE", help="Parquet or CSV with a time and requests, or a rate, per row"
    )
    source.add_argument("--prometheus", metavar="URL", help="base address of a Prometheus")
    parser.add_argument(
        "--column", default="", metavar="NAME", help="column of FILE with counts, or a rate (default requests or rate)"
    )
    parser.add_argument(
        "--time-column", default="", metavar="NAME", help="column of FILE with times (default timestamp or minute)"
    )
    parser.add_argument("--per-request", action="store_true", help="each row of FILE is one request")
    parser.add_argument(
        "--start", default="1970-01-01T00:00:00Z", metavar="DATE", help="what the column minute counts from (RFC 3339)"
    )
    parser.add_argument("--query", metavar="PROMQL", help="query of the arrivals in requests/s")
    parser.add_argument("--counter", action="store_true", help="the query selects raw counters")
    parser.add_argument("--deployment", metavar="NAMESPACE/NAME", help="LLMDeployment, instead of --query")
    parser.add_argument("--days", type=float, default=28.0, metavar="N", help="days of history to use (default 28)")
    parser.add_argument("--lead", default="10m", metavar="TIME", help="how far ahead trust is judged (default 10m)")
    parser.add_argument(
        "--time-zone", default="Etc/UTC", metavar="ZONE", help="IANA zone in which days begin (default Etc/UTC)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw history and forecast")
    output.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; 2 for a history or option that cannot be used."""
    from warmfleet_forecasting.history import HistoryError  # noqa: PLC0415 - heavy

    try:
        return _run(args)
    except (ValueError, HistoryError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
    return 2


def _run(args: argparse.Namespace) -> int:
    from warmfleet_contracts.api.base import parse_duration  # noqa: PLC0415
    from warmfleet_forecasting.config import ForecastConfig  # noqa: PLC0415
    from warmfleet_forecasting.forecast import forecast  # noqa: PLC0415 - heavy

    _check(args)
    unit = "tokens/s" if "token" in args.column.lower() else "requests/s"
    config = ForecastConfig(
        lead_s=parse_duration(args.lead), time_zone=args.time_zone, history_s=args.days * _DAY_S, valid_for_s=1800.0
    )
    series = _history(args).last(config.history_s)
    if not series.known:
        raise ValueError("the history is empty: no row, or no sample in the time asked for")
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of numerical libraries; what counts is in the result's reason
        result = forecast(series, config, None)
    took = time.perf_counter() - began
    if args.plot is not None:
        from warmfleet_forecasting.plot import draw  # noqa: PLC0415 - matplotlib only when asked for

        draw(args.plot, series, result, title=args.history.name if args.history else args.prometheus, unit=unit)
    if args.output == "json":
        json.dump(_figures(series, result, took), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print(series, result, took, unit)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuses options before anything is read or fitted.

    Raises:
        ValueError: One of them cannot be; the message names it.
    """
    from warmfleet_forecasting.history.files import zone_named  # noqa: PLC0415 - pandas

    if not 0 < args.days <= 400:
        raise ValueError(f"--days {args.days:g}: write a number above 0, at most 400")
    zone_named(args.time_zone)
    if args.plot is not None and (args.plot.is_dir() or not args.plot.parent.is_dir()):
        raise ValueError(f"--plot {args.plot}: name a file in a folder that exists")
    if args.plot is not None and args.plot.suffix != ".png":
        raise ValueError(f"--plot {args.plot}: the picture is a PNG; let its name end in .png")


def _history(args: argparse.Namespace) -> Series:
    if args.history is not None:
        from warmfleet_forecasting.history.files import Columns, load  # noqa: PLC0415 - pandas

        columns = Columns(args.column, args.time_column, args.per_request, args.time_zone, _moment(args.start))
        return load(args.history, columns)
    import asyncio  # noqa: PLC0415

    return asyncio.run(_prometheus(args))


async def _prometheus(args: argparse.Namespace) -> Series:
    import aiohttp  # noqa: PLC0415
    from warmfleet_forecasting.history import Key  # noqa: PLC0415
    from warmfleet_forecasting.history.prometheus import PrometheusHistory, PrometheusSettings, render  # noqa: PLC0415

    settings = PrometheusSettings(args.prometheus, counter=args.counter)
    query = args.query
    if query is None:
        namespace, slash, name = (args.deployment or "").partition("/")
        if not slash:
            raise ValueError(
                "--prometheus needs --query PROMQL, or --deployment NAMESPACE/NAME for the operator's metric"
            )
        query = render(settings.query, Key(namespace, name))
    end = datetime.now(UTC).timestamp()
    async with aiohttp.ClientSession() as session:
        return await PrometheusHistory(settings, session).query(query, end - args.days * _DAY_S, end)


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"--start {text!r} is not a time; write 2026-03-01T00:00:00Z") from error
    if moment.tzinfo is None:
        raise ValueError(f"--start {text!r} has no time zone; write 2026-03-01T00:00:00Z")
    return moment.timestamp()


def _figures(series: Series, result: ForecastResult, took: float) -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415

    return {
        "history": {
            "start": _stamp(series.start),
            "end": _stamp(series.end),
            "stepSeconds": series.step_s,
            "cells": len(series),
            "gaps": len(series) - series.known,
            "rejected": series.rejected,
            "mean": float(np.nanmean(series.values)),
            "peak": float(np.nanmax(series.values)),
        },
        "issuedAt": _stamp(result.issued_at) if math.isfinite(result.issued_at) else None,
        "trusted": result.trusted,
        "reason": str(result.reason),
        "message": result.message,
        "fitSeconds": round(took, 3),
        "skill": [
            {
                "horizonSeconds": s.horizon_s,
                "pinballGain": s.pinball_gain if math.isfinite(s.pinball_gain) else None,
                "coverage90": s.coverage90,
                "samples": s.samples,
                "weights": dict(s.weights),
            }
            for s in result.skill
        ],
        "curve": [
            {
                "offsetSeconds": float(offset),
                **{f"q{p * 100:g}": float(v) for p, v in zip(c.probabilities, row, strict=True)},
            }
            for c in (result.near, result.far)
            for offset, row in zip(c.offsets_s, c.values, strict=True)
        ],
    }


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _print(series: Series, result: ForecastResult, took: float, unit: str) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415

    figures = _figures(series, result, took)
    past, console = figures["history"], Console(width=max(100, Console().width))
    colour = "green" if result.trusted else "yellow"
    console.print(
        f"History  {past['start']} to {past['end']}, {past['cells']} cells of {past['stepSeconds']:g} s, "
        f"{past['gaps']} gaps, mean {past['mean']:.3g}, peak {past['peak']:.3g} {unit}",
        highlight=False,
    )
    if past["rejected"]:
        console.print(f"[yellow]{past['rejected']} values were no rates and count as gaps[/yellow]", highlight=False)
    verdict = "trusted" if result.trusted else "not trusted"
    console.print(
        f"Forecast [{colour}]{verdict}[/{colour}] ({result.reason}): {escape(result.message)}", highlight=False
    )
    console.print(_skill_table(result))
    console.print(_curve_table(result, unit))
    console.print(f"fitted in {took:.2f} s", style="dim", highlight=False)


def _skill_table(result: ForecastResult) -> Any:
    from rich.table import Table  # noqa: PLC0415

    table = Table(title="Skill, from forecasts made before the fact")
    for name in ("horizon", "gain over persistence", "at or below q90", "judged", "weights"):
        table.add_column(name, justify="left" if name == "weights" else "right")
    for s in result.skill:
        table.add_row(
            f"{s.horizon_s / 60:g} min",
            f"{s.pinball_gain:+.1%}" if math.isfinite(s.pinball_gain) else "-",
            f"{s.coverage90:.1%}" if s.coverage90 is not None and math.isfinite(s.coverage90) else "-",
            str(s.samples),
            ", ".join(f"{name} {weight:.0%}" for name, weight in s.weights if weight >= 0.005) or "-",
        )
    return table


def _curve_table(result: ForecastResult, unit: str) -> Any:
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=f"Demand, {unit}")
    for name in ("in", "at (UTC)", "q10", "median", "q90"):
        table.add_column(name, justify="right")
    for curve in (result.near, result.far):
        for i, offset in enumerate(curve.offsets_s):
            if any(abs(offset - shown) < 1 for shown in _SHOWN_S):
                at = datetime.fromtimestamp(result.issued_at + offset, UTC).strftime("%a %H:%M")
                figures = [f"{curve.quantile(p)[i]:.4g}" for p in (0.1, 0.5, 0.9)]
                ahead = f"{offset / 60:g} min" if offset < 7200 else f"{offset / 3600:g} h"
                table.add_row(ahead, at, *figures)
    return table
