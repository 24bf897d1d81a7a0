"""Tokens and KV blocks of the simulated engine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from warmfleet_worker.engines.simulated.blocks import BlockPool, Cleared, Removed, Stored, block_hashes
from warmfleet_worker.engines.simulated.tokens import (
    chat_text,
    expected_text,
    response_ids,
    response_text,
    seed_of,
    token_bytes,
    tokenize,
)


def test_a_response_in_a_prompt_has_the_tokens_that_were_generated() -> None:
    prompt = tokenize("a long conversation about something")
    text = expected_text(prompt, 1200)
    assert tokenize(text) == response_ids(seed_of(prompt), 0, 1200)
    assert text == response_text(seed_of(prompt), 0, 700) + response_text(seed_of(prompt), 700, 1200)


def test_tokenising_is_prefix_stable_and_cuts_long_words() -> None:
    assert tokenize("one two") == tokenize("one") + tokenize("two")
    assert len(tokenize("x" * 25)) == 3
    assert tokenize("") == []
    first = tokenize(chat_text([("system", "be brief"), ("user", "hello")]))
    second = tokenize(chat_text([("system", "be brief"), ("user", "hello"), ("assistant", "hi")]))
    assert second[: len(first) - 2] == first[:-2]


@pytest.mark.parametrize("bad", [[-1], [2**32], [1.5], ["a"], [None]])
def test_impossible_token_ids_are_refused(bad) -> None:
    with pytest.raises((OverflowError, TypeError)):
        token_bytes(bad)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.integers(1, 8), st.integers(0, 40))
def test_hashes_are_chained(ids, size, cut) -> None:
    whole = block_hashes(ids, size)
    assert len(whole) == len(ids) // size
    head = cut // size * size
    parent = whole[head // size - 1] if 0 < head <= len(whole) * size else None
    if head <= len(whole) * size:
        assert block_hashes(ids[head:], size, parent) == whole[head // size :]
    if ids:
        assert not set(block_hashes([ids[0] ^ 1, *ids[1:]], size)) & set(whole)


def test_eviction_takes_the_oldest_and_the_end_of_a_prompt_first() -> None:
    pool = BlockPool(4, 2, record=True)
    ids = [1, 2, 3, 4, 5, 6]
    hashes = block_hashes(ids, 2)
    holding = pool.admit([], 3)
    assert holding is not None
    pool.commit(holding, hashes, ids)
    assert pool.match(hashes) == 3
    pool.release(holding)
    assert (pool.available, pool.cached, pool.held) == (4, 3, 0)
    other = pool.admit([], 3)
    assert other is not None
    assert pool.match(hashes) == 1
    assert list(pool.drain_events()) == [Stored(hashes, None, ids), Removed([hashes[2], hashes[1]])]
    assert pool.admit([], 2) is None
    pool.clear()
    assert pool.match(hashes) == 0
    assert list(pool.drain_events()) == [Cleared()]


class PoolMachine(RuleBasedStateMachine):
    """Blocks are never lost nor made, whatever requests do."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(12, 2, record=True)
        self.holdings: list = []
        self.index: set[int] = set()

    @rule(start=st.integers(0, 2), length=st.integers(1, 6))
    def admit(self, start: int, length: int) -> None:
        ids = [start] * 2 + list(range(length * 2 - 2))
        hashes = block_hashes(ids, 2)
        hits = self.pool.match(hashes)
        before = self.pool.available
        holding = self.pool.admit(hashes[:hits], length)
        if holding is None:
            assert before < length
            return
        self.pool.commit(holding, hashes, ids)
        self.holdings.append(holding)

    @precondition(lambda self: self.holdings)
    @rule(more=st.integers(0, 4), data=st.data())
    def grow(self, more: int, data) -> None:
        holding = data.draw(st.sampled_from(self.holdings))
        before, size = self.pool.available, len(holding)
        assert self.pool.grow(holding, more) == (more <= before)
        assert len(holding) == size + (more if more <= before else 0)

    @precondition(lambda self: self.holdings)
    @rule(data=st.data())
    def release(self, data) -> None:
        holding = self.holdings.pop(data.draw(st.integers(0, len(self.holdings) - 1)))
        self.pool.release(holding)

    @invariant()
    def balanced(self) -> None:
        pool = self.pool
        assert pool.held + pool.available == pool.total
        assert 0 <= pool.held <= pool.total
        private = sum(h.private for h in self.holdings)
        referenced = {key for h in self.holdings for key in h.cached}
        assert pool.held == private + len(referenced)
        assert private + pool.cached <= pool.total
        # a subscriber that follows the events knows the cache exactly
        for event in pool.drain_events():
            if isinstance(event, Stored):
                self.index |= set(event.hashes)
            elif isinstance(event, Removed):
                self.index -= set(event.hashes)
        assert len(self.index) == pool.cached
        assert referenced <= self.index


TestPool = PoolMachine.TestCase
