"""A Prometheus range query saved as JSON (``/api/v1/query_range``), with values in requests per second.

The series of the answer are added up. Export a rate, for instance::

    query=sum(rate(vllm:request_success_total{model_name="m"}[1m]))  start=...  end=...  step=60

Token series may be given beside it as separate queries joined in one file: ``{"requests": ANSWER, "input_tokens":
ANSWER, "output_tokens": ANSWER}``. Minutes without a sample are gaps: neither scored nor learnt from. Where samples are
further apart than a minute (``step=300``), each stands for the minutes since the one before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from warmfleet_contracts.traces import FloatArray, RateTrace, TraceError

from warmfleet_simulation.importers.common import Imported

_COLUMNS = ("requests", "input_tokens", "output_tokens")
_COUNTER_SAMPLES = 30
_MOST_STEP_MINUTES = 60


def import_prometheus(path: Path) -> Imported:
    """Reads a saved range query.

    Raises:
        TraceError: No range vector, a counter instead of a rate, or values that cannot be traffic.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise TraceError(f"{path.name}: not JSON: {error}") from error
    if not isinstance(body, dict):
        raise TraceError(f"{path.name}: the answer of a range query is an object, this is {type(body).__name__}")
    answers = {c: body[c] for c in _COLUMNS if c in body} or {"requests": body}
    repairs: list[str] = []
    series = {column: _samples(answer, f"{path.name}: {column}", repairs) for column, answer in answers.items()}
    held = {column: _minutes_held(samples, f"{path.name}: {column}", repairs) for column, samples in series.items()}
    start = min(int(min(s)) // 60 - held[column] + 1 for column, s in series.items())
    length = max(int(max(s)) for s in series.values()) // 60 - start + 1
    columns = {column: _per_minute(samples, start, length, held[column]) for column, samples in series.items()}
    missing = np.zeros(length, dtype=np.bool_)
    for values in columns.values():
        missing |= np.isnan(values)
    if missing.any():
        repairs.append(f"{path.name}: {int(missing.sum())} minutes without a sample are marked as gaps")
    trace = RateTrace(
        name=path.stem,
        minutes=np.arange(length, dtype=np.int64),
        requests=columns.get("requests"),
        input_tokens=columns.get("input_tokens"),
        output_tokens=columns.get("output_tokens"),
        missing=missing,
    )
    return Imported(trace, tuple(repairs))


def _samples(answer: Any, name: str, repairs: list[str]) -> dict[float, float]:
    """Summed value by timestamp over all series of one answer."""
    if isinstance(answer, dict) and answer.get("status") == "error":
        raise TraceError(f"{name}: Prometheus refused the query: {str(answer.get('error', 'no reason'))[:200]}")
    data = answer.get("data", answer) if isinstance(answer, dict) else None
    if isinstance(data, dict) and data.get("resultType") == "matrix" and data.get("result") == []:
        raise TraceError(f"{name}: the query found no series; correct its labels, or start and end")
    if not isinstance(data, dict) or data.get("resultType") != "matrix" or not data.get("result"):
        kind = data.get("resultType") if isinstance(data, dict) else None
        raise TraceError(f"{name}: a range vector (resultType matrix) with at least one series is needed, not {kind!r}")
    total: dict[float, float] = {}
    for index, one in enumerate(data["result"]):
        found = _one(one, f"{name}: series {index}")
        if len(found) < len(one["values"]):
            repairs.append(f"{name}: series {index}: repeated or NaN samples were dropped")
        _refuse_counter(list(found.values()), f"{name}: series {index}")
        for at, value in found.items():
            total[at] = total.get(at, 0.0) + value
    if not total:
        raise TraceError(f"{name}: no sample with a number")
    return total


def _one(series: Any, name: str) -> dict[float, float]:
    found: dict[float, float] = {}
    before = -np.inf
    for row, sample in enumerate(series.get("values", ()) if isinstance(series, dict) else ()):
        try:
            at, value = float(sample[0]), float(sample[1])
        except (TypeError, ValueError, IndexError, KeyError):
            raise TraceError(f"{name}: row {row}: {sample!r} is no [time, value] pair") from None
        if at < before:
            raise TraceError(f"{name}: row {row}: time {at:g} goes back from {before:g}; sort the samples by time")
        if at > 1e11:
            raise TraceError(f"{name}: row {row}: time {at:g} is not in seconds; divide milliseconds by 1000")
        if value < 0 or np.isinf(value):
            raise TraceError(f"{name}: row {row}: value {value:g}; a rate is finite and not negative")
        before = at
        if not np.isnan(value):
            found.setdefault(at, value)
    return found


def _refuse_counter(values: list[float], name: str) -> None:
    if len(values) < _COUNTER_SAMPLES:
        return
    steps = np.diff(values)
    if (steps >= 0).all() and (steps > 0).mean() > 0.9 and values[-1] > 1000:
        raise TraceError(f"{name}: only ever grows, so it is a counter; export rate(...[1m]) of it")


def _minutes_held(samples: dict[float, float], name: str, repairs: list[str]) -> int:
    """For how many minutes a sample stands: the usual distance of two of them, at least one."""
    if len(samples) < 3:
        return 1
    apart = round(float(np.quantile(np.diff(sorted(samples)), 0.5, method="lower")) / 60.0)
    if apart > _MOST_STEP_MINUTES:
        raise TraceError(f"{name}: row 1: samples are {apart} minutes apart; export with step=60")
    if apart > 1:
        repairs.append(
            f"{name}: samples are {apart} minutes apart, each stands for as many; export with step=60 to see bursts"
        )
    return max(1, apart)


def _per_minute(samples: dict[float, float], start: int, length: int, held: int) -> FloatArray:
    """Counts per minute from the mean rate of each minute; NaN where a minute has no sample."""
    last = np.array([int(at) // 60 - start for at in samples])
    minute = (last[:, None] - np.arange(held)[None, :]).ravel()
    values = np.repeat(np.array(list(samples.values())), held)
    minute, values = minute[minute >= 0], values[minute >= 0]
    count = np.bincount(minute, minlength=length)
    total = np.bincount(minute, weights=values, minlength=length)
    mean = np.full(length, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean * 60.0
