"""BurstGPT: CSV with ``Timestamp`` (seconds), ``Request tokens`` and ``Response tokens``.

A response of 0 tokens is a request that failed in the source; it arrived all the same and is kept.
Source: HPMLL/BurstGPT (CC-BY-4.0), Wang et al. 2024.
"""

from __future__ import annotations

from pathlib import Path

from warmfleet_contracts.traces import TraceError

from warmfleet_simulation.importers.common import Imported, number, read_csv, requests_from, tokens

_MOST_SECONDS = 1e11
"""As seconds since 1970 this is beyond the year 5000."""


def import_burstgpt(path: Path) -> Imported:
    """Reads a CSV file of BurstGPT.

    Raises:
        TraceError: A column is missing, or a row holds what cannot be a request.
    """
    rows = read_csv(path, ("Timestamp", "Request tokens", "Response tokens"))
    times = []
    for i, row in enumerate(rows):
        text = row["Timestamp"]
        if text is not None and ("-" in text.strip()[1:] or ":" in text):
            raise TraceError(f"{path.name}: row {i}: Timestamp is {text!r}; seconds since the start are needed")
        times.append(number(text, path.name, i, "Timestamp"))
        if times[-1] > _MOST_SECONDS:
            raise TraceError(f"{path.name}: row {i}: Timestamp {text} is not in seconds; divide milliseconds by 1000")
    inputs = [tokens(row["Request tokens"], path.name, i, "Request tokens") for i, row in enumerate(rows)]
    outputs = [tokens(row["Response tokens"], path.name, i, "Response tokens") for i, row in enumerate(rows)]
    return requests_from(path.stem, times, inputs, outputs)
