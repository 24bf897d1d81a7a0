"""When each forecast is due, and for which moment it is made. Pure.

::

    due = issue + period, in whole steps                         after a forecast;  step = min(period, 10 minutes)
        = last attempt + min(period, 60 s * 2^failures)          after a failure
        = now                                                    new, or asked for differently
    end of the history = the last issue + whole steps,  at most now

A forecast whose history ends whole cells after that of the one before finds its memory on the same cells, and costs one
fit less. The most overdue goes first; what came together drifts apart by the time it waited.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from warmfleet_forecasting.history import Key
from warmfleet_forecasting.service.board import Assignment

CELL_S = 600.0
"""Cell of the forecast's working grid."""
_FIRST_RETRY_S = 60.0


def end_of_history(now: float, issued: float | None, period_s: float) -> float:
    """Where the history of the next forecast ends.

    Args:
        now: Seconds.
        issued: Where that of the last one ended; None when there was none.
        period_s: Between two forecasts, seconds.

    Returns:
        The newest moment that lies whole steps from ``issued``; ``now`` without one.
    """
    step = min(period_s, CELL_S)
    return now if issued is None else issued + math.floor((now - issued) / step) * step


def until_next(now: float, issued: float, period_s: float) -> float:
    """Seconds until the next forecast is due, after one whose history ended at ``issued``."""
    step = min(period_s, CELL_S)
    return max(0.0, issued + math.ceil(period_s / step - 1e-9) * step - now)


@dataclass(slots=True)
class _Entry:
    assignment: Assignment
    due: float
    failures: int = 0
    running: bool = False


class Schedule:
    """The forecasts of one replica by when they are due.

    Args:
        period_s: Between two forecasts of a deployment, logical seconds.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._entries: dict[Key, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def keep(self, wanted: Mapping[Key, Assignment], now: float) -> Iterable[Assignment]:
        """Take over what is wanted now; returns what no longer is."""
        gone = [self._entries.pop(key).assignment for key in self._entries.keys() - wanted.keys()]
        for key, assignment in wanted.items():
            entry = self._entries.get(key)
            if entry is None or entry.assignment.uid != assignment.uid:
                self._entries[key] = _Entry(assignment, now)
            elif entry.assignment != assignment:
                entry.assignment, entry.due = assignment, min(entry.due, now)
        return gone

    def current(self, assignment: Assignment) -> bool:
        """Whether the assignment still stands as it was handed out."""
        entry = self._entries.get(assignment.key)
        return entry is not None and entry.assignment == assignment

    def take(self, now: float) -> Assignment | None:
        """The most overdue forecast, from now on under way; None when none is due."""
        ready = [entry for entry in self._entries.values() if not entry.running and entry.due <= now]
        if not ready:
            return None
        entry = min(ready, key=lambda e: (e.due, e.assignment.key))
        entry.running, entry.due = True, float("inf")
        return entry.assignment

    def done(self, assignment: Assignment, now: float, *, after: float | None) -> None:
        """An attempt ended.

        Args:
            assignment: What :meth:`take` gave.
            now: Logical seconds.
            after: Logical seconds until the next forecast is due; None when there is no new one.
        """
        entry = self._entries.get(assignment.key)
        if entry is None:
            return
        entry.running = False
        entry.failures = entry.failures + 1 if after is None else 0
        if after is None:
            after = min(self._period_s, _FIRST_RETRY_S * 2.0 ** min(entry.failures - 1, 10))
        # What was changed while the attempt ran is due already.
        entry.due = min(entry.due, now + after)

    def next_due(self) -> float | None:
        """When the next one is due; None when nothing is scheduled."""
        return min((entry.due for entry in self._entries.values() if not entry.running), default=None)

    def overdue(self, now: float) -> float:
        """How late the most overdue one is, seconds."""
        due = self.next_due()
        return 0.0 if due is None else max(0.0, now - due)
