"""Who leaves one deployment now, and what kept the others.

::

    surplus    = workers that may go while the rest stays above need.down   (hit ratio without them, see demand)
    want       = there - surplus
    leave      = min(surplus, there - max of want over the hold), within maxStep per stepPeriod for those that serve,
                 at the pace that the prefix cache allows, and if it is worth it (see pace)

Above scaling.max (or replicas) the surplus leaves at once. Stuck workers leave as soon as others carry the load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from warmfleet_contracts.reasons import ChosenBy, VictimReason

from warmfleet_operator.planning import blend, capacity, demand, limits, pace, rollout, victims
from warmfleet_operator.planning.blend import SLACK, Need
from warmfleet_operator.planning.draft import Draft
from warmfleet_operator.planning.mix import Short, keep
from warmfleet_operator.planning.mix.enlist import count, running_cost
from warmfleet_operator.planning.victims import Credit, Pick
from warmfleet_operator.state.decisions import Victim
from warmfleet_operator.state.memory import DeploymentMemory, evolve
from warmfleet_operator.state.records import FleetSnapshot, WorkerPhase, WorkerRecord

AVOID = 900.0
"""Seconds for which a type is not bought after pods found no node on it and others took their place."""
ROUTED_AFTER = 10.0
"""Seconds from a worker's readiness until routers surely send to it: only then may another leave in its favour."""
_NO_PANIC = -1e18
_PREEMPTED = "a fleet of higher priority needs its accelerators"
_LEVELLED = "another fleet needs its accelerators for demand that is there, and this one would hold them as a margin"


@dataclass(frozen=True, slots=True)
class Shrink:
    """Who leaves.

    Attributes:
        victims: In order.
        leaving: How many of them were counted in ``growth.counts``, by variant.
        want: Workers that the rule wants, without scaling.min and the limits on time.
        rule: What decided about the surplus; None when there is none.
        memory: The memory with this decision.
        waits: Why some of the surplus stays for the sake of the cache; empty when none does.
    """

    victims: tuple[Victim, ...]
    leaving: Mapping[str, int]
    want: int
    rule: ChosenBy | None
    memory: DeploymentMemory
    waits: str = ""


def shrink(draft: Draft, snapshot: FleetSnapshot, now: float) -> Shrink:
    """Decide who leaves."""
    memory = _panic(draft, now)
    there = draft.growth.total
    over = max(0, there - draft.growth.most)
    settled = not over and not draft.growth.given and draft.growth.budget is None and _all_needed(draft)
    given, picks = _given(draft, [] if settled else _picks(draft, snapshot))
    surplus = _surplus(draft, picks, snapshot, now)
    leaving_now = bool(surplus or over or given or draft.roster.retiring or draft.memory.losses or draft.gate.replace)
    paced, hits = _pace(draft, snapshot, now) if leaving_now else (pace.IDLE, None)
    want = there - len(surplus) if surplus else there
    memory = evolve(
        memory,
        wants=limits.remember_want(memory.wants, want, now, draft.hold),
        low_since=(memory.low_since if memory.low_since is not None else now) if surplus else None,
    )
    if draft.pauses.victims:
        return Shrink((), {}, want, ChosenBy.PAUSED if surplus or over else None, evolve(memory, chosen={}))
    chosen: list[Pick]
    rule: ChosenBy | None
    if over:
        chosen = victims.removable(
            picks,
            counts=draft.growth.counts,
            floors={},
            floor=draft.growth.most,
            need=None,
            rates={},
            ready=0,
            coming=0,
        )
        rule = ChosenBy.FIXED if draft.fixed else ChosenBy.MAX
    elif dear := _beyond_budget(draft, picks):
        chosen, rule = dear, ChosenBy.BUDGET
    else:
        chosen, rule, memory = _timely(draft, surplus, memory, there, now, paced)
    stuck, memory = _stuck(draft, memory, now)
    gone = [p.victim() for p in chosen]
    failed = [_failed(w) for w in draft.gate.replace]
    leaving: dict[str, int] = {}
    for pick in chosen:
        leaving[pick.worker.variant] = leaving.get(pick.worker.variant, 0) + 1
    told = [*(p.worker.uid for p in (*given, *chosen)), *(w.uid for w in draft.gate.replace)]
    memory = evolve(memory, chosen={uid: memory.chosen.get(uid, now) for uid in told})
    retired = _retired(draft, there - len(chosen), [p.worker for p in chosen], paced, now)
    whom = _LEVELLED if draft.growth.levelled else _PREEMPTED
    away = [victims.victim(p.worker, VictimReason.PREEMPTED, whom) for p in given]
    everyone = (*failed, *stuck, *retired, *away, *gone)
    fresh = [v.uid for v in everyone if v.drain and v.uid not in draft.memory.chosen]
    memory = pace.left(memory, [paced.shares[uid] for uid in fresh if uid in paced.shares], hits, now)
    waits = paced.text() if rule is ChosenBy.CACHE_RETENTION else ""
    return Shrink(everyone, leaving, want, rule, memory, waits)


def _pace(draft: Draft, snapshot: FleetSnapshot, now: float) -> tuple[pace.Pace, float | None]:
    """What leaving costs the cache now, and the hit ratio."""
    seen = snapshot.demand.get(draft.record.key)
    hits = demand.sane(seen.hit_ratio, 1.0) if seen is not None else None
    serving = [r.worker for r in draft.roster.retiring if r.worker.phase is WorkerPhase.READY]
    ready = [*draft.roster.ready, *serving]
    floor = draft.spec.kv_cache.min_retained_hit_ratio
    return pace.measure(floor, hits, ready, snapshot.telemetry, draft.memory, now), hits


def _picks(draft: Draft, snapshot: FleetSnapshot) -> list[Pick]:
    away = {w.uid for w in (*draft.gate.replace, *draft.replaced)}
    order = victims.order(
        draft.roster,
        snapshot.telemetry,
        snapshot.nodes,
        draft.memory.chosen,
        keeps=victims.hands_over(draft.spec),
        arrange=partial(rollout.arranged, draft.rolling),
    )
    return [p for p in order if p.worker.uid not in away] if away else order


def _given(draft: Draft, picks: list[Pick]) -> tuple[list[Pick], list[Pick]]:
    """Who gives way to another fleet, and the others."""
    if not draft.growth.given:
        return [], picks
    left = dict(draft.growth.given)
    given: list[Pick] = []
    others: list[Pick] = []
    for pick in picks:
        mine = left.get(pick.worker.variant, 0) > 0
        if mine:
            left[pick.worker.variant] -= 1
        (given if mine else others).append(pick)
    return given, others


def _beyond_budget(draft: Draft, picks: list[Pick]) -> list[Pick]:
    """Who leaves because the fleet costs more than scaling.budget: what serves nothing, then the dearest."""
    growth, offers = draft.growth, draft.offers
    surplus = 0.0 if growth.budget is None else running_cost(growth.counts, offers) - growth.budget
    if surplus <= SLACK * (growth.budget or 1.0):
        return []
    every = count([p.worker.variant for p in picks if p.credit is Credit.READY])
    idle = [p for p in picks if p.credit is not Credit.READY]
    dear = keep.dearest_first(
        [p for p in picks if p.credit is Credit.READY], every, offers, draft.rates, lambda p: p.worker.variant
    )
    chosen = []
    for pick in victims.removable(
        [*idle, *dear],
        counts=growth.counts,
        floors=draft.lower,
        floor=growth.floor,
        need=None,
        rates={},
        ready=0,
        coming=0,
    ):
        if surplus <= SLACK * (growth.budget or 1.0):
            break
        surplus -= offers[pick.worker.variant].price or 0.0
        chosen.append(pick)
    return chosen


def _candidates(draft: Draft, picks: list[Pick], need: Need, rates: Mapping[str, float], now: float) -> list[Pick]:
    """The picks without those that the cheapest mix keeps, and without what has just been bought for a cheaper one."""
    until = draft.memory.swap_until
    if until is not None and now < until:
        picks = [p for p in picks if p.credit is not Credit.STARTING]
    everyone = count([w.variant for w in draft.roster.ready])
    if len(everyone) < 2 and not any(o.spot for o in draft.offers.values()):
        return picks
    fresh = [p for p in picks if p.credit is Credit.READY and p.worker.uid not in draft.memory.chosen]
    free = count([p.worker.variant for p in fresh])
    told = count([p.worker.variant for p in picks if p.credit is Credit.READY and p.worker.uid in draft.memory.chosen])
    bound = {name: n - free.get(name, 0) - told.get(name, 0) for name, n in everyone.items()}
    spare = keep.surplus(free, bound, draft.offers, rates, need)
    mine = {p.worker.uid for p in fresh}
    others = [p for p in picks if p.worker.uid not in mine]
    return [*others, *keep.dearest_first(fresh, spare, draft.offers, rates, lambda p: p.worker.variant)]


def _surplus(draft: Draft, picks: list[Pick], snapshot: FleetSnapshot, now: float) -> list[Pick]:
    """Who could go by the need alone, were it low for long enough."""
    need, growth = draft.need, draft.growth
    if need is None or draft.traffic.grade is not demand.Grade.COMPLETE or growth.added or draft.cancels:
        return []
    scaling = draft.spec.scaling
    if growth.deficit > 0 or scaling is None:
        return []

    def fitting(rates: Mapping[str, float]) -> list[Pick]:
        return victims.removable(
            _candidates(draft, picks, need, rates, now),
            counts=growth.counts,
            floors=draft.lower,
            floor=growth.floor,
            need=need,
            rates=rates,
            ready=sum(rates[w.variant] for w in draft.roster.ready),
            coming=sum(rates[w.variant] for w in draft.roster.starting),
        )

    first = fitting(draft.rates)
    serving = sum(p.credit is Credit.READY for p in first)
    if not serving or draft.traffic.workload.hit_ratio <= 0:
        return first
    leaving = min(serving, scaling.scale_down.max_step)
    colder = demand.remaining_hits(draft.traffic.workload, len(draft.roster.ready), leaving)
    return fitting(capacity.rates(draft.spec, snapshot.instance_types, colder, draft.memory))


def _all_needed(draft: Draft) -> bool:
    """Whether not even the smallest worker could go, whatever the order: then none is looked for."""
    people = draft.roster
    if draft.need is None or len(people.kept) > len(people.ready) + len(people.starting):
        return False
    smallest = min((draft.rates[w.variant] for w in (*people.ready, *people.starting)), default=0.0)
    return not draft.need.stays_met(draft.ready + draft.coming - smallest)


def _timely(
    draft: Draft,
    surplus: list[Pick],
    memory: DeploymentMemory,
    there: int,
    now: float,
    paced: pace.Pace,
) -> tuple[list[Pick], ChosenBy | None, DeploymentMemory]:
    """Who of the surplus may go now."""
    scaling = draft.spec.scaling
    if not surplus or scaling is None:
        return [], None, memory
    if memory.panic_until is not None and now < memory.panic_until:
        return [], ChosenBy.PANIC, memory
    allowed = there - limits.stabilised(memory.wants)
    steps = limits.recent_steps(memory.steps, now, scaling.scale_down.step_period)
    left = len(surplus) if draft.advisory else scaling.scale_down.max_step - len(steps)
    chosen: list[Pick] = []
    due = [p for p in surplus[: max(0, allowed)] if _worth(draft, p, memory, now, paced)]
    fresh = held = 0
    for pick in due:
        counted = pick.credit is Credit.READY and pick.worker.uid not in memory.chosen
        if counted and not paced.more([p.worker for p in chosen if p.credit is Credit.READY], [pick.worker]):
            continue
        if counted and fresh >= left:
            held += 1
            continue
        fresh += counted
        chosen.append(pick)
    memory = evolve(memory, steps=steps + (now,) * fresh)
    if chosen:
        return chosen, ChosenBy.REACTIVE_DOWN, memory
    if held or allowed <= 0:
        return [], ChosenBy.STEP_LIMIT if held else ChosenBy.STABILIZING, memory
    return [], ChosenBy.CACHE_RETENTION, memory


def _worth(draft: Draft, pick: Pick, memory: DeploymentMemory, now: float, paced: pace.Pace) -> bool:
    """Whether leaving saves more GPU time than recomputing the cache costs."""
    if pick.credit is not Credit.READY or pick.worker.uid in memory.chosen:
        return True
    low = now - memory.low_since if memory.low_since is not None else 0.0
    prefill = draft.rates[pick.worker.variant] * draft.traffic.workload.input_tokens
    return paced.pays(pick.worker, prefill, max(draft.hold, low))


def _panic(draft: Draft, now: float) -> DeploymentMemory:
    memory = draft.memory
    if draft.need is not None and blend.panics(draft.need, draft.ready):
        until = max(now + limits.PANIC_SECONDS, memory.panic_until if memory.panic_until is not None else _NO_PANIC)
        return evolve(memory, panic_until=until)
    if memory.panic_until is not None and now >= memory.panic_until:
        return evolve(memory, panic_until=None)
    return memory


def _stuck(draft: Draft, memory: DeploymentMemory, now: float) -> tuple[list[Victim], DeploymentMemory]:
    """Stuck workers that others replace: those without room, and all once they are not needed."""
    avoid = dict(memory.avoid)
    growth = draft.growth
    covered = not growth.wanting and not growth.added and draft.need is not None
    newest = sorted(draft.replaced, key=lambda w: (-w.first_seen, w.key))
    count = len(newest) if covered else max(0, growth.total + len(newest) - growth.most)
    gone = newest[:count]
    for worker in gone:
        avoid[worker.instance_type] = now + AVOID
    return [_pending(w) for w in gone], evolve(memory, avoid=avoid)


def _pending(worker: WorkerRecord) -> Victim:
    return victims.victim(worker, VictimReason.PENDING, "no node was found for it; another variant takes its place")


def _failed(worker: WorkerRecord) -> Victim:
    return victims.victim(worker, VictimReason.FAILED, worker.failure or "its pod ended")


def _retired(draft: Draft, target: int, chosen: list[WorkerRecord], paced: pace.Pace, now: float) -> tuple[Victim, ...]:
    if not draft.roster.retiring:
        return ()
    routed = [w for w in draft.roster.ready if w.first_ready is not None and now - w.first_ready >= ROUTED_AFTER]
    carried = sum(draft.rates[w.variant] for w in routed)
    enough = draft.need is None or draft.need.lacks(carried) == 0.0
    known = draft.fixed or draft.need is not None
    covered = known and enough and len(routed) >= (target if draft.fixed else draft.growth.floor)
    cover = rollout.Cover(
        routed=len(routed),
        carried=carried,
        target=max(target, sum(draft.rolling.sizes.values()) - len(chosen)),
        need=draft.need if draft.need is not None else blend.reactive(draft.traffic),
        least=draft.growth.floor - draft.fixed,  # of a fixed fleet one at a time
        rates=draft.rates,
        buying=bool(draft.growth.added),
        stopped=draft.growth.short not in (None, Short.GATE) or bool(draft.roster.stuck),
    )
    return (
        *victims.retire(
            draft.roster,
            target=target,
            routed=len(routed),
            short=draft.growth.short is Short.STOCK,
            covered=covered,
            offers=draft.offers,
        ),
        *rollout.leavers(draft.rolling, draft.roster, cover, paced.more(chosen, draft.rolling.serving)),
    )
