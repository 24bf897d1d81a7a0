"""Which prompt beginnings are hot, in bounded memory, from KV events alone.

A *head* is the beginning of a prompt: at most HEAD_BLOCKS blocks from its first. Events tell only of blocks that were
computed, so a prompt whose beginning is cached shows as a batch of blocks whose parent lies in a head. Each such batch
is one use of the head, and uses fade::

    heat(t) = sum over uses u of 2^(-(t - t_u) / HALF_LIFE)

kept as one number per head by scaling it at each use. At most HEADS heads are kept; the coldest goes first.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from warmfleet_worker.kv.events import Batch, BlockHash, BlockStored

HEADS = 64
HEAD_BLOCKS = 128
HALF_LIFE = 600.0
"""Seconds of the events' own time."""
_HELD = (None, "GPU")


@dataclass(slots=True)
class Head:
    """One prompt beginning.

    Attributes:
        tokens: Its token ids.
        heat: Uses, faded to ``used_at``.
        used_at: Last use, seconds since the epoch.
        blocks: Hashes of its blocks, in order.
    """

    tokens: array[int]
    heat: float
    used_at: float
    blocks: list[BlockHash] = field(default_factory=list)

    def heat_at(self, now: float) -> float:
        """Uses, faded to ``now``."""
        return float(self.heat * 2.0 ** (-max(0.0, now - self.used_at) / HALF_LIFE))


class HotHeads:
    """The hottest heads of one engine."""

    def __init__(self) -> None:
        self._heads: dict[BlockHash, Head] = {}
        self._head_of: dict[BlockHash, BlockHash] = {}

    def take(self, batch: Batch) -> None:
        """Take in the events of one batch."""
        for event in batch.events:
            # A cleared or evicted block stays in its head: what was hot will be asked for again.
            if isinstance(event, BlockStored) and event.token_ids and event.medium in _HELD and not event.group_idx:
                self._use(event, batch.ts)

    def hottest(self, now: float) -> list[Head]:
        """All heads, the hottest first."""
        return sorted(self._heads.values(), key=lambda head: -head.heat_at(now))

    def _use(self, event: BlockStored, now: float) -> None:
        parent = event.parent_block_hash
        first = event.block_hashes[0] if parent is None else self._head_of.get(parent)
        if first is None:
            return  # far below a head, or of one that has been forgotten
        head = self._heads.get(first)
        if head is None:
            self._make_room(now)
            head = self._heads[first] = Head(array("I"), 0.0, now)
        head.heat, head.used_at = head.heat_at(now) + 1.0, now
        if parent is None:
            self._extend(first, head, event, 0)
        elif parent == head.blocks[-1]:
            self._extend(first, head, event, len(head.blocks))

    def _extend(self, first: BlockHash, head: Head, event: BlockStored, start: int) -> None:
        """Let the head grow by the event's blocks, up to its bound."""
        if start == 0 and head.blocks:
            return  # the same beginning was evicted and computed again
        take = min(len(event.block_hashes), HEAD_BLOCKS - start)
        blocks = event.block_hashes[:take]
        head.blocks += blocks
        head.tokens.extend(event.token_ids[: take * event.block_size])
        self._head_of.update(dict.fromkeys(blocks, first))

    def _make_room(self, now: float) -> None:
        if len(self._heads) < HEADS:
            return
        first, coldest = min(self._heads.items(), key=lambda item: item[1].heat_at(now))
        del self._heads[first]
        for block in coldest.blocks:
            self._head_of.pop(block, None)
