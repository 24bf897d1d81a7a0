"""Azure LLM inference traces, 2023 and 2024: CSV with ``TIMESTAMP,ContextTokens,GeneratedTokens``.

Timestamps are date-times with up to seven decimals and, since 2024, an offset; only their differences matter.
Source: Azure/AzurePublicDataset (CC-BY-4.0).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from warmfleet_contracts.traces import TraceError

from warmfleet_simulation.importers.common import Imported, read_csv, requests_from, tokens

_TIME = re.compile(r"^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:?\d\d)?$")


def import_azure(path: Path) -> Imported:
    """Reads a CSV file of the Azure LLM inference traces.

    Raises:
        TraceError: A column is missing, or a row holds what cannot be a request.
    """
    rows = read_csv(path, ("TIMESTAMP", "ContextTokens", "GeneratedTokens"))
    times = [_seconds(row["TIMESTAMP"], path.name, i) for i, row in enumerate(rows)]
    inputs = [tokens(row["ContextTokens"], path.name, i, "ContextTokens") for i, row in enumerate(rows)]
    outputs = [tokens(row["GeneratedTokens"], path.name, i, "GeneratedTokens") for i, row in enumerate(rows)]
    return requests_from(path.stem, times, inputs, outputs)


def _seconds(text: str | None, name: str, row: int) -> float:
    match = _TIME.match((text or "").strip())
    if match is None:
        raise TraceError(
            f"{name}: row {row}: TIMESTAMP is {text!r}; a date and time such as 2023-11-16 18:17:03.9799600 is needed"
        )
    date, time, fraction, offset = match.groups()
    zone = "+00:00" if offset in (None, "Z") else offset
    try:
        base = datetime.fromisoformat(f"{date}T{time}{zone}").astimezone(UTC)
    except ValueError as error:
        raise TraceError(f"{name}: row {row}: TIMESTAMP is {text!r}: {error}") from error
    return base.timestamp() + (float(f"0.{fraction}") if fraction else 0.0)
