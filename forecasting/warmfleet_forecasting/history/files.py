"""History from a file: Parquet or CSV with ``timestamp`` or ``minute``, and ``requests`` per row or ``rate``.

::

    rate (requests/s) = requests / step          step: the median distance of two rows

A timestamp is ISO 8601, with its zone or in the one given, or a number of seconds (milliseconds, when that large) since
the epoch. ``minute`` counts from a start that the caller names. A row that says ``missing``, and a row that is not
there, are gaps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd

from warmfleet_forecasting.history import STEP_S
from warmfleet_forecasting.series import BadHistoryError, Floats, Series

_MOST_STEP_S = 3600.0
_MILLISECONDS_FROM = 1e11
"""Numbers from here on are milliseconds: as seconds they would be the year 5138."""


class HistoryFileError(ValueError):
    """A file that cannot be used as a history; the message names the column or row and the fix."""


def load(path: Path, *, column: str = "", time_zone: str = "Etc/UTC", start: float = 0.0) -> Series:
    """Reads a history.

    Args:
        path: ``.parquet`` or ``.csv`` (also compressed).
        column: Column with counts per row; by default ``requests``, else ``rate``.
        time_zone: IANA zone of timestamps that name none.
        start: What ``minute`` counts from, epoch seconds.

    Raises:
        HistoryFileError: The file is not there or cannot be used.
    """
    table = _read(path)
    times = _times(table, path, time_zone, start)
    name = column or next((c for c in ("requests", "rate") if c in table.columns), "requests")
    if name not in table.columns:
        have = ", ".join(map(str, table.columns[:12]))
        raise HistoryFileError(f"{path}: no column {name!r} (it has {have}); name one with counts by --column")
    values = _numbers(table[name], path, name)
    if "missing" in table.columns:
        values[table["missing"].fillna(value=True).to_numpy(dtype=bool)] = np.nan
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    steps = np.diff(times)
    if not len(steps) or not (steps > 0).any():
        raise HistoryFileError(f"{path}: {len(times)} rows at one time; a history needs two or more times")
    step = float(np.median(steps[steps > 0]))
    if step > _MOST_STEP_S:
        raise HistoryFileError(
            f"{path}: rows are {step / 3600:.1f} h apart; a history needs rows at most an hour apart"
        )
    rates = values if name == "rate" and not column else values / step
    cell = max(STEP_S, round(step / STEP_S) * STEP_S)
    try:
        return Series.from_samples(zip(times.tolist(), rates.tolist(), strict=True), cell)
    except BadHistoryError as error:
        raise HistoryFileError(f"{path}: {error}") from error


def _read(path: Path) -> Any:
    try:
        return pd.read_parquet(path) if ".parquet" in path.suffixes else pd.read_csv(path)
    except (OSError, ValueError, UnicodeError) as error:
        raise HistoryFileError(f"{path}: {error}") from error


def _times(table: Any, path: Path, time_zone: str, start: float) -> Floats:
    if "minute" in table.columns:
        return start + 60.0 * _finite(_numbers(table["minute"], path, "minute"), path, "minute")
    if "timestamp" not in table.columns:
        raise HistoryFileError(f"{path}: neither a column timestamp nor minute; one of the two is needed")
    column = table["timestamp"]
    if pd.api.types.is_numeric_dtype(column):
        numbers = _finite(_numbers(column, path, "timestamp"), path, "timestamp")
        return numbers / 1000.0 if len(numbers) and float(np.median(numbers)) >= _MILLISECONDS_FROM else numbers
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise HistoryFileError(f"--time-zone {time_zone!r} is no IANA zone, such as Europe/Berlin") from error
    return np.array([_moment(text, zone, path, row) for row, text in enumerate(column)], dtype=np.float64)


def _moment(text: object, zone: ZoneInfo, path: Path, row: int) -> float:
    try:
        moment = pd.Timestamp(text)
    except (ValueError, TypeError):
        moment = pd.NaT
    if moment is pd.NaT:
        raise HistoryFileError(f"{path}: row {row}: timestamp {text!r} is no time; write 2026-03-01T12:00:00Z")
    if moment.tzinfo is None:
        # In the hour that a clock repeats, the first; in the one it skips, its end.
        moment = moment.tz_localize(zone, ambiguous=True, nonexistent="shift_forward")
    return float(moment.timestamp())


def _numbers(column: Any, path: Path, name: str) -> Floats:
    try:
        return np.array(pd.to_numeric(column), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise HistoryFileError(f"{path}: column {name}: {error}") from error


def _finite(values: Floats, path: Path, name: str) -> Floats:
    if len(bad := np.flatnonzero(~np.isfinite(values))):
        raise HistoryFileError(f"{path}: row {int(bad[0])}: {name} is empty; every row needs a time")
    return values
