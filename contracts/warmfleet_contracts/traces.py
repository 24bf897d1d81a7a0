"""Traffic traces: their schema and the loader of their Parquet form.

Two kinds. A *rate trace* has one row per minute (``minute``, ``requests``, ``input_tokens``, ``output_tokens``,
``missing``). A *request trace* has one row per request (``arrival_s``, or ``session_id`` and ``session_offset_s``;
``input_tokens``, ``output_tokens``, ``hash_ids``). Columns beyond these are ignored.

Needs the ``traces`` extra (numpy, pyarrow).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


_TRUE = True
_MOST_MINUTES = 5_300_000
"""Ten years."""


class TraceError(ValueError):
    """A trace that cannot be used; the message names the row or column and the fix."""


@dataclass(frozen=True, slots=True)
class RateTrace:
    """Traffic per minute.

    Attributes:
        name: Where it comes from.
        minutes: Minutes since the start, strictly ascending, shape (n,).
        requests: Requests in each minute, NaN where unknown, shape (n,); None when the source has none at all.
        input_tokens: Prompt tokens in each minute, likewise.
        output_tokens: Generated tokens in each minute, likewise.
        missing: True where the source has a gap: neither to be scored nor learnt from, shape (n,).
    """

    name: str
    minutes: IntArray
    requests: FloatArray | None
    input_tokens: FloatArray | None
    output_tokens: FloatArray | None
    missing: BoolArray

    def __post_init__(self) -> None:
        if self.requests is None and self.input_tokens is None:
            raise TraceError(f"{self.name}: neither requests nor input_tokens; one of the two columns is needed")
        if len(self.minutes) == 0:
            raise TraceError(f"{self.name}: no rows")
        if self.minutes[0] < 0:
            raise TraceError(f"{self.name}: row 0: minute {self.minutes[0]} is negative; minutes count from the start")
        steps = np.diff(self.minutes)
        if len(bad := np.flatnonzero(steps <= 0)):
            row = int(bad[0]) + 1
            what = "repeats" if steps[row - 1] == 0 else "goes back from"
            raise TraceError(
                f"{self.name}: row {row}: minute {self.minutes[row]} {what} {self.minutes[row - 1]}; "
                "sort the rows by minute and merge repeated ones"
            )
        for column in ("requests", "input_tokens", "output_tokens"):
            self._check_values(column)

    def _check_values(self, column: str) -> None:
        values: FloatArray | None = getattr(self, column)
        if values is None:
            return
        if len(values) != len(self.minutes):
            raise TraceError(f"{self.name}: {column} has {len(values)} rows, minute has {len(self.minutes)}")
        wrong = ~self.missing & ((values < 0) | np.isinf(values))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise TraceError(
                f"{self.name}: row {row}: {column} is {values[row]:g}; counts are finite and not negative, "
                "and a gap is marked by missing = true"
            )

    def gaps(self) -> int:
        """Minutes from 0 to the last one of which nothing is known: marked, without a row, or without a count."""
        counted = self.requests if self.requests is not None else self.input_tokens
        known = ~self.missing if counted is None else ~self.missing & ~np.isnan(counted)
        return int(self.minutes[-1]) + 1 - int(np.count_nonzero(known))


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """Single requests.

    Attributes:
        name: Where it comes from.
        arrival_s: Seconds since the start, or since the session's start when ``session`` is given, shape (n,).
        input_tokens: Prompt tokens, shape (n,).
        output_tokens: Generated tokens, shape (n,).
        session: Session identifiers, shape (n,); None when all requests share one clock.
        hash_ids: Chained hashes of the prompt's blocks, one sequence per request; None when the source has none.
    """

    name: str
    arrival_s: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray
    session: tuple[str, ...] | None
    hash_ids: tuple[IntArray, ...] | None

    def __post_init__(self) -> None:
        for column in ("arrival_s", "input_tokens", "output_tokens"):
            values = getattr(self, column)
            wrong = ~np.isfinite(values) | (values < 0)
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                raise TraceError(
                    f"{self.name}: row {row}: {column} is {values[row]}; it must be finite and not negative"
                )
        if self.session is None and len(bad := np.flatnonzero(np.diff(self.arrival_s) < 0)):
            row = int(bad[0]) + 1
            raise TraceError(f"{self.name}: row {row}: arrival_s goes back; sort the rows by arrival_s")


def load_rates(path: Path) -> RateTrace:
    """Reads a rate trace.

    Raises:
        TraceError: The file is no Parquet file, lacks ``minute``, or holds values that cannot be traffic.
    """
    table = _read(path)
    minutes = _numbers(path, table, "minute")
    if minutes is None:
        raise TraceError(
            f"{path.name}: no column minute (found: {', '.join(table.column_names)}); "
            "a rate trace has one row per minute since its start"
        )
    missing = _booleans(path, table, "missing", len(minutes))
    return RateTrace(
        name=path.name.removesuffix(".parquet"),
        minutes=_whole_minutes(path, minutes),
        requests=_numbers(path, table, "requests"),
        input_tokens=_numbers(path, table, "input_tokens"),
        output_tokens=_numbers(path, table, "output_tokens"),
        missing=missing,
    )


def _whole_minutes(path: Path, minutes: FloatArray) -> IntArray:
    """Minutes as whole numbers, one apart where nothing is missing; anything else is another unit."""
    if len(bad := np.flatnonzero(~(np.abs(minutes) < _MOST_MINUTES))):
        row = int(bad[0])
        what = "empty" if np.isnan(minutes[row]) else f"{minutes[row]:g}"
        raise TraceError(f"{path.name}: row {row}: minute is {what}; every row needs its minute since the start")
    if len(bad := np.flatnonzero(minutes != np.floor(minutes))):
        row = int(bad[0])
        raise TraceError(
            f"{path.name}: row {row}: minute is {minutes[row]:g}; minutes are whole numbers: add up the rows of each"
        )
    apart = float(np.median(np.diff(minutes))) if len(minutes) > 2 else 1.0
    if apart > 1:
        raise TraceError(
            f"{path.name}: row 1: minute goes up by {apart:g} from row to row; one row per minute is needed: divide "
            "seconds by 60, or spread the counts of longer steps over their minutes"
        )
    return minutes.astype(np.int64)


def load_requests(path: Path) -> RequestTrace:
    """Reads a request trace.

    Raises:
        TraceError: The file is no Parquet file, lacks a column, or holds values that cannot be requests.
    """
    table = _read(path)
    names = table.column_names
    by_session = "arrival_s" not in names
    arrival = _numbers(path, table, "session_offset_s" if by_session else "arrival_s")
    inputs = _numbers(path, table, "input_tokens")
    outputs = _numbers(path, table, "output_tokens")
    if arrival is None or inputs is None or outputs is None or (by_session and "session_id" not in names):
        wanted = {"arrival_s": arrival, "input_tokens": inputs, "output_tokens": outputs}
        lacking = [column for column, values in wanted.items() if values is None]
        lacking += ["session_id"] if by_session and "session_id" not in names else []
        raise TraceError(f"{path.name}: no column {', '.join(lacking)} (found: {', '.join(names)})")
    hashes = None
    if "hash_ids" in names:
        hashes = _lists(table, "hash_ids")
    return RequestTrace(
        name=path.name.removesuffix(".parquet"),
        arrival_s=arrival,
        input_tokens=inputs.astype(np.int64),
        output_tokens=outputs.astype(np.int64),
        session=tuple(table.column("session_id").to_pylist()) if by_session else None,
        hash_ids=hashes,
    )


def _read(path: Path) -> Any:
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise TraceError(f"{path.name}: not a Parquet file: {error}") from error


def _numbers(path: Path, table: Any, column: str) -> FloatArray | None:
    """A column as floats with NaN for null; None when it is absent or wholly null."""
    if column not in table.column_names:
        return None
    data = table.column(column)
    if data.null_count == len(data) and len(data):
        return None
    try:
        values = data.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TraceError(f"{path.name}: column {column} holds {data.type}, numbers are needed") from error
    return np.asarray(values, dtype=np.float64)


def _booleans(path: Path, table: Any, column: str, length: int) -> BoolArray:
    if column not in table.column_names:
        return np.zeros(length, dtype=np.bool_)
    data = table.column(column)
    try:
        values = data.cast(pa.bool_()).fill_null(_TRUE).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TraceError(f"{path.name}: column {column} holds {data.type}; true or false is needed") from error
    return np.asarray(values, dtype=np.bool_)


def _lists(table: Any, column: str) -> tuple[IntArray, ...]:
    """A list column as one array per row; a null row is an empty one."""
    lists = table.column(column).combine_chunks()
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    flat = np.asarray(lists.flatten().to_numpy(zero_copy_only=False), dtype=np.int64)
    return tuple(np.split(flat, np.cumsum(lengths)[:-1]))
