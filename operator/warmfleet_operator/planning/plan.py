"""The decision for all deployments at once.

::

    each deployment   draft   = demand -> capacity -> blend           by itself
    all together      growth  = mix under the shared accelerator limits
                              and, with all it needs, what makes a dear mix superfluous
    each deployment   plan    = limits -> victims -> reason           by itself

Pure, and it never raises: an error in the planning of one deployment holds that one and no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from warmfleet_contracts.reasons import ChosenBy, Reason, VictimReason

from warmfleet_operator.planning import advisory, explain, failures, limits, pace, rollout, roster, schedules, trace
from warmfleet_operator.planning.draft import CannotPlanError, Draft, prepare
from warmfleet_operator.planning.exchange import exchange
from warmfleet_operator.planning.mix import Short, Stock, share_out
from warmfleet_operator.planning.shrink import shrink
from warmfleet_operator.planning.victims import victim
from warmfleet_operator.state.decisions import DeploymentPlan, FleetPlan, Problem, VariantPlan
from warmfleet_operator.state.memory import DeploymentMemory, PlannerMemory, evolve
from warmfleet_operator.state.records import DeploymentRecord, FleetSnapshot, Key, WorkerRecord
from warmfleet_operator.state.words import counted

Decision = tuple[DeploymentPlan, DeploymentMemory]


def plan(snapshot: FleetSnapshot, memory: PlannerMemory, now: float) -> tuple[FleetPlan, PlannerMemory]:
    """Decide how many workers of which variant every deployment shall have, who leaves and who comes back.

    Args:
        snapshot: Everything observed.
        memory: What the last decision left behind; empty at first.
        now: Logical seconds of the process clock.

    Returns:
        The plan with a reason for each deployment, and the memory for the next decision.
    """
    groups = roster.by_deployment(snapshot)
    decided: dict[Key, Decision] = {}
    drafts: dict[Key, Draft] = {}
    stock = Stock(snapshot.instance_types, snapshot.workers)
    for key in sorted(snapshot.deployments):
        record, workers = snapshot.deployments[key], groups.get((key.namespace, key.name), [])
        before = _recollect(record, workers, memory, now)
        try:
            if record.deleting or record.namespace_terminating:
                decided[key] = _leave(record, workers, before)
            else:
                drafts[key] = prepare(record, workers, snapshot, stock, before, now)
        except CannotPlanError as error:
            decided[key] = _held(record, workers, before, error.problems, now)
        except Exception as error:  # noqa: BLE001 - reported as a problem of this deployment; the others go on
            decided[key] = _held(record, workers, before, [_bug(error)], now)
    for advised in (False, True):  # advice is given about what those that act leave
        share_out([draft.growth for draft in drafts.values() if draft.advisory is advised], stock)
    for key, draft in drafts.items():
        try:
            exchange(draft, stock, now)
            decided[key] = _finish(draft, snapshot, now)
        except Exception as error:  # noqa: BLE001 - as above
            workers = groups.get((key.namespace, key.name), [])
            decided[key] = _held(draft.record, workers, draft.memory, [_bug(error)], now)
    ordered = sorted(decided)
    return (
        FleetPlan(now, {key: decided[key][0] for key in ordered}),
        PlannerMemory({key: decided[key][1] for key in ordered}),
    )


def _recollect(
    record: DeploymentRecord,
    workers: Sequence[WorkerRecord],
    memory: PlannerMemory,
    now: float,
) -> DeploymentMemory:
    """The deployment's memory moved to now. Without one, what is there counts as what was wanted just now."""
    known = memory.deployments.get(record.key)
    if known is None or known.uid != record.uid:
        here = sum(not w.leaving for w in workers)
        return DeploymentMemory(record.uid, wants=((now, here),), at=now)
    return limits.rebase(known, now)


def _bug(error: Exception) -> Problem:
    text = f"planning failed with {type(error).__name__}: {error}; the fleet is held as it is; please report this"
    return Problem(Reason.OPERATOR_ERROR, text[:1000], stalled=False)


def _finish(draft: Draft, snapshot: FleetSnapshot, now: float) -> Decision:
    if draft.growth.error is not None:
        raise draft.growth.error
    draft.settle()
    out = shrink(draft, snapshot, now)
    growth = draft.growth
    gone = {v.uid for v in out.victims}
    counts = {name: count - out.leaving.get(name, 0) for name, count in growth.counts.items()}
    for worker in draft.replaced:
        counts[worker.variant] += worker.uid not in gone
    desired = sum(counts.values())
    verdict = explain.explain(draft, out, desired, now)
    rule, message = schedules.named(draft.bounds, verdict.chosen_by, verdict.message)
    rule, message = rollout.named(draft.rolling, growth.counts, growth.added, rule, message)
    message += f"; {out.waits}" if out.waits else ""
    figures = verdict.figures | ({"retained": pace.modelled(out.memory, now)} if out.memory.losses else {})
    verdict = replace(verdict, chosen_by=rule, message=message, figures=figures)
    rolled, previous = rollout.report(draft.rolling), rollout.owed(draft.rolling, growth.added, growth.total)
    result = DeploymentPlan(
        key=draft.record.key,
        uid=draft.record.uid,
        generation=draft.record.generation,
        variants=tuple(
            VariantPlan(
                name,
                o.instance_type,
                counts[name],
                growth.added.get(name, 0),
                o.rate,
                o.price,
                revision=draft.rolling.wanted.revisions.get(name, ""),
                create_previous=previous.get(name, 0),
            )
            for name, o in draft.offers.items()
        ),
        victims=out.victims,
        cancels=tuple(draft.cancels),
        desired=desired,
        unlimited=verdict.unlimited,
        chosen_by=verdict.chosen_by,
        limited=verdict.limited,
        demand=draft.traffic.rate,
        queue=draft.traffic.queue,
        forecast=draft.need.forecast if draft.need is not None else None,
        message=verdict.message,
        problems=(*draft.problems, *_shortage(draft), *rollout.problems(rolled)),
        figures=verdict.figures,
        trace=partial(trace.chain, draft, out, verdict, desired),
        rollout=rolled,
    )
    memory = evolve(out.memory, desired={name: count for name, count in counts.items() if count})
    memory = rollout.settled(draft.rolling, memory, growth.counts, growth.added, out.leaving)
    if draft.advisory:
        return advisory.advise(result, memory, len(draft.roster.ready), growth.floor)
    return result, failures.attempted(memory, growth.added, now)


def _shortage(draft: Draft) -> tuple[Problem, ...]:
    growth = draft.growth
    if growth.short is not Short.STOCK or growth.total >= growth.floor:
        return ()
    types = ", ".join(sorted({o.instance_type for o in growth.offers if o.buy}))
    message = (
        f"{growth.total} of at least {growth.floor} workers fit the accelerator limits of InstanceTypes {types}; raise "
        "limit.accelerators or the namespace's share, or shrink other deployments"
    )
    return (Problem(Reason.CAPACITY_EXHAUSTED, message, stalled=False),)


def _held(
    record: DeploymentRecord,
    workers: Iterable[WorkerRecord],
    memory: DeploymentMemory,
    problems: Sequence[Problem],
    now: float,
) -> Decision:
    """Everything stays as it is; that time does not count towards a scale-down."""
    counts: dict[tuple[str, str], int] = {}
    for worker in workers:
        if not worker.leaving:
            slot = worker.variant, worker.instance_type
            counts[slot] = counts.get(slot, 0) + 1
    total = sum(counts.values())
    result = DeploymentPlan(
        key=record.key,
        uid=record.uid,
        generation=record.generation,
        variants=tuple(VariantPlan(name, kind, count) for (name, kind), count in counts.items()),
        desired=total,
        unlimited=total,
        chosen_by=ChosenBy.INVALID,
        message=f"held at {counted(total)}: {'; '.join(p.message for p in problems)}"[:1000],
        problems=tuple(problems),
    )
    return result, evolve(memory, wants=((now, total),), low_since=None, chosen={})


def _leave(record: DeploymentRecord, workers: Iterable[WorkerRecord], memory: DeploymentMemory) -> Decision:
    """Everything goes."""
    ending = record.namespace_terminating and not record.deleting
    why = "its namespace is being deleted" if ending else "the LLMDeployment is being deleted"
    victims = tuple(victim(w, VictimReason.DEPLOYMENT_DELETED, why) for w in workers if not w.leaving)
    problems: tuple[Problem, ...] = ()
    if record.namespace_terminating:
        problems = (Problem(Reason.NAMESPACE_TERMINATING, "the namespace is being deleted; nothing new is created"),)
    names = [v.name for v in record.spec.variants] if record.spec is not None else []
    types = {v.name: v.instance_type for v in record.spec.variants} if record.spec is not None else {}
    result = DeploymentPlan(
        key=record.key,
        uid=record.uid,
        generation=record.generation,
        variants=tuple(VariantPlan(name, types[name], 0) for name in names),
        victims=victims,
        chosen_by=ChosenBy.DELETING,
        message=f"{why}: {counted(len(victims), 'leaves', 'leave')}",
        problems=problems,
    )
    return result, evolve(memory, desired={}, wants=(), chosen={})
