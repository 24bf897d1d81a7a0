"""What the traffic asks for.

::

    rate        = arrivals + queue / catch_up                requests/s, refused requests are among the arrivals
    mean'       = mean + (sample - mean) * (1 - e^(-dt/300 s))   for prompt tokens, generated tokens and hit ratio
    hit(n, k)   = hit * (n - k) / n                          hit ratio that is counted on when k of n workers leave

The queue is drained within ``catch_up``: the time that a new worker needs to start, because nothing that is bought now
serves earlier, and a shorter time would buy several times the deficit that made the queue. The caches of workers that
leave are lost, and it is not known how much of them others hold: the whole share is written off. A new worker lends
no hit ratio either; the measured one rises by itself once its cache is warm.

An agent that stays silent must not keep the fleet large for ever: after ten minutes, and while at least half of the
ready workers report, a silent one counts as the mean of the others. It may then be scaled down on the sum.

Zero and no data differ: no requests is a rate of 0.0, nobody answering is None. A figure that makes no sense (NaN,
negative, infinite) is no data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from warmfleet_contracts.perfmodel import Workload

from warmfleet_operator.state.memory import DeploymentMemory, evolve
from warmfleet_operator.state.records import Demand

DEFAULT_WORKLOAD = Workload(1020.0, 210.0, 0.0)
"""A chat request, used until the first requests were measured."""
STALE_AFTER = 120.0
"""Seconds after which a measurement is no data."""
MIN_CATCH_UP = 60.0
"""Seconds in which a queue is drained, at least."""
SILENT_AFTER = 600.0
"""Seconds of silence after which workers that do not report are taken for the mean of the others."""
_TAU = 300.0
_MOST = 1e9
_MOST_TOKENS = 1e7
_GRID = math.log(1.05)
_STRAY = 0.075
"""Relative distance of a mean from what is planned with before the plan follows."""
_HIT_GRID = 0.05


class Grade(StrEnum):
    """How much of the demand is known."""

    COMPLETE = "Complete"
    """Everything: it may be scaled either way."""
    PARTIAL = "Partial"
    """A lower bound: it may be scaled up on it, never down."""
    MISSING = "Missing"
    """Nothing: the last decision is held."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Demand as the planner uses it.

    Attributes:
        grade: How much is known.
        arrivals: Requests per second; None while unknown.
        queue: Requests waiting; None while unknown.
        rate: Requests per second to be served, queue included; None while unknown.
        workload: The mean request on a coarse grid.
        gap: What is not known, for a person; empty when all is.
    """

    grade: Grade
    arrivals: float | None
    queue: int | None
    rate: float | None
    workload: Workload
    gap: str = ""


def sane(value: float | None, most: float = _MOST) -> float | None:
    """``value`` bounded by ``most``; None when it is not a finite number that is at least 0."""
    if value is None or not math.isfinite(value) or value < 0:
        return None
    return min(float(value), most)


def observe(
    demand: Demand | None,
    memory: DeploymentMemory,
    *,
    routed: bool,
    catch_up: float,
    now: float,
) -> tuple[Traffic, DeploymentMemory]:
    """Judge and smooth the last measurement.

    Args:
        demand: The last measurement; None when there never was one.
        memory: Memory of the deployment.
        routed: Whether a router is part of the deployment; without it, agents alone are complete.
        catch_up: Seconds within which the queue shall be drained.
        now: Logical seconds.
    """
    if demand is not None and now - demand.at > STALE_AFTER:
        demand = None
    if demand is None:
        nothing = Traffic(Grade.MISSING, None, None, None, _workload(memory), "neither router nor agents report")
        return nothing, memory
    memory = _smooth(demand, memory)
    memory = _silence(demand, memory, now)
    since = memory.silent_since
    counted = since is not None and now - since >= SILENT_AFTER and _most_report(demand)
    scale = 1.0 + demand.silent_workers / demand.reporting_workers if counted else 1.0
    arrivals, waiting = sane(demand.arrivals), sane(demand.queue)
    if arrivals is not None and "router" not in demand.sources:
        arrivals *= scale
    queue = None if waiting is None else math.ceil(waiting * scale)
    grade, gap = _grade(demand, arrivals, queue, routed=routed, counted=counted)
    rate = None
    if grade is not Grade.MISSING:
        rate = (arrivals or 0.0) + (queue or 0) / max(catch_up, MIN_CATCH_UP)
    return Traffic(grade, arrivals, queue, rate, _workload(memory), gap), memory


def remaining_hits(workload: Workload, workers: int, leaving: int) -> Workload:
    """The workload with the hit ratio that is counted on when ``leaving`` of ``workers`` have left."""
    if workload.hit_ratio <= 0 or workers <= 0:
        return workload
    kept = workload.hit_ratio * max(0, workers - leaving) / workers
    return workload._replace(hit_ratio=_floor_hits(kept))


def _silence(demand: Demand, memory: DeploymentMemory, now: float) -> DeploymentMemory:
    """Since when some workers do not report."""
    silent = demand.silent_workers > 0
    if silent == (memory.silent_since is not None):
        return memory
    return evolve(memory, silent_since=now if silent else None)


def _most_report(demand: Demand) -> bool:
    return demand.reporting_workers >= max(1, demand.silent_workers)


def _grade(
    demand: Demand, arrivals: float | None, queue: int | None, *, routed: bool, counted: bool
) -> tuple[Grade, str]:
    if arrivals is None:
        if not queue:
            return Grade.MISSING, "the arrival rate is unknown"
        return Grade.PARTIAL, "the arrival rate is unknown; only the queue is used"
    if demand.silent_workers > 0 and not counted:
        return Grade.PARTIAL, f"{demand.silent_workers} ready workers do not report"
    if routed and "router" not in demand.sources:
        return Grade.PARTIAL, "the router does not report"
    if counted:
        return Grade.COMPLETE, f"{demand.silent_workers} silent workers are taken for the mean of the others"
    return Grade.COMPLETE, ""


def _smooth(demand: Demand, memory: DeploymentMemory) -> DeploymentMemory:
    last = memory.sampled_at
    if last is not None and demand.at <= last <= demand.at + STALE_AFTER:
        return memory
    weight = 1.0 if last is None else 1.0 - math.exp(-max(0.0, demand.at - last) / _TAU)
    tokens_in = _mean(memory.input_tokens, sane(demand.input_tokens, _MOST_TOKENS), weight, least=1.0)
    tokens_out = _mean(memory.output_tokens, sane(demand.output_tokens, _MOST_TOKENS), weight, least=1.0)
    hits = _mean(memory.hit_ratio, sane(demand.hit_ratio, 1.0), weight, least=0.0)
    was = memory.planned or (None, None, None)
    planned = None
    if tokens_in is not None and tokens_out is not None:
        planned = (_steady(was[0], tokens_in), _steady(was[1], tokens_out), _steady_hits(was[2], hits or 0.0))
    return evolve(
        memory,
        sampled_at=demand.at,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        hit_ratio=hits,
        planned=planned,
    )


def _mean(mean: float | None, sample: float | None, weight: float, *, least: float) -> float | None:
    if sample is None:
        return mean
    sample = max(least, sample)
    return sample if mean is None else mean + (sample - mean) * weight


def _steady(planned: float | None, mean: float) -> float:
    if planned is not None and abs(mean / planned - 1.0) <= _STRAY:
        return planned
    return max(1.0, math.exp(_GRID * round(math.log(mean) / _GRID)))


def _steady_hits(planned: float | None, mean: float) -> float:
    if planned is not None and planned - 0.02 <= mean <= planned + 0.08:
        return planned
    return _floor_hits(mean)


def _floor_hits(value: float) -> float:
    return round(math.floor(value / _HIT_GRID + 1e-9) * _HIT_GRID, 2)


def _workload(memory: DeploymentMemory) -> Workload:
    return DEFAULT_WORKLOAD if memory.planned is None else Workload(*memory.planned)
