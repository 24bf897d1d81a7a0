"""What a run came to: on-time requests, costs, and one record per lane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from warmfleet_contracts.traces import FloatArray

from warmfleet_simulation.fleet import Fleet, Load


@dataclass(frozen=True, slots=True)
class Action:
    """One scale action.

    Attributes:
        time: Seconds since the start.
        service: Name of the service.
        before: Workers before, starting ones included.
        after: Workers after.
        reason: In words.
    """

    time: float
    service: str
    before: int
    after: int
    reason: str


@dataclass(frozen=True, slots=True)
class Tally:
    """What a lane did over some steps.

    Attributes:
        cost: Dollars.
        requests: Requests that arrived.
        on_time: Requests within their queueing objective.
        lost: Requests that gave up.
        by_class: Attainment by service and class; NaN without traffic, shape (D, C).
    """

    cost: float
    requests: float
    on_time: float
    lost: float
    by_class: FloatArray

    @property
    def attainment(self) -> float:
        """Share of requests within their objective; 1 without traffic."""
        return self.on_time / self.requests if self.requests else 1.0


@dataclass(frozen=True, slots=True)
class Lane:
    """One policy with one knob value.

    Attributes:
        policy: Name of the policy.
        knob: Value of its knob.
        default: Whether that is its default.
        tune: Over the tuning steps.
        score: Over the scored steps.
        scale_actions: Scale-ups and scale-downs over the scored steps.
        wait_p99: 99th percentile of the queueing time over the scored steps by service, s, shape (D,).
        workers: Workers that serve, all services and types, shape (T,).
        paid: Workers paid for, shape (T,).
        actions: The action log; empty unless asked for.
    """

    policy: str
    knob: float
    default: bool
    tune: Tally
    score: Tally
    scale_actions: int
    workers: FloatArray
    paid: FloatArray
    wait_p99: FloatArray
    actions: tuple[Action, ...] = ()


def by_class(fleet: Fleet, name: str, classes: int) -> FloatArray:
    """A field of the request classes by service and class, 0 where a service has fewer, shape (D, C)."""
    out = np.zeros((len(fleet.services), classes))
    for d, service in enumerate(fleet.services):
        for c, kind in enumerate(service.classes):
            out[d, c] = getattr(kind, name)
    return out


def tally(arrivals: FloatArray, on_time: FloatArray, cost: FloatArray, lost: FloatArray) -> Tally:
    """Sums over some steps; arrivals and on_time of shape (T, D, C), cost and lost of shape (T,)."""
    came, good = arrivals.sum(axis=0), on_time.sum(axis=0)
    return Tally(
        cost=float(cost.sum()),
        requests=float(came.sum()),
        on_time=float(good.sum()),
        lost=float(lost.sum()),
        by_class=np.divide(good, came, out=np.full(came.shape, np.nan), where=came > 0),
    )


def wait_quantile(load: Load, heads: FloatArray, service: int, share: float) -> FloatArray:
    """The queueing time that a share of a service's scored requests does not exceed, s, shape (L,).

    The requests of a step count as one, from the step's end to the step in which the queue is served up to it; who
    gives up has waited for as long as its patience.

    Args:
        load: Traffic.
        heads: As in :func:`on_time_requests`.
        service: Index.
        share: Between 0 and 1.
    """
    lanes = heads.shape[1]
    out = np.zeros(lanes)
    steps = np.arange(1, load.steps + 1)
    counted = np.repeat(load.score, heads.shape[3])
    weights = load.arrivals[:, service].ravel()[counted]
    arrived = np.cumsum(load.arrivals[:, service], axis=0)
    for lane in range(lanes):
        served = np.empty_like(arrived)
        for c in range(heads.shape[3]):
            line = np.maximum.accumulate(heads[1:, lane, service, c])
            served[:, c] = np.searchsorted(line, arrived[:, c] - 1e-6) + 1
        waits = (served - steps[:, None]).ravel()[counted] * load.step_s
        order = np.argsort(waits)
        passed = np.cumsum(weights[order])
        if passed[-1] > 0:
            out[lane] = waits[order][np.searchsorted(passed, share * passed[-1])]
    return out


def on_time_requests(fleet: Fleet, load: Load, heads: FloatArray) -> FloatArray:
    """Requests of each step that were served within their objective.

    Args:
        fleet: For the objectives.
        load: Traffic.
        heads: Position in each stream up to which requests were served or lost, shape (T+1, L, D, C).

    Returns:
        Shape (T, L, D, C).
    """
    steps = load.steps
    objective = by_class(fleet, "objective_s", heads.shape[3])
    arrived = np.concatenate([np.zeros((1, *load.arrivals.shape[1:])), np.cumsum(load.arrivals, axis=0)])
    out = np.zeros((steps, *heads.shape[1:]))
    for d in range(heads.shape[2]):
        for c in range(heads.shape[3]):
            shift = objective[d, c] / load.step_s
            whole, part = int(shift), shift - int(shift)
            lower = np.minimum(np.arange(steps + 1) + whole, steps)
            upper = np.minimum(lower + 1, steps)
            later = heads[lower, :, d, c] * (1.0 - part) + heads[upper, :, d, c] * part
            ahead = later - arrived[:, d, c][:, None]
            # Past the end of the trace nothing is known: who is not late by then counts as on time.
            end = max(0, steps + 1 - whole - (part > 0))
            ahead[end:] = np.maximum(ahead[end:], 0.0)
            out[:, :, d, c] = _positive_share(ahead) * load.arrivals[:, d, c][:, None]
    return out


def _positive_share(values: FloatArray) -> FloatArray:
    """Share of each step in which a piecewise linear curve is not negative; values at the borders, shape (T+1, L)."""
    tolerance = 1e-6
    begin, end = values[:-1], values[1:]
    up, down = np.maximum(begin, 0.0) + np.maximum(end, 0.0), np.maximum(-begin, 0.0) + np.maximum(-end, 0.0)
    share = np.divide(up, up + down, out=np.ones_like(up), where=(up + down) > 0)
    both = (begin >= -tolerance) & (end >= -tolerance)
    neither = (begin < -tolerance) & (end <= tolerance)
    return np.asarray(np.where(both, 1.0, np.where(neither, 0.0, share)), dtype=np.float64)
