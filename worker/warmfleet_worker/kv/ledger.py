"""Which blocks the engine holds, and which of them it has said to be in the shared store: two sets from KV events.

A block counts as held while it is in accelerator memory (from there it serves requests at once) and as stored once an
event with medium STORAGE names it. A block that was itself loaded from the store is never stored again, so absence
from the second set is a question for the store, not an answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from warmfleet_worker.kv.events import AllBlocksCleared, Batch, BlockHash, BlockRemoved, BlockStored, KvEventReader
from warmfleet_worker.kv.handover import BlockKey
from warmfleet_worker.kv.hot import HotHeads

_HELD = (None, "GPU")
_STORED = "STORAGE"


class EventLedger:
    """Two sets of blocks.

    Attributes:
        complete: No event was missed since the engine's start.
        seen: Batches taken in.
    """

    def __init__(self) -> None:
        self.complete = True
        self.seen = 0
        self._held: dict[BlockKey, int] = {}
        self._stored: set[BlockKey] = set()
        self._tokens = 0

    @property
    def held_tokens(self) -> int:
        """Tokens of the blocks held; each once, whatever the number of KV cache groups."""
        return self._tokens

    def unstored(self) -> dict[BlockKey, int]:
        """Tokens by block held and not said to be stored."""
        return {key: tokens for key, tokens in self._held.items() if key not in self._stored}

    def any_stored(self) -> BlockKey | None:
        """One block that the engine has said to be stored; None when there is none."""
        return next(iter(self._stored), None)

    def take(self, batch: Batch) -> None:
        """Take in the events of one batch."""
        self.seen += 1
        for event in batch.events:
            match event:
                case BlockStored(medium=medium) if medium in _HELD:
                    self._hold(_keys(event.block_hashes, event.group_idx), event.block_size)
                case BlockStored(medium=medium) if medium == _STORED:
                    self._stored.update(_keys(event.block_hashes, event.group_idx))
                case BlockRemoved(medium=medium) if medium in _HELD:
                    self._drop(_keys(event.block_hashes, event.group_idx))
                case BlockRemoved(medium=medium) if medium == _STORED:
                    self._stored.difference_update(_keys(event.block_hashes, event.group_idx))
                case AllBlocksCleared():
                    self._held.clear()
                    self._tokens = 0

    def restart(self) -> None:
        """A new engine holds nothing, and what the old one stored is the store's to say."""
        self._held.clear()
        self._stored.clear()
        self._tokens = 0
        self.complete = True

    def miss(self) -> None:
        """Events are lost: from now on the sets are lower bounds."""
        self.complete = False

    def _hold(self, keys: Iterable[BlockKey], size: int) -> None:
        for key in keys:
            tokens = size if key[1] == 0 else 0
            self._tokens += tokens - self._held.get(key, 0)
            self._held[key] = tokens

    def _drop(self, keys: Iterable[BlockKey]) -> None:
        for key in keys:
            self._tokens -= self._held.pop(key, 0)


def _keys(hashes: Iterable[BlockHash], group: int | None) -> Iterable[BlockKey]:
    return ((block, group or 0) for block in hashes)


def follow(ledger: EventLedger, hot: HotHeads, endpoint: str, replay_endpoint: str) -> KvEventReader:
    """A reader that keeps a ledger, and which prompts are hot."""

    def take(batch: Batch) -> None:
        ledger.take(batch)
        hot.take(batch)

    return KvEventReader(endpoint, replay_endpoint, take, ledger.restart, ledger.miss)
