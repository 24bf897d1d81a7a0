"""How long a worker takes from its pod's creation until it serves: the lead at which capacity is bought.

::

    sample    = first ready - first seen        of starts that this process saw from beginning to end, newest 32 by type
    left out  : no node for longer than 2 * p90 (a stock-out), an image or container that failed, more than 4 * median
    lead(q)   = quantile q of the samples and the prior;  the prior counts for max(0, 5 - samples) of them
    prior     = all fleets' measurement in InstanceType.status.startup once it has 5 starts, spec.startup before
    bounds    : 1 s to 1 h

The model's weights make most of the start, so a fleet believes its own starts before those of others on the same type.
The quantile is the smallest value that a share q of the weight does not exceed: with few samples the p90 is their
maximum, which errs towards buying early.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from warmfleet_contracts.api.base import parse_duration

from warmfleet_operator.state.memory import DeploymentMemory, PlannerMemory, Start, evolve
from warmfleet_operator.state.records import InstanceTypeRecord, WorkerPhase, WorkerRecord

DEFAULT_P50, DEFAULT_STARTUP = 180.0, 300.0
"""Seconds assumed where the InstanceType is unknown."""
MIN_SAMPLES = 5
"""Starts after which the prior no longer counts."""
MOST_SAMPLES = 32
LEAST, MOST = 1.0, 3600.0
OUTLIER = 4.0
"""A sample of more than so many medians is left out."""
STUCK_FACTOR = 2.0
"""A pod without a node for longer than so many p90 start-ups has met a stock-out."""


def startup_lead(
    record: InstanceTypeRecord | None, memory: DeploymentMemory | None = None, *, quantile: float = 0.9
) -> float:
    """Start-up time of a worker on a type, seconds.

    Args:
        record: The InstanceType; None when it is unknown.
        memory: Memory of the deployment whose worker it would be; None for any deployment's.
        quantile: 0.9 for the lead, 0.5 for the median.
    """
    own = () if memory is None or record is None else memory.startups.get(record.name, ())
    return _lead(*_prior(record), own, quantile)


@lru_cache(maxsize=4096)
def _lead(p50: float, p90: float, own: tuple[tuple[float, float], ...], quantile: float) -> float:
    if not own:
        return min(MOST, max(LEAST, p50 if quantile <= 0.5 else p90))
    samples = plausible([seconds for _, seconds in own])
    rest = max(0, MIN_SAMPLES - len(samples))
    weighted = [(seconds, 1.0) for seconds in samples]
    if rest:
        weighted += [(p50, rest / 2), (p90, rest / 2)]
    return min(MOST, max(LEAST, weighted_quantile(weighted, quantile)))


def weighted_quantile(weighted: Iterable[tuple[float, float]], quantile: float) -> float:
    """The smallest value up to which a share ``quantile`` of the weight lies.

    Args:
        weighted: (value, weight), at least one of positive weight.
        quantile: From 0 to 1.
    """
    pairs = sorted(weighted)
    goal = quantile * sum(weight for _, weight in pairs) * (1.0 - 1e-12)
    passed = 0.0
    for value, weight in pairs:
        passed += weight
        if passed >= goal:
            return value
    return pairs[-1][0]


def plausible(samples: Sequence[float]) -> list[float]:
    """The samples in order, without those far above the median."""
    ordered = sorted(samples)
    if len(ordered) < MIN_SAMPLES:
        return ordered
    bound = OUTLIER * ordered[(len(ordered) - 1) // 2]
    return [seconds for seconds in ordered if seconds <= bound]


def pooled(memory: PlannerMemory, name: str) -> list[float]:
    """Plausible start-up times of all fleets on a type, seconds, in ascending order."""
    return plausible([seconds for one in memory.deployments.values() for _, seconds in one.startups.get(name, ())])


def observe(
    memory: DeploymentMemory,
    workers: Sequence[WorkerRecord],
    types: Mapping[str, InstanceTypeRecord],
    now: float,
) -> DeploymentMemory:
    """Note which starts begin, which are spoiled and which end.

    Args:
        memory: Memory of the deployment.
        workers: Its workers.
        types: InstanceTypes by name.
        now: Logical seconds.
    """
    watched = memory.watched if memory.watched is not None else now
    starts: dict[str, Start] = {}
    fresh: list[WorkerRecord] = []
    for worker in workers:
        known = memory.starts.get(worker.uid)
        if worker.pending and worker.uid and not worker.leaving:
            spoiled = known.spoiled if known is not None else worker.first_seen <= watched
            starts[worker.uid] = Start(worker.instance_type, spoiled or _spoils(worker, memory, types, now))
        elif known is not None and not known.spoiled and worker.phase is WorkerPhase.READY:
            fresh.append(worker)
    if starts == memory.starts and memory.watched is not None and not fresh:
        return memory
    startups = dict(memory.startups)
    for worker in fresh:
        if worker.first_ready is not None and worker.first_ready > worker.first_seen:
            sample = (worker.first_ready, min(MOST, worker.first_ready - worker.first_seen))
            name = worker.instance_type
            startups[name] = tuple(sorted((*startups.get(name, ()), sample))[-MOST_SAMPLES:])
    return evolve(memory, watched=watched, starts=starts, startups=startups)


def _spoils(
    worker: WorkerRecord, memory: DeploymentMemory, types: Mapping[str, InstanceTypeRecord], now: float
) -> bool:
    if worker.failure_reason:
        return True
    since = worker.unschedulable_since
    if since is None:
        return False
    return now - since > STUCK_FACTOR * startup_lead(types.get(worker.instance_type), memory)


def _prior(record: InstanceTypeRecord | None) -> tuple[float, float]:
    """(p50, p90) before the fleet's own starts."""
    if record is None or record.spec is None:
        return DEFAULT_P50, DEFAULT_STARTUP
    given = record.spec.startup
    measured = record.status.get("startup")
    if isinstance(measured, Mapping):
        samples = measured.get("samples")
        if isinstance(samples, int) and samples >= MIN_SAMPLES:
            try:
                p50, p90 = parse_duration(measured.get("p50")), parse_duration(measured.get("p90"))
            except ValueError:  # a status that was edited by hand: the spec holds
                return min(given.p50, given.p90), given.p90
            return min(p50, p90), p90
    return min(given.p50, given.p90), given.p90
