"""A line in which nobody can stand in front of everybody: waiters take turns by key.

::

    next = the longest waiter of the key whose turn was longest ago; of one key, those in a hurry before the others

A fleet of 9,999 workers, asked for by one tenant, is 9,999 writes at once; first come, first served, the next fleet's
first write would wait minutes for them. Here it waits for one. And a new worker does not wait until the statuses of its
namespace's other fleets are written, of which there are hundreds after a start.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_Places = deque[asyncio.Future[None]]


class FairLine:
    """A semaphore with a queue for each key.

    Args:
        slots: How many may be in at once.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: OrderedDict[str, tuple[_Places, _Places]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, key: str, *, urgent: bool = False) -> AsyncIterator[None]:
        """Wait for a slot, and give it back at the end; ``urgent``: before those of the same key that are not."""
        await self._enter(key, urgent=urgent)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, key: str, *, urgent: bool) -> None:
        if self._free > 0:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, (deque(), deque()))[0 if urgent else 1].append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()  # the slot had just been given to who no longer wants it
            raise

    def _leave(self) -> None:
        while self._waiting:
            key, places = self._waiting.popitem(last=False)
            place = (places[0] or places[1]).popleft()
            if any(places):
                self._waiting[key] = places  # behind all other keys
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
