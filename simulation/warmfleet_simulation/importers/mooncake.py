"""Mooncake: JSON lines with ``timestamp`` (ms), ``input_length``, ``output_length`` and ``hash_ids``.

Source: kvcache-ai/Mooncake (Apache-2.0), Qin et al., FAST 2025.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from warmfleet_contracts.traces import TraceError

from warmfleet_simulation.importers.common import Imported, number, requests_from, tokens


def import_mooncake(path: Path) -> Imported:
    """Reads a JSONL file of Mooncake.

    Raises:
        TraceError: A field is missing, or a row holds what cannot be a request.
    """
    name = path.name
    rows = [_row(line, name, i) for i, line in enumerate(_lines(path)) if line.strip()]
    if not rows:
        raise TraceError(f"{name}: no rows")
    times = [number(row["timestamp"], name, i, "timestamp") for i, row in enumerate(rows)]
    odd = next((i for i, t in enumerate(times) if t != int(t)), None)
    if odd is not None:
        raise TraceError(
            f"{name}: row {odd}: timestamp is {times[odd]}; whole milliseconds are needed: multiply seconds by 1000"
        )
    inputs = [tokens(row["input_length"], name, i, "input_length") for i, row in enumerate(rows)]
    outputs = [tokens(row["output_length"], name, i, "output_length") for i, row in enumerate(rows)]
    hashes = None
    if all(isinstance(row.get("hash_ids"), list) for row in rows):
        hashes = [_hashes(row["hash_ids"], name, i) for i, row in enumerate(rows)]
    return requests_from(path.stem, [t / 1000.0 for t in times], inputs, outputs, hashes)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path.name}: cannot be read as text: {error}") from error


def _row(line: str, name: str, row: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise TraceError(f"{name}: row {row}: not JSON: {error}") from error
    lacking = [
        k for k in ("timestamp", "input_length", "output_length") if not isinstance(value, dict) or k not in value
    ]
    if lacking:
        raise TraceError(f"{name}: row {row}: no field {', '.join(lacking)}")
    return dict(value)


def _hashes(values: list[object], name: str, row: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise TraceError(f"{name}: row {row}: hash_ids holds something that is no whole number")
    return np.asarray(values, dtype=np.int64)
