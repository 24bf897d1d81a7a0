"""Why this many: the rule that decided, the limit that bound, and both in words with figures.

The first that holds::

    Fixed, Paused, Max (above it), NoData, then of a fleet that wants more: CapacityLimit, Max, Hold (failed starts),
    Min, Queue, Event, Forecast, ReactiveUp;  of one that does not: Starting, what became of the surplus, Min, Hold
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from warmfleet_contracts.reasons import ChosenBy, Reason

from warmfleet_operator.planning.blend import DOWN, SLACK, UP, Basis
from warmfleet_operator.planning.demand import Grade
from warmfleet_operator.planning.draft import Draft
from warmfleet_operator.planning.mix import Short
from warmfleet_operator.planning.shrink import Shrink
from warmfleet_operator.state.words import counted

_MOST = 10**9
_GROWN_BY = {
    Basis.EVENT: ChosenBy.EVENT,
    Basis.FORECAST: ChosenBy.FORECAST,
    Basis.PRIOR: ChosenBy.FORECAST,
    Basis.BUILT_IN: ChosenBy.FORECAST,
}
_AHEAD = {
    Basis.EVENT: "declared event",
    Basis.FORECAST: "learned from its own traffic",
    Basis.PRIOR: "by the built-in margin",
    Basis.BUILT_IN: "by the built-in margin",
}
_WORDS = {
    ChosenBy.CAPACITY_LIMIT: "; limited by the InstanceTypes' limit.accelerators",
    ChosenBy.BUDGET: "; limited by scaling.budget ${budget:g}/h, ${spent:.4g}/h are spent",
    ChosenBy.PREEMPTED: "; workers give way to a fleet of higher priority, or a margin to the demand of another",
    ChosenBy.SPOT_RESERVE: "; spot capacity may be reclaimed at once",
    ChosenBy.CHEAPER_MIX: "; what is bought replaces dearer workers",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The explanation of a decision."""

    chosen_by: ChosenBy
    limited: Reason | None
    unlimited: int
    message: str
    figures: dict[str, float]


def explain(draft: Draft, out: Shrink, desired: int, now: float) -> Verdict:
    """Name the rule, and say it in words."""
    unlimited = _unlimited(draft, out)
    rule = _rule(draft, out, unlimited)
    message = _message(draft, out, rule, desired, now)
    return Verdict(rule, _limited(draft, rule, unlimited), unlimited, message, _figures(draft, out))


def _rule(draft: Draft, out: Shrink, unlimited: int) -> ChosenBy:
    growth = draft.growth
    held = draft.pauses.creates and (draft.pauses.victims or growth.wanting)
    if draft.fixed or held or growth.given or out.rule in (ChosenBy.MAX, ChosenBy.BUDGET):
        return _set(draft, out, held=held)
    if growth.short is not None or growth.added or draft.cancels:
        return _growing(draft)
    if draft.need is None:
        return ChosenBy.NO_DATA
    if draft.need.lacks(draft.ready):
        return ChosenBy.STARTING
    if out.rule is not None:
        return out.rule
    return ChosenBy.MIN if unlimited < growth.floor else ChosenBy.HOLD


def _set(draft: Draft, out: Shrink, *, held: bool) -> ChosenBy:
    """What a person has set, or another fleet needs."""
    if held or out.rule is ChosenBy.PAUSED:
        return ChosenBy.PAUSED
    if draft.fixed:
        return ChosenBy.CAPACITY_LIMIT if draft.growth.short is Short.STOCK else ChosenBy.FIXED
    if draft.growth.given:
        return ChosenBy.PREEMPTED
    return out.rule if out.rule is ChosenBy.BUDGET else ChosenBy.MAX


def _growing(draft: Draft) -> ChosenBy:
    growth = draft.growth
    stopped = {
        Short.STOCK: ChosenBy.CAPACITY_LIMIT,
        Short.BLOCKED: ChosenBy.CAPACITY_LIMIT,
        Short.MAX: ChosenBy.MAX,
        Short.BUDGET: ChosenBy.BUDGET,
        Short.GATE: None if growth.added else ChosenBy.HOLD,
        None: None,
    }[growth.short]
    if stopped is not None:
        return stopped
    if draft.need is None:
        return ChosenBy.NO_DATA if draft.memory.desired else ChosenBy.MIN
    there = draft.ready + draft.coming
    if growth.swapped or growth.reserve:
        return ChosenBy.CHEAPER_MIX if growth.swapped else ChosenBy.SPOT_RESERVE
    if not draft.need.lacks(there):
        return ChosenBy.MIN if draft.traffic.grade is Grade.COMPLETE else ChosenBy.NO_DATA
    if draft.traffic.arrivals is not None and draft.need.quiet <= there * (1.0 + SLACK):
        return ChosenBy.QUEUE
    return _GROWN_BY.get(draft.need.basis, ChosenBy.REACTIVE_UP)


def _unlimited(draft: Draft, out: Shrink) -> int:
    """Workers that the rule alone wants: no min, no max, no stock, no waiting."""
    growth = draft.growth
    if draft.fixed or draft.need is None:
        return growth.floor if draft.fixed else growth.total
    rate = _per_worker(draft)
    if growth.deficit > 0:
        return growth.total + min(_MOST, math.ceil(growth.deficit / rate)) if rate else growth.total + 1
    low = min(_MOST, math.ceil(draft.need.down / rate)) if rate else 0
    return min(low, out.want) if out.want <= growth.floor and not draft.cancels else out.want


def _limited(draft: Draft, rule: ChosenBy, unlimited: int) -> Reason | None:
    if draft.growth.short in (Short.STOCK, Short.BLOCKED):
        return Reason.CAPACITY_EXHAUSTED
    if rule is ChosenBy.PREEMPTED:
        return Reason.CAPACITY_EXHAUSTED
    if rule is ChosenBy.BUDGET:
        return Reason.BUDGET_EXHAUSTED
    if draft.fixed or draft.need is None:
        return None
    if unlimited > draft.growth.most or rule is ChosenBy.MAX:
        return Reason.TOO_MANY_REPLICAS
    return Reason.TOO_FEW_REPLICAS if unlimited < draft.growth.floor else None


def _per_worker(draft: Draft) -> float:
    """Requests/s of a typical worker: the mean of the ready ones, else the best that can be bought."""
    if draft.roster.ready and draft.ready > 0:
        return draft.ready / len(draft.roster.ready)
    return max((o.rate or 0.0 for o in draft.offers.values() if o.buy), default=0.0)


def _message(draft: Draft, out: Shrink, rule: ChosenBy, desired: int, now: float) -> str:
    there = len(draft.roster.kept)
    count = f"{counted(desired)} (now {there})"
    if draft.fixed:
        return f"spec.replicas {draft.spec.replicas} -> {count}{_tail(draft, rule)}"
    if draft.need is None:
        return f"demand unknown, {draft.traffic.gap} -> {count}{_tail(draft, rule)}"
    if draft.need.basis is not Basis.REACTIVE:
        return _foreseen(draft, rule, count) + _tail(draft, rule) + _waiting(draft, out, rule, now)
    share = DOWN if rule in (ChosenBy.REACTIVE_DOWN, ChosenBy.STABILIZING, ChosenBy.STEP_LIMIT, ChosenBy.PANIC) else UP
    queue = f" with a queue of {draft.traffic.queue}" if rule is ChosenBy.QUEUE else ""
    demand = f"demand {draft.need.now:.4g} req/s{queue} / {share:g} over {_per_worker(draft):.3g} req/s per worker"
    return f"{demand}{_corrected(draft)} -> {count}" + _tail(draft, rule) + _waiting(draft, out, rule, now)


def _corrected(draft: Draft) -> str:
    """By how much the rates of what serves differ from the model."""
    names = dict.fromkeys(w.variant for w in draft.roster.ready)
    ratios = [offer.learned for name in names if (offer := draft.offers.get(name)) is not None and offer.learned != 1.0]
    return f" ({', '.join(f'{ratio:.3g}' for ratio in ratios)} x the model, learned)" if ratios else ""


def _foreseen(draft: Draft, rule: ChosenBy, count: str) -> str:
    need = draft.need
    if need is None:
        return count
    queue = f" with a queue of {draft.traffic.queue}" if rule is ChosenBy.QUEUE else ""
    ahead = f"expected up to {need.forecast:.4g} req/s {_AHEAD[need.basis]}" if need.forecast is not None else ""
    what = f"demand {need.now:.4g} req/s{queue}, {ahead}, needs {need.up:.4g} to {need.down:.4g} req/s"
    return f"{what} over {_per_worker(draft):.3g} req/s per worker{_corrected(draft)} -> {count}"


def _tail(draft: Draft, rule: ChosenBy) -> str:
    growth = draft.growth
    if rule is ChosenBy.PAUSED:
        return f"; held by annotation {draft.pauses.named}"
    if rule in _WORDS:
        return _WORDS[rule].format(budget=growth.budget or 0.0, spent=growth.spent)
    if growth.short is Short.BLOCKED:
        return f"; no node found on {', '.join(sorted(growth.closed))}"
    if growth.short is Short.GATE:
        return f"; starts fail, next attempt in {draft.gate.next_attempt:.0f} s"
    if rule is ChosenBy.MAX:
        return f"; max {growth.most}"
    return f"; min {growth.floor}" if rule is ChosenBy.MIN else ""


def _waiting(draft: Draft, out: Shrink, rule: ChosenBy, now: float) -> str:
    if rule is ChosenBy.STABILIZING:
        since = out.memory.low_since
        lower = now - since if since is not None else 0.0
        return f"; {out.want} would do for {lower:.0f} s of {draft.hold:.0f} s"
    if rule is ChosenBy.STEP_LIMIT and draft.spec.scaling is not None:
        down = draft.spec.scaling.scale_down
        return f"; {out.want} would do, {down.max_step} per {down.step_period:g} s may leave"
    if rule is ChosenBy.PANIC and out.memory.panic_until is not None:
        return f"; panic, nothing leaves for {out.memory.panic_until - now:.0f} s"
    return f"; {len(draft.roster.starting)} on their way" if rule is ChosenBy.STARTING else ""


def _figures(draft: Draft, out: Shrink) -> dict[str, float]:
    workload = draft.traffic.workload
    figures = {
        "ready_rps": draft.ready,
        "starting_rps": draft.coming,
        "ready": float(len(draft.roster.ready)),
        "want": float(out.want),
        "hold_seconds": draft.hold,
        "input_tokens": workload.input_tokens,
        "output_tokens": workload.output_tokens,
        "hit_ratio": workload.hit_ratio,
    }
    if draft.need is not None:
        figures |= {
            "demand_rps": draft.need.now,
            "need_up_rps": draft.need.up,
            "need_down_rps": draft.need.down,
        }
        if draft.need.forecast is not None:
            figures["forecast_rps"] = draft.need.forecast
        if draft.need.chance is not None:
            figures["chance"] = draft.need.chance
        if draft.ready > 0:
            figures["utilisation"] = draft.need.now / draft.ready
    return figures
