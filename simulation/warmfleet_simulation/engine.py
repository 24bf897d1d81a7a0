"""The fluid engine: queues, start-up, limits, stock-outs and interruptions in steps, for many lanes at once.

Per step of length h, service d, type v, and class c in order of urgency::

    capacity = sum_v ready[d,v] * rate[d,v] * h / work[d]
    served_c = min(arrived_c - head_c, what is left of the capacity)          first come, first served
    head_c  += served_c;  then head_c = max(head_c, arrived_c(t - patience_c)) and the difference is lost

``head`` is the position in the class's stream up to which requests were served or lost. A request that arrived at x is
within the objective when ``head(x + objective) >= arrived(x)``; both curves are linear inside a step, so the share of a
step that is on time is exact when the objective is a whole number of steps and interpolated otherwise.

A start is split over four draws of the start-up time (lognormal around the type's mean), the same for all lanes, so
that lanes differ by their decisions alone. Cost runs from the start's grant to the end of the worker's drain.
Workers are removed at once from service; starting ones first, the latest first.

KV use follows the batch (Little's law on the performance model), and above capacity the queue too, up to 1: an engine
admits what it cannot serve in time until its cache is full.

The queue inside a worker's batch is not modelled (the capacity is what a worker sustains within its SLO), nor are
prefix caches. So attainment here is about *enough workers in time*, which is what policies differ in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from warmfleet_contracts.perfmodel import PerfProfile, Workload, lookup, operating_point
from warmfleet_contracts.perfmodel import capacity as sustained
from warmfleet_contracts.traces import BoolArray, FloatArray, IntArray

from warmfleet_simulation.fleet import Counts, Disturbance, Fleet, Load, calm
from warmfleet_simulation.outcome import Action, Lane, Tally, by_class, on_time_requests, tally, wait_quantile
from warmfleet_simulation.policy import Observation, Policy, Stepper

_DRAWS = 4
_CURVE = ("llama-3.1-8b", "bf16", "A100-40GB", 1, Workload(1020, 210))
"""The profile whose shape relates utilisation to batch when a fleet has none, and the lengths it is taken at."""


@dataclass(slots=True)
class _Run:
    """Arrays of a run, L lanes."""

    ready: Counts
    pending: Counts
    starting: Counts
    refused: Counts
    head: FloatArray
    heads: FloatArray
    lost: FloatArray
    cost: FloatArray
    changes: Counts
    workers: FloatArray
    paid: FloatArray
    log: dict[int, list[Action]] = field(default_factory=dict)


def simulate(
    fleet: Fleet,
    load: Load,
    policies: Sequence[tuple[Policy, FloatArray]],
    *,
    seed: int,
    disturbance: Disturbance | None = None,
    keep_actions: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Lane]:
    """Runs policies side by side over the same traffic.

    Args:
        fleet: What is scaled.
        load: Traffic.
        policies: Each with its knob values, shape (lanes,).
        seed: Of the start-up times.
        disturbance: What goes wrong; nothing by default.
        keep_actions: Whether to keep the action logs.
        progress: Called now and then with steps done and all steps.

    Returns:
        One lane per policy and knob value, in order.

    Raises:
        ValueError: A policy answers with an impossible number of workers.
    """
    spans, lanes = [], 0
    for _, knobs in policies:
        spans.append(slice(lanes, lanes + len(knobs)))
        lanes += len(knobs)
    engine = _Engine(fleet, load, disturbance or calm(load.steps, fleet), lanes, seed)
    first = np.ceil(_history(load)[: max(1, int(600 / load.step_s))].mean(axis=0) / _unit(fleet) / 0.7)
    engine.begin(np.maximum(first, [s.min_workers for s in fleet.services]))
    history = _history(load)[load.tune] if load.tune.any() else _history(load)
    steppers = [p.start(fleet, knobs, load.step_s, history) for p, knobs in policies]
    wanted = engine.run.ready + engine.run.starting
    every = max(1, load.steps // 200)
    for t in range(load.steps):
        seen = engine.observe(t)
        for stepper, span in zip(steppers, spans, strict=True):
            answer = stepper.step(_lanes(seen, span))
            if answer is not None:
                wanted[span] = answer
        if wanted.min() < 0:
            raise ValueError(f"step {t}: a policy wants {wanted.min()} workers")
        engine.scale(t, wanted, _Reasons(steppers, spans) if keep_actions else None)
        engine.serve(t)
        if progress is not None and t % every == 0:
            progress(t, load.steps)
    if progress is not None:
        progress(load.steps, load.steps)
    return engine.lanes([(p, float(k)) for p, knobs in policies for k in knobs])


def _history(load: Load) -> FloatArray:
    """Work per second by step and service, in requests of reference lengths, shape (T, D)."""
    return np.asarray(load.arrivals.sum(axis=2) * load.work / load.step_s, dtype=np.float64)


def _unit(fleet: Fleet) -> FloatArray:
    capacity = fleet.capacity()
    return np.asarray(capacity[np.arange(len(capacity)), fleet.reference()], dtype=np.float64)


def _lanes(seen: Observation, span: slice) -> Observation:
    return Observation(
        seen.time,
        seen.arrivals,
        seen.input_tokens,
        seen.output_tokens,
        seen.queue[span],
        seen.running[span],
        seen.utilisation[span],
        seen.kv_usage[span],
        seen.ready[span],
        seen.starting[span],
        seen.refused[span],
    )


@dataclass(slots=True)
class _Reasons:
    steppers: Sequence[Stepper]
    spans: Sequence[slice]

    def why(self, lane: int, service: int) -> str:
        for stepper, span in zip(self.steppers, self.spans, strict=True):
            if span.start <= lane < span.stop:
                return stepper.why(lane - span.start, service)
        return ""


class _Engine:
    """State and transitions; arrays of shape (L, D, V) and (L, D, C)."""

    def __init__(self, fleet: Fleet, load: Load, disturbance: Disturbance, lanes: int, seed: int) -> None:
        self.fleet, self.load, self.disturbance = fleet, load, disturbance
        d, v, c = len(fleet.services), len(fleet.types), load.arrivals.shape[2]
        self.delays = _startup_steps(fleet, load, seed)
        slots = int(self.delays.max()) + 2
        shape = (lanes, d, v)
        self.run = _Run(
            ready=np.zeros(shape, dtype=np.int64),
            pending=np.zeros((slots, *shape), dtype=np.int64),
            starting=np.zeros(shape, dtype=np.int64),
            refused=np.zeros(shape, dtype=np.int64),
            head=np.zeros((lanes, d, c)),
            heads=np.zeros((load.steps + 1, lanes, d, c)),
            lost=np.zeros((load.steps, lanes)),
            cost=np.zeros((load.steps, lanes)),
            changes=np.zeros((load.steps, lanes), dtype=np.int64),
            workers=np.zeros((load.steps, lanes), dtype=np.float32),
            paid=np.zeros((load.steps, lanes), dtype=np.float32),
        )
        self.slots = slots
        self.arrived = np.concatenate([np.zeros((1, d, c)), np.cumsum(load.arrivals, axis=0)])
        self.capacity = fleet.capacity()
        self.price = fleet.prices() * load.step_s / 3600.0
        self.drain = fleet.prices() * fleet.drain_s / 3600.0
        self.patience = by_class(fleet, "patience_s", c)
        self.batch = _batch_curve(fleet.profile)
        self.utilisation = np.zeros((lanes, d))
        self.limited = not np.isnan(disturbance.limits).all() or bool(disturbance.stocked_out.any())
        self.interrupted: BoolArray = np.asarray(disturbance.interrupted.any(axis=1), dtype=np.bool_)

    def begin(self, workers: FloatArray) -> None:
        for d, v in enumerate(self.fleet.reference()):
            self.run.ready[:, d, v] = int(workers[d])

    def observe(self, t: int) -> Observation:
        last, load, run = max(0, t - 1), self.load, self.run
        share = np.interp(self.utilisation, self.batch[0], self.batch[1])
        ready = run.ready.sum(axis=2)
        queue = (self.arrived[t] - run.head).sum(axis=2)
        waiting = queue / (np.maximum(ready, 1) * self.fleet.batch_at_capacity)
        return Observation(
            time=t * load.step_s,
            arrivals=load.arrivals[last].sum(axis=1) / load.step_s,
            input_tokens=load.input_tokens[last],
            output_tokens=load.output_tokens[last],
            queue=queue,
            running=share * self.fleet.batch_at_capacity * ready,
            utilisation=self.utilisation,
            kv_usage=np.minimum(1.0, (share + waiting) * self.fleet.kv_at_capacity),
            ready=run.ready,
            starting=run.starting,
            refused=run.refused,
        )

    def scale(self, t: int, wanted: Counts, reasons: _Reasons | None) -> None:
        run, slot = self.run, t % self.slots
        arrived = run.pending[slot]
        run.ready += arrived
        run.starting -= arrived
        run.pending[slot] = 0
        if self.interrupted[t]:
            run.ready -= np.rint(run.ready * self.disturbance.interrupted[t]).astype(np.int64)
        have = run.ready + run.starting
        change = wanted - have
        more = np.maximum(change, 0)
        if self.limited:
            more = self._grant(t, have, more)
        run.refused = np.maximum(change, 0) - more
        if (fewer := np.maximum(-change, 0)).any():
            self._remove(t, fewer)
        if more.any():
            self._start(t, more)
        moved = (more > 0).any(axis=(1, 2)).astype(np.int64) + (change < 0).any(axis=(1, 2))
        run.changes[t] = moved
        if reasons is not None and moved.any():
            self._log(t, have, more - fewer, reasons)

    def _grant(self, t: int, have: Counts, more: Counts) -> Counts:
        """Starts within the limits, services in order."""
        limits = self.disturbance.limits[t]
        held = have.sum(axis=1)
        room = np.where(np.isnan(limits), np.inf, limits - held)
        room = np.where(self.disturbance.stocked_out[t], 0.0, np.maximum(room, 0.0))
        granted = np.zeros_like(more)
        for d in range(more.shape[1]):
            taken = np.minimum(more[:, d], room)
            granted[:, d] = taken
            room = room - taken
        return granted

    def _start(self, t: int, more: Counts) -> None:
        run = self.run
        run.starting += more
        for v in range(more.shape[2]):
            for k in range(_DRAWS):
                slot = (t + int(self.delays[t, v, k])) % self.slots
                run.pending[slot, :, :, v] += (more[:, :, v] + _DRAWS - 1 - k) // _DRAWS

    def _remove(self, t: int, fewer: Counts) -> None:
        run = self.run
        cancel = np.minimum(fewer, run.starting)
        if cancel.any():
            order = (t + np.arange(self.slots - 1, 0, -1)) % self.slots
            late = run.pending[order]
            before = np.cumsum(late, axis=0) - late
            run.pending[order] = late - np.clip(cancel - before, 0, late)
            run.starting -= cancel
        gone = fewer - cancel
        run.ready -= gone
        run.cost[t] += (gone * self.drain).sum(axis=(1, 2))

    def _log(self, t: int, have: Counts, change: Counts, reasons: _Reasons) -> None:
        before, delta = have.sum(axis=2), change.sum(axis=2)
        for lane, d in np.argwhere(np.abs(change).sum(axis=2) > 0):
            was = int(before[lane, d])
            action = Action(
                t * self.load.step_s,
                self.fleet.services[d].name,
                was,
                was + int(delta[lane, d]),
                reasons.why(int(lane), int(d)),
            )
            self.run.log.setdefault(int(lane), []).append(action)

    def serve(self, t: int) -> None:
        run, load = self.run, self.load
        total = (run.ready * self.capacity).sum(axis=2) * (load.step_s / load.work[t])
        left = total.copy()
        arrived = self.arrived[t + 1]
        for c in range(arrived.shape[1]):
            served = np.minimum(arrived[:, c] - run.head[:, :, c], left)
            run.head[:, :, c] += served
            left -= served
        np.divide(total - left, total, out=self.utilisation, where=total > 0)
        self.utilisation[total <= 0] = 1.0
        due = self._given_up(t + 1)
        lost = np.maximum(due - run.head, 0.0)
        run.head += lost
        run.heads[t + 1] = run.head
        run.lost[t] = lost.sum(axis=(1, 2))
        paid = run.ready + run.starting
        run.cost[t] += (paid * self.price).sum(axis=(1, 2))
        run.workers[t] = run.ready.sum(axis=(1, 2))
        run.paid[t] = paid.sum(axis=(1, 2))

    def _given_up(self, t: int) -> FloatArray:
        """Arrivals whose patience is over at step ``t``, shape (D, C)."""
        at = np.maximum(0, t - np.ceil(self.patience / self.load.step_s)).astype(np.int64)
        d, c = np.indices(at.shape)
        return np.asarray(self.arrived[at, d, c], dtype=np.float64)

    def lanes(self, names: Sequence[tuple[Policy, float]]) -> list[Lane]:
        on_time = on_time_requests(self.fleet, self.load, self.run.heads)
        services = range(len(self.fleet.services))
        waits = np.array([wait_quantile(self.load, self.run.heads, d, 0.99) for d in services])
        out = []
        for i, (policy, knob) in enumerate(names):
            out.append(
                Lane(
                    policy=policy.name,
                    knob=knob,
                    default=bool(np.isclose(knob, policy.knob.default)),
                    tune=self._tally(i, on_time, self.load.tune),
                    score=self._tally(i, on_time, self.load.score),
                    scale_actions=int(self.run.changes[self.load.score, i].sum()),
                    workers=self.run.workers[:, i],
                    paid=self.run.paid[:, i],
                    wait_p99=waits[:, i],
                    actions=tuple(self.run.log.get(i, ())),
                )
            )
        return out

    def _tally(self, lane: int, on_time: FloatArray, steps: BoolArray) -> Tally:
        run, arrivals = self.run, self.load.arrivals
        return tally(arrivals[steps], on_time[steps, lane], run.cost[steps, lane], run.lost[steps, lane])


def _startup_steps(fleet: Fleet, load: Load, seed: int) -> IntArray:
    """Start-up times in steps by step, type and draw, shape (T, V, 4)."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((load.steps, len(fleet.types), _DRAWS))
    mean = np.array([t.startup_s for t in fleet.types])[:, None]
    sigma = np.array([t.startup_sigma for t in fleet.types])[:, None]
    seconds = mean * np.clip(np.exp(sigma * normal - sigma**2 / 2), 0.4, 2.5)
    return np.asarray(np.maximum(1, np.rint(seconds / load.step_s)), dtype=np.int64)


def _batch_curve(profile: PerfProfile | None) -> tuple[FloatArray, FloatArray]:
    """Batch over batch at capacity, by utilisation: Little's law on the performance model."""
    model, dtype, accelerator, tp, workload = _CURVE
    used = profile or lookup(model, dtype, accelerator, tp)
    if used is None:
        raise ValueError(f"the performance model lacks its own row {model}/{dtype}/{accelerator}/tp{tp}")
    top = max(2, sustained(used, workload, ttft_s=2.0, tpot_s=0.05).batch)
    batches = np.unique(np.linspace(1, top, 32).astype(np.int64))
    rates = np.array([operating_point(used, workload, int(b)).requests_per_second for b in batches])
    rates = np.maximum.accumulate(rates) + np.arange(len(rates)) * 1e-12
    return np.append(0.0, rates / rates[-1]), np.append(0.0, batches / batches[-1])
