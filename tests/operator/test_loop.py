"""What a decision is made from: everything that was watched, and what was measured."""

from __future__ import annotations

from typing import Any

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
