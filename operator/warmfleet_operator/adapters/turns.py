"""Whose turn it is to be asked: sources share the line by namespace, and who does not answer holds up nobody else.

::

    at once per namespace = max(2, 128 / namespaces that have a source)

A round waits for its exchanges, but not longer than its patience; what is still under way then goes on by itself, and
that source is not asked again before it has ended. So the agents of one tenant that hang, however many they are, delay
only each other: in a common line, 64 at once, 5,000 of them make everybody's figures two and a half minutes old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

CONCURRENCY = 128
"""Exchanges at once over all namespaces, as long as there are not more than 64 of these."""
_LEAST = 2


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange that is due.

    Attributes:
        uid: Whom it is with; one exchange at a time.
        namespace: Whose share of the line it takes.
        exchange: Does it; must not raise for what the other side does.
    """

    uid: str
    namespace: str
    exchange: Callable[[], Coroutine[Any, Any, None]]


class Turns:
    """Runs exchanges.

    Args:
        patience: Real seconds that a round waits at most.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._shares: dict[str, asyncio.Semaphore] = {}
        self._share = 0
        self._failure: BaseException | None = None

    async def take(self, turns: Sequence[Turn]) -> None:
        """One round: begin what is not under way, and wait for it.

        Raises:
            BaseException: What an exchange of this or an earlier round raised.
        """
        self._divide({turn.namespace for turn in turns})
        begun = [self._begin(turn) for turn in turns if turn.uid not in self._under_way]
        if begun:
            await asyncio.wait(begun, timeout=self._patience)
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _divide(self, namespaces: set[str]) -> None:
        share = max(_LEAST, CONCURRENCY // max(1, len(namespaces)))
        if share != self._share:
            self._share, self._shares = share, {}
        for gone in self._shares.keys() - namespaces:
            del self._shares[gone]
        for namespace in namespaces - self._shares.keys():
            self._shares[namespace] = asyncio.Semaphore(share)

    def _begin(self, turn: Turn) -> asyncio.Task[None]:
        task = asyncio.create_task(_within(self._shares[turn.namespace], turn.exchange))
        self._under_way[turn.uid] = task
        task.add_done_callback(lambda ended: self._ended(turn.uid, ended))
        return task

    def _ended(self, uid: str, task: asyncio.Task[None]) -> None:
        del self._under_way[uid]
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()


async def _within(share: asyncio.Semaphore, exchange: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with share:
        await exchange()
