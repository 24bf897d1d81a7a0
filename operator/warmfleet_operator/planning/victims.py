"""Who leaves, and who may come back.

::

    order    = already chosen; no node; starting; failed; not ready; ready (of the revision that is too many first)
    ready by   crowded (where caches are handed over), hot tokens (if known of all), requests running (likewise),
               oldest node, oldest worker
    crowded    evicted after < min(SOON, half of the median of the others that evict)
    hot tokens those that would leave the fleet with it, once those with less have left; all of its own without sketches
    leaves     if variants[].min holds without it, and, when it serves, the rest stays above need.down

A router that follows prefixes leaves a conversation where it is. A worker with more of them than its cache holds evicts
each before its next turn, computes all of them again and again, and its queue grows, for as long as they last; no
hand-over from another worker changes that. When it is the one that leaves, they are spread over those that have room.
Without a hand-over all that it holds would be lost, and it holds the most: there hits count for more than the tail.

Protected workers (do-not-drain) are never chosen. Whoever has served is drained first; whoever never has is deleted.
Replacement is make before break: a retiring worker leaves once the ready ones cover for it, or when it is overdue, or,
one at a time, when its replacement cannot be bought because it holds the accelerators itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.reasons import VictimReason
from warmfleet_contracts.sketch import Sketch, departure_tokens

from warmfleet_operator.planning.blend import Need
from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.planning.roster import Retiring, Roster
from warmfleet_operator.state.decisions import Victim
from warmfleet_operator.state.records import Key, NodeRecord, WorkerPhase, WorkerRecord, WorkerTelemetry

RECALLABLE = frozenset(
    {VictimReason.CROWDED, VictimReason.LOWEST_KV_VALUE, VictimReason.FEWEST_RUNNING, VictimReason.OLDEST_NODE}
)
"""Drains that were begun to save money; any other has a cause that demand does not remove."""

SOON = 90.0
"""Seconds: of coding agents' prompts that nobody has used for so long, six in ten are continued in five minutes more
(turns of one session in weka_agentic, 131,072 tokens at most)."""


class Credit(StrEnum):
    """As what a worker counts."""

    READY = "ready"
    """It serves."""
    STARTING = "starting"
    """Credited upwards only."""
    NONE = "none"
    """No capacity."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A worker in the order of leaving, and why it is where it is."""

    worker: WorkerRecord
    reason: VictimReason
    message: str
    credit: Credit

    def victim(self) -> Victim:
        """The same as a decision."""
        return victim(self.worker, self.reason, self.message)


def victim(worker: WorkerRecord, reason: VictimReason, message: str) -> Victim:
    """A decision to remove a worker: drained if it has served and still can."""
    served = worker.phase is WorkerPhase.READY or worker.first_ready is not None
    return Victim(worker.key, worker.uid, reason, served and worker.phase is not WorkerPhase.FAILED, message)


def order(
    roster: Roster,
    telemetry: Mapping[str, WorkerTelemetry],
    nodes: Mapping[str, NodeRecord],
    chosen: Mapping[str, float],
    *,
    keeps: bool,
    arrange: Callable[[Sequence[Pick]], list[Pick]] = list,
) -> list[Pick]:
    """All workers that may leave, first to go first; ``arrange`` has the last word on those that serve.

    ``keeps`` as in :func:`ranked`.
    """
    picks = [
        Pick(w, VictimReason.PENDING, "no node was found for it", Credit.NONE)
        for w in sorted(roster.stuck, key=lambda w: (-w.first_seen, w.key))
        if not w.protected
    ]
    for worker in sorted(roster.starting, key=_latest_stage_last):
        if not worker.protected:
            fresh = worker.first_ready is None
            reason = VictimReason.PENDING if fresh else VictimReason.FAILED
            message = f"{worker.phase.value}, serves nothing yet" if fresh else "not ready any more"
            picks.append(Pick(worker, reason, message, Credit.STARTING))
    lame = [w for w in roster.failed + roster.broken if not w.protected]
    picks += [Pick(w, VictimReason.FAILED, w.failure or w.phase.value, Credit.NONE) for w in lame]
    picks += arrange(ranked(roster.ready, telemetry, nodes, keeps=keeps))
    return sorted(picks, key=lambda p: p.worker.uid not in chosen) if chosen else picks


def _latest_stage_last(w: WorkerRecord) -> tuple[bool, bool, float, Key]:
    return w.first_ready is not None, w.phase is not WorkerPhase.UNSCHEDULED, -w.first_seen, w.key


def ranked(
    ready: Sequence[WorkerRecord],
    telemetry: Mapping[str, WorkerTelemetry],
    nodes: Mapping[str, NodeRecord],
    *,
    keeps: bool,
) -> list[Pick]:
    """Workers that serve, the one that is missed least first; without the protected ones.

    Args:
        ready: Workers that serve.
        telemetry: Last agent answers by UID.
        nodes: By name.
        keeps: Whether what a leaving worker holds is handed over: then a crowded one goes first.
    """
    free = [w for w in ready if not w.protected]
    hot = _unique(ready, free, telemetry) or _known(free, telemetry, lambda t: t.hot_tokens)
    running = _known(free, telemetry, lambda t: t.running)
    packed = crowded(ready, telemetry) if keeps else {}
    protected = len(ready) - len(free)
    aside = f"; {protected} with do-not-drain passed over" if protected else ""
    most_hot, most_running = max(hot.values(), default=0), max(running.values(), default=0)

    def key(w: WorkerRecord) -> tuple[bool, float, float, float, float, str, str]:
        node = nodes.get(w.node)
        born = w.first_seen if node is None else node.first_seen
        return w.uid not in packed, hot.get(w.uid, 0), running.get(w.uid, 0), born, w.first_seen, w.key.name, w.uid

    picks = []
    oldest = f"all else equal, the oldest of {len(free)}{aside}"
    for worker in sorted(free, key=key):
        if worker.uid in packed:
            after = packed[worker.uid]
            why = VictimReason.CROWDED, f"it evicts what was used {after:.0f} s ago, others keep it for longer{aside}"
        elif hot.get(worker.uid, 0) < most_hot:
            why = (
                VictimReason.LOWEST_KV_VALUE,
                f"{hot[worker.uid]} hot tokens leave with it, with others up to {most_hot}{aside}",
            )
        elif running.get(worker.uid, 0) < most_running:
            why = VictimReason.FEWEST_RUNNING, f"{running[worker.uid]} running, others up to {most_running}{aside}"
        else:
            why = VictimReason.OLDEST_NODE, oldest
        picks.append(Pick(worker, why[0], why[1], Credit.READY))
    return picks


def hands_over(spec: LLMDeploymentSpec) -> bool:
    """Whether what a leaving worker holds is kept, by any strategy."""
    return any(strategy != "none" for strategy in spec.kv_cache.handover)


def crowded(ready: Sequence[WorkerRecord], telemetry: Mapping[str, WorkerTelemetry]) -> dict[str, float]:
    """Workers with more conversations than they can keep while others have room: UID, and after how long they evict.

    Those that evict nothing are no measure for the others: they may just not be full yet.

    Args:
        ready: Workers that serve.
        telemetry: Last agent answers by UID.
    """
    seen = ((w.uid, telemetry.get(w.uid)) for w in ready)
    ages = {uid: t.evicted_after for uid, t in seen if t is not None and t.evicted_after is not None}
    found = {}
    for uid, age in ages.items():
        others = [other for name, other in ages.items() if name != uid]
        if others and age < min(SOON, median(others) / 2.0):
            found[uid] = age
    return found


def _unique(
    ready: Sequence[WorkerRecord], free: Sequence[WorkerRecord], telemetry: Mapping[str, WorkerTelemetry]
) -> dict[str, int]:
    """Hot tokens lost by UID, if those with less leave first; nothing unless all of them publish a sketch."""
    held: dict[str, tuple[int, Sketch]] = {}
    for worker in ready:
        seen = telemetry.get(worker.uid)
        if seen is None or seen.hot_tokens is None or seen.hot_sketch is None:
            return {}
        held[worker.uid] = seen.hot_tokens, seen.hot_sketch
    return departure_tokens(held, set(held) - {w.uid for w in free})


def _known(
    workers: Sequence[WorkerRecord],
    telemetry: Mapping[str, WorkerTelemetry],
    read: Callable[[WorkerTelemetry], int | None],
) -> dict[str, int]:
    """The figure by UID if it is known of every worker, else nothing."""
    found: dict[str, int] = {}
    for worker in workers:
        seen = telemetry.get(worker.uid)
        value = None if seen is None else read(seen)
        if value is None or value < 0:
            return {}
        found[worker.uid] = value
    return found


def removable(
    picks: Sequence[Pick],
    *,
    counts: Mapping[str, int],
    floors: Mapping[str, int],
    floor: int,
    need: Need | None,
    rates: Mapping[str, float],
    ready: float,
    coming: float,
) -> list[Pick]:
    """The picks that may leave together, in order.

    Args:
        picks: Candidates in order.
        counts: Workers by variant.
        floors: Fewest workers by variant.
        floor: Fewest workers.
        need: Capacity that must stay; None when only counts matter.
        rates: Requests/s of one worker by variant.
        ready: Capacity of ready workers at these rates.
        coming: Capacity of starting workers at these rates.
    """
    left, total, out = dict(counts), sum(counts.values()), []
    for pick in picks:
        name, rate = pick.worker.variant, rates.get(pick.worker.variant, 0.0)
        if total <= floor:
            break
        if left.get(name, 0) <= floors.get(name, 0):
            continue
        if need is not None:
            after = {Credit.READY: ready - rate, Credit.STARTING: ready + coming - rate}.get(pick.credit)
            if after is not None and not need.stays_met(after):
                continue
        left[name] -= 1
        total -= 1
        ready -= rate if pick.credit is Credit.READY else 0.0
        coming -= rate if pick.credit is Credit.STARTING else 0.0
        out.append(pick)
    return out


def retire(
    roster: Roster,
    *,
    target: int,
    routed: int,
    short: bool,
    covered: bool,
    offers: Mapping[str, Offer],
) -> tuple[Victim, ...]:
    """Retiring workers that leave now.

    Args:
        roster: The workers.
        target: Workers wanted without the retiring ones.
        routed: Ready workers among those that stay and that routers surely know.
        short: Whether replacements cannot be bought for want of accelerators.
        covered: Whether the ready ones carry the demand without them.
        offers: Variants by name, for the order.
    """
    idle, serving, overdue = _split(roster.retiring)
    spare = min(routed + len(serving) + len(overdue) - target, routed)
    if covered:
        spare = len(serving) + len(overdue)
    if short and not roster.starting and not roster.draining:
        spare = max(spare, 1)
    go = [*idle, *overdue, *serving[: max(0, spare - len(overdue))]]
    rank = {name: i for i, name in enumerate(offers)}
    go.sort(key=lambda r: (rank.get(r.worker.variant, -1), r.worker.key))
    return tuple(victim(r.worker, r.reason, r.message) for r in go)


def _split(retiring: Sequence[Retiring]) -> tuple[list[Retiring], list[Retiring], list[Retiring]]:
    """(serve nothing, may wait for a replacement, must go) without the protected and those that a rollout replaces."""
    free = [r for r in retiring if not r.worker.protected and r.reason is not VictimReason.OUTDATED_REVISION]
    idle = [r for r in free if r.worker.phase is not WorkerPhase.READY]
    serving = [r for r in free if r.worker.phase is WorkerPhase.READY and not r.overdue]
    overdue = [r for r in free if r.worker.phase is WorkerPhase.READY and r.overdue]
    return idle, serving, overdue


def recallable(
    roster: Roster,
    telemetry: Mapping[str, WorkerTelemetry],
    nodes: Mapping[str, NodeRecord],
    offers: Mapping[str, Offer],
) -> list[WorkerRecord]:
    """Draining workers that can come back, the last one told first."""

    def can(w: WorkerRecord) -> bool:
        seen, node = telemetry.get(w.uid), nodes.get(w.node)
        return (
            w.drain_reason in RECALLABLE
            and w.phase is not WorkerPhase.TERMINATING
            and w.phase is not WorkerPhase.FAILED
            and seen is not None
            and seen.cancellable is True
            and (node is None or node.leaving is None)
            and w.variant in offers
        )

    def when(w: WorkerRecord) -> float:
        return w.first_seen if w.drain_since is None else w.drain_since

    return sorted((w for w in roster.draining if can(w)), key=lambda w: (-when(w), w.key))
