"""Workers that do not come up are replaced, but not endlessly.

::

    failures  = failed starts of a variant in the last hour, forgotten once a later worker of it served for 2 minutes
    < 3       : every failed worker of it is replaced at once
    >= 3      : one attempt per back-off, 60 s * 2^attempts up to 10 minutes; the other failed ones stay to be looked at

A failed start is a worker that failed before it was ready, or within ten minutes after. A worker that fails later is
replaced at once and does not count. A new generation of the spec starts anew: somebody may have corrected it. Each
variant waits for itself: one that does not come up keeps no other from being bought.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from warmfleet_contracts.reasons import Reason

from warmfleet_operator.planning.roster import Roster
from warmfleet_operator.state.decisions import Problem
from warmfleet_operator.state.memory import DeploymentMemory, FailedStarts, evolve
from warmfleet_operator.state.records import WorkerPhase, WorkerRecord
from warmfleet_operator.state.words import counted

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
        creates: Most workers that may be created now by variant; unbounded where none is named.
        next_attempt: Seconds to the next attempt of any variant; 0 when one is allowed now.
        problem: For the status; None while nothing failed.
    """

    replace: tuple[WorkerRecord, ...] = ()
    creates: Mapping[str, int] = field(default_factory=dict)
    next_attempt: float = 0.0
    problem: Problem | None = None


_OPEN = Gate()


def record(memory: DeploymentMemory, workers: Sequence[WorkerRecord], generation: int, now: float) -> DeploymentMemory:
    """Note new failed starts; forget old ones and those that a worker which serves has disproved."""
    if not memory.failures and not any(w.phase is WorkerPhase.FAILED for w in workers):
        return memory if memory.generation == generation else evolve(memory, generation=generation)
    before = memory.failures if memory.generation in (None, generation) else {}
    told = {uid for known in memory.failures.values() for uid in known.times} | memory.chosen.keys()
    variants: dict[str, list[WorkerRecord]] = {name: [] for name in before}
    for worker in workers:
        variants.setdefault(worker.variant, []).append(worker)
    failures = {}
    for name, people in variants.items():
        found = _noted(before.get(name, FailedStarts()), people, told, now)
        if found.times:
            failures[name] = found
    return evolve(memory, generation=generation, failures=failures)


def _noted(known: FailedStarts, workers: Sequence[WorkerRecord], told: AbstractSet[str], now: float) -> FailedStarts:
    """Failed starts of one variant."""
    times = dict(known.times)
    for worker in workers:
        early = worker.first_ready is None or now - worker.first_ready < EARLY
        if worker.phase is WorkerPhase.FAILED and early and worker.uid not in told:
            times[worker.uid] = now
    if not times:
        return FailedStarts()
    last = max(times.values())
    proven = any(
        w.phase is WorkerPhase.READY
        and w.first_ready is not None
        and w.first_ready > last
        and now - w.first_ready >= PROVEN
        for w in workers
    )
    present = {w.uid for w in workers}
    kept = [] if proven else [(at, uid) for uid, at in times.items() if uid in present or now - at < WINDOW]
    times = {uid: at for at, uid in sorted(kept)[-_REMEMBERED:]}
    return FailedStarts(times) if len(times) < MAX_FAILED_STARTS else replace(known, times=times)


def gate(memory: DeploymentMemory, roster: Roster, now: float) -> Gate:
    """What may be replaced and created now."""
    if not memory.failures and not roster.failed:
        return _OPEN
    failed = tuple(sorted(roster.failed, key=lambda w: (w.first_seen, w.key)))
    movable = [w for w in failed if not w.protected]
    failing = {name: known for name, known in memory.failures.items() if len(known.times) >= MAX_FAILED_STARTS}
    gone = [w for w in movable if w.variant not in failing]
    creates: dict[str, int] = {}
    waits: list[float] = []
    for name, known in sorted(failing.items()):
        mine = [w for w in movable if w.variant == name]
        late = [w for w in mine if w.uid not in known.times]
        wait = _wait(known, now)
        if wait > 0 or any(w.variant == name for w in roster.starting):
            gone += late
            creates[name] = len(late)
            waits.append(max(wait, 0.0))
        else:
            gone += late or mine[:1]
            creates[name] = max(1, len(late))
    order = {w.uid: i for i, w in enumerate(failed)}
    starts = sum(len(known.times) for known in memory.failures.values())
    problem = _problem(failed, starts, stalled=bool(failing))
    return Gate(tuple(sorted(gone, key=lambda w: order[w.uid])), creates, min(waits, default=0.0), problem)


def _wait(known: FailedStarts, now: float) -> float:
    """Seconds to the next attempt; not above 0 when it may be made."""
    last = max([*known.times.values(), *([] if known.attempted_at is None else [known.attempted_at])])
    return last + min(MAX_BACKOFF, BACKOFF * 2.0 ** min(known.attempts, 10)) - now


def attempted(memory: DeploymentMemory, created: Mapping[str, int], now: float) -> DeploymentMemory:
    """Note that workers were created while starts fail; ``created`` counts them by variant."""
    tried = {
        name: replace(known, attempts=min(known.attempts + 1, 10), attempted_at=now)
        for name, known in memory.failures.items()
        if created.get(name) and len(known.times) >= MAX_FAILED_STARTS
    }
    return evolve(memory, failures={**memory.failures, **tried}) if tried else memory


def _problem(failed: tuple[WorkerRecord, ...], starts: int, *, stalled: bool) -> Problem | None:
    if not failed and not stalled:
        return None
    worker = next((w for w in failed if w.failure_reason in _IMAGE), failed[0] if failed else None)
    image = worker is not None and worker.failure_reason in _IMAGE
    why = (worker.failure or worker.failure_reason or "its pod ended") if worker is not None else "see the pods' events"
    name = f"worker {worker.key.name}" if worker is not None else "the last worker"
    fix = "check engine.image and its pull secret" if image else "check engine.image, engine.args and the pod's log"
    message = f"{counted(len(failed))} failed, failed starts in the last hour: {starts}; {name}: {why}; {fix}"
    return Problem(Reason.IMAGE_PULL_FAILED if image else Reason.WORKER_START_FAILED, message[:1000], stalled=stalled)
