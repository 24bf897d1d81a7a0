"""The drain machine: its laws for any sequence of events, and its stories."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from warmfleet_contracts.agent import Phase, Strategy
from warmfleet_worker.drain import DrainMachine, Engine, step
from warmfleet_worker.drain_events import (
    DrainCancelled,
    DrainRequested,
    EngineExited,
    EngineLost,
    EngineReady,
    HandoverFailed,
    HandoverFinished,
    HandoverProgress,
    LoadObserved,
    Release,
    Report,
    SetReady,
    StartHandover,
    StopHandover,
    Terminating,
    Tick,
)

_COUNT = st.one_of(st.none(), st.integers(0, 3))
_STRATEGIES = st.lists(st.sampled_from(list(Strategy)), min_size=1, max_size=3).map(tuple)
_EVENTS = st.one_of(
    st.just(EngineReady()),
    st.just(EngineLost()),
    st.just(EngineExited()),
    st.builds(DrainRequested, st.just("LowestKvValue"), st.floats(0, 60), _STRATEGIES),
    st.just(DrainCancelled()),
    st.builds(Terminating, st.floats(0, 60), _STRATEGIES),
    st.builds(LoadObserved, _COUNT, _COUNT),
    st.just(LoadObserved(0, 0)),
    st.just(Tick()),
    st.builds(HandoverProgress, st.integers(0, 100), st.integers(0, 100)),
    st.builds(HandoverFinished, st.integers(0, 100), st.integers(0, 100), st.integers(0, 100)),
    st.builds(HandoverFailed, st.just("broken")),
)
_STORIES = st.lists(st.tuples(st.floats(0, 5), _EVENTS), max_size=40)


def run(*events, state: DrainMachine | None = None, now: float = 0.0):
    state, told = state or DrainMachine(), []
    for event in events:
        state, instructions = step(state, event, now)
        told.extend(instructions)
    return state, told


def serving() -> DrainMachine:
    return run(EngineReady())[0]


_LOST_WHILE_IDLE = [  # what was seen before the engine was lost must not count afterwards
    (0.0, DrainRequested("LowestKvValue", 3.0, (Strategy.STORE,))),
    (2.0, EngineReady()),
    (0.0, LoadObserved(0, 0)),
    (0.0, LoadObserved(0, 0)),
    (0.0, EngineLost()),
    (0.0, HandoverFailed("broken")),
]


@settings(max_examples=300, deadline=None)
@given(_STORIES)
@example(_LOST_WHILE_IDLE)
def test_laws(story) -> None:
    state, now, ready, handing = DrainMachine(), 0.0, False, False
    for delta, given_event in story:
        now += delta
        event = given_event
        if isinstance(event, DrainRequested | Terminating):
            event = replace(event, deadline=now + event.deadline)
        before = state
        state, instructions = step(state, event, now)
        for told in instructions:
            if isinstance(told, SetReady):
                ready = told.ready
            elif isinstance(told, StartHandover):
                handing = True
            elif isinstance(told, StopHandover):
                handing = False
        if state.phase is not Phase.HANDING_OVER:
            handing = handing and isinstance(event, HandoverFailed | HandoverFinished)
        # readiness is what the instructions say, and only Serving is ready
        assert ready == state.ready == (state.phase is Phase.SERVING)
        assert state.phase is not Phase.SERVING or state.engine is Engine.READY
        assert (state.phase is Phase.HANDING_OVER) <= handing
        check_drain(before, state, event, now, instructions)


def check_drain(before: DrainMachine, state: DrainMachine, event, now: float, instructions) -> None:
    drain = state.drain
    assert (state.phase in {Phase.STARTING, Phase.SERVING}) == (drain is None)
    if drain is None:
        return
    if before.drain is not None:
        assert drain.deadline <= before.drain.deadline
    if now >= drain.deadline:
        assert state.phase is Phase.DRAINED
    if state.phase is not Phase.DRAINED:
        assert drain.report is None
        assert (wake := state.wake_at()) is not None
        assert wake <= drain.deadline
        return
    assert drain.report is not None
    if before.phase is Phase.DRAINED:
        return
    assert [i for i in instructions if isinstance(i, Report)]
    if now < drain.deadline and state.engine is not Engine.GONE:
        assert state.load == 0
        assert drain.report.aborted_requests == 0
        assert now >= drain.started_at + state.propagation_seconds
    if drain.final:
        assert isinstance(instructions[-1], Release)


@given(_STORIES)
def test_cancel_returns_unless_final_or_drained(story) -> None:
    state, now = serving(), 0.0
    for delta, event in story:
        now += delta
        state, _ = step(state, event, now)
    after, _ = step(state, DrainCancelled(), now)
    if state.cancellable:
        assert after.drain is None
        assert after.phase is (Phase.SERVING if state.engine is Engine.READY else Phase.STARTING)
    else:
        assert after.phase is state.phase


def test_a_quiet_drain_waits_for_propagation_and_two_idle_looks() -> None:
    state, told = run(DrainRequested("LowestKvValue", 60.0), state=serving())
    assert told == [SetReady(False)]
    state, _ = run(LoadObserved(0, 0), LoadObserved(0, 0), LoadObserved(0, 0), state=state, now=1.9)
    assert state.phase is Phase.UNROUTING
    state, _ = run(Tick(), state=state, now=2.0)
    assert state.phase is Phase.SETTLING
    state, _ = run(LoadObserved(0, 0), LoadObserved(1, 0), LoadObserved(0, 0), state=state, now=3.0)
    assert state.phase is Phase.SETTLING
    state, told = run(LoadObserved(0, 0), state=state, now=4.0)
    assert state.phase is Phase.DRAINED
    (report,) = told
    assert report.report.seconds == 4.0
    assert not report.report.partial
    assert report.report.message == "the content of the cache is unknown"


def test_unknown_load_is_not_idle_and_the_deadline_tells() -> None:
    state, _ = run(DrainRequested("x", 10.0), state=serving())
    state, _ = run(Tick(), LoadObserved(4, 1), LoadObserved(None, 0), LoadObserved(0, None), state=state, now=5.0)
    assert state.phase is Phase.SETTLING
    state, told = run(Tick(), state=state, now=10.0)
    (report,) = told
    assert report.report.partial
    assert report.report.aborted_requests == 5
    assert "5 requests" in report.report.message


def test_known_cache_content_is_reported_as_dropped() -> None:
    state, _ = run(DrainRequested("x", 60.0), state=serving())
    idle = LoadObserved(0, 0, held_tokens=640)
    state, told = run(Tick(), idle, idle, state=state, now=5.0)
    assert told[0].report.dropped_tokens == 640
    assert told[0].report.message == ""


def test_hand_over_falls_back_and_keeps_its_figures() -> None:
    state, _ = run(DrainRequested("x", 60.0, (Strategy.STORE, Strategy.REPLAY)), state=serving())
    state, told = run(Tick(), LoadObserved(0, 0), LoadObserved(0, 0), state=state, now=10.0)
    assert told == [StartHandover(Strategy.STORE, 50.0)]
    state, told = run(HandoverFailed("disk full"), state=state, now=20.0)
    assert told == [StartHandover(Strategy.REPLAY, 40.0)]
    state, told = run(HandoverFinished(80, 60, 20), state=state, now=30.0)
    (report,) = told
    assert (report.report.strategy, report.report.kept_tokens, report.report.moved_tokens) == (Strategy.REPLAY, 80, 60)
    assert report.report.partial
    assert "store: disk full" in report.report.message


def test_the_report_says_why_a_strategy_was_chosen() -> None:
    wanted = DrainRequested("x", 60.0, (Strategy.STORE, Strategy.REPLAY), "auto: store (break-even 1.57 GB/s)")
    state, _ = run(wanted, state=serving())
    idle = LoadObserved(0, 0)
    state, _ = run(Tick(), idle, idle, HandoverFailed("gone"), idle, state=state, now=3.0)
    state, _ = run(HandoverFinished(1, 1, 0), idle, idle, state=state, now=4.0)
    assert state.drain is not None
    assert state.drain.report is not None
    assert state.drain.report.message == "auto: store (break-even 1.57 GB/s); store: gone"


def test_hand_over_is_stopped_at_the_deadline_and_on_cancel() -> None:
    state, _ = run(DrainRequested("x", 60.0, (Strategy.STORE,)), state=serving())
    state, _ = run(Tick(), LoadObserved(0, 0, 100), LoadObserved(0, 0), HandoverProgress(30), state=state, now=10.0)
    _, told = run(DrainCancelled(), state=state, now=11.0)
    assert told == [SetReady(True), StopHandover()]
    _, told = run(Tick(), state=state, now=60.0)
    assert told[0] == StopHandover()
    assert (told[1].report.moved_tokens, told[1].report.dropped_tokens) == (30, 70)
    assert told[1].report.partial


def test_migrate_begins_while_requests_run_and_ends_after_them() -> None:
    state, told = run(DrainRequested("x", 60.0, (Strategy.MIGRATE, Strategy.STORE)), state=serving())
    assert told == [SetReady(False)]
    state, told = run(Tick(), LoadObserved(2, 0, 100), HandoverProgress(40, 50), state=state, now=10.0)
    assert told == [StartHandover(Strategy.MIGRATE, 50.0, ahead=True)]
    state, told = run(HandoverFinished(50, 40, 50), HandoverFailed("early"), state=state, now=11.0)
    assert (state.phase, told) == (Phase.SETTLING, []), "it does not end before users' requests do"
    settled, told = run(LoadObserved(0, 0), LoadObserved(0, 0), state=state, now=20.0)
    assert told == [StartHandover(Strategy.MIGRATE, 40.0)]
    after, told = run(HandoverFinished(90, 80, 10), state=settled, now=30.0)
    (report,) = told
    assert (report.report.strategy, report.report.moved_tokens, report.report.partial) == (Strategy.MIGRATE, 80, False)
    assert after.phase is Phase.DRAINED
    _, told = run(EngineExited(), state=settled, now=21.0)
    assert told[0] == StopHandover()
    assert (told[1].report.kept_tokens, told[1].report.moved_tokens) == (50, 40), "what was handed over ahead counts"
    _, told = run(HandoverFailed("nobody took a prompt"), state=settled, now=22.0)
    assert told == [StartHandover(Strategy.STORE, 38.0)]


def test_a_users_request_is_not_taken_for_one_of_the_hand_over() -> None:
    state, _ = run(DrainRequested("x", 60.0, (Strategy.MIGRATE,)), state=serving())
    lent = LoadObserved(1, 0, own=2)  # seen before the two had begun, or after they had ended: the one is a user's
    state, _ = run(Tick(), lent, lent, lent, state=state, now=10.0)
    assert (state.phase, state.load) == (Phase.SETTLING, 0)
    state, _ = run(LoadObserved(0, 0), LoadObserved(0, 0), lent, HandoverFinished(1, 1, 0), state=state, now=11.0)
    assert state.phase is Phase.SETTLING, "it may still run when the hand-over has ended"
    state, _ = run(LoadObserved(0, 0), LoadObserved(0, 0), state=state, now=12.0)
    assert state.phase is Phase.DRAINED


def test_what_was_handed_over_ahead_is_reported_when_requests_outlive_the_deadline() -> None:
    state, _ = run(DrainRequested("x", 60.0, (Strategy.MIGRATE,)), state=serving())
    state, _ = run(Tick(), LoadObserved(2, 0, 100), HandoverProgress(40, 50), state=state, now=10.0)
    _, told = run(DrainCancelled(), state=state, now=11.0)
    assert told == [SetReady(True), StopHandover()]
    _, told = run(Tick(), state=state, now=60.0)
    assert told[0] == StopHandover()
    report = told[1].report
    assert (report.strategy, report.kept_tokens, report.moved_tokens) == (Strategy.MIGRATE, 50, 40)
    assert (report.dropped_tokens, report.aborted_requests, report.partial) == (50, 2, True)
    assert "the hand-over by migrate was cut short" in report.message


def test_requests_during_a_hand_over_are_served_before_it_ends() -> None:
    state, _ = run(DrainRequested("x", 60.0, (Strategy.STORE,)), state=serving())
    state, _ = run(Tick(), LoadObserved(0, 0), LoadObserved(0, 0), LoadObserved(2, 0), state=state, now=10.0)
    state, _ = run(HandoverFinished(1, 1, 0), state=state, now=12.0)
    assert state.phase is Phase.SETTLING
    state, _ = run(LoadObserved(0, 0), LoadObserved(0, 0), state=state, now=13.0)
    assert state.phase is Phase.DRAINED


def test_terminating_is_final_and_releases_once() -> None:
    state, told = run(Terminating(30.0), state=serving())
    assert told == [SetReady(False)]
    assert not state.cancellable
    state, told = run(Tick(), LoadObserved(0, 0), LoadObserved(0, 0), state=state, now=5.0)
    assert [type(i) for i in told] == [Report, Release]
    _, told = run(Tick(), Terminating(1.0), LoadObserved(0, 0), state=state, now=40.0)
    assert told == []


def test_terminating_after_a_requested_drain_releases_at_once() -> None:
    state, _ = run(DrainRequested("x", 0.0), state=serving())
    state, told = run(Terminating(30.0), state=state)
    assert told == [Release()]


def test_a_restarted_engine_serves_again_unless_the_operator_wants_it_gone() -> None:
    back = (EngineExited(), EngineLost(), EngineReady())
    state, told = run(Terminating(0.0), *back, state=serving())
    assert state.phase is Phase.SERVING
    assert told[-1] == SetReady(True)
    state, _ = run(DrainRequested("x", 0.0), Terminating(0.0), *back, state=serving())
    assert state.phase is Phase.DRAINED
    state, _ = run(Terminating(0.0), EngineLost(), EngineReady(), state=serving())
    assert state.phase is Phase.DRAINED


@pytest.mark.parametrize("events", [(EngineExited(),), (EngineLost(), EngineExited())])
def test_an_engine_that_never_came_up_is_drained_at_once(events) -> None:
    state, told = run(*events, DrainRequested("Pending", 60.0))
    assert state.phase is Phase.DRAINED
    assert told[0].report.message == "the engine was not up"
    assert not told[0].report.partial


def test_an_agent_that_just_started_does_not_take_the_engine_for_absent() -> None:
    state, _ = run(DrainRequested("x", 60.0))
    assert state.phase is Phase.UNROUTING
    state, _ = run(EngineLost(), state=state, now=30.0)
    assert state.phase is Phase.SETTLING


def test_an_engine_that_dies_while_draining_ends_it_with_what_it_ran() -> None:
    state, _ = run(LoadObserved(3, 0), DrainRequested("x", 60.0), state=serving())
    state, told = run(EngineExited(), state=state, now=1.0)
    assert told[0].report.aborted_requests == 3
    assert told[0].report.partial


def test_a_pod_that_is_deleted_without_the_operator_hands_over_too() -> None:
    state, _ = run(Terminating(60.0, (Strategy.STORE,)), state=serving())
    state, _ = run(Tick(), LoadObserved(0, 0, 100), state=state, now=10.0)
    state, told = run(LoadObserved(0, 0), state=state, now=11.0)
    assert [i for i in told if isinstance(i, StartHandover)] == [StartHandover(Strategy.STORE, 49.0)]
    assert not any(isinstance(i, Release) for i in told)
    state, told = run(HandoverProgress(10, 70), EngineExited(), state=state, now=12.0)
    report = next(i.report for i in told if isinstance(i, Report))
    assert (report.kept_tokens, report.moved_tokens, report.dropped_tokens, report.partial) == (70, 10, 30, True)
    assert any(isinstance(i, Release) for i in told)
