"""Token ids of the recently used chains of blocks, in bounded memory: what a prompt must be to find them again.

Tokens are kept in *pieces*: the blocks that one event stored, with the ids as they came, unread, in the order in which
they came. They are their users' text: what is no longer hot, or no longer here, is forgotten once a minute. Beyond
``budget`` tokens the first of the queue go; what of them was used since they joined it joins it again (second chance,
as the clock algorithm of page caches). A block is used whenever one below it is, so a piece, and a prompt, is forgotten
from its end. A *chain* goes from the start of a prompt to a block that none known lies below::

    hottest   chains by last use, the latest first; each with how many tokens of it no hotter chain has
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from warmfleet_worker.kv.events import (
    AllBlocksCleared,
    Batch,
    BlockHash,
    BlockStored,
    raw_tokens,
    token_count,
    tokens_of,
)
from warmfleet_worker.kv.index import HOT_TICKS, BlockIndex, tick_of

BUDGET = 2_000_000
"""Tokens: about 20 MB."""
SWEEP_TICKS = 6
"""Ticks between two looks for what is no longer hot."""
_ROOM = 16
"""When there are too many tokens, one part in so many is made free."""
_MOST_BYTES = 5
"""Of one token id on the wire, and of the head of the list."""
_HELD = (None, "GPU")


@dataclass(frozen=True, slots=True)
class Chain:
    """A prompt whose blocks are held.

    Attributes:
        tokens: Its token ids.
        fresh: Those at its end that no hotter chain has.
        blocks: Hashes of its blocks.
    """

    tokens: list[int]
    fresh: int
    blocks: tuple[BlockHash, ...] = ()


@dataclass(frozen=True, slots=True)
class _Piece:
    """Blocks that follow one another, and their tokens.

    Attributes:
        blocks: Their hashes.
        parent: The block before the first; None at the start of a prompt.
        size: Tokens of a block.
        tokens: The token ids as they came.
        joined: When it joined the queue, ticks.
    """

    blocks: list[BlockHash]
    parent: BlockHash | None
    size: int
    tokens: bytes
    joined: int

    @property
    def count(self) -> int:
        """Tokens."""
        return self.size * len(self.blocks)

    def first(self, blocks: int) -> _Piece | None:
        """Its beginning; None when nothing is left of it."""
        if blocks == len(self.blocks):
            return self
        if not blocks or (tokens := tokens_of(self.tokens)) is None:
            return None
        return replace(self, blocks=self.blocks[:blocks], tokens=bytes(raw_tokens(tokens[: blocks * self.size])))


class HotChains:
    """The chains of one engine.

    Args:
        index: Its blocks; must have taken in a batch before this does.
        budget: Most tokens kept.
    """

    def __init__(self, index: BlockIndex, budget: int = BUDGET) -> None:
        self._index = index
        self._budget = budget
        self._pieces: deque[_Piece] = deque()
        self._count = 0
        self._swept = 0

    @property
    def count(self) -> int:
        """Tokens kept."""
        return self._count

    def take(self, batch: Batch) -> None:
        """Take in the events of one batch."""
        tick = tick_of(batch.ts)
        for event in batch.events:
            if isinstance(event, BlockStored):
                if event.medium in _HELD and not event.group_idx:
                    self._keep(event, tick)
            elif isinstance(event, AllBlocksCleared):
                self.clear()
        if self._count > self._budget:
            self._shrink(tick)
        self.cool(batch.ts)

    def cool(self, now: float) -> None:
        """Forget what is no longer hot, what is told twice, and what has lost its beginning, if that is due.

        Args:
            now: Time as in the events, seconds since the epoch.
        """
        tick = tick_of(now)
        if tick < self._swept + SWEEP_TICKS:
            return
        self._swept = tick
        cut = max(1, tick - HOT_TICKS)  # 0 is of what is not here
        known: set[BlockHash] = set()
        kept = []
        for whole in self._pieces:
            piece = whole.first(self._used_since(whole.blocks, cut))
            if piece is not None and not known.issuperset(piece.blocks):
                known.update(piece.blocks)
                kept.append(piece)
        self._pieces = deque(piece for piece in kept if piece.parent is None or piece.parent in known)
        self._count = sum(piece.count for piece in self._pieces)

    def clear(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self._count = 0

    def hottest(
        self, now: float, within: float | None = None, known: Collection[BlockHash] = frozenset()
    ) -> list[Chain]:
        """Chains used within the last minutes, the latest first.

        Args:
            now: Time as in the events, seconds since the epoch.
            within: Only those used so many seconds ago or later; None: all that are hot.
            known: Blocks that do not count as fresh.
        """
        first = max(tick_of(now) - HOT_TICKS, 0 if within is None else tick_of(now - within))
        kept = _by_block(self._pieces)
        used = {b: tick for b in kept if (tick := self._index.used(b)) is not None and tick >= first}
        inner = {self._index.parent(block) for block in used}
        ends = sorted((b for b in used if b not in inner), key=lambda b: -used[b])
        covered = set(known)
        chains = []
        for end in ends:
            if (blocks := self._blocks(end, kept)) is None:
                continue
            tokens = [token for b in blocks for token in kept[b]]
            fresh = sum(len(kept[b]) for b in blocks if b not in covered)
            covered.update(blocks)
            chains.append(Chain(tokens, fresh, tuple(blocks)))
        return chains

    def _blocks(self, end: BlockHash, kept: Mapping[BlockHash, array[int]]) -> list[BlockHash] | None:
        """The chain that ends with a block; None when a block of it is not held, or its tokens are not known."""
        found: list[BlockHash] = []
        block: BlockHash | None = end
        while block is not None:
            if block not in kept or self._index.used(block) is None:
                return None
            found.append(block)
            block = self._index.parent(block)
        found.reverse()
        return found

    def _keep(self, event: BlockStored, tick: int) -> None:
        blocks, size, tokens = event.block_hashes, event.block_size, bytes(event.token_ids)
        if not blocks or size <= 0 or token_count(tokens) < size * len(blocks):
            return
        if len(tokens) > _MOST_BYTES * (size * len(blocks) + 1):
            return  # more than token ids take: they are kept unread, and the budget must hold all the same
        self._pieces.append(_Piece(blocks, event.parent_block_hash, size, tokens, tick))
        self._count += size * len(blocks)

    def _shrink(self, now: int) -> None:
        """Let the first of the queue go, or join it again when they were used since; nothing can do so twice."""
        pieces = self._pieces
        while pieces and self._count > self._budget - self._budget // _ROOM:
            piece = pieces.popleft()
            self._count -= piece.count
            if piece.joined >= now:
                continue
            again = piece.first(self._used_since(piece.blocks, piece.joined + 1))
            if again is not None:
                pieces.append(replace(again, joined=now))
                self._count += again.count

    def _used_since(self, blocks: list[BlockHash], tick: int) -> int:
        """How many of them, from the first on, are here and were used at ``tick`` or later."""
        if self._index.used_of(blocks[:1])[0] < tick:
            return 0
        return next((n for n, used in enumerate(self._index.used_of(blocks)) if used < tick), len(blocks))


def _by_block(pieces: Iterable[_Piece]) -> dict[BlockHash, array[int]]:
    """Tokens of each block."""
    found: dict[BlockHash, array[int]] = {}
    for piece in pieces:
        tokens = tokens_of(piece.tokens)
        if tokens is not None:
            size = piece.size
            found |= {block: tokens[n * size : (n + 1) * size] for n, block in enumerate(piece.blocks)}
    return found
