"""One deployment before accelerators are shared out: what is there, what is needed, what it would buy.

::

    deficit = need.up - (ready + starting)      recalled drains first, the rest is bought
    floor   = scaling.min (replicas);  most = scaling.max (replicas)
    floors  = variants[].min, and the last decision while the demand is not fully known
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.reasons import Reason

from warmfleet_operator.planning import (
    blend,
    capacity,
    demand,
    failures,
    foresight,
    learning,
    limits,
    rollout,
    roster,
    schedules,
    startup,
    templates,
    victims,
)
from warmfleet_operator.planning.advisory import is_advisory
from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.planning.mix import Growth, Short, Stock
from warmfleet_operator.planning.mix.enlist import enlist
from warmfleet_operator.state.decisions import Note, Problem
from warmfleet_operator.state.memory import DeploymentMemory, evolve
from warmfleet_operator.state.records import DeploymentRecord, FleetSnapshot, Key, WorkerRecord
from warmfleet_operator.state.words import counted


@dataclass(slots=True)
class Draft:
    """A deployment on its way through the planner; ``growth`` is changed while the stock is shared out.

    Attributes:
        record: The deployment.
        spec: Its spec.
        memory: Its memory, brought up to now.
        traffic: Demand.
        need: Capacity needed; None while the demand is unknown.
        offers: Variants by name, in the order of the spec.
        rates: Requests/s of one worker by variant, 0 while unknown.
        roster: Workers by class.
        ready: Capacity of ready workers, requests/s.
        coming: Capacity of starting workers, requests/s.
        gate: What failed starts allow.
        pauses: Pause annotations.
        bounds: What scaling and its schedules allow; None when spec.replicas is set.
        growth: What it buys.
        replaced: Stuck workers whose place others may take.
        hold: Seconds that the need must have stayed lower before workers leave.
        rolling: Workers of older template revisions and who is replaced.
        lower: Fewest workers by variant when some leave; ``growth.floors`` may be higher while some are replaced.
        problems: For the status.
        cancels: Drains that are cancelled.
        notes: What a step has to say in the trace. A step that says something itself replaces the plain line that
            :mod:`trace` would write for it.
    """

    record: DeploymentRecord
    spec: LLMDeploymentSpec
    memory: DeploymentMemory
    traffic: demand.Traffic
    need: blend.Need | None
    offers: dict[str, Offer]
    rates: dict[str, float]
    roster: roster.Roster
    ready: float
    coming: float
    gate: failures.Gate
    pauses: limits.Pauses
    bounds: schedules.Bounds | None
    growth: Growth
    replaced: tuple[WorkerRecord, ...]
    hold: float
    rolling: rollout.Rolling
    lower: Mapping[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    cancels: list[Key] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    @property
    def fixed(self) -> bool:
        """Whether spec.replicas is set."""
        return self.spec.replicas is not None

    @property
    def advisory(self) -> bool:
        """Whether it is only reported."""
        return is_advisory(self.spec)

    def settle(self) -> None:
        """After the stock was shared out: what stopped the growth was the back-off of a variant that fails to start."""
        growth = self.growth
        if growth.short is Short.MAX and self.gate.creates and growth.total < growth.most:
            growth.short = Short.GATE


class CannotPlanError(Exception):
    """The spec cannot be planned; the fleet is held as it is.

    Attributes:
        problems: Why.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(p.message for p in problems))
        self.problems = tuple(problems)


def prepare(
    record: DeploymentRecord,
    workers: Sequence[WorkerRecord],
    snapshot: FleetSnapshot,
    stock: Stock,
    memory: DeploymentMemory,
    now: float,
) -> Draft:
    """Look at one deployment by itself.

    Args:
        record: The deployment.
        workers: Its workers in order of pod name.
        snapshot: For types, nodes, telemetry and demand.
        stock: Accelerators that are free.
        memory: Its memory, moved to now (:func:`limits.rebase`).
        now: Logical seconds.

    Raises:
        CannotPlanError: The spec cannot be parsed, or none of its variants can be bought.
    """
    wanted = templates.wanted(record, workers, memory, now)
    record, memory, spec = wanted.record, wanted.memory, wanted.record.spec
    if spec is None:
        why = record.spec_error or "the spec cannot be read"
        raise CannotPlanError([Problem(Reason.INVALID_SPEC, f"spec: {why}; correct it and apply it again"[:1000])])
    types = snapshot.instance_types
    memory = startup.observe(memory, workers, types, now)
    startups = [startup.startup_lead(types.get(v.instance_type), memory) for v in spec.variants]
    traffic, memory = demand.observe(
        snapshot.demand.get(record.key),
        memory,
        routed=spec.routing.mode == "router",
        catch_up=min(startups),
        now=now,
    )
    memory = learning.observe(
        spec, types, traffic.workload, workers, telemetry=snapshot.telemetry, memory=memory, now=now
    )
    found, problems = capacity.survey(spec, types, traffic.workload, needs_rates=spec.replicas is None, memory=memory)
    if not any(offer.buy for offer in found):
        raise CannotPlanError(problems)
    offers = {offer.variant: offer for offer in found}
    memory = evolve(
        memory,
        since=roster.watch(workers, snapshot.nodes, memory.since, now),
        avoid={name: until for name, until in memory.avoid.items() if until > now},
    )
    memory = failures.record(memory, wanted.judged(workers), record.generation, now)
    people = roster.muster(workers, offers, snapshot.nodes, memory.since, now)
    pauses = limits.pauses(record.annotations)
    rolling, people = rollout.select(wanted, people, snapshot, offers, pauses, now)
    gate = failures.gate(memory, people, now)
    if pauses.creates or pauses.victims:
        gate = replace(gate, replace=())
    lead = max(startups) + schedules.SETTLING
    bounds = schedules.bounds(spec.scaling, snapshot.wall_epoch, lead) if spec.scaling is not None else None
    means = foresight.Means(
        key=record.key,
        traffic=traffic,
        offers=found,
        ready=sum(offers[w.variant].rate or 0.0 for w in people.ready),
        steerable=not pauses.creates
        and (spec.scaling is None or len(people.kept) < spec.scaling.max)
        and any(offer.buy and stock.has(offer, record.key.namespace) for offer in found),
    )
    need, memory = foresight.look(spec, means, snapshot, memory, now)
    if need is not None and spec.scaling is not None:
        need = blend.sharing(need, spec.scaling.max_spot_share)
    draft = _assemble(record, spec, memory, traffic, need, offers, people, gate, pauses, bounds, rolling)
    enlist(
        draft.growth,
        people,
        draft.need,
        priority=_priority(spec, snapshot),
        budget=spec.scaling.budget.max_cost_per_hour if spec.scaling is not None and spec.scaling.budget else None,
        paused=pauses.victims,
    )
    draft.hold = _hold(spec, need, max(startups))
    draft.problems += problems
    draft.problems += _problems(draft)
    if not pauses.creates:
        _recall(draft, snapshot)
    return draft


def _hold(spec: LLMDeploymentSpec, need: blend.Need | None, startup_s: float) -> float:
    """Seconds for which the need must have stayed lower before workers leave."""
    ahead = need is not None and need.basis not in (blend.Basis.REACTIVE, blend.Basis.EVENT)
    return limits.hold(
        startup_s, None if spec.scaling is None else spec.scaling.scale_down.stabilization_window, ahead=ahead
    )


def _priority(spec: LLMDeploymentSpec, snapshot: FleetSnapshot) -> int:
    """Value of its PriorityClass, or of the cluster's default; 0 without either."""
    return snapshot.priorities.get(spec.priority_class_name or "", 0)


def _assemble(  # noqa: PLR0913, PLR0917 - the parts of a draft
    record: DeploymentRecord,
    spec: LLMDeploymentSpec,
    memory: DeploymentMemory,
    traffic: demand.Traffic,
    need: blend.Need | None,
    offers: dict[str, Offer],
    people: roster.Roster,
    gate: failures.Gate,
    pauses: limits.Pauses,
    bounds: schedules.Bounds | None,
    rolling: rollout.Rolling,
) -> Draft:
    rates = {name: offer.rate or 0.0 for name, offer in offers.items()}
    ready = sum(rates[w.variant] for w in people.ready)
    coming = sum(rates[w.variant] for w in people.starting)
    closed, replaced = _closed(offers, people, memory)
    going = {w.uid for w in (*gate.replace, *replaced)}
    counts = dict.fromkeys(offers, 0)
    for worker in people.kept:
        if worker.uid not in going:
            counts[worker.variant] += 1
    floor, most, floors = _bounds(spec, bounds, offers, memory, traffic.grade)
    growth = Growth(
        key=record.key,
        offers=tuple(_gated(offer, counts[name], gate) for name, offer in offers.items()),
        counts=counts,
        need=need.up if need is not None else 0.0,
        deficit=need.lacks(ready + coming) if need is not None else 0.0,
        floor=floor,
        most=most,
        floors=rollout.restock(rolling, counts, floors, most),
        closed=closed,
        allowance=0 if pauses.creates else None,
    )
    return Draft(
        record=record,
        spec=spec,
        memory=memory,
        traffic=traffic,
        need=need,
        offers=offers,
        rates=rates,
        roster=people,
        ready=ready,
        coming=coming,
        gate=gate,
        pauses=pauses,
        bounds=bounds,
        growth=growth,
        replaced=replaced,
        hold=0.0,
        rolling=rolling,
        lower=floors,
    )


def _gated(offer: Offer, count: int, gate: failures.Gate) -> Offer:
    """The offer with no more room than failed starts allow."""
    allowed = gate.creates.get(offer.variant)
    if allowed is None:
        return offer
    most = count + allowed
    return replace(offer, maximum=most if offer.maximum is None else min(most, offer.maximum))


def _bounds(
    spec: LLMDeploymentSpec,
    bounds: schedules.Bounds | None,
    offers: Mapping[str, Offer],
    memory: DeploymentMemory,
    grade: demand.Grade,
) -> tuple[int, int, dict[str, int]]:
    """(fewest, most, fewest by variant)."""
    if bounds is None:
        count = spec.replicas or 0
        return count, count, {}
    floors = {name: offer.minimum for name, offer in offers.items() if offer.minimum}
    if grade is not demand.Grade.COMPLETE:
        for name, count in memory.desired.items():
            if name in offers:
                floors[name] = max(floors.get(name, 0), count)
    return bounds.floor, bounds.most, floors


def _closed(
    offers: Mapping[str, Offer],
    people: roster.Roster,
    memory: DeploymentMemory,
) -> tuple[frozenset[str], tuple[WorkerRecord, ...]]:
    """InstanceTypes that are not bought now, and the stuck workers whose place others may take."""
    stuck = frozenset(w.instance_type for w in people.stuck)
    buyable = {offer.instance_type for offer in offers.values() if offer.buy}
    closed = stuck | frozenset(memory.avoid)
    if buyable <= closed:
        closed = stuck
    others = bool(buyable - closed)
    return closed, tuple(w for w in people.stuck if not w.protected) if others else ()


def _recall(draft: Draft, snapshot: FleetSnapshot) -> None:
    """Cancel drains before anything is created."""
    growth = draft.growth
    for worker in victims.recallable(draft.roster, snapshot.telemetry, snapshot.nodes, draft.offers):
        variant = worker.variant
        owed = growth.counts[variant] < growth.floors.get(variant, 0)
        useful = owed or growth.total < growth.floor or (growth.deficit > 0 and draft.rates[variant] > 0)
        if useful and growth.has_room(variant, draft.offers[variant].maximum):
            growth.credit(variant, draft.rates[variant])
            draft.cancels.append(worker.key)


def _problems(draft: Draft) -> list[Problem]:
    found = [] if draft.bounds is None else list(draft.bounds.problems)
    if draft.gate.problem is not None:
        found.append(draft.gate.problem)
    if draft.roster.stuck:
        first = min(draft.roster.stuck, key=lambda w: (w.first_seen, w.key))
        offer = draft.offers[first.variant]
        message = (
            f"{counted(len(draft.roster.stuck))} found no node for more than {2 * offer.startup:.0f} s (twice the p90 "
            f"start-up), first {first.key.name} on InstanceType {first.instance_type}; add nodes, check the type's "
            "nodeSelector and tolerations, or add a variant on another type"
        )
        found.append(Problem(Reason.NO_CAPACITY, message, stalled=False))
    if draft.traffic.grade is not demand.Grade.COMPLETE and not draft.fixed:
        missing = draft.traffic.grade is demand.Grade.MISSING
        reason = Reason.METRICS_MISSING if missing else Reason.METRICS_PARTIAL
        rest = "the last decision is held" if missing else "nothing is scaled down"
        found.append(Problem(reason, f"{draft.traffic.gap}; {rest}", stalled=False))
    return found
