"""Whether a fleet is at rest: then nothing needs to be done for it until something changes, or some time has passed.

Of a thousand fleets most are at rest at any moment. What their acting consists of, building what the children and the
status should be and finding that they are so already, is a third of a round's work; it is done now and then for each,
at times of its own, instead of in every round. What only follows the traffic (figures) does not count as a change: the
status shows it once a minute at most anyway. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

from warmfleet_operator.acting import diff
from warmfleet_operator.state.decisions import DeploymentPlan
from warmfleet_operator.state.records import Demand, InstanceTypeRecord, Key, WorkerPhase, WorkerRecord

REST_SECONDS = (20.0, 40.0)
"""Logical seconds for which a fleet is left alone: shortest, longest."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a deployment's task works on."""

    job: diff.Job
    demand: Demand | None
    types: Mapping[str, InstanceTypeRecord]


def share_of(key: Key) -> float:
    """A number from 0 to 1, another for each deployment: for what must not fall due for all of them at once."""
    return crc32(f"{key.namespace}/{key.name}".encode()) / 0xFFFFFFFF


def rests(done: Assignment, new: Assignment) -> bool:
    """Whether what was done for the last assignment is all that the new one would ask for."""
    shortest, longest = REST_SECONDS
    if new.job.now - done.job.now >= shortest + (longest - shortest) * share_of(new.job.record.key):
        return False
    return (
        new.job.record is done.job.record
        and new.types == done.types
        and _same_workers(done.job.workers, new.job.workers)
        and _decided(done.job.plan) == _decided(new.job.plan) is not None
        and _measured(done.demand) == _measured(new.demand)
    )


def _same_workers(before: tuple[WorkerRecord, ...], now: tuple[WorkerRecord, ...]) -> bool:
    if len(before) != len(now):
        return False
    return all(a is b and b.phase is WorkerPhase.READY and not b.leaving for a, b in zip(before, now, strict=True))


def _decided(plan: DeploymentPlan | None) -> tuple[object, ...] | None:
    """What a decision says, without figures; None when something is under way or in the way."""
    rolled = plan.rollout if plan is not None else None
    if (
        plan is None
        or plan.victims
        or plan.cancels
        or plan.problems
        or (rolled is not None and rolled.state is not None)
    ):
        return None
    if any(v.create for v in plan.variants):
        return None
    counts = tuple((v.name, v.instance_type, v.desired, v.revision) for v in plan.variants)
    rollout = (rolled.revision, rolled.updated, rolled.ready, rolled.total) if rolled is not None else None
    return (
        plan.uid,
        plan.generation,
        counts,
        plan.desired,
        plan.unlimited,
        plan.chosen_by,
        plan.limited,
        plan.acts,
        rollout,
    )


def _measured(demand: Demand | None) -> tuple[object, ...] | None:
    """What conditions say of the measuring."""
    return None if demand is None else (demand.arrivals is None, demand.silent_workers, demand.sources)
