"""Token ids of the recently used chains of blocks, in bounded memory: what a prompt must be to find them again.

Tokens are kept by block hash, which determines them, as packed 32-bit numbers. They are their users' text: what is no
longer hot, or no longer here, is forgotten once a minute. Beyond ``budget`` tokens only the half of it that was used
last is kept. A *chain* goes from the start of a prompt to a block that none known lies below::

    hottest   chains by last use, the latest first; each with how many tokens of it no hotter chain has
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass
from itertools import islice

from warmfleet_worker.kv.events import AllBlocksCleared, Batch, BlockHash, BlockStored
from warmfleet_worker.kv.index import HOT_TICKS, BlockIndex, tick_of

BUDGET = 2_000_000
"""Tokens: about 30 MB at 16 tokens a block."""
SWEEP_TICKS = 6
"""Ticks between two looks for what is no longer hot."""
_HELD = (None, "GPU")


@dataclass(frozen=True, slots=True)
class Chain:
    """A prompt whose blocks are held.

    Attributes:
        tokens: Its token ids.
        fresh: Those at its end that no hotter chain has.
    """

    tokens: list[int]
    fresh: int


class HotChains:
    """The chains of one engine.

    Args:
        index: Its blocks; must have taken in a batch before this does.
        budget: Most tokens kept.
    """

    def __init__(self, index: BlockIndex, budget: int = BUDGET) -> None:
        self._index = index
        self._budget = budget
        self._tokens: dict[BlockHash, bytes] = {}
        self._count = 0
        self._swept = 0

    @property
    def count(self) -> int:
        """Tokens kept."""
        return self._count

    def take(self, batch: Batch) -> None:
        """Take in the events of one batch."""
        for event in batch.events:
            if isinstance(event, BlockStored) and event.token_ids and event.medium in _HELD and not event.group_idx:
                self._keep(event)
            elif isinstance(event, AllBlocksCleared):
                self.clear()
        if self._count > self._budget:
            self._shrink()
        self.cool(batch.ts)

    def cool(self, now: float) -> None:
        """Forget what is no longer hot, if that is due.

        Args:
            now: Time as in the events, seconds since the epoch.
        """
        tick = tick_of(now)
        if tick < self._swept + SWEEP_TICKS:
            return
        self._swept = tick
        used = self._index.used_of(self._tokens)
        cut = max(1, tick - HOT_TICKS)  # 0 is of what is not here
        self._tokens = {b: t for (b, t), tick in zip(self._tokens.items(), used, strict=True) if tick >= cut}
        self._count = sum(map(len, self._tokens.values())) // 4

    def clear(self) -> None:
        """Forget everything."""
        self._tokens.clear()
        self._count = 0

    def hottest(self, now: float) -> list[Chain]:
        """Chains used within the last minutes, the latest first.

        Args:
            now: Time as in the events, seconds since the epoch.
        """
        first = tick_of(now) - HOT_TICKS
        used = {b: tick for b in self._tokens if (tick := self._index.used(b)) is not None and tick >= first}
        inner = {self._index.parent(block) for block in used}
        ends = sorted((b for b in used if b not in inner), key=lambda b: -used[b])
        covered: set[BlockHash] = set()
        chains = []
        for end in ends:
            if (blocks := self._blocks(end)) is None:
                continue
            packed = array("I", b"".join(self._tokens[b] for b in blocks))
            fresh = sum(len(self._tokens[b]) // 4 for b in blocks if b not in covered)
            covered.update(blocks)
            chains.append(Chain(packed.tolist(), fresh))
        return chains

    def _blocks(self, end: BlockHash) -> list[BlockHash] | None:
        """The chain that ends with a block; None when a block of it is not held, or its tokens are not known."""
        found: list[BlockHash] = []
        block: BlockHash | None = end
        while block is not None:
            if block not in self._tokens or self._index.used(block) is None:
                return None
            found.append(block)
            block = self._index.parent(block)
        found.reverse()
        return found

    def _keep(self, event: BlockStored) -> None:
        size = event.block_size
        if event.parent_block_hash is not None and event.parent_block_hash not in self._tokens:
            return  # without its beginning a prompt is of no use
        if size <= 0 or len(event.token_ids) < size * len(event.block_hashes):
            return
        try:
            packed = array("I", event.token_ids).tobytes()
        except OverflowError:
            return  # no token ids at all: of prompts given as embeddings, for one
        kept, width = self._tokens, 4 * size
        start, before = 0, len(kept)
        for block in event.block_hashes:
            kept[block] = packed[start : start + width]
            start += width
        self._count += size * (len(kept) - before)

    def _shrink(self) -> None:
        """Keep the half that was used last; within one tick, what came first. One pass, because it comes often."""
        ticks = self._index.used_of(self._tokens)
        room = len(ticks) * self._budget // (2 * self._count)
        counts, cut = Counter(ticks), 0
        for tick in sorted(counts, reverse=True):
            cut = tick
            if counts[tick] > room or tick <= 0:
                break
            room -= counts[tick]
        pairs = list(zip(self._tokens.items(), ticks, strict=True))
        kept = {block: tokens for (block, tokens), tick in pairs if tick > cut}
        if cut > 0:
            kept.update(islice((item for item, tick in pairs if tick == cut), room))
        self._tokens = kept
        self._count = sum(map(len, kept.values())) // 4
