"""Workers of an older template revision are replaced: surge first, drain after, never below the need.

::

    keep     = partition, or total - canary;  0 after a rollback      workers that stay on the old revision
    replaced = min(outdated - keep, maxSurge - draining of them)      that serve; those that do not serve all at once
    buy      one of the same variant for each (the fleet keeps its size of before: ``sizes``)
    leaves   if  ready without it >= size wanted                       its replacement, or another, serves in its place
             and the last failure of a new one is disproved   by another that has served for two minutes,
                                                              or the old ones alone are more than are wanted
    or       if  nothing can be bought, starts or drains, and the ready ones carry the demand and scaling.min without it

Replaced workers serve until they leave but are not counted as capacity, so the planner buys for them, in the same step
and under the same limits as for traffic. What the traffic asks for comes first: while more is needed nobody leaves, and
fewer are wanted by the rule of :mod:`.shrink`, which takes the outdated ones first; ``sizes`` follows it down.

A canary's share is kept in both directions: when the fleet grows, as many workers are made from the previous template
as the old revision is owed. Pauses stop a rollout where it is; drains that have begun go on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.reasons import ChosenBy, Reason, VictimReason

from warmfleet_operator.planning import victims
from warmfleet_operator.planning.blend import Need
from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.planning.limits import Pauses
from warmfleet_operator.planning.roster import Retiring, Roster
from warmfleet_operator.planning.templates import Wanted
from warmfleet_operator.planning.victims import Pick
from warmfleet_operator.state.decisions import Problem, RolloutPlan, Victim
from warmfleet_operator.state.memory import DeploymentMemory, evolve
from warmfleet_operator.state.records import FleetSnapshot, WorkerPhase, WorkerRecord
from warmfleet_operator.state.revisions import fingerprint, with_template
from warmfleet_operator.state.words import counted

_GROWING = (ChosenBy.MIN, ChosenBy.NO_DATA, ChosenBy.HOLD, ChosenBy.REACTIVE_UP, ChosenBy.QUEUE)
_OVERDUE_FACTOR = 2.0
"""Start-up times after which a worker of an old revision that still starts is given up."""


@dataclass(slots=True)
class Rolling:
    """A rollout on its way through one decision.

    Attributes:
        wanted: The template that is wanted and who is of it.
        total: Workers that the fleet shall have.
        keep: Workers that stay on the old revision.
        drains: Workers that drain because they are outdated.
        replaced: Outdated workers that others take the place of.
        sizes: Workers by variant that shall be there while some are replaced; empty when nobody is.
        obstacle: Why nothing moves although it should; empty when it does.
    """

    wanted: Wanted
    total: int = 0
    keep: int = 0
    drains: int = 0
    replaced: tuple[Retiring, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    obstacle: str = ""

    @property
    def serving(self) -> list[WorkerRecord]:
        """Of the replaced ones, those that serve."""
        return [r.worker for r in self.replaced if r.worker.phase is WorkerPhase.READY]

    @property
    def previous(self) -> LLMDeploymentSpec | None:
        """What the workers that a canary keeps are made from."""
        wanted, notes = self.wanted, self.wanted.memory.rollout
        if wanted.rolled_back or wanted.proven or notes.good is None or wanted.record.spec is None:
            return None
        return with_template(wanted.record.spec, notes.good)


def select(
    wanted: Wanted,
    roster: Roster,
    snapshot: FleetSnapshot,
    offers: Mapping[str, Offer],
    pauses: Pauses,
    now: float,
) -> tuple[Rolling, Roster]:
    """Choose who is replaced, and move them among the retiring ones.

    Args:
        wanted: See :func:`warmfleet_operator.planning.templates.wanted`.
        roster: Workers by class.
        snapshot: For the order in which they go.
        offers: Variants by name.
        pauses: Pause annotations.
        now: Logical seconds.
    """
    spec, memory = wanted.record.spec, wanted.memory
    rolling = Rolling(wanted, drains=sum(w.drain_reason == VictimReason.OUTDATED_REVISION for w in roster.draining))
    if spec is None or not wanted.outdated:
        return rolling, roster
    here = len(wanted.outdated) + len(wanted.updated)
    known = sum((memory.rollout.sizes or memory.desired).values())
    total = min(known, here) if known else here
    rolling.total, rolling.keep = total, _keep(wanted, spec, total)
    quota = len(wanted.outdated) - rolling.keep
    if pauses.creates or pauses.victims:
        rolling.obstacle = f"annotation {pauses.named} is set" if quota > 0 else ""
        return rolling, roster
    old = {w.uid for w in wanted.outdated if w.uid and not w.protected}
    idle = [w for w in _idle(roster, offers, now) if w.uid in old][: max(0, quota)]
    serving = [w for w in roster.ready if w.uid in old]
    count = max(0, min(quota - len(idle), spec.rollout.max_surge - rolling.drains))
    if quota > 0 and not idle and not serving and not rolling.drains:
        rolling.obstacle = _stays(wanted)
    order = victims.ranked(serving, snapshot.telemetry, snapshot.nodes, keeps=victims.hands_over(spec))[:count]
    chosen = [*idle, *(pick.worker for pick in order)]
    target = fingerprint(wanted.revisions)
    rolling.replaced = tuple(
        Retiring(w, VictimReason.OUTDATED_REVISION, f"revision {w.revision}, wanted is {target}", overdue=False)
        for w in chosen
    )
    return rolling, _without(roster, {w.uid for w in chosen}, rolling.replaced)


def _keep(wanted: Wanted, spec: LLMDeploymentSpec, total: int) -> int:
    if wanted.rolled_back:
        return 0
    canary = spec.rollout.canary
    if canary is None:
        return min(spec.rollout.partition, total)
    share = canary.removesuffix("%")
    count = int(share) if share == canary else math.ceil(total * int(share) / 100.0 - 1e-9)
    return max(0, total - count)


def _idle(roster: Roster, offers: Mapping[str, Offer], now: float) -> list[WorkerRecord]:
    """Those that serve nothing and are not about to."""
    late = [
        w
        for w in roster.starting
        if w.phase is WorkerPhase.UNSCHEDULED
        or (w.first_ready is None and now - w.first_seen > _OVERDUE_FACTOR * offers[w.variant].startup)
    ]
    return [*roster.failed, *roster.stuck, *roster.broken, *late]


def _stays(wanted: Wanted) -> str:
    protected = sum(w.protected for w in wanted.outdated)
    if protected:
        return f"{counted(protected)} of an older revision: kept by the do-not-drain annotation; remove it"
    return ""


def _without(roster: Roster, uids: set[str], more: tuple[Retiring, ...]) -> Roster:
    def rest(workers: Sequence[WorkerRecord]) -> tuple[WorkerRecord, ...]:
        return tuple(w for w in workers if w.uid not in uids)

    return Roster(
        ready=rest(roster.ready),
        starting=rest(roster.starting),
        stuck=rest(roster.stuck),
        broken=rest(roster.broken),
        failed=rest(roster.failed),
        retiring=(*roster.retiring, *more),
        draining=roster.draining,
    )


def restock(rolling: Rolling, counts: Mapping[str, int], floors: Mapping[str, int], most: int) -> dict[str, int]:
    """Fewest workers by variant to be bought while some are replaced: the fleet keeps its size.

    Args:
        rolling: The rollout; its ``sizes`` are set.
        counts: Workers by variant that stay.
        floors: Fewest workers by variant otherwise.
        most: Most workers.
    """
    before = rolling.wanted.memory.rollout.sizes
    unfilled = any(counts.get(name, 0) < size for name, size in before.items() if name in counts)
    under_way = bool(before) and len(rolling.wanted.outdated) > rolling.keep
    if not (rolling.replaced or rolling.drains or unfilled or under_way):
        return dict(floors)
    sizes = dict(before)
    if not sizes:
        sizes = dict(counts)
        for one in rolling.replaced:
            sizes[one.worker.variant] = sizes.get(one.worker.variant, 0) + 1
    merged, room = dict(floors), most
    for name in counts:
        size = max(0, min(sizes.get(name, 0), room))
        room -= size
        if size:
            rolling.sizes[name] = size
            merged[name] = max(merged.get(name, 0), size)
    return merged


@dataclass(frozen=True, slots=True)
class Cover:
    """What serves without the replaced workers.

    Attributes:
        routed: Ready workers that routers surely know.
        carried: Their capacity, requests/s.
        target: Workers that shall be there.
        need: Capacity needed; None while unknown.
        least: Fewest workers that must serve.
        rates: Requests/s of one worker by variant.
        buying: Whether workers are created by this decision.
        stopped: Whether replacements cannot be bought, or find no node.
    """

    routed: int
    carried: float
    target: int
    need: Need | None
    least: int
    rates: Mapping[str, float]
    buying: bool
    stopped: bool


def leavers(rolling: Rolling, roster: Roster, cover: Cover, allowed: int) -> tuple[Victim, ...]:
    """Those who are replaced and leave now, see :func:`_leaving`."""
    going = {w.uid for w in _leaving(rolling, roster, cover, allowed)}
    return tuple(victims.victim(r.worker, r.reason, r.message) for r in rolling.replaced if r.worker.uid in going)


def _leaving(rolling: Rolling, roster: Roster, cover: Cover, allowed: int) -> list[WorkerRecord]:
    """The replaced workers that leave now: those that serve nothing, and those whose place is taken.

    Args:
        rolling: The rollout; ``obstacle`` is set when it cannot go on.
        roster: Workers by class, after :func:`select`.
        cover: What serves without them.
        allowed: Most that may leave now for the sake of the cache.
    """
    idle = [r.worker for r in rolling.replaced if r.worker.phase is not WorkerPhase.READY]
    serving = rolling.serving
    wanted = rolling.wanted
    if wanted.memory.rollout.strikes and not wanted.rolled_back:
        # What has failed replaces nobody, but where the old ones alone are too many, there is nobody to replace.
        replaced = {r.worker.uid for r in rolling.replaced}
        others = sum(w.phase is WorkerPhase.READY and w.uid not in replaced for w in wanted.outdated)
        return [*idle, *serving[: max(0, min(others + len(serving) - cover.target, allowed))]]
    spare = min(cover.routed + len(serving) - cover.target, len(serving))
    if spare > 0 or not serving:
        return [*idle, *serving[: max(0, min(spare, allowed))]]
    if not cover.stopped or cover.buying or roster.starting or roster.draining or not allowed:
        return idle
    first = serving[0]
    rest = cover.carried + sum(cover.rates.get(w.variant, 0.0) for w in serving[1:])
    enough = cover.need is not None and not cover.need.lacks(rest)
    if enough and cover.routed + len(serving) - 1 >= max(1, cover.least):
        return [*idle, first]
    rolling.obstacle = (
        "no accelerator is left for a worker beyond the desired count, and none can be spared; raise the "
        "InstanceType's limit, add nodes, or allow a lower scaling.min"
    )
    return idle


def arranged(rolling: Rolling, ranked: Sequence[Pick]) -> list[Pick]:
    """Who leaves first when fewer are needed: outdated ones, but a canary's share is kept all the way down.

    Args:
        rolling: The rollout.
        ranked: Those that serve, the one that is missed least first.
    """
    spec = rolling.wanted.record.spec
    outdated = {w.uid for w in rolling.wanted.outdated}
    if not outdated or spec is None:
        return list(ranked)
    old = [pick for pick in reversed(ranked) if pick.worker.uid in outdated]
    new = [pick for pick in reversed(ranked) if pick.worker.uid not in outdated]
    there, left, found = len(outdated), rolling.total, list[Pick]()
    while old or new:
        left -= 1
        from_old = bool(old) and (not new or there > _keep(rolling.wanted, spec, max(0, left)))
        there -= from_old
        found.append((old if from_old else new).pop())
    return found


def owed(rolling: Rolling, added: Mapping[str, int], total: int) -> dict[str, int]:
    """Of the workers to create, by variant, those that a canary keeps on the previous template.

    Args:
        rolling: The rollout.
        added: Workers to create by variant.
        total: Workers that will be there.
    """
    spec = rolling.wanted.record.spec
    if not added or spec is None or rolling.previous is None or not rolling.wanted.outdated:
        return {}
    missing = _keep(rolling.wanted, spec, total) - (len(rolling.wanted.outdated) - len(rolling.replaced))
    found: dict[str, int] = {}
    for name, count in added.items():
        share = max(0, min(count, missing))
        missing -= share
        if share:
            found[name] = share
    return found


def report(rolling: Rolling) -> RolloutPlan | None:
    """The rollout as part of the decision."""
    wanted = rolling.wanted
    if not wanted.revisions:
        return None
    state, message = _state(rolling)
    return RolloutPlan(
        state=state,
        revision=fingerprint(wanted.revisions),
        updated=len(wanted.updated),
        ready=sum(w.phase is WorkerPhase.READY for w in wanted.updated),
        total=len(wanted.updated) + len(wanted.outdated),
        message=message,
        spec=wanted.record.spec if wanted.rolled_back else None,
        previous=rolling.previous if rolling.keep else None,
    )


def _state(rolling: Rolling) -> tuple[Reason | None, str]:
    wanted = rolling.wanted
    done = f"{len(wanted.updated)} of {len(wanted.updated) + len(wanted.outdated)} workers are on it"
    if wanted.rolled_back:
        return Reason.ROLLED_BACK, (
            f"the spec's template was given up: {wanted.memory.rollout.why}; the last good one, revision "
            f"{fingerprint(wanted.revisions)}, is used again, {done}; correct the template, or change an annotation in "
            "engine.podTemplate to try the same one again"
        )
    text = f"revision {fingerprint(wanted.revisions)}: {done}"
    if not wanted.outdated:
        unproven = wanted.memory.rollout.good is not None and not wanted.proven
        return (Reason.ROLLING_OUT, f"{text}, not yet for long enough") if unproven else (None, text)
    if rolling.obstacle:
        return Reason.ROLLOUT_WAITING, f"{text}; {rolling.obstacle}"
    if len(wanted.outdated) <= rolling.keep:
        return Reason.CANARY, f"{text}, {rolling.keep} stay on the old one as rollout asks"
    return Reason.ROLLING_OUT, text


def named(
    rolling: Rolling, counts: Mapping[str, int], added: Mapping[str, int], rule: ChosenBy, message: str
) -> tuple[ChosenBy, str]:
    """The rule and message of a decision, where workers are bought for the sake of the rollout alone."""
    bought = sum(added.values())
    refill = sum(max(0, size - counts.get(name, 0) + added.get(name, 0)) for name, size in rolling.sizes.items())
    if not rolling.replaced or not bought or bought > refill or rule not in _GROWING:
        return rule, message
    return ChosenBy.ROLLOUT, f"{message}; {len(rolling.replaced)} of an older revision are replaced"


def problems(plan: RolloutPlan | None) -> tuple[Problem, ...]:
    """What a person should know of the rollout."""
    if plan is None or plan.state not in (Reason.ROLLED_BACK, Reason.ROLLOUT_WAITING):
        return ()
    return (Problem(plan.state, plan.message, stalled=plan.state is Reason.ROLLED_BACK),)


def settled(
    rolling: Rolling,
    memory: DeploymentMemory,
    counts: Mapping[str, int],
    added: Mapping[str, int],
    leaving: Mapping[str, int],
) -> DeploymentMemory:
    """The memory after the decision: the size that the fleet keeps while it is rolled.

    Args:
        rolling: The rollout.
        memory: The memory of the decision.
        counts: Workers by variant that stay or were bought.
        added: Of these, those that were bought.
        leaving: Of these, those that leave because fewer are needed.
    """
    sizes: dict[str, int] = {}
    for name in dict.fromkeys((*rolling.sizes, *counts)) if rolling.sizes else ():
        size, bought = rolling.sizes.get(name, 0), added.get(name, 0)
        refill = max(0, size - (counts.get(name, 0) - bought))
        size += max(0, bought - refill) - leaving.get(name, 0)
        if size > 0:
            sizes[name] = size
    if sizes == memory.rollout.sizes:
        return memory
    return evolve(memory, rollout=replace(memory.rollout, sizes=sizes))
