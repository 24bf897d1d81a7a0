"""What the importers share: text tables, numbers with their row, ordering, and minutes from single requests."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from warmfleet_contracts.traces import FloatArray, IntArray, RateTrace, RequestTrace, TraceError

MOST_TOKENS = 20_000_000
"""A request of more tokens than this is taken for another unit (bytes, characters)."""
_MOST_SPAN_S = 400 * 86_400.0
"""A trace longer than this is taken for another unit (milliseconds)."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A trace and what had to be mended.

    Attributes:
        trace: The traffic.
        repairs: For a person, one sentence each.
    """

    trace: RateTrace | RequestTrace
    repairs: tuple[str, ...]


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header.

    Raises:
        TraceError: No such file, not text, or a column is missing.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            found = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = found
            rows = list(reader)
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path.name}: not a CSV file: {error}") from error
    if lacking := [name for name in columns if name not in found]:
        raise TraceError(f"{path.name}: no column {', '.join(lacking)} (found: {', '.join(found) or 'none'})")
    if not rows:
        raise TraceError(f"{path.name}: no rows")
    return rows


def number(text: object, name: str, row: int, column: str) -> float:
    """A finite number that is not negative.

    Raises:
        TraceError: It is anything else; the message names row and column.
    """
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TraceError(f"{name}: row {row}: {column} is {text!r}; a number is needed") from None
    if not np.isfinite(value) or value < 0:
        raise TraceError(f"{name}: row {row}: {column} is {value:g}; it must be finite and not negative: drop the row")
    return value


def tokens(text: object, name: str, row: int, column: str) -> int:
    """A whole number of tokens.

    Raises:
        TraceError: Not whole, or so large that it must be another unit.
    """
    value = number(text, name, row, column)
    if value != int(value):
        raise TraceError(f"{name}: row {row}: {column} is {value:g}; tokens are whole numbers: is it another unit?")
    if value > MOST_TOKENS:
        raise TraceError(
            f"{name}: row {row}: {column} is {value:g}, more than any context; convert bytes or characters to tokens"
        )
    return int(value)


def requests_from(
    name: str,
    arrival: Sequence[float],
    inputs: Sequence[int],
    outputs: Sequence[int],
    hashes: Sequence[IntArray] | None = None,
) -> Imported:
    """A request trace that starts at 0, sorted; says so when the source was not.

    Raises:
        TraceError: It lasts longer than any trace does.
    """
    times = np.asarray(arrival, dtype=np.float64)
    order = np.argsort(times, kind="stable")
    repairs = []
    if len(times) > 1 and (back := np.flatnonzero(np.diff(times) < 0)).size:
        repairs.append(f"{name}: {back.size} rows were out of order (first: row {int(back[0]) + 1}); sorted by time")
    times = times[order] - times[order[0]]
    if times[-1] > _MOST_SPAN_S:
        raise TraceError(
            f"{name}: row {int(order[-1])}: it is {times[-1] / 86_400:,.0f} days after the first; are its times in "
            "seconds? Divide milliseconds by 1000, or cut the trace"
        )
    trace = RequestTrace(
        name=name,
        arrival_s=times,
        input_tokens=np.asarray(inputs, dtype=np.int64)[order],
        output_tokens=np.asarray(outputs, dtype=np.int64)[order],
        session=None,
        hash_ids=None if hashes is None else tuple(hashes[int(i)] for i in order),
    )
    return Imported(trace, tuple(repairs))


def to_rates(trace: RequestTrace) -> RateTrace:
    """Requests and tokens per minute of a request trace.

    Raises:
        TraceError: The trace has one clock per session.
    """
    if trace.session is not None:
        raise TraceError(f"{trace.name}: its times count from each session's start; supply session starts first")
    minute = (trace.arrival_s // 60).astype(np.int64)
    length = int(minute[-1]) + 1

    def total(weights: FloatArray | None) -> FloatArray:
        return np.bincount(minute, weights=weights, minlength=length).astype(np.float64)

    return RateTrace(
        name=trace.name,
        minutes=np.arange(length, dtype=np.int64),
        requests=total(None),
        input_tokens=total(trace.input_tokens.astype(np.float64)),
        output_tokens=total(trace.output_tokens.astype(np.float64)),
        missing=np.zeros(length, dtype=np.bool_),
    )
