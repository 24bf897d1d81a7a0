"""A fleet of engines that is scaled: the shipped planner says who leaves, the arm what becomes of the cache.

::

    every tick (1 s)    engines run -> starts that are due serve -> leaving workers go on
    every decision      plan(snapshot with a fixed number of replicas) -> drains and creations
    leaving             unrouted; its requests end; then its hand-over, bounded by the deadline; then it is gone

Hand-overs, with what they cost:

- ``none``     the cache goes with the worker.
- ``store``    every block was written through when it was computed; the worker stays until its last write has arrived.
- ``migrate``  survivors pull the worker's hot prompts that they have room for, the hottest first, over half of its
               link; each goes as a request through the router, which chooses the survivor and learns of it. Where they
               have room for all, that begins while the worker's requests still run.
- ``replay``   survivors compute those prompts themselves, at low priority, sent through the router.

``cut`` deletes instead, as a plain Deployment does: what runs is aborted and sent again elsewhere, from its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from warmfleet_contracts.agent import Phase
from warmfleet_contracts.traces import FloatArray
from warmfleet_operator.planning.pace import room_for
from warmfleet_operator.state.records import WorkerTelemetry

from warmfleet_simulation.requests import kernel
from warmfleet_simulation.requests.arrays import DONE, DRAINING, GONE, SERVING, STARTING, State
from warmfleet_simulation.requests.blocks import forget
from warmfleet_simulation.requests.handover import TICK_S, Handover, Leaving
from warmfleet_simulation.requests.planner import Planner
from warmfleet_simulation.requests.setup import Arm, Engine, fresh_state, machine
from warmfleet_simulation.requests.value import HOT_S, evicted_after, unique_hot_blocks
from warmfleet_simulation.requests.workload import Work


@dataclass(frozen=True, slots=True)
class Event:
    """A change of the fleet's size.

    Attributes:
        at: Seconds.
        before: Workers that served.
        after: Workers wanted.
    """

    at: float
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Departure:
    """What a worker left behind: tokens kept elsewhere already, moved or recomputed, and dropped.

    Attributes:
        worker: Row.
        chosen_at: When it was told to leave, seconds.
        hot_tokens: Tokens of hot prompts it held.
        moved_tokens: Of these, handed over.
        running: Requests in flight when it was chosen.
    """

    worker: int
    chosen_at: float
    hot_tokens: int
    moved_tokens: int
    running: int


@dataclass(frozen=True, slots=True)
class Run:
    """What happened.

    Attributes:
        state: The arrays at the end; the first ``users`` requests are the workload's.
        users: How many requests the workload had.
        events: Changes of size, in order.
        departures: Workers that left, in order.
        retried: Requests that were aborted and sent again, each time counted.
        worker_s: Seconds workers were paid for.
        steps: Events of the engines.
        overhead_s: What a first token takes beside its steps, seconds.
    """

    state: State
    users: int
    events: tuple[Event, ...]
    departures: tuple[Departure, ...]
    retried: int
    worker_s: float
    steps: int
    overhead_s: float = 0.0

    def ttft(self) -> FloatArray:
        """Seconds from each of the workload's requests to its first token, shape (users,); NaN without one."""
        waited: FloatArray = (self.state.first_token - self.state.arrival)[: self.users] + self.overhead_s
        return waited


def simulate(
    work: Work,
    engine: Engine,
    arm: Arm,
    schedule: Sequence[tuple[float, int]],
    *,
    workers: int = 8,
    startup_s: float = 0.0,
    until_s: float | None = None,
) -> Run:
    """Runs the workload on a fleet whose size follows a schedule.

    Args:
        work: Requests.
        engine: What serves them.
        arm: How the fleet is scaled.
        schedule: (seconds, workers wanted), ascending; a worker that is wanted serves ``startup_s`` later.
        workers: Workers that serve at the beginning, and most at a time.
        startup_s: Cold start, seconds.
        until_s: End of the simulation; None for an hour after the last arrival, in which all can end.
    """
    fleet = _Fleet(work, engine, arm, workers, startup_s)
    end = work.duration_s + 3600.0 if until_s is None else until_s
    pending = list(schedule)
    now = 0.0
    while now < end:
        while pending and pending[0][0] <= now:
            fleet.want(now, pending.pop(0)[1])
        upcoming = min(end, pending[0][0] if pending else end)
        now = now + TICK_S if fleet.changing or upcoming < now + TICK_S else upcoming
        fleet.run(now)
        if until_s is None and not fleet.changing and fleet.finished():
            break
    return fleet.result()


class _Fleet:
    def __init__(self, work: Work, engine: Engine, arm: Arm, workers: int, startup_s: float) -> None:
        rows = 2 * workers
        self.arm, self.work, self.startup_s = arm, work, startup_s
        self.machine = machine(work, engine, arm)
        self.overhead_s = engine.profile.ttft_overhead_ms / 1e3
        spare = 20_000 if arm.handover == "replay" else 1
        self.state = fresh_state(work, rows, engine.max_num_seqs, spare)
        self.state.phase[:workers] = SERVING
        self.wanted, self.now = workers, 0.0
        self.leaving: list[Leaving] = []
        self.due: dict[int, float] = {}
        self.since = dict.fromkeys(range(workers), 0.0)
        self.events: list[Event] = []
        self.departures: list[Departure] = []
        self.planner = Planner(arm.handover)
        self.handover = Handover(work, arm, self.machine, self.state)
        self.retried, self.worker_s, self.steps = 0, 0.0, 0

    @property
    def changing(self) -> bool:
        """Whether a worker starts or leaves: only then something else than engines acts."""
        return bool(self.due or self.leaving)

    def want(self, now: float, replicas: int) -> None:
        self.events.append(Event(now, int((self.state.phase == SERVING).sum()), replicas))
        self.wanted = replicas
        self._decide(now)

    def run(self, until: float) -> None:
        self.steps += kernel.advance(self.machine, self.state, len(self.work.arrival_s), until)
        self.worker_s += (until - self.now) * int((self.state.phase != GONE).sum())
        self.now = until
        for w in [w for w, at in self.due.items() if at <= until]:
            del self.due[w]
            self.state.phase[w] = SERVING
        for one in list(self.leaving):
            if self.state.load[one.worker]:
                self.handover.go_ahead(one, until)
            elif self.handover.go_on(one, until):
                self._gone(one)

    def finished(self) -> bool:
        n = len(self.work.arrival_s)
        return bool(self.state.cursor[0] >= n and (self.state.status[:n] >= DONE).all() and not self.leaving)

    def result(self) -> Run:
        for one in list(self.leaving):
            self._gone(one)
        return Run(
            self.state,
            len(self.work.arrival_s),
            tuple(self.events),
            tuple(self.departures),
            self.retried,
            self.worker_s,
            self.steps,
            self.overhead_s,
        )

    def _decide(self, now: float) -> None:
        """Makes the fleet what is wanted: leaving workers by the planner's choice or by age, new ones in free rows."""
        st = self.state
        here = [w for w in range(len(st.phase)) if st.phase[w] in (SERVING, STARTING)]
        if len(here) > self.wanted:
            chosen = self._chosen(now, here)
            within = self._room_for(set(here) - set(chosen), len(chosen), now)
            for w in chosen:
                self._leave(w, now, within)
        for _ in range(self.wanted - len(here)):
            free = int(np.flatnonzero(st.phase == GONE)[0])
            forget(st, free)
            st.phase[free] = STARTING
            self.since[free] = now
            self.due[free] = now + self.startup_s

    def _chosen(self, now: float, here: list[int]) -> list[int]:
        if self.arm.victims == "newest":
            return self._newest(here)
        if self.arm.victims == "arbitrary":
            drawn = np.random.default_rng(int(now)).permutation(here)[: len(here) - self.wanted]
            return [int(w) for w in drawn]
        hot = unique_hot_blocks(self.state, now - HOT_S) * self.work.block_tokens
        return self.planner.leaving(self.state, here, self.since, hot, self.wanted, now)

    def _newest(self, here: list[int]) -> list[int]:
        return sorted(here, key=lambda w: (self.since[w], w), reverse=True)[: len(here) - self.wanted]

    def _room_for(self, staying: set[int], leaving: int, now: float) -> float | None:
        ages = [evicted_after(self.state, w, now) for w in sorted(staying)]
        told = [WorkerTelemetry(now, Phase.SERVING, evicted_after=age) for age in ages]
        return room_for(told, leaving + len(self.leaving))

    def _leave(self, w: int, now: float, used_within: float | None) -> None:
        st = self.state
        if self.due.pop(w, None) is not None:
            st.phase[w] = GONE
            forget(st, w)
            return
        one = Leaving(w, now, int(st.size[w]), used_within)
        st.phase[w] = DRAINING
        self.handover.note_hot(one, now)
        if self.arm.leaving == "cut":
            out = np.empty(int(st.load[w]) + 1, dtype=np.int32)
            n = kernel.cut(st, w, now, out)
            for r in out[:n]:
                kernel.send(self.machine, st, int(r), now)
            self.retried += n
            self._gone(one)
            return
        self.leaving.append(one)

    def _gone(self, one: Leaving) -> None:
        if one in self.leaving:
            self.leaving.remove(one)
        self.state.phase[one.worker] = GONE
        forget(self.state, one.worker)
        self.departures.append(Departure(one.worker, one.chosen_at, one.hot, one.moved, one.running))
