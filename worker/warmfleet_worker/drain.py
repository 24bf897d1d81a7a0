"""How a worker leaves without being missed: a state machine without I/O. Events in, instructions out.

::

    Starting <-> Serving -> Unrouting -> Settling <-> HandingOver -> Drained
                    ^___________|____________|____________|            cancel, unless the pod is terminating

* Readiness is true in Serving only.
* Unrouting lasts a propagation time: until then routers may still send requests.
* Settling ends when two observations in a row show nothing running and nothing waiting, the hand-over's own requests
  included. What is not known is not zero. Requests that arrive late are served. Meanwhile the first strategy may hand
  over what is not in use, ahead of HandingOver; how it ended counts from there on.
* At the deadline, the earliest of all that were given, it is Drained whatever still runs, and the report says so.
* A drain is final once the pod terminates (the engine's preStop hook). The kubelet runs that hook also before it
  restarts an engine whose liveness probe failed; the pod then stays, and the worker serves again when the engine is
  back, unless the operator has asked for the drain too.

Times are logical seconds of one clock; the caller passes ``now`` and sends :class:`Tick` often enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from warmfleet_contracts.agent import DrainReport, Phase, Strategy

from warmfleet_worker.drain_events import (
    DrainCancelled,
    DrainRequested,
    EngineExited,
    EngineLost,
    EngineReady,
    Event,
    HandoverFailed,
    HandoverFinished,
    HandoverProgress,
    Instruction,
    LoadObserved,
    Release,
    Report,
    SetReady,
    StartHandover,
    StopHandover,
    Terminating,
    Tick,
)

SETTLED_OBSERVATIONS = 2
"""Idle observations in a row that end Settling."""
AHEAD = frozenset({Strategy.MIGRATE})
"""Strategies that may begin while requests still run."""
PRESTOP_REASON = "Terminating"
"""Reason of a drain that only the preStop hook asked for."""


class Engine(StrEnum):
    """What is known of the engine."""

    UNSEEN = "unseen"
    """It has not answered yet and may be serving: the agent has just started."""
    READY = "ready"
    """It answers."""
    LOST = "lost"
    """It does not answer as it should."""
    GONE = "gone"
    """Nothing listens: it has exited or has not come up."""


@dataclass(frozen=True, slots=True)
class Drain:
    """A drain in progress or done.

    Attributes:
        reason: Why it was asked for first.
        started_at: When it was asked for first.
        deadline: The earliest of all deadlines given.
        strategies: Strategies not tried yet.
        choice: Why in this order; empty when somebody gave it.
        final: The pod terminates: no way back.
        requested: The operator asked for it, not only the preStop hook.
        idle_observations: Idle observations in a row.
        strategy: Strategy in use, or used last.
        moved_tokens: Last progress of the hand-over.
        kept_tokens: The same: tokens known to stay in the fleet.
        outcome: How the hand-over ended; None before.
        trouble: What went wrong so far.
        engine_exited: The engine went away during or after the drain.
        report: Set when Drained.
    """

    reason: str
    started_at: float
    deadline: float
    strategies: tuple[Strategy, ...]
    choice: str = ""
    final: bool = False
    requested: bool = True
    idle_observations: int = 0
    strategy: Strategy = Strategy.NONE
    moved_tokens: int = 0
    kept_tokens: int = 0
    outcome: HandoverFinished | None = None
    trouble: tuple[str, ...] = ()
    engine_exited: bool = False
    report: DrainReport | None = None


@dataclass(frozen=True, slots=True)
class DrainMachine:
    """The state of a worker.

    Attributes:
        propagation_seconds: Logical seconds from readiness taken away to no router sending requests.
        phase: Where it is.
        engine: What is known of the engine.
        load: The last observation of the load; None before the first, and while unknown.
        busy: Requests at the last observation that was known.
        held_tokens: Tokens in the prefix cache; None while unknown.
        drain: The drain; None without.
    """

    propagation_seconds: float = 2.0
    phase: Phase = Phase.STARTING
    engine: Engine = Engine.UNSEEN
    load: int | None = None
    busy: int | None = None
    held_tokens: int | None = None
    drain: Drain | None = None

    @property
    def ready(self) -> bool:
        """Whether the pod takes new requests."""
        return self.phase is Phase.SERVING

    @property
    def cancellable(self) -> bool:
        """Whether there is a drain that can be cancelled."""
        return self.drain is not None and not self.drain.final and self.phase is not Phase.DRAINED

    def wake_at(self) -> float | None:
        """When a :class:`Tick` would change the state; None if only another event can."""
        if self.drain is None or self.phase is Phase.DRAINED:
            return None
        if self.phase is Phase.UNROUTING:
            return min(self.drain.deadline, self.drain.started_at + self.propagation_seconds)
        return self.drain.deadline


def step(state: DrainMachine, event: Event, now: float) -> tuple[DrainMachine, tuple[Instruction, ...]]:
    """Take in one event.

    Args:
        state: Before.
        event: What happened.
        now: When, logical seconds.

    Returns:
        The state after, and what is to be done, in order.
    """
    after = _progress(_apply(state, event, now), now)
    return after, _instructions(state, after, now)


def _apply(state: DrainMachine, event: Event, now: float) -> DrainMachine:
    """The direct effect of an event."""
    match event:
        case EngineReady() | EngineLost() | EngineExited():
            return _engine(state, event)
        case DrainRequested() | Terminating():
            return _ask(state, event, now)
        case DrainCancelled():
            return _serve(replace(state, drain=None)) if state.cancellable else state
        case LoadObserved():
            return _observe(state, event)
        case HandoverProgress() | HandoverFinished() | HandoverFailed():
            return _handover(state, event)
        case Tick():
            return state


def _engine(state: DrainMachine, event: EngineReady | EngineLost | EngineExited) -> DrainMachine:
    if isinstance(event, EngineReady):
        state = replace(state, engine=Engine.READY)
        drain = state.drain
        restarted = drain is not None and drain.engine_exited and not drain.requested
        return _serve(replace(state, drain=None)) if restarted or state.phase is Phase.STARTING else state
    gone = isinstance(event, EngineExited)
    state = replace(state, engine=Engine.GONE if gone else Engine.LOST, load=None)
    if (drain := state.drain) is not None:  # what was seen of its load before says nothing any more
        drain = replace(drain, idle_observations=0, engine_exited=drain.engine_exited or gone)
        state = replace(state, drain=drain)
    return replace(state, phase=Phase.STARTING) if state.phase is Phase.SERVING else state


def _serve(state: DrainMachine) -> DrainMachine:
    return replace(state, phase=Phase.SERVING if state.engine is Engine.READY else Phase.STARTING)


def _ask(state: DrainMachine, event: DrainRequested | Terminating, now: float) -> DrainMachine:
    final = isinstance(event, Terminating)
    if state.drain is None:
        reason = PRESTOP_REASON if isinstance(event, Terminating) else event.reason
        drain = Drain(reason, now, event.deadline, event.strategies, event.choice, final=final, requested=not final)
        return replace(state, drain=drain, phase=Phase.UNROUTING)
    old = state.drain
    drain = replace(
        old,
        deadline=min(old.deadline, event.deadline),
        final=old.final or final,
        requested=old.requested or not final,
    )
    return replace(state, drain=drain)


def _observe(state: DrainMachine, event: LoadObserved) -> DrainMachine:
    unknown = event.running is None or event.waiting is None
    load = None if unknown else max(0, (event.running or 0) - event.own) + (event.waiting or 0)
    idle = load == 0 and event.running == 0  # with some of its own, a user's may be among them
    held = state.held_tokens if event.held_tokens is None else event.held_tokens
    state = replace(state, load=load, busy=state.busy if load is None else load, held_tokens=held)
    drain = state.drain
    if drain is None or state.phase not in {Phase.SETTLING, Phase.HANDING_OVER}:
        return state
    return replace(state, drain=replace(drain, idle_observations=drain.idle_observations + 1 if idle else 0))


def _handover(state: DrainMachine, event: HandoverProgress | HandoverFinished | HandoverFailed) -> DrainMachine:
    drain = state.drain
    if drain is None or (state.phase is not Phase.HANDING_OVER and not _ahead(state)):
        return state  # a late word of a hand-over that was stopped
    match event:
        case HandoverProgress():
            return replace(state, drain=replace(drain, moved_tokens=event.moved_tokens, kept_tokens=event.kept_tokens))
        case HandoverFinished() | HandoverFailed() if _ahead(state):
            return state  # nothing has ended while users' requests still add to the cache
        case HandoverFinished():
            drain = replace(drain, outcome=event, moved_tokens=event.moved_tokens)
        case HandoverFailed():
            drain = replace(drain, trouble=(*drain.trouble, f"{drain.strategy}: {event.message}"))
    return replace(state, phase=Phase.SETTLING, drain=drain)


def _progress(state: DrainMachine, now: float) -> DrainMachine:
    """What follows from the state itself: time that is up, load that is gone."""
    drain = state.drain
    if drain is None or state.phase is Phase.DRAINED:
        return state
    if state.engine is Engine.GONE:
        return _drained(state, drain, now)
    if now >= drain.deadline:
        return _drained(state, drain, now)
    if state.phase is Phase.UNROUTING and now >= drain.started_at + state.propagation_seconds:
        return replace(state, phase=Phase.SETTLING, drain=replace(drain, idle_observations=0))
    if state.phase is Phase.SETTLING and drain.idle_observations >= SETTLED_OBSERVATIONS:
        return _settled(state, drain, now)
    return state


def _ahead(state: DrainMachine) -> bool:
    """Whether what is not in use may be handed over already."""
    drain = state.drain
    if drain is None or state.phase is not Phase.SETTLING or drain.outcome is not None or drain.trouble:
        return False
    return bool(drain.strategies) and drain.strategies[0] in AHEAD


def _strategy(state: DrainMachine, drain: Drain) -> Strategy:
    """In use, ahead of its time too, or used last."""
    return drain.strategies[0] if _ahead(state) else drain.strategy


def _settled(state: DrainMachine, drain: Drain, now: float) -> DrainMachine:
    following, rest = (drain.strategies[0], drain.strategies[1:]) if drain.strategies else (Strategy.NONE, ())
    if drain.outcome is not None or following is Strategy.NONE:
        return _drained(state, drain, now)
    if not _ahead(state):
        drain = replace(drain, moved_tokens=0, kept_tokens=0)
    return replace(state, phase=Phase.HANDING_OVER, drain=replace(drain, strategy=following, strategies=rest))


def _drained(state: DrainMachine, drain: Drain, now: float) -> DrainMachine:
    return replace(state, phase=Phase.DRAINED, drain=replace(drain, report=_report(state, drain, now)))


def _report(state: DrainMachine, drain: Drain, now: float) -> DrainReport:
    settled = drain.idle_observations >= SETTLED_OBSERVATIONS and state.load == 0
    cut = state.phase is Phase.HANDING_OVER or (_ahead(state) and drain.kept_tokens > 0)
    strategy = _strategy(state, drain) if cut else drain.strategy
    notes = [drain.choice] if drain.choice else []
    notes += drain.trouble
    never_served = state.engine is Engine.GONE and state.busy is None
    aborted = 0 if settled or never_served else (state.busy or 0)
    if never_served:
        notes.append("the engine was not up")
    elif not settled:
        why = "the engine exited" if state.engine is Engine.GONE else "the deadline came"
        seen = "an unknown number of" if state.busy is None else f"{state.busy}"
        notes.append(f"{why} with {seen} requests at the last look")
    if cut:
        notes.append(f"the hand-over by {strategy} was cut short")
    outcome = drain.outcome
    moved = drain.moved_tokens if cut else 0
    kept = max(moved, drain.kept_tokens) if cut else 0
    held = 0 if never_served else state.held_tokens
    if outcome is None and held is None:
        notes.append("the content of the cache is unknown")
    result = outcome or HandoverFinished(kept, moved, max(0, (held or 0) - kept))
    if result.message:
        notes.append(result.message)
    return DrainReport(
        strategy=strategy,
        kept_tokens=result.kept_tokens,
        moved_tokens=result.moved_tokens,
        dropped_tokens=result.dropped_tokens,
        aborted_requests=aborted,
        partial=not (settled or never_served) or cut or result.partial or bool(drain.trouble),
        seconds=max(0.0, now - drain.started_at),
        message="; ".join(notes)[:512],
    )


def _instructions(before: DrainMachine, after: DrainMachine, now: float) -> tuple[Instruction, ...]:
    """What the difference of two states asks for."""
    todo: list[Instruction] = []
    if before.ready != after.ready:
        todo.append(SetReady(after.ready))
    was, is_ = (s.phase is Phase.HANDING_OVER or _ahead(s) for s in (before, after))
    handing = after.phase is Phase.HANDING_OVER and before.phase is not Phase.HANDING_OVER
    told = before.drain is not None and after.drain is not None and after.drain.outcome != before.drain.outcome
    failed = before.drain is not None and after.drain is not None and after.drain.trouble != before.drain.trouble
    if was and not is_ and not told and not failed:
        todo.append(StopHandover())
    if is_ and after.drain is not None and (not was or handing or failed):
        budget = max(0.0, after.drain.deadline - now)
        todo.append(StartHandover(_strategy(after, after.drain), budget, ahead=_ahead(after)))
    drained = after.drain if after.phase is Phase.DRAINED else None
    if drained is not None and drained.report is not None:
        if before.phase is not Phase.DRAINED:
            todo.append(Report(drained.report))
        if drained.final and not (before.phase is Phase.DRAINED and before.drain and before.drain.final):
            todo.append(Release())
    return tuple(todo)
