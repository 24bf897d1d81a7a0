"""Structured logs: one JSON object per line on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Final

from warmfleet_runtime.clock import Clock

LEVEL_ENV = "WARMFLEET_LOG_LEVEL"

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON: ts, level, component, logger, msg, then whatever was passed as ``extra``.

    Args:
        component: Name of the program.
        clock: Where ``ts`` comes from; the operating system's time when None.
    """

    def __init__(self, component: str, clock: Clock | None = None) -> None:
        super().__init__()
        self._component = component
        self._clock = clock

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON; values that JSON does not know become text."""
        moment = datetime.fromtimestamp(record.created, UTC) if self._clock is None else self._clock.wall()
        line: dict[str, object] = {
            "ts": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "component": self._component,
            "logger": record.name,
            "msg": record.getMessage(),
        }
        line.update((k, v) for k, v in vars(record).items() if k not in _STANDARD and k not in line)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(component: str, *, clock: Clock | None = None, level: str | None = None) -> None:
    """Send all logs of this process to stderr as JSON.

    Args:
        component: Name of the program, such as agent.
        clock: Source of timestamps; the operating system's time when None.
        level: Such as INFO; from ``WARMFLEET_LOG_LEVEL`` when None, else INFO.

    Raises:
        ValueError: The level does not exist.
    """
    name = (level or os.environ.get(LEVEL_ENV) or "INFO").upper()
    if name not in logging.getLevelNamesMapping():
        raise ValueError(f"{LEVEL_ENV}: {name!r} is not a log level; use DEBUG, INFO, WARNING or ERROR")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(component, clock))
    logging.basicConfig(level=name, handlers=[handler], force=True)
