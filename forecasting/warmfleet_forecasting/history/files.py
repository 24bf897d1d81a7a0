"""History from a file: Parquet or CSV with a time per row, and requests or a rate per row; or a row per request.

::

    rate (requests/s) = requests / step          step: the median distance of two rows
                      = rows of a minute / 60    where each row is a request

A time is ISO 8601, with its zone or in the one given, or a number since the epoch, of seconds or, when that large,
milli-, micro- or nanoseconds. ``minute`` counts from a start that the caller names. A row that says ``missing``, and a
row that is not there, are gaps. Columns are known by their usual names, in any case (:data:`TIMES`, :data:`RATES`,
:data:`COUNTS`), or named by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pandas as pd

from warmfleet_forecasting.history import STEP_S
from warmfleet_forecasting.series import BadHistoryError, Floats, Series

Indices = npt.NDArray[np.int64]

TIMES = ("timestamp", "time", "datetime", "date", "ts", "ds", "minute")
COUNTS = ("requests", "count")
RATES = ("rate", "rps", "qps", "rate_rps", "requests_per_second")
_MOST_STEP_S = 3600.0
_MOST_REPEATED = 0.1
_COUNTER_ROWS = 100
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
"""Numbers from here on are so many to the second: as seconds they would lie beyond the year 5000."""


class HistoryFileError(ValueError):
    """A file that cannot be used as a history; the message names the column or row and the fix."""


@dataclass(frozen=True, slots=True)
class Columns:
    """How a file is read.

    Attributes:
        values: Column with the figures; empty: the first of :data:`COUNTS` and :data:`RATES` that is there.
        time: Column with the times; empty: the first of :data:`TIMES` that is there.
        per_request: Each row is one request; ``values`` is not looked at.
        time_zone: IANA zone of times that name none.
        start: What ``minute`` counts from, epoch seconds.
    """

    values: str = ""
    time: str = ""
    per_request: bool = False
    time_zone: str = "Etc/UTC"
    start: float = 0.0


def zone_named(name: str) -> ZoneInfo:
    """An IANA zone.

    Raises:
        HistoryFileError: There is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise HistoryFileError(f"--time-zone {name!r} is not an IANA zone, such as Europe/Berlin") from error


def load(path: Path, columns: Columns = Columns()) -> Series:
    """Reads a history.

    Args:
        path: ``.parquet`` or text with commas, semicolons or tabs (also compressed).
        columns: How it is read.

    Raises:
        HistoryFileError: The file is not there or cannot be used.
    """
    table = _read(path)
    if not len(table):
        raise HistoryFileError(f"{path}: no rows; a history needs two or more times")
    times = _times(table, path, columns)
    try:
        if columns.per_request:
            return _counted(times)
        return _rated(table, times, path, columns)
    except BadHistoryError as error:
        raise HistoryFileError(f"{path}: {error}") from error


def _rated(table: Any, times: Floats, path: Path, columns: Columns) -> Series:
    """Rows that hold counts or rates."""
    name = _column(table, columns.values, (*COUNTS, *RATES))
    if not name:
        wanted = f"no column {columns.values!r}" if columns.values else "no column requests or rate"
        raise HistoryFileError(
            f"{path}: {wanted} (it has {_names(table)}); name one with counts or rates by --column, or say "
            "--per-request if each row is one request"
        )
    values = _numbers(table[name], path, name)
    if missing := _column(table, "", ("missing",)):
        values[_truths(table[missing], path, missing)] = np.nan
    if not np.isfinite(values).any():
        raise HistoryFileError(
            f"{path}: column {name} is empty; name another by --column (the file has {_names(table)})"
        )
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    steps = np.diff(times)
    if not len(steps) or not (steps > 0).any():
        raise HistoryFileError(f"{path}: {len(times)} rows at one time; a history needs two or more times")
    _refuse_several(steps, order, path)
    _refuse_counter(values, path, name)
    step = float(np.median(steps[steps > 0]))
    if step > _MOST_STEP_S:
        raise HistoryFileError(
            f"{path}: rows are {step / 3600:.1f} h apart; a history needs rows at most an hour apart"
        )
    rates = values if name.lower() in RATES else values / step
    cell = max(STEP_S, round(step / STEP_S) * STEP_S)
    return Series.from_samples(zip(times.tolist(), rates.tolist(), strict=True), cell)


def _refuse_several(steps: Floats, order: Indices, path: Path) -> None:
    """The hour that a clock repeats is a repetition here and there; a row per time and client is not."""
    again = np.flatnonzero(steps == 0)
    if len(again) > _MOST_REPEATED * len(steps):
        raise HistoryFileError(
            f"{path}: row {int(order[again[0] + 1])}: {len(again)} of {len(order)} rows repeat the time of another; "
            "add up the rows of one time, or keep those of one series"
        )


def _refuse_counter(values: Floats, path: Path, name: str) -> None:
    steps = np.diff(values[np.isfinite(values)])
    if len(steps) >= _COUNTER_ROWS and (steps >= 0).all() and (steps > 0).mean() > 0.5:
        raise HistoryFileError(
            f"{path}: column {name} only ever grows, so it is a counter; write the difference of each row to the one "
            "before"
        )


def _truths(column: Any, path: Path, name: str) -> npt.NDArray[np.bool_]:
    """A column of true and false; what is empty is true."""
    wrong = np.flatnonzero(~(pd.isna(column) | column.isin([True, False])))
    if len(wrong):
        row = int(wrong[0])
        raise HistoryFileError(f"{path}: column {name}: row {row}: {column.iloc[row]!r} is neither true nor false")
    return np.asarray([pd.isna(value) or bool(value) for value in column], dtype=np.bool_)


def _counted(times: Floats) -> Series:
    """Rows that are requests; a minute without any is zero, and the first and last, which are cut, are left out."""
    cells = np.floor(times / STEP_S)
    first, last = float(cells.min()), float(cells.max())
    spanned = Series.from_samples([(first * STEP_S, 0.0), (last * STEP_S, 0.0)], STEP_S)  # refuses what is too long
    counts = np.bincount((cells - first).astype(np.int64), minlength=len(spanned))
    return Series((first + 1) * STEP_S, STEP_S, counts[1:-1] / STEP_S)


def _read(path: Path) -> Any:
    try:
        if ".parquet" in path.suffixes:
            table = pd.read_parquet(path)
            return table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
        head = pd.read_csv(path, nrows=0, sep="\x01").columns
        separator = max(",;\t", key=str(head[0]).count)
        return pd.read_csv(path, sep=separator)
    except (OSError, ValueError, UnicodeError) as error:
        said = str(error).strip() or type(error).__name__
        raise HistoryFileError(f"{path}: {said}; use Parquet, or CSV with a header") from error


def _names(table: Any) -> str:
    return ", ".join(map(str, table.columns[:12])) + (", ..." if len(table.columns) > 12 else "")


def _column(table: Any, named: str, usual: tuple[str, ...]) -> str:
    """The column that was named, or the first of the usual ones, whatever its case; empty when there is none."""
    have = {str(name).strip().lower(): name for name in reversed(table.columns)}
    if named:
        return named if named in table.columns else have.get(named.lower(), "")
    return next((have[name] for name in usual if name in have), "")


def _times(table: Any, path: Path, columns: Columns) -> Floats:
    name = _column(table, columns.time, TIMES)
    if not name:
        wanted = f"column {columns.time!r}" if columns.time else "column timestamp or minute"
        raise HistoryFileError(
            f"{path}: no {wanted} (it has {_names(table)}); name the one with times by --time-column"
        )
    column = table[name]
    if str(name).lower() == "minute":
        return columns.start + 60.0 * _finite(_numbers(column, path, name), path, name)
    if pd.api.types.is_numeric_dtype(column):
        numbers = _finite(_numbers(column, path, name), path, name)
        size = float(np.median(numbers))
        return numbers / next((unit for least, unit in _UNITS if size >= least), 1.0)
    zone = zone_named(columns.time_zone)
    return np.array([_moment(text, zone, path, row) for row, text in enumerate(column)], dtype=np.float64)


def _moment(text: object, zone: ZoneInfo, path: Path, row: int) -> float:
    try:
        moment = pd.Timestamp(text)
    except (ValueError, TypeError):
        moment = pd.NaT
    if moment is pd.NaT:
        raise HistoryFileError(f"{path}: row {row}: {text!r} is not a time; write 2026-03-01T12:00:00Z")
    if moment.tzinfo is None:
        # In the hour that a clock repeats, the first; in the one it skips, its end.
        moment = moment.tz_localize(zone, ambiguous=True, nonexistent="shift_forward")
    return float(moment.timestamp())


def _numbers(column: Any, path: Path, name: str) -> Floats:
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = np.flatnonzero(pd.isna(numbers) & ~pd.isna(column))
    if len(wrong):
        row = int(wrong[0])
        raise HistoryFileError(
            f"{path}: column {name}: row {row}: {column.iloc[row]!r} is not a number; leave empty what is not known"
        )
    return np.array(numbers, dtype=np.float64)


def _finite(values: Floats, path: Path, name: str) -> Floats:
    if len(bad := np.flatnonzero(~np.isfinite(values))):
        raise HistoryFileError(f"{path}: row {int(bad[0])}: {name} is empty; every row needs a time")
    return values
