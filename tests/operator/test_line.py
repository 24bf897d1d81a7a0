"""Nobody stands in front of everybody; whoever gives up loses no slot; a storm of changes leaves time for the rest."""

from __future__ import annotations

import asyncio
import time
from unittest.mock import Mock

import pytest
from warmfleet_operator import loop as loop_module
from warmfleet_operator.adapters.line import FairLine
from warmfleet_operator.loop import DecisionLoop, Wake
from warmfleet_runtime.clock import ScaledClock


async def test_one_write_of_another_namespace_waits_for_one_of_a_thousand() -> None:
    line, order = FairLine(1), []

    async def write(key: str) -> None:
        async with line.turn(key):
            order.append(key)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(write("hostile")) for _ in range(1000)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(write(key)) for key in ("b", "c", "b")]
    await asyncio.gather(*tasks)
    assert order.index("b") < 5
    assert order.index("c") < 5
    assert len(order) == 1003


async def test_slots_are_kept_when_waiters_give_up() -> None:
    line = FairLine(2)

    async def hold() -> None:
        async with line.turn("a"):
            await asyncio.sleep(0.01)

    for _ in range(5):
        tasks = [asyncio.create_task(hold()) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks[1:10]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert line._free == 2
    assert not line._waiting


async def test_at_most_two_are_in_at_once() -> None:
    line, inside, most = FairLine(2), 0, 0

    async def write(key: str) -> None:
        nonlocal inside, most
        async with line.turn(key):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(write(str(n % 3)) for n in range(30)))
    assert most == 2


async def test_changes_without_end_leave_half_of_the_time_to_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "_FREE", 0.1)  # of a second instead of ten
    wake = Wake()
    parts = {name: Mock() for name in ("store", "readings", "planner", "executor", "reporter", "checkpoints", "lost")}
    loop = DecisionLoop(
        **parts, leadership=Mock(), clock=ScaledClock(100.0), metrics=Mock(), wake=wake, tick_seconds=5.0
    )
    busy = 0.0

    async def slow() -> None:
        nonlocal busy
        begin = time.monotonic()
        time.sleep(0.05)  # noqa: ASYNC251 - a decision holds the loop
        busy += time.monotonic() - begin

    loop.tick = slow  # type: ignore[method-assign]
    begin = time.monotonic()
    running = asyncio.create_task(loop.run())
    while time.monotonic() - begin < 1.0:
        wake()
        await asyncio.sleep(0)
    elapsed = time.monotonic() - begin
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert 0 < busy <= 0.6 * elapsed + 0.1


async def test_who_is_in_a_hurry_goes_before_others_of_the_same_key_only() -> None:
    line, order = FairLine(1), list[str]()

    async def one(key: str, name: str, *, urgent: bool = False) -> None:
        async with line.turn(key, urgent=urgent):
            order.append(name)
            await asyncio.sleep(0)

    waiters = [("a", "a1", False), ("b", "b1", False), ("b", "b2", False), ("a", "a2", True), ("a", "a3", True)]
    async with line.turn("x"):
        tasks = [asyncio.create_task(one(key, name, urgent=urgent)) for key, name, urgent in waiters]
        await asyncio.sleep(0.01)
    await asyncio.gather(*tasks)
    assert order == ["a2", "b1", "a3", "b2", "a1"]
