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

from warmfleet_worker.kv.events import Batch, BlockHash, BlockStored, token_count, tokens_of

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
            if not isinstance(event, BlockStored) or event.medium not in _HELD or event.group_idx:
                continue
            if token_count(memoryview(event.token_ids)):
                self._use(event, batch.ts)

    def hottest(self, now: float) -> list[Head]:
        """All heads, the hottest first."""
        return sorted(self._heads.values(), key=lambda head: -head.heat_at(now))

    def _use(self, event: BlockStored, now: float) -> None:
        if not event.block_hashes:
            return
        parent = event.parent_block_hash
        first = event.block_hashes[0] if parent is None else self._head_of.get(parent)
        if first is None:
            return  # far below a head, or of one that has been forgotten
        head = self._heads.get(first)
        start = len(head.blocks) if head is not None else 0
        # Not by the same beginning, which was evicted and is computed again.
        grows = head is None or parent == head.blocks[-1]
        tokens = _packed(event, HEAD_BLOCKS - start) if grows else None
        if head is None:
            if tokens is None:
                return
            self._make_room(now)
            head = self._heads[first] = Head(array("I"), 0.0, now)
        head.heat, head.used_at = head.heat_at(now) + 1.0, now
        if tokens is not None:
            self._extend(first, head, event.block_hashes[: HEAD_BLOCKS - start], tokens)

    def _extend(self, first: BlockHash, head: Head, blocks: list[BlockHash], tokens: array[int]) -> None:
        head.blocks += blocks
        head.tokens.extend(tokens)
        self._head_of.update(dict.fromkeys(blocks, first))

    def _make_room(self, now: float) -> None:
        if len(self._heads) < HEADS:
            return
        first, coldest = min(self._heads.items(), key=lambda item: item[1].heat_at(now))
        del self._heads[first]
        for block in coldest.blocks:
            self._head_of.pop(block, None)


def _packed(event: BlockStored, blocks: int) -> array[int] | None:
    """Tokens of the first ``blocks`` blocks; None when they are not there, or none (a prompt given as embeddings)."""
    size = event.block_size
    if size <= 0 or token_count(memoryview(event.token_ids)) < size * len(event.block_hashes):
        return None
    tokens = tokens_of(event.token_ids)
    return None if tokens is None else tokens[: size * min(blocks, len(event.block_hashes))]
