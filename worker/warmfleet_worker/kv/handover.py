"""What all hand-over strategies share, and what they may ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from warmfleet_worker.drain_events import HandoverFinished, HandoverProgress
from warmfleet_worker.engines.base import Load

Look = Callable[[], Awaitable[Load | None]]
"""One fresh look at the engine's metrics; None when they could not be read."""

Progress = Callable[[HandoverProgress], None]
"""Takes what a hand-over has reached so far."""


class HandoverError(Exception):
    """A hand-over cannot be done this way; the message says why, and the next strategy is tried."""


class Handover(Protocol):
    """One strategy."""

    @property
    def begins_ahead(self) -> bool:
        """Whether it is worth beginning while users' requests still run."""

    async def run(self, budget: float, progress: Progress, settled: asyncio.Event | None = None) -> HandoverFinished:
        """Hand the cache over; cancelled when the drain ends first.

        Args:
            budget: Logical seconds until the drain's deadline.
            progress: Takes what is reached so far, for the report of a hand-over that is cut short.
            settled: Set when no user's request runs any more, before which this does not end; None: it is so already.

        Raises:
            HandoverError: It cannot be done this way.
        """
