"""The agent's loop: looks at the engine by the clock, feeds the drain machine, and says what it knows."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TypeVar

from warmfleet_contracts.agent import (
    AgentState,
    DrainRequest,
    DrainState,
    EngineCounters,
    EngineState,
    LatencyState,
    Phase,
    Strategy,
)
from warmfleet_runtime.clock import Clock, sleep_or

from warmfleet_worker.drain import DrainMachine, Engine, step
from warmfleet_worker.drain_events import (
    DrainCancelled,
    DrainRequested,
    EngineExited,
    EngineLost,
    EngineReady,
    Event,
    HandoverFailed,
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
from warmfleet_worker.engines.base import EngineAdapter, Health, Load, Observation
from warmfleet_worker.kv.cache import WorkerCache
from warmfleet_worker.kv.handover import Handover, HandoverError
from warmfleet_worker.settings import Settings
from warmfleet_worker.stages import StartWatch
from warmfleet_worker.threads import in_thread

FAILURES = 3
"""Looks in a row without an answer before an engine that was ready counts as lost, or a closed port as exited."""
_LOG = logging.getLogger(__name__)


_Counts = TypeVar("_Counts", EngineCounters, LatencyState)


def _less(counts: _Counts, before: _Counts | None) -> _Counts:
    """What was counted since ``before``."""
    if before is None:
        return counts
    names = type(counts).model_fields
    return counts.model_copy(update={n: max(0, getattr(counts, n) - getattr(before, n)) for n in names})


class NotCancellable(Exception):  # noqa: N818 - it is an answer, not an error
    """The drain cannot be cancelled; the message says why."""


class Agent:
    """One agent.

    Args:
        settings: Settings.
        engine: Access to the engine.
        clock: Time.
        cache: What is known of the engine's KV cache, and how to hand it over; by default nothing.
    """

    def __init__(
        self, settings: Settings, engine: EngineAdapter, clock: Clock, cache: WorkerCache | None = None
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._clock = clock
        self._cache = cache or WorkerCache()
        self._handover: asyncio.Task[None] | None = None
        self._handing_over: Handover | None = None
        self._settled = asyncio.Event()
        self._warming: asyncio.Task[None] | None = None
        self._before: Load | None = None
        self._counts_own = False
        self._machine = DrainMachine(propagation_seconds=settings.propagation(clock.scale))
        self._load: Load | None = None
        self._own = 0
        self._health: Health | None = None
        self._in_a_row = 0
        self._problem = ""
        self._start: StartWatch | None = None
        self._stage_seen = "starting"
        self._looking: asyncio.Task[None] | None = None
        self._started_at = clock.now()
        self._ready_after: float | None = None
        self._changed = asyncio.Event()
        self._released = asyncio.Event()
        self.looked_at = clock.now()
        self.failed_polls = 0
        self.drains = 0

    @property
    def machine(self) -> DrainMachine:
        """Where the worker is."""
        return self._machine

    @property
    def alive(self) -> bool:
        """Whether the loop still runs: its last look is not long ago."""
        period = self._settings.period(self._clock.scale)
        return self._clock.now() - self.looked_at <= 10 * period + 30 * self._clock.scale

    async def run(self) -> None:
        """Look at the engine for ever."""
        while True:
            own = self._cache.own_requests
            observation = await self._engine.observe()
            self._take_in(observation, max(own, self._cache.own_requests))
            self._watch_start()
            self.looked_at = self._clock.now()
            await self._wait()

    def _next_look(self) -> float:
        urgent = self._machine.phase not in {Phase.SERVING, Phase.DRAINED}
        return self.looked_at + self._settings.period(self._clock.scale, urgent=urgent)

    async def _wait(self) -> None:
        """Wait for the next look; on the way, give the machine its ticks."""
        while (now := self._clock.now()) < (until := self._next_look()):
            wake = self._machine.wake_at()
            due = until if wake is None else min(until, wake)
            await sleep_or(self._clock, max(0.0, due - now), self._changed)
            self._changed.clear()
            self._feed(Tick())

    # -- what the operator and the kubelet ask for ---------------------------------------------------------------

    def drain(self, request: DrainRequest) -> None:
        """Begin a drain, or tighten its deadline."""
        self._cache.send_to(request.endpoint)
        self._cache.spend(request.budget_bytes, request.used_within_seconds)
        strategies, choice = self._cache.order(request.strategies, request.deadline_seconds)
        deadline = self._clock.now() + request.deadline_seconds
        self._feed(DrainRequested(request.reason, deadline, strategies, choice))

    def cancel(self) -> None:
        """Bring the worker back; nothing to do when it is not draining.

        Raises:
            NotCancellable: It is Drained, or its pod terminates.
        """
        drain = self._machine.drain
        if drain is None:
            return
        if not self._machine.cancellable:
            why = "the pod is terminating" if drain.final else "the worker is drained"
            raise NotCancellable(f"{why}; delete the pod and let a new one take its place")
        self._feed(DrainCancelled())
        self._cache.spend(None)  # what that order allowed does not bind a departure that nobody orders

    async def prestop(self, seconds: float | None) -> None:
        """Drain finally and return when that ended, or when the engine is back after a restart.

        Args:
            seconds: Deadline from now; the configured one when None.
        """
        settings = self._settings
        within = settings.drain_deadline if seconds is None else seconds
        strategies, choice = self._cache.order(settings.handover, within)
        self._feed(Terminating(self._clock.now() + within, strategies, choice))
        await self._released.wait()

    def state(self) -> AgentState:
        """What the agent knows now."""
        self._feed(Tick())
        machine, load, before = self._machine, self._load, self._before
        return AgentState(
            pod_uid=self._settings.pod_uid,
            phase=machine.phase,
            engine=EngineState(
                ready=self._health is Health.READY and not (machine.drain is not None and self._released.is_set()),
                stage=self._stage(),
                ready_after_seconds=self._ready_after,
                running=max(0, load.running - self._own) if load and load.running is not None else None,
                waiting=load.waiting if load else None,
                kv_usage=load.kv_usage if load else None,
                kv_capacity_tokens=load.kv_capacity_tokens if load else None,
            ),
            counters=self._users(load.counters) if load else None,
            latency=_less(load.latency, before.latency if before else None) if load else None,
            kv=self._cache.value(self._clock.wall().timestamp()),
            drain=self._drain_state(),
            sent=self._cache.sent,
        )

    def _users(self, counters: EngineCounters) -> EngineCounters:
        """Counters without the agent's own requests."""
        before = self._before.counters if self._before is not None else None
        return _less(_less(counters, before), self._cache.own_counts)

    def _stage(self) -> str:
        if self._machine.phase is not Phase.STARTING:
            return ""
        if self._warming is not None and not self._warming.done():
            return "prewarming"
        return self._stage_seen

    def _watch_start(self) -> None:
        folder = self._settings.model_cache
        busy = self._looking is not None and not self._looking.done()
        if folder is not None and not busy and self._machine.phase is Phase.STARTING:
            self._looking = asyncio.create_task(self._look_at_start(folder))

    async def _look_at_start(self, folder: Path) -> None:
        if self._start is None:
            self._start = await in_thread(StartWatch, folder)
        self._stage_seen = await in_thread(self._start.stage)

    def _drain_state(self) -> DrainState | None:
        drain = self._machine.drain
        if drain is None:
            return None
        return DrainState(
            reason=drain.reason,
            remaining_seconds=max(0.0, drain.deadline - self._clock.now()),
            cancellable=self._machine.cancellable,
            report=drain.report,
        )

    # -- the machine ---------------------------------------------------------------------------------------------

    def _take_in(self, observation: Observation, own: int = 0) -> None:
        """Take in one look; ``own`` requests of the hand-over itself are not the users'."""
        same = observation.health is self._health
        self._in_a_row = self._in_a_row + 1 if same else 1
        if observation.problem and observation.problem != self._problem:
            _LOG.warning("engine: %s", observation.problem, extra={"health": observation.health.value})
        self._problem = observation.problem
        self.failed_polls += bool(observation.problem)
        self._health, self._load, self._own = observation.health, observation.load, own
        load = observation.load
        for event in self._engine_events(observation.health):
            self._feed(event)
            self._cache.engine_was(event)
        if self._counts_own and load is not None:
            self._before, self._counts_own = load, False
        held = self._cache.held_tokens
        running, waiting = (load.running, load.waiting) if load else (None, None)
        self._feed(LoadObserved(running, waiting, held, own))

    def _engine_events(self, health: Health) -> list[Event]:
        if health is Health.READY:
            if self._ready_after is None:
                self._ready_after = max(0.0, self._clock.now() - self._started_at)
            return [EngineReady()] if self._is_warm() else []
        if health is Health.REFUSED:
            if self._in_a_row < FAILURES:
                return [EngineLost()]
            self._end_warming()
            return [EngineLost(), EngineExited()]
        return [EngineLost()] if self._in_a_row >= FAILURES else []

    def _is_warm(self) -> bool:
        """Whether the engine may serve: it has been warmed since it came up, or need not be."""
        if (
            not self._cache.can_warm
            or self._machine.phase is not Phase.STARTING
            or self._machine.engine is Engine.READY
        ):
            return True
        if self._warming is None:
            self._warming = asyncio.create_task(self._warm_up())
        self._counts_own = self._warming.done()  # what the engine has counted so far were our own requests
        return self._warming.done()

    async def _warm_up(self) -> None:
        began = self._clock.now()
        try:
            warmed = await self._cache.warm_up(self._engine, self._clock)
        except Exception as error:  # noqa: BLE001 - a cold worker serves as well
            _LOG.error("pre-warming broke", exc_info=error)
            return
        if warmed:
            _LOG.info("pre-warmed", extra={"prompts": warmed, "seconds": round(self._clock.now() - began, 3)})

    def _end_warming(self) -> None:
        """The engine went away: what was warmed is gone with it."""
        if self._warming is not None:
            self._warming.cancel()
            self._warming = None
        self._before, self._counts_own = None, False

    def _feed(self, event: Event) -> None:
        before = self._machine
        self._machine, instructions = step(before, event, self._clock.now())
        if before.phase is not self._machine.phase:
            reason = self._machine.drain.reason if self._machine.drain else ""
            _LOG.info("phase", extra={"was": before.phase.value, "is": self._machine.phase.value, "reason": reason})
        if before.wake_at() != self._machine.wake_at():
            self._changed.set()
        if before.drain is None and self._machine.drain is not None:
            self.drains += 1
            self._released.clear()
        for instruction in instructions:
            self._do(instruction)
        if before.drain is not None and self._machine.drain is None:
            self._released.set()  # nobody waits for a drain that is no more

    def _do(self, instruction: Instruction) -> None:
        match instruction:
            case StartHandover():
                self._begin_handover(instruction)
            case StopHandover():
                self._end_handover()
            case Report():
                _LOG.info("drained", extra={"report": instruction.report.to_wire()})
            case SetReady():
                _LOG.info("readiness", extra={"ready": instruction.ready})
            case Release():
                self._released.set()

    # -- the hand-over -------------------------------------------------------------------------------------------

    def _begin_handover(self, wanted: StartHandover) -> None:
        chosen = self._cache.strategies.get(wanted.strategy)
        if wanted.ahead and not self._worth_beginning(chosen):
            return
        if not wanted.ahead and chosen is not None and chosen is self._handing_over:
            self._settled.set()
            return
        self._end_handover()
        if chosen is None:
            self._feed(HandoverFailed(f"this agent has no hand-over by {wanted.strategy}; use {Strategy.NONE}"))
            return
        self._handing_over, self._settled = chosen, asyncio.Event()
        if not wanted.ahead:
            self._settled.set()
        self._handover = asyncio.create_task(self._hand_over(chosen, wanted.budget, self._settled))

    def _worth_beginning(self, chosen: Handover | None) -> bool:
        """Whether a hand-over is begun while requests run: fleets without host memory have no room for it twice."""
        in_host_memory = self._load is not None and self._load.offload is not None
        return chosen is not None and chosen.begins_ahead and in_host_memory

    def _end_handover(self) -> None:
        task, self._handover, self._handing_over = self._handover, None, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _hand_over(self, chosen: Handover, budget: float, settled: asyncio.Event) -> None:
        try:
            event: Event = await chosen.run(budget, self._feed, settled)
        except HandoverError as error:
            event = HandoverFailed(str(error))
        except Exception as error:  # noqa: BLE001 - a drain ends whatever a strategy does
            _LOG.error("the hand-over broke", exc_info=error)
            event = HandoverFailed(f"{type(error).__name__}: {error}")
        await settled.wait()
        self._handing_over = None  # the same strategy may be listed again
        self._feed(event)
