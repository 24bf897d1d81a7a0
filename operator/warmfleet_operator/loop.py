"""The decision loop: observe, decide for all deployments at once, hand the parts out.

There is one task. It decides at every tick, or soon after something changed that may matter; a burst of changes is
gathered for :data:`DEBOUNCE`. The planner is a pure function, called with a snapshot, its own memory and the time, in a
thread of its own: it takes seconds for thousands of workers, in which answers must not come too late to be read. A
standby replica goes through the same motions up to the decision, so that it can take over with full windows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from warmfleet_runtime.clock import Clock, sleep_or

from warmfleet_operator.acting.checkpoint import Checkpoints
from warmfleet_operator.acting.executor import FleetExecutor
from warmfleet_operator.acting.instancetypes import InstanceTypeReporter
from warmfleet_operator.adapters.kube import KubeError
from warmfleet_operator.adapters.lease import Leadership, NotLeaderError
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.state.decisions import FleetPlan
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.readings import Readings
from warmfleet_operator.state.records import FleetSnapshot, Key, RouterRecord, WorkerRecord
from warmfleet_operator.state.snapshot import FleetStore

_LOG = logging.getLogger(__name__)
DEBOUNCE = 0.2
"""Logical seconds between a change and the decision it causes."""
_LEAST_REAL = 0.02
_FREE = 5.0
"""Real seconds of deciding that need no rest, and the longest rest."""


class Planner(Protocol):
    """The decision: pure."""

    def __call__(self, snapshot: FleetSnapshot, memory: PlannerMemory, now: float) -> tuple[FleetPlan, PlannerMemory]:
        """What to do, and what to remember."""


class Wake:
    """An event that any thread may set."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> None:
        """Something changed."""
        if threading.get_ident() == getattr(self._loop, "_thread_id", None):
            self._event.set()
            return
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody is left to wake
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float, clock: Clock) -> None:
        """Return when something changed or after ``seconds`` logical seconds."""
        await sleep_or(clock, seconds, self._event)
        self._event.clear()


class Rest:
    """How long to rest before a decision, so that changes without end leave half of the time to everything else.

    ::

        debt = seconds spent on deciding - seconds since then that were not, at least 0
        rest = debt - 5 s

    So a decision now and then, however long it takes, is made at once; only a storm of them waits.
    """

    def __init__(self) -> None:
        self._debt, self._at = 0.0, 0.0

    def spent(self, begin: float, end: float) -> None:
        """A decision took from ``begin`` to ``end``, real seconds."""
        self._debt, self._at = min(self._left(begin) + end - begin, 2 * _FREE), end

    def wanted(self, now: float) -> float:
        """Real seconds to rest at ``now`` before the next decision."""
        return max(0.0, self._left(now) - _FREE)

    def _left(self, now: float) -> float:
        return max(0.0, self._debt - (now - self._at))


class DecisionLoop:
    """Decides and hands out.

    Args:
        store: What was watched.
        readings: What was measured.
        planner: The decision.
        executor: Acts on it.
        reporter: Instance type status.
        checkpoints: Keeps the planner's memory.
        leadership: Whether this process may act.
        clock: Time.
        metrics: Counters.
        wake: Set when something changed.
        tick_seconds: Longest time between two decisions, logical seconds.
        lost: Called when a write found that this process no longer leads.
    """

    def __init__(  # noqa: PLR0913 - the parts of the loop, each named at the call
        self,
        *,
        store: FleetStore,
        readings: Readings,
        planner: Planner,
        executor: FleetExecutor,
        reporter: InstanceTypeReporter,
        checkpoints: Checkpoints,
        leadership: Leadership,
        clock: Clock,
        metrics: Metrics,
        wake: Wake,
        tick_seconds: float,
        lost: Callable[[], None],
    ) -> None:
        self._store, self._readings, self._planner = store, readings, planner
        self._executor, self._reporter, self._checkpoints = executor, reporter, checkpoints
        self._leadership, self._clock, self._metrics = leadership, clock, metrics
        self._wake, self._tick_seconds, self._lost = wake, tick_seconds, lost
        self._memory: PlannerMemory | None = None
        self._side: asyncio.Task[None] | None = None
        self.last_decision: float | None = None
        """When the last decision was made, or the last look of a standby, logical seconds."""

    async def run(self) -> None:
        """Decide for ever; changes without end leave half of the time to everything else."""
        loop, rest = asyncio.get_running_loop(), Rest()
        while True:
            await self._wake.wait(self._tick_seconds, self._clock)
            await asyncio.sleep(max(_LEAST_REAL, self._clock.real(DEBOUNCE), rest.wanted(loop.time())))
            begin = loop.time()
            await self.tick()
            rest.spent(begin, loop.time())

    async def tick(self) -> None:
        """One round."""
        phase = self._metrics.tick_seconds.labels
        with phase("snapshot").time():
            snapshot = self.snapshot()
        self._metrics.leader.set(self._leadership.held)
        if not self._leadership.held:
            self.last_decision = self._clock.now()
            self._metrics.ticks.labels("standby").inc()
            return
        try:
            memory = self._memory if self._memory is not None else await self._checkpoints.load(snapshot)
            now = self._clock.now()
            with self._metrics.plan_seconds.time(), phase("plan").time():
                plan, memory = await asyncio.to_thread(self._planner, snapshot, memory, now)
        except KubeError as error:
            _LOG.warning("memory could not be read, deciding later: %s", error)
            self._metrics.ticks.labels("error").inc()
            return
        except Exception:  # noqa: BLE001 - a planner that fails must not act, nor stop the next attempt
            _LOG.exception("the decision failed; nothing is done")
            self._metrics.ticks.labels("error").inc()
            return
        self._memory, self.last_decision = memory, now
        self._metrics.ticks.labels("decided").inc()
        with phase("hand-out").time():
            self._metrics.decided(snapshot, plan)
            self._executor.submit(snapshot, plan)
        if self._side is None or self._side.done():
            self._side = asyncio.create_task(self._afterwards(snapshot, memory), name="report")

    async def _afterwards(self, snapshot: FleetSnapshot, memory: PlannerMemory) -> None:
        try:
            stamp = self._clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ")
            await self._reporter.report(snapshot, memory, stamp, self._clock.now())
            await self._checkpoints.save(snapshot, memory)
        except KubeError as error:
            _LOG.warning("report: %s", error)
        except NotLeaderError:
            self._lost()

    async def close(self) -> None:
        """Write what must not be lost."""
        if self._side is not None:
            self._side.cancel()
            await asyncio.gather(self._side, return_exceptions=True)
        if self._memory is not None and self._leadership.held:
            try:
                await self._checkpoints.save(self.snapshot(), self._memory, final=True)
            except (KubeError, NotLeaderError) as error:
                _LOG.warning("checkpoint: %s", error)

    def snapshot(self) -> FleetSnapshot:
        """What is known now."""
        now = self._clock.now()
        watched = self._store.snapshot()
        workers: dict[Key, list[WorkerRecord]] = {}
        routers: dict[Key, list[RouterRecord]] = {}
        for worker in watched.workers:
            workers.setdefault(worker.deployment_key, []).append(worker)
        for router in self._store.routers():
            routers.setdefault(router.deployment_key, []).append(router)
        demand = {
            key: self._readings.demand(key, workers.get(key, ()), routers.get(key, ()), now)
            for key in watched.deployments
        }
        self._readings.decided_on()
        return replace(watched, telemetry=self._readings.telemetry(now), demand=demand)
