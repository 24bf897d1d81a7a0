"""Public raw trace formats, and a Prometheus export of one's own traffic, into the contracts' traces.

What is wrong but harmless (order, exact duplicates) is repaired and said; what would change the traffic is refused with
the row and the fix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from warmfleet_contracts.traces import RateTrace, TraceError, load_rates, load_requests

from warmfleet_simulation.importers.azure import import_azure
from warmfleet_simulation.importers.burstgpt import import_burstgpt
from warmfleet_simulation.importers.common import Imported, to_rates
from warmfleet_simulation.importers.mooncake import import_mooncake
from warmfleet_simulation.importers.prometheus import import_prometheus
from warmfleet_simulation.importers.servegen import import_servegen

__all__ = [
    "FORMATS",
    "Imported",
    "detect",
    "import_azure",
    "import_burstgpt",
    "import_mooncake",
    "import_prometheus",
    "import_servegen",
    "import_trace",
    "to_rates",
]


def _parquet(path: Path) -> Imported:
    try:
        return Imported(load_rates(path), ())
    except TraceError as error:
        if "no column minute" not in str(error):
            raise
        try:
            return Imported(load_requests(path), ())
        except TraceError as other:
            raise TraceError(f"{error}; nor is it a request trace: {other}") from None


FORMATS: Mapping[str, Callable[[Path], Imported]] = {
    "azure": import_azure,
    "burstgpt": import_burstgpt,
    "mooncake": import_mooncake,
    "servegen": import_servegen,
    "prometheus": import_prometheus,
    "parquet": _parquet,
}
"""Importers by the name that ``--format`` takes."""


def detect(path: Path) -> str:
    """Which of :data:`FORMATS` a file or folder is in, from its name and first line.

    Raises:
        TraceError: It is none of them.
    """
    if path.is_dir():
        return "servegen"
    if path.suffix == ".parquet":
        return "parquet"
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline(4096)
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path.name}: cannot be read as text: {error}") from error
    if "ContextTokens" in first:
        return "azure"
    if "Request tokens" in first:
        return "burstgpt"
    if path.suffix == ".jsonl":
        return "mooncake"
    if path.suffix == ".json":
        return "prometheus"
    raise TraceError(
        f"{path.name}: unknown format (first line: {first.strip()[:80]!r}); "
        f"name it with --format, one of {', '.join(FORMATS)}"
    )


def import_trace(path: Path, form: str | None = None) -> Imported:
    """Reads a trace in any known format.

    Args:
        path: File, or folder for ServeGen.
        form: One of :data:`FORMATS`; None to detect it.

    Raises:
        TraceError: The format is unknown or the content cannot be traffic.
    """
    name = form or detect(path)
    if name not in FORMATS:
        raise TraceError(f"format {name!r} is unknown; use one of {', '.join(FORMATS)}")
    return FORMATS[name](path)


def import_rates(path: Path, form: str | None = None) -> tuple[RateTrace, tuple[str, ...]]:
    """A trace in any known format as traffic per minute, and what was repaired."""
    found = import_trace(path, form)
    trace = found.trace if isinstance(found.trace, RateTrace) else to_rates(found.trace)
    return trace, found.repairs
