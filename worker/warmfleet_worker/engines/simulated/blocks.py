"""KV blocks of the simulated engine: a prefix cache of chained block hashes with LRU eviction.

A block is held by requests (counted), cached (its hash can be found; evicted in LRU order when nobody holds it) or
free. Blocks that are not full, or whose content another request cached first, are private to their request.
Hashes are 64-bit and the same in every process, so that fleets can compare them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from warmfleet_worker.engines.simulated.tokens import token_bytes

_ROOT = b"warmfleet-kv"


def block_hashes(ids: Sequence[int], block_size: int, parent: int | None = None) -> list[int]:
    """Hashes of the full blocks of ``ids``, each over its parent's hash and its tokens.

    Args:
        ids: Token ids.
        block_size: Tokens of a block.
        parent: Hash of the block before; None at the start of a prompt.
    """
    packed = token_bytes(ids)
    width = 4 * block_size
    before = _ROOT if parent is None else parent.to_bytes(8, "big")
    hashes = []
    for end in range(width, len(packed) + 1, width):
        before = blake2b(before + packed[end - width : end], digest_size=8).digest()
        hashes.append(int.from_bytes(before, "big"))
    return hashes


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks that were cached.

    Attributes:
        hashes: Their hashes, in order.
        parent: Hash of the block before the first; None at the start of a prompt.
        token_ids: Their tokens.
    """

    hashes: list[int]
    parent: int | None
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks that were evicted.

    Attributes:
        hashes: Their hashes.
    """

    hashes: list[int]


@dataclass(frozen=True, slots=True)
class Cleared:
    """All cached blocks are gone."""


@dataclass(frozen=True, slots=True)
class Offloaded:
    """Blocks that can be found in a tier below accelerator memory.

    Attributes:
        hashes: Their hashes.
        medium: CPU or STORAGE.
    """

    hashes: list[int]
    medium: str


@dataclass(slots=True)
class Holding:
    """Blocks that one request holds.

    Attributes:
        cached: Hashes of cached blocks it references, the first blocks of the request in order.
        private: Number of its other blocks.
        broken: Its chain of cached blocks has ended: another request cached the next block first.
    """

    cached: list[int] = field(default_factory=list)
    private: int = 0
    broken: bool = False

    def __len__(self) -> int:
        return len(self.cached) + self.private


class BlockPool:
    """All KV blocks of one engine.

    Args:
        blocks: How many there are.
        block_size: Tokens of a block.
        caching: Whether prefixes are cached.
        record: Whether to keep :class:`Stored` and :class:`Removed` for :meth:`drain_events`.
    """

    def __init__(self, blocks: int, block_size: int, *, caching: bool = True, record: bool = False) -> None:
        self.total = blocks
        self.block_size = block_size
        self.caching = caching
        self._record = record
        self._references: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._private = 0
        self._events: list[Stored | Removed | Cleared] = []

    @property
    def available(self) -> int:
        """Blocks that can be had: free ones, and cached ones that nobody holds."""
        return self.total - self._private - len(self._references)

    @property
    def held(self) -> int:
        """Blocks that requests hold."""
        return self._private + len(self._references)

    @property
    def cached(self) -> int:
        """Blocks that can be found by their hash."""
        return len(self._references) + len(self._idle)

    def match(self, hashes: Sequence[int]) -> int:
        """How many leading blocks of a prompt are cached."""
        if not self.caching:
            return 0
        for index, key in enumerate(hashes):
            if key not in self._references and key not in self._idle:
                return index
        return len(hashes)

    def admit(self, hashes: Sequence[int], total: int) -> Holding | None:
        """Take ``total`` blocks, of which those with ``hashes`` are in the cache; None when they cannot be had."""
        revived = sum(key in self._idle for key in hashes)
        if total - len(hashes) + revived > self.available:
            return None
        for key in hashes:
            self._idle.pop(key, None)
            self._references[key] = self._references.get(key, 0) + 1
        holding = Holding(list(hashes))
        taken = self.grow(holding, total - len(hashes))
        if not taken:
            raise AssertionError("blocks that were counted as available cannot be had")
        return holding

    def grow(self, holding: Holding, more: int) -> bool:
        """Take ``more`` private blocks; False, and nothing taken, when they cannot be had."""
        if more > self.available:
            return False
        short = more - (self.total - self.held - len(self._idle))
        if short > 0:
            evicted = [self._idle.popitem(last=False)[0] for _ in range(short)]
            if self._record:
                self._events.append(Removed(evicted))
        holding.private += more
        self._private += more
        return True

    def commit(self, holding: Holding, hashes: Sequence[int], token_ids: Sequence[int]) -> None:
        """Cache the blocks that are full now.

        Args:
            holding: The request's blocks.
            hashes: Hashes of all its full blocks, from the first.
            token_ids: Its tokens, from the first.
        """
        start = len(holding.cached)
        if not self.caching or holding.broken or len(hashes) <= start:
            return
        fresh = []
        for key in hashes[start:]:
            if key in self._references or key in self._idle:
                holding.broken = True
                break
            self._references[key] = 1
            fresh.append(key)
        holding.cached.extend(fresh)
        holding.private -= len(fresh)
        self._private -= len(fresh)
        if self._record and fresh:
            size = self.block_size
            tokens = list(token_ids[start * size : (start + len(fresh)) * size])
            self._events.append(Stored(fresh, hashes[start - 1] if start else None, tokens))

    def release(self, holding: Holding) -> None:
        """Give all blocks back; cached ones stay until they are evicted, the end of a prompt first."""
        self._private -= holding.private
        for key in reversed(holding.cached):
            count = self._references[key] - 1
            if count:
                self._references[key] = count
            else:
                del self._references[key]
                self._idle[key] = None
        holding.cached, holding.private, holding.broken = [], 0, False

    def clear(self) -> None:
        """Forget all cached blocks that nobody holds."""
        self._idle.clear()
        if self._record:
            self._events.append(Cleared())

    def drain_events(self) -> Iterator[Stored | Removed | Cleared]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return iter(events)
