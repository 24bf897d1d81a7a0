"""Token ids of the recently used chains of blocks, in bounded memory: what a prompt must be to find them again.

Tokens are kept by block hash, which determines them, as packed 32-bit numbers, in the order in which they came. They
are their users' text: what is no longer hot, or no longer here, is forgotten once a minute. Beyond ``budget`` tokens
the first of the queue go; those that were used since they joined it join it again (second chance, as the clock
algorithm of page caches). A block is used whenever one below it is, so a prompt is forgotten from its end. A *chain*
goes from the start of a prompt to a block that none known lies below::

    hottest   chains by last use, the latest first; each with how many tokens of it no hotter chain has
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from itertools import islice

from warmfleet_worker.kv.events import AllBlocksCleared, Batch, BlockHash, BlockStored
from warmfleet_worker.kv.index import HOT_TICKS, BlockIndex, tick_of

BUDGET = 2_000_000
"""Tokens: about 30 MB at 16 tokens a block."""
SWEEP_TICKS = 6
"""Ticks between two looks for what is no longer hot."""
_ROOM = 16
"""When there are too many tokens, one part in so many is made free."""
_AT_ONCE = 4096
"""Blocks looked at together."""
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
        self._runs: deque[tuple[int, int]] = deque()  # of the queue: when they joined it, ticks, and how many
        self._count = 0
        self._swept = 0

    @property
    def count(self) -> int:
        """Tokens kept."""
        return self._count

    def take(self, batch: Batch) -> None:
        """Take in the events of one batch."""
        before, tick = len(self._tokens), tick_of(batch.ts)
        for event in batch.events:
            if isinstance(event, BlockStored) and event.token_ids and event.medium in _HELD and not event.group_idx:
                self._keep(event)
            elif isinstance(event, AllBlocksCleared):
                self.clear()
                before = 0
        self._join(tick, len(self._tokens) - before)
        if self._count > self._budget:
            self._shrink(tick)
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
        queue = zip(self._tokens.items(), self._index.used_of(self._tokens), strict=True)
        cut = max(1, tick - HOT_TICKS)  # 0 is of what is not here
        runs, self._runs, self._tokens = self._runs, deque(), {}
        for joined, count in runs:
            before = len(self._tokens)
            self._tokens.update(item for item, used in islice(queue, count) if used >= cut)
            self._join(joined, len(self._tokens) - before)
        self._count = sum(map(len, self._tokens.values())) // 4

    def clear(self) -> None:
        """Forget everything."""
        self._tokens.clear()
        self._runs.clear()
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

    def _join(self, tick: int, count: int) -> None:
        """The last ``count`` of the queue came at ``tick``."""
        if self._runs and self._runs[-1][0] == tick:
            tick, more = self._runs.pop()
            count += more
        if count:
            self._runs.append((tick, count))

    def _shrink(self, now: int) -> None:
        """Let the first of the queue go, or join it again when they were used since; nothing can do so twice."""
        kept = self._tokens
        while self._runs and self._count > self._budget - self._budget // _ROOM:
            joined, count = self._runs.popleft()
            if count > _AT_ONCE:
                self._runs.appendleft((joined, count - _AT_ONCE))
            first = list(islice(kept, min(count, _AT_ONCE)))
            again: dict[BlockHash, bytes] = {}
            if joined < now:
                ticks = self._index.used_of(first)
                again = {block: kept[block] for block, used in zip(first, ticks, strict=True) if used > joined}
            gone = sum(map(len, map(kept.pop, first))) - sum(map(len, again.values()))
            self._count -= gone // 4
            kept.update(again)
            self._join(now, len(again))
