"""Which template the workers shall be made from: the spec's, or the last good one when the spec's does not come up.

::

    good      = the spec whose workers are all of its revision, none failed, one ready for PROVEN seconds
    strikes   = workers of the wanted revision that failed before they had served for 10 minutes; forgotten once a later
                one is ready for PROVEN seconds
    waited    = time in which workers of it had a node and none became ready
    rejected  : strikes >= 3  or  waited > rollout.progressDeadline,   while there is a good template and it differs

A rejected revision stays rejected until the spec asks for another one; the good template is then what everything is
planned with: types, parallelism, capacities. It is not rejected in its turn, so a rollback ends. The user's spec is
never written. Time without a node does not count, because it says nothing about the template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from warmfleet_contracts.api import LLMDeploymentSpec

from warmfleet_operator.state.memory import DeploymentMemory, RolloutMemory, evolve
from warmfleet_operator.state.records import DeploymentRecord, WorkerPhase, WorkerRecord
from warmfleet_operator.state.revisions import comparable, fingerprint, revisions, with_template

MAX_STRIKES = 3
EARLY = 600.0
"""Seconds after its first readiness within which a failure is blamed on the template."""
PROVEN = 120.0
"""Seconds of service after which a worker speaks for its template."""
_REMEMBERED = 8
_TRYING = (WorkerPhase.STARTING, WorkerPhase.NOT_READY, WorkerPhase.FAILED)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The template that is wanted, and which workers are of it.

    Attributes:
        record: The deployment with the spec that is planned with.
        memory: The memory, brought up to now.
        revisions: Wanted revision by variant; empty when revisions are not known.
        updated: Workers of it that are not on their way out, and those that cannot be compared.
        outdated: Workers of another revision that are not on their way out.
        rolled_back: Whether the good template is used in place of the spec's.
        proven: Whether the wanted template is the good one.
    """

    record: DeploymentRecord
    memory: DeploymentMemory
    revisions: Mapping[str, str]
    updated: tuple[WorkerRecord, ...]
    outdated: tuple[WorkerRecord, ...]
    rolled_back: bool
    proven: bool

    def judged(self, workers: Sequence[WorkerRecord]) -> Sequence[WorkerRecord]:
        """The workers whose failures say something about the wanted template."""
        if not self.outdated:
            return workers
        old = {w.uid for w in self.outdated}
        return [w for w in workers if w.uid not in old]


def wanted(record: DeploymentRecord, workers: Sequence[WorkerRecord], memory: DeploymentMemory, now: float) -> Wanted:
    """Judge the spec's template and choose what is planned with.

    Args:
        record: The deployment as the user wants it.
        workers: Its workers.
        memory: Its memory, moved to now.
        now: Logical seconds.
    """
    spec = record.spec
    if spec is None or not record.revisions:
        return Wanted(
            record, memory, {}, tuple(w for w in workers if not w.leaving), (), rolled_back=False, proven=True
        )
    own = record.revisions
    notes = memory.rollout
    if notes.rejected and not set(notes.rejected) & set(own.values()):
        notes = replace(notes, rejected=(), why="")
    if not _falls_back(notes):
        notes = _judged(notes, own, spec, workers, now)
        if notes.rejected:  # failures of the rejected template say nothing about the good one
            memory = evolve(memory, failures={})
    back = _falls_back(notes)
    if back and notes.good is not None:
        spec = with_template(spec, notes.good)
        own = revisions(spec)
    updated, outdated = split(workers, own)
    if own != notes.good_revisions:
        notes = replace(notes, seen_at=now)
    if not back and not outdated and own != notes.good_revisions and _serves(updated, now):
        notes = replace(notes, good=spec, good_revisions=dict(own), strikes={}, waited=0.0)
    return Wanted(
        record=replace(record, spec=spec, revisions=own) if back else record,
        memory=memory if notes is memory.rollout else evolve(memory, rollout=notes),
        revisions=own,
        updated=tuple(updated),
        outdated=tuple(outdated),
        rolled_back=back,
        proven=own == notes.good_revisions,
    )


def split(workers: Sequence[WorkerRecord], own: Mapping[str, str]) -> tuple[list[WorkerRecord], list[WorkerRecord]]:
    """(of the revision, of another one), without those on their way out."""
    updated: list[WorkerRecord] = []
    outdated: list[WorkerRecord] = []
    for worker in workers:
        if worker.leaving:
            continue
        target = own.get(worker.variant)
        same = worker.revision == target or target is None or not comparable(worker.revision)
        (updated if same else outdated).append(worker)
    return updated, outdated


def _falls_back(notes: RolloutMemory) -> bool:
    return bool(notes.rejected) and notes.good is not None


def _serves(updated: Sequence[WorkerRecord], now: float) -> bool:
    """Whether the workers speak for their template."""
    proven = [
        w
        for w in updated
        if w.phase is WorkerPhase.READY and w.first_ready is not None and now - w.first_ready >= PROVEN
    ]
    return bool(proven) and all(w.phase is WorkerPhase.READY for w in updated)


def _judged(
    notes: RolloutMemory,
    own: Mapping[str, str],
    spec: LLMDeploymentSpec,
    workers: Sequence[WorkerRecord],
    now: float,
) -> RolloutMemory:
    target = fingerprint(own)
    if target != notes.target:
        notes = replace(notes, target=target, strikes={}, waited=0.0, seen_at=now, rejected=(), why="")
    if notes.good is None or own == notes.good_revisions:
        return replace(notes, strikes={}, waited=0.0) if notes.strikes or notes.waited else notes
    mine, _ = split(workers, own)
    mine = [w for w in mine if comparable(w.revision)]
    notes = replace(notes, strikes=_strikes(notes, mine, now), waited=_waited(notes, mine, now))
    why = _verdict(notes, mine, spec)
    if not why:
        return notes
    return replace(notes, rejected=tuple(sorted(set(own.values()) - set(notes.good_revisions.values()))), why=why[:300])


def _strikes(notes: RolloutMemory, mine: Sequence[WorkerRecord], now: float) -> dict[str, float]:
    strikes = dict(notes.strikes)
    for worker in mine:
        early = worker.first_ready is None or now - worker.first_ready < EARLY
        if worker.phase is WorkerPhase.FAILED and early and worker.uid:
            strikes.setdefault(worker.uid, now)
    last = max(strikes.values(), default=now)
    if any(
        w.phase is WorkerPhase.READY
        and w.first_ready is not None
        and w.first_ready > last
        and now - w.first_ready >= PROVEN
        for w in mine
    ):
        return {}
    newest = sorted(strikes.items(), key=lambda item: (item[1], item[0]))[-_REMEMBERED:]
    return dict(newest)


def _waited(notes: RolloutMemory, mine: Sequence[WorkerRecord], now: float) -> float:
    since = notes.seen_at if notes.seen_at is not None else now
    if any(w.phase is WorkerPhase.READY and w.first_ready is not None and w.first_ready >= since for w in mine):
        return 0.0
    trying = any(w.phase in _TRYING and w.node for w in mine)
    return notes.waited + max(0.0, now - since) * trying


def _verdict(notes: RolloutMemory, mine: Sequence[WorkerRecord], spec: LLMDeploymentSpec) -> str:
    """Why the template is rejected; empty while it is not."""
    if len(notes.strikes) >= MAX_STRIKES:
        failed = next((w for w in mine if w.phase is WorkerPhase.FAILED and w.failure), None)
        return f"{len(notes.strikes)} of its workers failed" + (f", the last: {failed.failure}" if failed else "")
    if notes.waited > spec.rollout.progress_deadline:
        return f"none of its workers became ready within progressDeadline {spec.rollout.progress_deadline:g} s"
    return ""
