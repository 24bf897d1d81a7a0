"""All blocks of one engine, from its KV events: medium, recency, chain, and the tokens of the recent ones.

::

    row(h)        = the block's number; facts by row in flat arrays: 200 bytes a block with a 32-byte hash
    used(b)       = TICK in which b, or a block below it in a chain, was last computed; cache hits are silent, but what
                    is computed after them names its parent
    hot(b)        = here(b), not stored(b), and used(b) within the last HOT_TICKS ticks
    here(b)       = in accelerator memory, or in the pod's own host memory: either is lost with the pod
    hot tokens    = kept as one sum per tick, so that asking costs nothing
    evicted after = time since used(b) of the blocks that leave here(b), a mean that fades over MEAN_BLOCKS of them

A use walks up the chain until it meets a block that was used in the same tick already: each block is touched at most
once a tick, whatever the length of the chains. Rows of blocks that are gone stay while blocks below them are there, so
that chains do not break; at most ``limit`` rows are kept, first at the cost of blocks that are only stored, then of
completeness. Samples of the hot blocks go to the operator (:mod:`warmfleet_contracts.sketch`): of every block whose
value lies below a bound that is lowered as the index grows.

A block counts as held while it is in accelerator memory (from there it serves requests at once) and as stored once an
event with medium STORAGE names it. A block that was itself loaded from the store is never stored again, so that it is
not said to be stored is a question for the store, not an answer.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence

from warmfleet_contracts.sketch import SPACE, Sketch, sample, value_of

from warmfleet_worker.kv.events import AllBlocksCleared, Batch, BlockHash, BlockKey, BlockRemoved, BlockStored

LIMIT = 1_500_000
"""Rows."""
TICK = 10.0
"""Seconds of the events' own time; the resolution of recency."""
HOT_TICKS = 90
"""Ticks for which a block is hot: 15 minutes: on a trace of chats one use of a prefix in ten came after 519 s."""
SAMPLED = 8192
"""Most blocks that are watched for the sketch."""
MEAN_BLOCKS = 1024
"""Evicted blocks over which their mean age fades: some percent of a small cache."""
HELD, HOST, STORED = 1, 2, 4
_HERE = HELD | HOST
_BITS = {None: HELD, "GPU": HELD, "CPU": HOST, "STORAGE": STORED}
_ONE, _HELD = array("I", (1,)), bytes((HELD,))
_NONE = 0xFFFF_FFFF
"""Row of no block."""


class BlockIndex:
    """The index.

    Args:
        limit: Most rows.

    Attributes:
        complete: No event was missed since the engine's start, and no block was left out.
        seen: Batches taken in.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.complete = True
        self.seen = 0
        self._limit = limit
        self._empty()

    def _empty(self) -> None:
        self._rows: dict[int, dict[BlockHash, int]] = {0: {}}
        self._names: list[BlockHash | None] = []
        self._parent, self._used, self._children = array("I"), array("I"), array("I")
        self._size, self._where, self._group = array("I"), bytearray(), array("I")
        self._free = array("I")
        self._held_tokens = 0
        self._below = 0  # blocks kept although they are not held
        self._hot: defaultdict[int, int] = defaultdict(int)
        self._bound = SPACE
        self._sampled: dict[int, int] = {}
        self._any_stored: BlockKey | None = None
        self._evicted_at, self._evicted_age = -HOT_TICKS, 0.0

    def __len__(self) -> int:
        return len(self._names) - len(self._free)

    # -- what is known -------------------------------------------------------------------------------------------

    @property
    def held_tokens(self) -> int:
        """Tokens of the blocks held; each once, whatever the number of KV cache groups."""
        return self._held_tokens

    def unstored(self) -> dict[BlockKey, int]:
        """Tokens by block held and not said to be stored."""
        where, size = self._where, self._size
        return {
            (name, group): 0 if group else size[row]
            for group, rows in self._rows.items()
            for name, row in rows.items()
            if where[row] & (HELD | STORED) == HELD
        }

    def any_stored(self) -> BlockKey | None:
        """One block that the engine has said to be stored; None when there is none."""
        return self._any_stored

    def hot_tokens(self, now: float) -> int:
        """Tokens of the hot blocks.

        Args:
            now: Time as in the events, seconds since the epoch.
        """
        first = tick_of(now) - HOT_TICKS
        for tick in [t for t in self._hot if t < first]:
            del self._hot[tick]
        return sum(self._hot.values())

    def hot_sketch(self, now: float) -> Sketch:
        """Sample of the hot blocks."""
        first = tick_of(now) - HOT_TICKS
        used, where = self._used, self._where
        return sample(
            (v for row, v in self._sampled.items() if used[row] >= first and _lost_with_the_pod(where[row])),
            self._bound,
        )

    def evicted_after(self, now: float) -> float | None:
        """Seconds since their last use of the blocks that are evicted now; None when none were while others are hot.

        Args:
            now: Time as in the events, seconds since the epoch.
        """
        return self._evicted_age * TICK if self._evicted_at >= tick_of(now) - HOT_TICKS else None

    def used(self, block: BlockHash) -> int | None:
        """Tick of the last use of a block of the first KV cache group; None when it is not here."""
        row = self._rows[0].get(block)
        return self._used[row] if row is not None and self._where[row] & _HERE else None

    def used_of(self, blocks: Iterable[BlockHash]) -> list[int]:
        """The same for many, in their order; 0 for those that are not here."""
        rows, used, where = self._rows[0], self._used, self._where
        return [0 if (row := rows.get(b)) is None or not where[row] & _HERE else used[row] for b in blocks]

    def parent(self, block: BlockHash) -> BlockHash | None:
        """The block above in the chain; None at the start of a prompt, or where nothing is known of it."""
        row = self._rows[0].get(block)
        above = _NONE if row is None else self._parent[row]
        return None if above == _NONE else self._names[above]

    # -- events --------------------------------------------------------------------------------------------------

    def take(self, batch: Batch) -> None:
        """Take in the events of one batch."""
        self.seen += 1
        tick = tick_of(batch.ts)
        for event in batch.events:
            match event:
                case BlockStored():
                    self._stored(event, tick)
                case BlockRemoved():
                    self._removed(event.block_hashes, event.group_idx or 0, _BITS.get(event.medium, 0), tick)
                case AllBlocksCleared():
                    self._cleared()

    def restart(self) -> None:
        """A new engine holds nothing, and what the old one stored is the store's to say."""
        self._empty()
        self.complete = True

    def miss(self) -> None:
        """Events are lost: from now on the figures are lower bounds."""
        self.complete = False

    def _stored(self, event: BlockStored, tick: int) -> None:
        bit, group = _BITS.get(event.medium, 0), event.group_idx or 0
        rows = self._rows.setdefault(group, {})
        if bit != HELD:
            for block in event.block_hashes:
                self._below_memory(rows.get(block), block, group, bit)
            return
        above = _NONE if event.parent_block_hash is None else rows.get(event.parent_block_hash, _NONE)
        if above != _NONE:
            self._touch(above, tick)
        size = 0 if group else event.block_size
        if self._append(event.block_hashes, rows, group, above, size, tick):
            return
        for block in event.block_hashes:
            row = rows.get(block)
            if row is None:
                row = self._new(block, group, above)
                if row == _NONE:
                    return
            elif self._where[row] & HELD:
                self._touch(row, tick)
                above = row
                continue
            else:
                self._below -= 1
            self._hold(row, size, tick)
            above = row

    def _append(
        self, blocks: list[BlockHash], rows: dict[BlockHash, int], group: int, above: int, size: int, tick: int
    ) -> bool:
        """The common case at once: all blocks are new, and their rows go to the end. False when it is not that."""
        first, count = len(self._names), len(blocks)
        if self._free or first + count > self._limit or not rows.keys().isdisjoint(blocks) or not blocks:
            return False
        if len(set(blocks)) < count:
            return False
        numbers = range(first, first + count)
        rows.update(zip(blocks, numbers, strict=True))
        self._names.extend(blocks)
        self._parent.append(above)
        self._parent.extend(numbers[:-1])
        self._used.extend(array("I", (tick,)) * count)
        self._children.extend(_ONE * (count - 1))
        self._children.append(0)
        self._size.extend(array("I", (size,)) * count)
        self._where.extend(_HELD * count)
        self._group.extend(array("I", (group,)) * count)
        if above != _NONE:
            self._children[above] += 1
        self._held_tokens += size * count
        self._hot[tick] += size * count
        if not group:
            self._sample(blocks, first)
        return True

    def _sample(self, blocks: list[BlockHash], first: int) -> None:
        """Watch those of new blocks, in rows from ``first`` on, whose values lie below the bound."""
        if self._bound == SPACE or any(isinstance(block, int) for block in blocks):
            low = [(row, block) for row, block in enumerate(blocks, first) if value_of(block) < self._bound]
        else:
            prefix = self._bound.to_bytes(8, "big")  # bytes compare as the numbers do that they begin with
            low = [(row, block) for row, block in enumerate(blocks, first) if block < prefix]  # type: ignore[operator]
        for row, block in low:
            self._watch(row, value_of(block))

    def _hold(self, row: int, size: int, tick: int) -> None:
        if _lost_with_the_pod(self._where[row]):
            self._cool(row)  # of its host memory; it is counted anew
        self._held_tokens += size
        self._size[row] = size
        self._where[row] |= HELD
        self._used[row] = tick
        if not self._where[row] & STORED:
            self._hot[tick] += size

    def _below_memory(self, row: int | None, block: BlockHash, group: int, bit: int) -> None:
        """A block can be found in a tier below accelerator memory."""
        if bit == STORED:
            self._any_stored = (block, group)
        if row is None or not bit or not self._where[row]:
            return  # of a block that has left accelerator memory since
        if bit == STORED and _lost_with_the_pod(self._where[row]):
            self._cool(row)
        self._where[row] |= bit

    def _removed(self, blocks: Sequence[BlockHash], group: int, bit: int, tick: int) -> None:
        rows, gone, age = self._rows.get(group, {}), 0, 0
        for block in blocks:
            row = rows.get(block)
            if row is None or not self._where[row] & bit:
                continue
            if bit == HELD:
                self._let_go(row)
            elif bit == HOST and self._where[row] == HOST:
                self._cool(row)
            elif bit == STORED and self._where[row] & _HERE and self._used[row] in self._hot:
                self._hot[self._used[row]] += self._size[row]
            if self._where[row] & _HERE == bit:
                gone, age = gone + 1, age + tick - self._used[row]
            self._where[row] &= ~bit
            if not self._where[row]:
                self._forget(row)
        if gone:
            self._note_evicted(gone, age / gone, tick)

    def _note_evicted(self, blocks: int, age: float, tick: int) -> None:
        """Blocks left the worker that were used so many ticks ago, on average."""
        share = 1.0 if self._evicted_at < tick - HOT_TICKS else blocks / (blocks + MEAN_BLOCKS)
        self._evicted_age += share * (max(0.0, age) - self._evicted_age)
        self._evicted_at = tick

    def _let_go(self, row: int) -> None:
        self._held_tokens -= self._size[row]
        self._below += 1
        if not self._where[row] & (HOST | STORED):
            self._cool(row)

    def _cool(self, row: int) -> None:
        tick = self._used[row]
        if tick in self._hot:
            self._hot[tick] -= self._size[row]

    def _cleared(self) -> None:
        for row, where in enumerate(self._where):
            if where & HELD:
                self._let_go(row)
                self._where[row] &= ~HELD
        for row in range(len(self._names)):
            self._forget(row)

    def _touch(self, row: int, tick: int) -> None:
        """A block is used, and with it all above it."""
        used, where, size, hot, parent = self._used, self._where, self._size, self._hot, self._parent
        while row != _NONE and used[row] < tick:
            if _lost_with_the_pod(where[row]):
                if used[row] in hot:
                    hot[used[row]] -= size[row]
                hot[tick] += size[row]
            used[row] = tick
            row = parent[row]

    # -- rows ----------------------------------------------------------------------------------------------------

    def _new(self, block: BlockHash, group: int, above: int) -> int:
        if len(self) >= self._limit and not self._make_room():
            self.complete = False
            return _NONE
        if self._free:
            row = self._free.pop()
            self._names[row] = block
            self._parent[row], self._used[row], self._children[row], self._size[row] = above, 0, 0, 0
            self._where[row], self._group[row] = 0, group
        else:
            row = len(self._names)
            self._names.append(block)
            self._parent.append(above)
            self._used.append(0)
            self._children.append(0)
            self._size.append(0)
            self._where.append(0)
            self._group.append(group)
        self._rows[group][block] = row
        if above != _NONE:
            self._children[above] += 1
        if not group and (value := value_of(block)) < self._bound:
            self._watch(row, value)
        return row

    def _watch(self, row: int, value: int) -> None:
        self._sampled[row] = value
        while len(self._sampled) > SAMPLED:
            self._bound //= 2
            self._sampled = {r: v for r, v in self._sampled.items() if v < self._bound}

    def _forget(self, row: int) -> None:
        """Free a row that says nothing any more, and those above that were kept for its sake."""
        while row != _NONE and not self._where[row] and not self._children[row]:
            name, above = self._names[row], self._parent[row]
            if name is None:
                return
            del self._rows[self._group[row]][name]
            self._sampled.pop(row, None)
            self._names[row] = None
            self._free.append(row)
            self._below -= 1
            if above != _NONE:
                self._children[above] -= 1
            row = above

    def _make_room(self) -> bool:
        """Forget blocks that are not in accelerator memory; whether that was worth the while."""
        if self._below < self._limit // 16:
            return False
        for row, where in enumerate(self._where):
            if not where & HELD and self._names[row] is not None:
                if _lost_with_the_pod(where):
                    self._cool(row)
                self._where[row] = 0
                self._forget(row)
        return len(self) < self._limit


def _lost_with_the_pod(where: int) -> bool:
    return bool(where & _HERE) and not where & STORED


def tick_of(seconds: float) -> int:
    """Number of the tick a time lies in."""
    return max(0, int(seconds / TICK))
