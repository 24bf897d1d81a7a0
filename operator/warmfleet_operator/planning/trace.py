"""The chain of one decision, for a person and for a program: demand -> capacity -> blend -> mix -> limits -> victims.

It is read off what the steps left behind, after the decision and only when somebody asks. A step that has more to say
than can be read off puts its own lines into ``draft.notes``; they take the place of the plain ones of that stage.
"""

from __future__ import annotations

from collections.abc import Iterator

from warmfleet_operator.planning.blend import DOWN, UP, Basis, Margin, Rule
from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.planning.draft import Draft
from warmfleet_operator.planning.explain import Verdict
from warmfleet_operator.planning.mix import Short
from warmfleet_operator.planning.shrink import Shrink
from warmfleet_operator.state.decisions import Note, Stage

MOST_VICTIMS = 8
"""Victims that are named; the others are counted."""

BASIS_WORDS = {
    Basis.FORECAST: "by the trusted forecast",
    Basis.PRIOR: "by the built-in margin, no forecast being trusted",
    Basis.BUILT_IN: "by the built-in margin, on the traffic so far the cheaper one",
    Basis.EVENT: "for a declared event",
}
_SHORT = {
    Short.STOCK: "the InstanceTypes' limit.accelerators leave no room",
    Short.MAX: "scaling.max or variants[].max leaves no room",
    Short.BUDGET: "scaling.budget pays for no more",
    Short.BLOCKED: "no type can be bought: pods found no node on them",
    Short.GATE: "starts fail, the next attempt waits",
}


def chain(draft: Draft, out: Shrink, verdict: Verdict, desired: int) -> tuple[Note, ...]:
    """All lines in the order of the stages.

    Args:
        draft: The deployment after the stock was shared out.
        out: Who leaves.
        verdict: The rule that decided.
        desired: Workers wanted.
    """
    own = {note.stage for note in draft.notes}
    plain = [
        _demand(draft),
        *(_capacity(offer) for offer in draft.offers.values()),
        _blend(draft),
        _mix(draft),
        _limits(draft, out, verdict, desired),
        *_victims(out),
    ]
    notes = [*draft.notes, *(note for note in plain if note.stage not in own)]
    order = list(Stage)
    return tuple(sorted(notes, key=lambda note: order.index(note.stage)))


def _known(**figures: float | None) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if value is not None}


def _demand(draft: Draft) -> Note:
    traffic, workload = draft.traffic, draft.traffic.workload
    rate = "unknown" if traffic.rate is None else f"{traffic.rate:.3g} req/s"
    arrivals = "?" if traffic.arrivals is None else f"{traffic.arrivals:.3g}"
    queue = "?" if traffic.queue is None else str(traffic.queue)
    text = (
        f"{rate} ({arrivals} req/s arrive, {queue} wait); a request has {workload.input_tokens:.0f} prompt and "
        f"{workload.output_tokens:.0f} generated tokens, {workload.hit_ratio:.0%} of the prompt cached"
    )
    figures = _known(
        demand_rps=traffic.rate,
        arrivals_rps=traffic.arrivals,
        queue=traffic.queue,
        input_tokens=workload.input_tokens,
        output_tokens=workload.output_tokens,
        hit_ratio=workload.hit_ratio,
    )
    return Note(Stage.DEMAND, text + (f"; {traffic.gap}" if traffic.gap else ""), figures)


def _capacity(offer: Offer) -> Note:
    rate = "an unknown rate" if offer.rate is None else f"{offer.rate:.3g} req/s within the SLO"
    price = "at an unknown price" if offer.price is None else f"for ${offer.price:.4g}/h"
    text = (
        f"{offer.variant} on {offer.instance_type}: a worker sustains {rate} {price}, ready after {offer.startup:g} s"
    )
    figures = _known(worker_rps=offer.rate, cost_per_hour=offer.price, startup_seconds=offer.startup)
    if offer.learned != 1.0:
        text += f"; {offer.learned:.3g} x the model, as its workers have shown"
        figures["learned_ratio"] = offer.learned
    return Note(Stage.CAPACITY, text + ("" if offer.buy else "; it is not bought"), figures)


def _blend(draft: Draft) -> Note:
    need = draft.need
    if need is None:
        text = (
            f"spec.replicas {draft.spec.replicas}" if draft.fixed else "the need is unknown; the last decision is held"
        )
        return Note(Stage.BLEND, text, _known(replicas=draft.spec.replicas))
    figures = _known(
        need_up_rps=need.up,
        need_down_rps=need.down,
        demand_rps=need.now,
        forecast_rps=need.forecast,
        chance=need.chance,
    )
    if need.basis is not Basis.REACTIVE:
        when = "when" if need.margin is not None and need.margin.rule is Rule.AT_LEAD else "until"
        ahead = "" if need.forecast is None else f"up to {need.forecast:.3g} req/s {when} a new worker serves, "
        risk = "" if need.margin is None else _risk(need.margin)
        text = (
            f"{ahead}{BASIS_WORDS[need.basis]}{risk}: {need.up:.3g} req/s of capacity are needed, {need.down:.3g} must "
            "stay when workers leave"
        )
        return Note(Stage.BLEND, text, figures)
    share = 1.0 if need.margin is None else need.margin.value
    text = (
        f"{need.up:.3g} req/s of capacity are needed (demand / {UP * share:.3g}), {need.down:.3g} must stay when "
        f"workers leave (demand / {DOWN * share:.3g})"
    )
    if need.margin is not None:
        text += f"; next to nothing is late with any margin, so a queue decides, counting on {share:.0%} of a worker's "
        text += "capacity"
    return Note(Stage.BLEND, text, figures)


def _risk(margin: Margin) -> str:
    if margin.rule is Rule.RECORD:
        return f", and always {margin.value:.0%} of the highest rate known"
    return f", exceeded with a chance of {margin.value:.2g}"


def _mix(draft: Draft) -> Note:
    growth, roster = draft.growth, draft.roster
    ready = f"{len(roster.ready)} ready ({draft.ready:.3g} req/s)"
    there = f"{ready} + {len(roster.starting)} starting ({draft.coming:.3g} req/s)"
    deeds = [f"create {count} {name}" for name, count in growth.added.items() if count]
    if draft.cancels:
        deeds.append(f"cancel drains: {len(draft.cancels)}")
    if growth.short is not None:
        deeds.append(_SHORT[growth.short])
    text = f"{there}: {', '.join(deeds) or 'nothing to create'}"
    figures = _known(
        ready=len(roster.ready),
        ready_rps=draft.ready,
        starting=len(roster.starting),
        starting_rps=draft.coming,
        draining=len(roster.draining),
        create=sum(growth.added.values()),
        cancel=len(draft.cancels),
        deficit_rps=growth.deficit,
    )
    return Note(Stage.MIX, text, figures)


def _limits(draft: Draft, out: Shrink, verdict: Verdict, desired: int) -> Note:
    growth = draft.growth
    text = (
        f"{verdict.unlimited} wanted, {growth.floor} to {growth.most} allowed -> {desired} by rule "
        f"{verdict.chosen_by}; fewer only after {draft.hold:.0f} s"
    )
    if draft.advisory:
        text += "; advice, nothing is done"
    figures = _known(
        unlimited=verdict.unlimited,
        floor=growth.floor,
        most=growth.most,
        desired=desired,
        want=out.want,
        hold_seconds=draft.hold,
    )
    return Note(Stage.LIMITS, text, figures)


def _victims(out: Shrink) -> Iterator[Note]:
    if not out.victims:
        yield Note(Stage.VICTIMS, "nobody leaves", {"victims": 0.0})
    for victim in out.victims[:MOST_VICTIMS]:
        way = "drains" if victim.drain else "is deleted"
        why = f": {victim.message}" if victim.message else ""
        yield Note(Stage.VICTIMS, f"{victim.pod.name} {way}, {victim.reason}{why}")
    rest = len(out.victims) - MOST_VICTIMS
    if rest > 0:
        yield Note(Stage.VICTIMS, f"and {rest} more", {"victims": float(len(out.victims))})
