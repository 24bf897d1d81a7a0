"""ServeGen: a folder of clients, ``chunk-N-trace.csv`` and ``chunk-N-dataset.json`` for each.

Trace rows, without a header: window start (s), rate (requests/s), cv, pattern, shape, scale. A dataset maps window
starts to distributions, ``{"input_tokens": "{tokens: probability, ...}", "output_tokens": ...}``; the newest window at
or before a row gives its mean lengths, or the next one before the first. The clients are superposed. The source holds
real rates per 10 minutes and nothing finer, so every minute of a window has its rate, and
:func:`warmfleet_simulation.scaling.shift_phase` takes the steps off the clock.
Source: alibaba/ServeGen (Apache-2.0), Xiang et al., NSDI 2026.
"""

from __future__ import annotations

import ast
import bisect
import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from warmfleet_contracts.traces import FloatArray, RateTrace, TraceError

from warmfleet_simulation.importers.common import Imported, number

_WINDOW = 600
_NAME = re.compile(r"chunk-(\d+)-trace\.csv")
_LENGTHS = ("input_tokens", "output_tokens")


def import_servegen(folder: Path) -> Imported:
    """Reads a folder of ServeGen clients.

    Raises:
        TraceError: No client, or a row or distribution that cannot be traffic.
    """
    if not folder.is_dir():
        raise TraceError(f"{folder}: a folder of chunk-N-trace.csv files is needed")
    clients = sorted((int(m[1]), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name)))
    if not clients:
        raise TraceError(f"{folder.name}: no chunk-N-trace.csv in it")
    repairs: list[str] = []
    rows = {number_: _rates(path, repairs) for number_, path in clients}
    length = max(max(rates) for rates in rows.values()) // _WINDOW + 1
    requests = np.zeros(length)
    tokens = {name: np.zeros(length) for name in _LENGTHS}
    known = np.zeros(length, dtype=np.bool_)
    for client, rates in rows.items():
        means = _means(folder / f"chunk-{client}-dataset.json", any(rates.values()))
        starts = sorted(means)
        for start, rate in rates.items():
            index = start // _WINDOW
            known[index] = True
            requests[index] += rate * 60.0
            if rate:
                window = means[starts[max(0, bisect.bisect_right(starts, start) - 1)]]
                for name in _LENGTHS:
                    tokens[name][index] += rate * 60.0 * window[name]
    if not known.all():
        repairs.append(f"{folder.name}: {int((~known).sum())} windows of 10 minutes are in no client; marked as gaps")
    return Imported(_trace(folder.name, requests, tokens, known), tuple(repairs))


def _trace(name: str, requests: FloatArray, tokens: dict[str, FloatArray], known: Any) -> RateTrace:
    def minutes(values: FloatArray) -> FloatArray:
        return np.repeat(np.where(known, values, np.nan), _WINDOW // 60)

    return RateTrace(
        name=name,
        minutes=np.arange(len(requests) * _WINDOW // 60, dtype=np.int64),
        requests=minutes(requests),
        input_tokens=minutes(tokens["input_tokens"]),
        output_tokens=minutes(tokens["output_tokens"]),
        missing=np.repeat(~known, _WINDOW // 60),
    )


def _rates(path: Path, repairs: list[str]) -> dict[int, float]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path.name}: not a CSV file: {error}") from error
    rates: dict[int, float] = {}
    for i, row in enumerate(rows):
        if len(row) < 2:
            raise TraceError(f"{path.name}: row {i}: window start and rate are needed, found {len(row)} columns")
        start = number(row[0], path.name, i, "window start")
        if start % _WINDOW:
            raise TraceError(f"{path.name}: row {i}: window start {start:g} s is no multiple of {_WINDOW} s")
        rate = number(row[1] or "0", path.name, i, "rate")
        if int(start) in rates:
            if rates[int(start)] != rate:
                raise TraceError(
                    f"{path.name}: row {i}: window {start:g} s occurs twice with different rates; keep one"
                )
            repairs.append(f"{path.name}: row {i} repeats window {start:g} s; dropped")
        rates[int(start)] = rate
    if not rates:
        raise TraceError(f"{path.name}: no rows")
    return rates


def _means(path: Path, needed: object) -> dict[int, dict[str, float]]:
    """Mean lengths by window start."""
    if not needed:
        return {}
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TraceError(f"{path.name}: missing beside its trace file; it holds the token lengths") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise TraceError(f"{path.name}: not JSON: {error}") from error
    found = {
        int(start): {name: _mean(fields.get(name), f"{path.name}: window {start}: {name}") for name in _LENGTHS}
        for start, fields in (body.items() if isinstance(body, dict) else ())
        if isinstance(fields, dict) and all(fields.get(name) not in (None, "{}", {}) for name in _LENGTHS)
    }
    if not found:
        raise TraceError(f"{path.name}: no window with token lengths")
    return found


def _mean(distribution: object, where: str) -> float:
    """Mean of a distribution, given as a mapping or as the text of one."""
    try:
        table = ast.literal_eval(distribution) if isinstance(distribution, str) else distribution
        pairs = [(float(k), float(v)) for k, v in table.items()]  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise TraceError(f"{where}: {str(distribution)[:60]!r} is no distribution: {error}") from error
    weight = sum(p for _, p in pairs)
    if not pairs or weight <= 0 or min(min(pair) for pair in pairs) < 0:
        raise TraceError(f"{where}: the probabilities must be positive and tokens not negative")
    return sum(value * p for value, p in pairs) / weight
