"""Workers that do not come up are replaced, but not endlessly.

::

    failures  = failed starts of the last hour, forgotten once a later worker has served for 2 minutes
    < 3       : every failed worker is replaced at once
    >= 3      : one attempt per back-off, 60 s * 2^attempts up to 10 minutes; the other failed ones stay to be looked at

A failed start is a worker that failed before it was ready, or within ten minutes after. A worker that fails later is
replaced at once and does not count. A new generation of the spec starts anew: somebody may have corrected it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from warmfleet_contracts.reasons import Reason

from warmfleet_operator.planning.roster import Roster
from warmfleet_operator.state.decisions import Problem
from warmfleet_operator.state.memory import DeploymentMemory
from warmfleet_operator.state.records import WorkerPhase, WorkerRecord

MAX_FAILED_STARTS = 3
WINDOW = 3600.0
EARLY = 600.0
PROVEN = 120.0
BACKOFF = 60.0
MAX_BACKOFF = 600.0
_REMEMBERED = 32
_IMAGE = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"})


@dataclass(frozen=True, slots=True)
class Gate:
    """What failed starts allow.

    Attributes:
        replace: Failed workers that shall be deleted now.
        creates: Most workers that may be created now; None when unbounded.
        next_attempt: Seconds to the next attempt; 0 when one is allowed now.
        problem: For the status; None while nothing failed.
    """

    replace: tuple[WorkerRecord, ...] = ()
    creates: int | None = None
    next_attempt: float = 0.0
    problem: Problem | None = None


def record(memory: DeploymentMemory, workers: Sequence[WorkerRecord], generation: int, now: float) -> DeploymentMemory:
    """Note new failed starts; forget old ones and those that a worker which serves has disproved."""
    failures = dict(memory.failures) if memory.generation in (None, generation) else {}
    for worker in workers:
        early = worker.first_ready is None or now - worker.first_ready < EARLY
        known = worker.uid in memory.failures or worker.uid in memory.chosen
        if worker.phase is WorkerPhase.FAILED and early and not known:
            failures[worker.uid] = now
    last = max(failures.values(), default=None)
    proven = last is not None and any(
        w.phase is WorkerPhase.READY
        and w.first_ready is not None
        and w.first_ready > last
        and now - w.first_ready >= PROVEN
        for w in workers
    )
    if failures:
        present = {w.uid for w in workers}
        kept = [] if proven else [(at, uid) for uid, at in failures.items() if uid in present or now - at < WINDOW]
        failures = {uid: at for at, uid in sorted(kept)[-_REMEMBERED:]}
    if len(failures) < MAX_FAILED_STARTS:
        return replace(memory, generation=generation, failures=failures, attempts=0, attempted_at=None)
    return replace(memory, generation=generation, failures=failures)


def gate(memory: DeploymentMemory, roster: Roster, now: float) -> Gate:
    """What may be replaced and created now."""
    failed = tuple(sorted(roster.failed, key=lambda w: (w.first_seen, w.key)))
    problem = _problem(failed, len(memory.failures))
    movable = tuple(w for w in failed if not w.protected)
    if len(memory.failures) < MAX_FAILED_STARTS:
        return Gate(movable, None, 0.0, problem)
    last = max([*memory.failures.values(), *([] if memory.attempted_at is None else [memory.attempted_at])])
    wait = last + min(MAX_BACKOFF, BACKOFF * 2 ** min(memory.attempts, 10)) - now
    late = tuple(w for w in movable if w.uid not in memory.failures)
    if wait > 0 or roster.starting:
        return Gate(late, len(late), max(wait, 0.0), problem)
    return Gate(late or movable[:1], max(1, len(late)), 0.0, problem)


def attempted(memory: DeploymentMemory, created: int, now: float) -> DeploymentMemory:
    """Note that workers were created while starts fail."""
    if not created or len(memory.failures) < MAX_FAILED_STARTS:
        return memory
    return replace(memory, attempts=min(memory.attempts + 1, 10), attempted_at=now)


def _problem(failed: tuple[WorkerRecord, ...], starts: int) -> Problem | None:
    stalled = starts >= MAX_FAILED_STARTS
    if not failed and not stalled:
        return None
    worker = next((w for w in failed if w.failure_reason in _IMAGE), failed[0] if failed else None)
    image = worker is not None and worker.failure_reason in _IMAGE
    why = (worker.failure or worker.failure_reason or "its pod ended") if worker is not None else "see the pods' events"
    name = f"worker {worker.key.name}" if worker is not None else "the last worker"
    fix = "check engine.image and its pull secret" if image else "check engine.image, engine.args and the pod's log"
    message = f"{len(failed)} workers failed, {starts} failed starts in the last hour; {name}: {why}; {fix}"
    return Problem(Reason.IMAGE_PULL_FAILED if image else Reason.WORKER_START_FAILED, message[:1000], stalled=stalled)
