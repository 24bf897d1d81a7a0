"""Hand-over by ``store``: the engine writes every block to a shared folder as it goes; wait until that is done.

vLLM's OffloadingConnector with TieringOffloadingSpec is write-through: a block goes to host memory and from there to
the ``fs`` tier in *cascades* as soon as it is computed. So nothing has to be flushed at a drain; what is left is to
see that it is true, block by block::

    missing = held - acknowledged,   acknowledged = {storage events} + {files in the folder}
    done    when nothing moves any more (no cascade, no byte, no event) in two looks, or QUIET ones if some are missing
    kept    = tokens(held) - tokens(missing);   moved = those of them acknowledged since the drain began

A block the engine itself had loaded from the folder has no storage event, so the folder is asked about what is left.
Whatever is missing at the end, or at :data:`RESERVE` before the drain's deadline, is reported as dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from warmfleet_runtime.clock import Clock

from warmfleet_worker.drain_events import HandoverFinished, HandoverProgress
from warmfleet_worker.engines.base import OffloadState
from warmfleet_worker.kv.events import BlockKey
from warmfleet_worker.kv.folder import StoreFolder
from warmfleet_worker.kv.handover import HandoverError, Look, Progress
from warmfleet_worker.kv.index import BlockIndex
from warmfleet_worker.threads import in_thread

LOOK_REAL = 0.2
"""Real seconds between two looks at the engine."""
QUIET = 5
"""Looks in a row without any movement after which what is missing stays missing."""
RESERVE = 0.1
"""Share of the time until the deadline that is kept back to count and report."""
_CHUNK = 256
"""Blocks that the folder is asked about at once: a slow file system must not overrun the deadline by much."""


@dataclass(slots=True)
class _Watch:
    """How still the engine's tiers are."""

    last: OffloadState | None = None
    unstored: int = -1
    quiet: int = 0

    def look(self, state: OffloadState, unstored: int) -> None:
        """Compare with the look before."""
        still = state.active_cascades == 0 and state == self.last and unstored == self.unstored
        self.quiet = self.quiet + 1 if still else 0
        self.last, self.unstored = state, unstored


class StoreHandover:
    """The strategy.

    Args:
        look: Looks at the engine.
        ledger: The engine's blocks.
        folder: The shared folder, mounted beside the engine.
        clock: Time.
    """

    def __init__(self, look: Look, ledger: BlockIndex, folder: StoreFolder, clock: Clock) -> None:
        self._look = look
        self._ledger = ledger
        self._folder = folder
        self._clock = clock

    @property
    def begins_ahead(self) -> bool:
        """No: blocks are written when they are computed, whoever waits for it."""
        return False

    async def run(self, budget: float, progress: Progress, settled: asyncio.Event | None = None) -> HandoverFinished:
        """Wait for the engine's writes; see the module's header.

        Args:
            budget: Logical seconds until the drain's deadline.
            progress: Takes what is stored so far.
            settled: Set when no user's request runs any more; None: it is so already. Waited for.

        Raises:
            HandoverError: The engine keeps its blocks in accelerator memory only.
        """
        end = self._clock.now() + (1 - RESERVE) * budget
        if settled is not None:
            await settled.wait()
        first = self._ledger.unstored()
        watch = _Watch()
        while True:
            missing = self._ledger.unstored()
            moved = sum(tokens for key, tokens in first.items() if key not in missing)
            progress(HandoverProgress(moved, self._ledger.held_tokens - sum(missing.values())))
            load = await self._look()
            if load is not None:
                if load.offload is None:
                    raise HandoverError("the engine has no OffloadingConnector; give the deployment an fs tier")
                watch.look(load.offload, len(missing))
            if watch.quiet >= (QUIET if missing else 1) or self._clock.now() >= end:
                break
            await self._clock.sleep(LOOK_REAL * self._clock.scale)
        missing = self._ledger.unstored()
        found, asked = await self._ask(list(missing), end + RESERVE * budget / 2)
        return self._result(first, {k: t for k, t in missing.items() if k not in found}, watch, asked=asked)

    async def _ask(self, keys: list[BlockKey], end: float) -> tuple[Collection[BlockKey], bool]:
        """Which of ``keys`` have a file, and whether all could be asked about until ``end``."""
        found: set[BlockKey] = set()
        if not keys:
            return found, True
        spaces = await in_thread(self._folder.spaces, self._ledger.any_stored())
        for start in range(0, len(keys), _CHUNK):
            if self._clock.now() >= end:
                return found, False
            found |= await in_thread(self._folder.present, keys[start : start + _CHUNK], spaces)
        return found, True

    def _result(
        self, first: dict[BlockKey, int], missing: dict[BlockKey, int], watch: _Watch, *, asked: bool
    ) -> HandoverFinished:
        held, dropped = self._ledger.held_tokens, sum(missing.values())
        stored = self._ledger.unstored()
        moved = sum(tokens for key, tokens in first.items() if key not in stored)
        notes = []
        if missing:
            notes.append(f"{len(missing)} blocks are not in the store")
        if not asked:
            notes.append("the folder was too slow to be asked about all blocks")
        state = watch.last
        if state is None:
            notes.append("the engine did not answer")
        elif missing:
            notes += state.troubles()
        if not self._ledger.complete:
            notes.append("KV events were missed: the figures are lower bounds")
        partial = bool(missing) or state is None or not self._ledger.complete
        return HandoverFinished(held - dropped, min(moved, held - dropped), dropped, partial, "; ".join(notes))
