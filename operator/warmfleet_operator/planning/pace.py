"""How fast workers may leave for the sake of the prefix cache, and whether the next one is worth it.

::

    share     = hot tokens of the worker / hot tokens of all ready ones       (1 / ready ones, while not known of all)
    retained  = product over those that left of  1 - share * e^(-age / 300 s)         by the model
    measured  = hit ratio now / hit ratio before the first of them left               while any of them is remembered
    may leave if  min(retained, measured) * (1 - share) >= kvCache.minRetainedHitRatio
              or  nothing is missing: retained >= 0.99       so one larger than the floor leaves room for goes alone
    worth it  if  hot tokens / (rate * prompt tokens)  <=  max(hold, time for which the need has been lower)
    room for      what was used within  ROOM * evicted after * S / (S + L)         while most of the S that stay evict

The 300 s are the time in which the caches of the others take over what was lost; the measured ratio corrects the model
to the safe side. The last line weighs the seconds of GPU time that somebody else spends on recomputing the prefixes
against those saved: what has not been needed for t will on average not be needed for another t (Lindy), so a worker
that holds much leaves later, and none stays for ever.

What L workers hand over pushes out of the S others what these used longest ago. Blocks of both kinds would be of the
same age at ``evicted after * S / (S + L)``, with the median of the S. What is brought lies above all that is there,
however old it is, so it pays only where it is clearly younger: hence ROOM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmfleet_operator.state.memory import DeploymentMemory, evolve
from warmfleet_operator.state.records import WorkerRecord, WorkerTelemetry

RECOVERY = 300.0
"""Seconds in which e^-1 of a lost share is still missing."""
WHOLE = 0.99
"""Retained share above which nothing is missing."""
_FORGOTTEN = 0.002
"""Missing share of a worker that left below which it is no longer remembered."""
_MOST = 64
_LEAST_HITS = 0.02
"""Hit ratio below which there is nothing to retain."""
ROOM = 0.5
"""Share of the age at which what is brought is as old as what it pushes out."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What leaving costs the cache now.

    Attributes:
        floor: kvCache.minRetainedHitRatio; None when it is not set.
        retained: Share of the hit ratio that is retained now.
        shares: Share of the fleet's hot prefixes by UID.
        tokens: Hot tokens by UID, where known.
    """

    floor: float | None
    retained: float
    shares: Mapping[str, float]
    tokens: Mapping[str, int]

    def allows(self, worker: WorkerRecord, gone: float) -> bool:
        """Whether the worker may leave now.

        Args:
            worker: A worker that serves.
            gone: Share that others take with them in the same step.
        """
        if self.floor is None or (self.retained >= WHOLE and gone <= 0.0):
            return True
        return self.retained * (1.0 - gone) * (1.0 - self.share(worker)) >= self.floor

    def share(self, worker: WorkerRecord) -> float:
        """Share of the fleet's hot prefixes that leaves with the worker."""
        return self.shares.get(worker.uid, 0.0)

    def pays(self, worker: WorkerRecord, prefill_rate: float, absent: float) -> bool:
        """Whether leaving saves more GPU time than it costs.

        Args:
            worker: A worker that serves.
            prefill_rate: Prompt tokens/s that a worker computes beside its other work.
            absent: Seconds for which it will probably not be needed.
        """
        tokens = self.tokens.get(worker.uid, 0)
        return tokens <= 0 or prefill_rate <= 0 or tokens / prefill_rate <= absent

    def more(self, going: Sequence[WorkerRecord], workers: Sequence[WorkerRecord]) -> int:
        """How many of ``workers``, in their order, may leave beside those that are ``going``."""
        gone = 1.0 - math.prod(1.0 - self.share(w) for w in going)
        for count, worker in enumerate(workers):
            if not self.allows(worker, gone):
                return count
            gone = 1.0 - (1.0 - gone) * (1.0 - self.share(worker))
        return len(workers)

    def text(self) -> str:
        """Why a worker stays for the sake of the cache, for a person."""
        bound = "" if self.floor is None else f", minRetainedHitRatio is {self.floor:g}"
        return f"{self.retained:.0%} of the prefix hits are retained{bound}; its cache is worth more than leaving now"


IDLE = Pace(None, 1.0, {}, {})
"""Nobody is about to leave."""


def measure(
    floor: float | None,
    hit_ratio: float | None,
    ready: Sequence[WorkerRecord],
    telemetry: Mapping[str, WorkerTelemetry],
    memory: DeploymentMemory,
    now: float,
) -> Pace:
    """What is retained now, and what each worker holds.

    Args:
        floor: kvCache.minRetainedHitRatio.
        hit_ratio: Prefix hits per prompt token over the last minutes; None while unknown.
        ready: Workers that serve.
        telemetry: Last agent answers by UID.
        memory: Memory of the deployment.
        now: Logical seconds.
    """
    known = {w.uid: t.hot_tokens for w in ready if (t := telemetry.get(w.uid)) is not None and t.hot_tokens is not None}
    total = sum(known.values())
    shares = dict.fromkeys((w.uid for w in ready), 1.0 / max(1, len(ready)))
    if len(known) == len(ready) and total > 0:
        shares = {uid: tokens / total for uid, tokens in known.items()}
    retained = modelled(memory, now)
    before = memory.hits_before
    if memory.losses and before is not None and before > _LEAST_HITS and hit_ratio is not None:
        retained = min(retained, max(0.0, hit_ratio / before))
    useless = hit_ratio is not None and hit_ratio <= _LEAST_HITS and (before is None or before <= _LEAST_HITS)
    return Pace(None if useless else floor, retained, shares, known)


def modelled(memory: DeploymentMemory, now: float) -> float:
    """Share of the hit ratio that is retained by the model; 1 when nobody left lately."""
    return math.prod(1.0 - share * _missing(at, now) for at, share in memory.losses)


def _missing(at: float, now: float) -> float:
    return math.exp(-max(0.0, now - at) / RECOVERY)


def room_for(staying: Sequence[WorkerTelemetry | None], leaving: int) -> float | None:
    """Seconds within which a prompt must have been used to be worth handing over; None: whatever is hot.

    Args:
        staying: Last agent answers of the workers that stay; None for no answer.
        leaving: How many leave.
    """
    ages = sorted(math.inf if t is None or t.evicted_after is None else t.evicted_after for t in staying)
    if not ages:
        return None
    age = ages[len(ages) // 2]
    return None if math.isinf(age) else ROOM * age * len(ages) / (len(ages) + leaving)


def left(memory: DeploymentMemory, shares: Sequence[float], hit_ratio: float | None, now: float) -> DeploymentMemory:
    """The memory after workers with these shares were told to leave; what has come back is forgotten."""
    losses = [(at, share) for at, share in memory.losses if share * _missing(at, now) >= _FORGOTTEN]
    before = memory.hits_before if losses else None
    if shares and before is None:
        before = hit_ratio
    losses += [(now, min(1.0, max(0.0, share))) for share in shares if share > 0]
    kept = tuple(losses[-_MOST:])
    if kept == memory.losses and before == memory.hits_before:
        return memory
    return evolve(memory, losses=kept, hits_before=before if kept else None)
