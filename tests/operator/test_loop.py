"""What a decision is made from: everything that was watched, and what was measured."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

from warmfleet_operator.loop import DecisionLoop
from warmfleet_operator.state.readings import Readings
from warmfleet_operator.state.records import Key
from warmfleet_operator.state.snapshot import FleetStore, Kind
from warmfleet_runtime.clock import ManualClock


class Unused:
    """A part of the loop that looking does not need."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not for looking")


def test_a_decision_sees_all_that_was_watched() -> None:
    clock = ManualClock()
    store, unused = FleetStore(clock), Unused()
    meta = {"namespace": "default", "name": "chat", "uid": "u1", "resourceVersion": "1"}
    store.observe(Kind.FORECAST, {"metadata": meta, "spec": {"target": {"name": "chat"}}, "status": {}})
    store.observe(Kind.PRIORITY_CLASS, {"metadata": {"name": "high", "uid": "u2"}, "value": 7})
    parts: dict[str, Any] = dict.fromkeys(
        ("planner", "executor", "reporter", "checkpoints", "leadership", "metrics", "wake", "lost"), unused
    )
    loop = DecisionLoop(store=store, readings=Readings(60.0, 300.0, 60.0), clock=clock, tick_seconds=5.0, **parts)
    seen, watched = loop.snapshot(), store.snapshot()
    assert [f.target for f in seen.forecasts[Key("default", "chat")]] == ["chat"]
    assert seen.priorities == watched.priorities != {}


async def test_while_it_is_decided_answers_are_read() -> None:
    def planner(snapshot: Any, memory: Any, now: float) -> tuple[Mock, Mock]:
        time.sleep(0.5)
        return Mock(), Mock()

    clock = ManualClock()
    parts: dict[str, Any] = {name: Mock() for name in ("executor", "leadership", "wake", "lost")}
    loop = DecisionLoop(
        store=FleetStore(clock),
        readings=Readings(60.0, 300.0, 60.0),
        planner=planner,
        reporter=AsyncMock(),
        checkpoints=AsyncMock(),
        clock=clock,
        metrics=MagicMock(),
        tick_seconds=5.0,
        **parts,
    )
    waits = 0

    async def answers() -> None:
        nonlocal waits
        while True:
            await asyncio.sleep(0.01)
            waits += 1

    reading = asyncio.create_task(answers())
    await loop.tick()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    parts["executor"].submit.assert_called_once()
    assert waits >= 5
