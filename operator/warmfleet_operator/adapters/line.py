"""A line in which nobody can stand in front of everybody: waiters take turns by key.

::

    next = the longest waiter of the key whose turn was longest ago

A fleet of 9,999 workers, asked for by one tenant, is 9,999 writes at once; first come, first served, the next fleet's
first write would wait minutes for them. Here it waits for one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairLine:
    """A semaphore with a queue for each key.

    Args:
        slots: How many may be in at once.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Wait for a slot, and give it back at the end."""
        await self._enter(key)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, key: str) -> None:
        if self._free > 0:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()  # the slot had just been given to who no longer wants it
            raise

    def _leave(self) -> None:
        while self._waiting:
            key, places = self._waiting.popitem(last=False)
            place = places.popleft()
            if places:
                self._waiting[key] = places  # behind all other keys
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
