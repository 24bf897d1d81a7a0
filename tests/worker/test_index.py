"""The block index against a plain model of what events mean, and its sketches against the exact answer."""

from __future__ import annotations

import random
from collections import defaultdict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warmfleet_contracts.sketch import SIZE, SPACE, decode, departure_tokens, sample, value_of
from warmfleet_worker.kv.chains import SWEEP_TICKS, HotChains
from warmfleet_worker.kv.events import AllBlocksCleared, Batch, BlockRemoved, BlockStored, raw_tokens
from warmfleet_worker.kv.index import HOT_TICKS, SAMPLED, TICK, BlockIndex

NOW = 1_000_000.0
SIZES = 16


def name(i: int) -> bytes:
    return random.Random(i).randbytes(32)


def stored(*blocks: int, parent: int | None = None, medium: str = "GPU") -> BlockStored:
    tokens = [b * SIZES + i for b in blocks for i in range(SIZES)] if medium == "GPU" else []
    size = SIZES if medium == "GPU" else 0
    above = None if parent is None else name(parent)
    return BlockStored([name(b) for b in blocks], size, medium, 0, above, raw_tokens(tokens))


def removed(*blocks: int, medium: str = "GPU") -> BlockRemoved:
    return BlockRemoved([name(b) for b in blocks], medium, 0)


def feed(*events: BlockStored | BlockRemoved | AllBlocksCleared, at: float = NOW, into: BlockIndex | None = None):
    index = BlockIndex() if into is None else into
    index.take(Batch(at, list(events)))
    return index


class Model:
    """What the index must know, the slow way: block i lies below block i // 2; 1 starts a prompt."""

    def __init__(self) -> None:
        self.where: dict[int, set[str]] = defaultdict(set)
        self.used: dict[int, float] = {}

    def take(self, event: BlockStored | BlockRemoved | AllBlocksCleared, ids: list[int], at: float) -> None:
        if isinstance(event, AllBlocksCleared):
            for media in self.where.values():
                media.discard("GPU")
        elif isinstance(event, BlockRemoved):
            for i in ids:
                self.where[i].discard(str(event.medium))
        elif event.medium == "GPU":
            for i in ids:
                self.where[i].add("GPU")
            above = ids[-1]
            while above:
                self.used[above] = at
                above //= 2
        else:
            for i in ids:
                if self.where[i]:
                    self.where[i].add(str(event.medium))

    def held(self) -> set[int]:
        return {i for i, media in self.where.items() if "GPU" in media}

    def here(self) -> set[int]:
        return {i for i, media in self.where.items() if media & {"GPU", "CPU"}}

    def hot(self, now: float) -> set[int]:
        first = now // TICK - HOT_TICKS
        fresh = {i for i, at in self.used.items() if at // TICK >= first}
        return {i for i in self.here() & fresh if "STORAGE" not in self.where[i]}


step = st.tuples(st.sampled_from("ssssrchSH"), st.integers(1, 31), st.sampled_from([0.0, 15.0, 500.0]))


@settings(deadline=None, max_examples=150)
@given(st.lists(step, max_size=60))
def test_the_index_says_what_the_events_say(steps: list[tuple[str, int, float]]) -> None:
    index, model, at = BlockIndex(), Model(), NOW
    for kind, block, wait in steps:
        at += wait
        path = [block >> n for n in range(block.bit_length() - 1, -1, -1)]
        ids = [block]
        event: BlockStored | BlockRemoved | AllBlocksCleared
        if kind == "s":
            # An engine computes what is missing at the end of a prompt, and holds what is above it.
            held = model.held()
            ids = path[next((n for n, b in enumerate(path) if b not in held), len(path) - 1) :]
            event = stored(*ids, parent=ids[0] // 2 or None)
        elif kind == "r":
            ids = [i for i in sorted(model.held(), reverse=True) if i >= block]  # the ends of prompts first
            event = removed(*ids)
        elif kind == "H":
            ids = [i for i in sorted(model.where, reverse=True) if "CPU" in model.where[i] and i >= block]
            event = removed(*ids, medium="CPU")
        elif kind in "hS":
            event = stored(block, medium="CPU" if kind == "h" else "STORAGE")
        else:
            event = AllBlocksCleared()
        index.take(Batch(at, [event]))
        model.take(event, ids, at)
        assert index.held_tokens == SIZES * len(model.held())
        assert index.hot_tokens(at) == SIZES * len(model.hot(at))
        assert index.hot_sketch(at).values == {value_of(name(i)) for i in model.hot(at)}
        missing = {i for i in model.held() if "STORAGE" not in model.where[i]}
        assert index.unstored() == {(name(i), 0): SIZES for i in missing}
    index.take(Batch(at, [removed(*range(1, 32), medium=m) for m in ("GPU", "CPU", "STORAGE")]))
    assert (len(index), index.held_tokens, index.hot_tokens(at)) == (0, 0, 0)


def test_a_prompt_stays_hot_as_long_as_it_is_continued() -> None:
    index = feed(stored(1, 2, 3), stored(7))
    later = NOW + HOT_TICKS * TICK
    feed(stored(4, parent=2), at=later, into=index)
    assert index.hot_tokens(later + TICK) == 3 * SIZES  # 1, 2, 4: neither the end 3 nor the other prompt
    assert index.used(name(1)) == index.used(name(4))


def test_it_says_how_old_the_blocks_are_that_are_evicted() -> None:
    index = feed(stored(1, 2), stored(3, 4), stored(5))
    assert index.evicted_after(NOW) is None
    feed(stored(1, 2, medium="CPU"), removed(1, 2), at=NOW + 5 * TICK, into=index)
    assert index.evicted_after(NOW + 5 * TICK) is None, "they are in host memory still"
    feed(removed(1, 2, medium="CPU"), at=NOW + 20 * TICK, into=index)
    assert index.evicted_after(NOW + 20 * TICK) == 20 * TICK
    feed(removed(3, 4), at=NOW + 40 * TICK, into=index)
    mean = index.evicted_after(NOW + 40 * TICK)
    assert mean is not None
    assert 20 * TICK < mean < 21 * TICK, "two blocks are few of a cache"
    later = NOW + (41 + HOT_TICKS) * TICK
    assert index.evicted_after(later) is None, "that was long ago"
    feed(removed(5), at=later, into=index)
    assert index.evicted_after(later) == (41 + HOT_TICKS) * TICK, "and counts no more"


def test_the_index_is_bounded_and_says_so() -> None:
    index = BlockIndex(limit=100)
    for i in range(80):
        feed(stored(i), stored(i, medium="STORAGE"), removed(i), into=index)
    assert len(index) == 80  # known to be in the store, and held no more
    feed(stored(*range(100, 150)), into=index)
    assert (index.complete, len(index), index.held_tokens) == (True, 50, 50 * SIZES)
    feed(stored(*range(200, 300)), into=index)
    assert (index.complete, len(index)) == (False, 100)
    index.restart()
    assert (index.complete, len(index)) == (True, 0)


def test_a_large_index_is_sampled_within_a_bound() -> None:
    index = feed(stored(*range(4 * SAMPLED)))
    sketch = index.hot_sketch(NOW)
    assert len(sketch.values) == SIZE
    assert sketch.below < SPACE
    every = {value_of(name(i)) for i in range(4 * SAMPLED)}
    assert sketch.values == {v for v in every if v < sketch.below}


# -- sketches ----------------------------------------------------------------------------------------------------------


def test_a_sketch_crosses_the_wire_and_nonsense_does_not() -> None:
    for count in (0, 5, 5000):
        sketch = sample(value_of(name(i)) for i in range(count))
        again = decode(sketch.encode())
        assert (again.values, again.below) == (sketch.values, sketch.below)
    for text in ("", "%", "AAAA", sample(range(5), 3).encode()[:-12] + "f" * 12):
        with pytest.raises(ValueError, match="sketch"):
            decode(text)


def test_unique_tokens_are_estimated_within_the_bound() -> None:
    """Ten workers, 20,000 blocks each, a part of them common to several: four standard errors at most."""
    rng = random.Random(4)
    shared = [rng.getrandbits(64) for _ in range(40_000)]
    sets = {}
    for w in range(10):
        common = int(20_000 * w / 10)
        sets[f"w{w}"] = set(rng.sample(shared, common)) | {rng.getrandbits(64) for _ in range(20_000 - common)}
    for name_, mine in sets.items():
        others = set[int]().union(*(s for n, s in sets.items() if n != name_))
        staying = [n for n in sets if n != name_]
        held = {n: (SIZES * len(s), sample(s)) for n, s in sets.items()}
        sampled = sum(v < min(sk.below for _, sk in held.values()) for v in held[name_][1].values)
        estimate = departure_tokens(held, staying)[name_]
        bound = 4 * SIZES * len(mine) / (2 * sampled**0.5)
        assert abs(estimate - SIZES * len(mine - others)) <= bound
        assert bound < 0.12 * SIZES * len(mine)


def test_of_two_that_hold_the_same_only_the_first_leaves_for_nothing() -> None:
    same, other = sample(range(100)), sample(range(200, 300))
    costs = departure_tokens({"a": (1600, same), "b": (1600, same), "c": (1500, other)})
    assert costs == {"a": 0, "c": 1500, "b": 1600}
    assert list(costs) == ["a", "c", "b"]
    assert departure_tokens({"a": (1600, same), "b": (1600, same)}, staying=["b"]) == {"a": 0}


# -- chains ------------------------------------------------------------------------------------------------------------


def chains_of(*batches: tuple[float, BlockStored | BlockRemoved], budget: int = 10**6):
    index = BlockIndex()
    chains = HotChains(index, budget)
    for at, event in batches:
        index.take(Batch(at, [event]))
        chains.take(Batch(at, [event]))
    return chains


def test_chains_begin_at_the_start_of_a_prompt_and_tell_what_is_fresh() -> None:
    chains = chains_of(
        (NOW, stored(1, 2)),
        (NOW + 20, stored(3, parent=2)),
        (NOW + 40, stored(4, 5, parent=2)),
        (NOW + 60, stored(9, parent=8)),  # its beginning is not known
    )
    found = chains.hottest(NOW + 60)
    assert [(c.tokens[::SIZES], c.fresh) for c in found] == [
        ([16, 32, 64, 80], 4 * SIZES),
        ([16, 32, 48], SIZES),
    ]
    assert chains.hottest(NOW + 60 + (HOT_TICKS + 1) * TICK) == []


def test_chains_whose_blocks_are_gone_are_left_out_and_memory_is_bounded() -> None:
    chains = chains_of((NOW, stored(1, 2, 3)), (NOW, removed(3)), (NOW, stored(7)), (NOW, removed(7)))
    assert [c.tokens[::SIZES] for c in chains.hottest(NOW)] == [[16, 32]]
    many = chains_of(*((NOW + 20 * i, stored(i)) for i in range(1, 100)), budget=20 * SIZES)
    assert many.count <= 20 * SIZES
    assert [c.tokens[0] for c in many.hottest(NOW + 2000)][:3] == [99 * SIZES, 98 * SIZES, 97 * SIZES]


def test_tokens_of_what_is_no_longer_hot_or_here_are_forgotten() -> None:
    """They are their users' text: it is kept no longer than it is of use."""
    later = NOW + (HOT_TICKS // 2) * TICK
    chains = chains_of((NOW, stored(1, 2)), (later, stored(7)), (later, stored(8, 9)), (later, removed(7)))
    chains.cool(later + TICK)
    assert chains.count == 5 * SIZES, "not looked for more often than once a minute"
    chains.cool(later + SWEEP_TICKS * TICK)
    assert chains.count == 4 * SIZES, "7 is gone"
    cold = NOW + (HOT_TICKS + 1) * TICK
    chains.take(Batch(cold, []))
    assert chains.count == 2 * SIZES, "1 and 2 are cold"
    assert [c.tokens[::SIZES] for c in chains.hottest(cold)] == [[8 * SIZES, 9 * SIZES]]
    chains.cool(later + (HOT_TICKS + 1) * TICK)
    assert chains.count == 0


def test_a_prompt_that_goes_on_outlives_younger_ones_and_is_forgotten_from_its_end() -> None:
    talk = [(NOW + 20 * i, stored(100 + i, parent=99 + i) if i else stored(100)) for i in range(8)]
    others = [(NOW + 20 * i, stored(*(1000 * i + k for k in range(5)))) for i in range(1, 30)]
    batches = sorted([*talk, *others], key=lambda b: b[0])
    chains = chains_of(*batches[: 8 + 7], budget=20 * SIZES)
    assert max(len(c.tokens) for c in chains.hottest(NOW + 140)) == 8 * SIZES, "used until now: whole"
    lengths = []
    for count in range(8 + 7, len(batches)):
        found = chains_of(*batches[:count], budget=20 * SIZES).hottest(batches[count - 1][0])
        lengths.append(max((len(c.tokens) // SIZES for c in found if c.tokens[0] == 100 * SIZES), default=0))
    assert lengths[-1] == 0, "not used any more: gone"
    assert lengths == sorted(lengths, reverse=True), "never a piece without its beginning"


def test_a_burst_beyond_the_budget_is_bounded_and_goes_on() -> None:
    burst = [(NOW, stored(*range(10 * i + 1, 10 * i + 11))) for i in range(50)]
    chains = chains_of(*burst, (NOW + 20, stored(1001, 1002)), budget=20 * SIZES)
    assert 0 < chains.count <= 20 * SIZES
    assert chains.hottest(NOW + 20)[0].tokens[0] == 1001 * SIZES


def test_what_takes_more_room_than_token_ids_is_not_kept() -> None:
    """Ids are kept unread, so a list of something else must not get past the budget."""
    whole = stored(1)
    for odd in (["x" * 100_000] * SIZES, list(range(200_000))):
        whole.token_ids = msgspec.Raw(msgspec.msgpack.encode(odd))
        assert chains_of((NOW, whole)).count == 0
