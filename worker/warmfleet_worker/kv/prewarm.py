"""Pre-warming: a new worker loads the fleet's hottest prompt beginnings from the shared store before it takes traffic.

Each agent notes its engine's hot heads in the store's folder, beside the blocks. A new worker's agent merges the
notes of all others, the hottest first, and asks its own engine for one token after each head: the engine then loads
the head's blocks from the store. It stops at its time bound; whatever it has not warmed comes with the first request
that needs it. The notes hold token ids, which are their users' text, and are as private as the blocks.
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from warmfleet_runtime.clock import Clock

from warmfleet_worker.kv.hot import Head

NOTES = "hot"
"""Folder of the notes, in the store's."""
MAX_AGE = 86_400.0
"""Notes older than this many real seconds are not read, and are removed."""
MAX_NOTE_BYTES = 8 * 2**20
AT_ONCE = 4
"""Requests in flight while warming."""
_LOG = logging.getLogger(__name__)


class NotedHead(msgspec.Struct, gc=False):
    """One head in a note.

    Attributes:
        tokens: Token ids.
        heat: Faded number of uses when it was noted.
    """

    tokens: list[int]
    heat: float


class Prompter(Protocol):
    """An engine that can be asked."""

    async def touch(self, tokens: Sequence[int]) -> bool:
        """Have one token generated after ``tokens``; whether it was."""


class HotNotes:
    """The notes in one store.

    Args:
        store: The store's folder.
        own: Name of this worker's note.
    """

    def __init__(self, store: Path, own: str) -> None:
        self._folder = store / NOTES
        self._own = self._folder / f"{own}.json"

    def write(self, heads: Iterable[Head], now: float) -> None:
        """Note this engine's heads.

        Raises:
            OSError: The folder cannot be written to.
        """
        self._folder.mkdir(mode=0o770, exist_ok=True)
        noted = [NotedHead(list(head.tokens), head.heat_at(now)) for head in heads]
        partial = self._own.with_suffix(".tmp")
        partial.write_bytes(msgspec.json.encode(noted))
        partial.chmod(0o640)
        partial.replace(self._own)

    def read(self, now: float) -> list[NotedHead]:
        """The heads of all other workers, each once, the hottest first.

        Args:
            now: Seconds since the epoch.
        """
        merged: dict[bytes, NotedHead] = {}
        for path in sorted(self._folder.glob("*.json")):
            for head in self._one(path, now):
                key = array("I", head.tokens).tobytes()
                known = merged.get(key)
                merged[key] = NotedHead(head.tokens, head.heat + (known.heat if known else 0.0))
        return sorted(merged.values(), key=lambda head: -head.heat)

    def _one(self, path: Path, now: float) -> list[NotedHead]:
        try:
            facts = path.stat()
            if now - facts.st_mtime > MAX_AGE:
                path.unlink(missing_ok=True)
            elif path != self._own and facts.st_size <= MAX_NOTE_BYTES:
                heads = msgspec.json.decode(path.read_bytes(), type=list[NotedHead])
                return [h for h in heads if h.tokens and all(0 <= t < 2**32 for t in h.tokens)]
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            _LOG.warning("a note of hot prompts cannot be read: %s", error)
        return []


async def prewarm(
    read: Callable[[], Awaitable[Sequence[NotedHead]]], engine: Prompter, clock: Clock, seconds: float
) -> int:
    """Warm an engine.

    Args:
        read: Gives the heads, the hottest first; a slow store costs time of the same bound.
        engine: The engine.
        clock: Time.
        seconds: Logical seconds it may take.

    Returns:
        Heads warmed.
    """
    waiting: list[NotedHead] = []
    warmed = 0

    async def work() -> None:
        nonlocal warmed
        while waiting:
            warmed += await engine.touch(waiting.pop().tokens)

    async def all_of_it() -> None:
        waiting.extend(reversed(await read()))
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(AT_ONCE, len(waiting))):
                workers.create_task(work())

    warming = asyncio.create_task(all_of_it())
    bound = asyncio.create_task(clock.sleep(seconds))
    try:
        await asyncio.wait({warming, bound}, return_when=asyncio.FIRST_COMPLETED)
        if warming.done():
            warming.result()  # raises what broke it
    finally:
        for task in (warming, bound):
            task.cancel()
        await asyncio.gather(warming, bound, return_exceptions=True)
    return warmed
