"""Where the past comes from: one protocol, :class:`History`, over Prometheus and over the embedded recorder.

Times are seconds since the epoch (UTC) everywhere; time zones exist only where a person writes or reads one. What is
not known is a gap (NaN) and never a zero.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

from warmfleet_forecasting.series import Series

STEP_S = 60.0
"""Cell of all histories, seconds: finer than any start-up, coarser than any scrape."""


class Key(NamedTuple):
    """An LLMDeployment."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class HistoryProblem(StrEnum):
    """Why a history could not be had: in the same place, and the cause in the metric of failed histories."""

    UNREACHABLE = "HistoryUnreachable"
    """No answer, or none in time."""
    REFUSED = "HistoryRefused"
    """The source answered that it will not: a wrong query, missing credentials."""
    TOO_LARGE = "HistoryTooLarge"
    """The answer is larger than is safe to read."""
    UNREADABLE = "HistoryUnreadable"
    """The answer makes no sense."""


class HistoryError(Exception):
    """A history could not be had.

    Attributes:
        problem: Why.
    """

    def __init__(self, problem: HistoryProblem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


class History(Protocol):
    """Demand of deployments over time."""

    async def series(self, key: Key, start: float, end: float) -> Series:
        """Mean arrival rates from ``start`` to ``end`` (epoch seconds) in cells of :data:`STEP_S`.

        Cells begin at multiples of the step; the last one is complete at ``end``. Leading gaps may be left out.

        Raises:
            HistoryError: It could not be had.
        """


def grid(start: float, end: float, step_s: float = STEP_S) -> tuple[int, int]:
    """Numbers of the first complete cell at or after ``start`` and of the first that is not complete at ``end``."""
    first = -int(-start // step_s)
    return first, max(first, int(end // step_s))
