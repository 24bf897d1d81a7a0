"""Who hangs delays only his own namespace, and a round does not wait for him."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

import pytest
from warmfleet_operator.adapters.turns import CONCURRENCY, Turn, Turns


class Sources:
    """Sources that answer at once, or hang until released."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.answers: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.at_once, self.most = 0, 0

    async def exchange(self, name: str) -> None:
        self.asked[name] += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        if name.startswith("bad"):
            await self.release.wait()
        self.at_once -= 1
        self.answers[name] += 1

    def turn(self, namespace: str, name: str) -> Turn:
        return Turn(f"uid-{name}", namespace, partial(self.exchange, name))


async def test_thousands_that_hang_keep_nobody_else_from_being_asked_in_every_round() -> None:
    sources, turns = Sources(), Turns(patience=0.05)
    due = [sources.turn("a-hostile", f"bad-{n}") for n in range(1000)] + [
        sources.turn("b", f"good-{n}") for n in range(9)
    ]
    for _ in range(3):
        await turns.take(due)
    assert all(sources.answers[f"good-{n}"] == 3 for n in range(9))
    assert sources.most <= CONCURRENCY
    assert sources.asked["bad-0"] == 1, "one exchange at a time"
    assert sources.asked.total() <= CONCURRENCY + 27
    sources.release.set()
    await turns.take([])
    await turns.close()


async def test_a_round_waits_for_those_who_answer() -> None:
    sources, turns = Sources(), Turns(patience=30.0)
    await turns.take([sources.turn("a", f"good-{n}") for n in range(500)])
    assert sources.answers.total() == 500
    assert sources.most == CONCURRENCY


async def test_an_error_of_ones_own_is_not_swallowed() -> None:
    async def broken() -> None:
        raise RuntimeError("a mistake in the program")

    turns = Turns(patience=5.0)
    with pytest.raises(RuntimeError, match="mistake"):
        await turns.take([Turn("u", "a", broken)])
