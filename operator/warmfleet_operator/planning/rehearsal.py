"""Which margin: the cheapest of those that, rehearsed on the deployment's own traffic, keep the objective.

Every margin of ``MARGINS`` has a fleet of its own that exists in numbers alone. It sees the arrivals and the table that
the deployment sees, has its start-up time, hold and limits, and is served as a fluid. So what each margin would have
cost, and how many requests would have been late with it, is known without trying it on anybody::

    late_m     = (requests that were late with m + PRIOR_DAYS of the usual share) / (requests + PRIOR_DAYS of them)
                 with a memory of up to MEMORY_S; PRIOR_DAYS fade with a memory of half a day
    truth      = (missed + some) / (rehearsed + some), within TRUTH      what came true over what was rehearsed
    goal       = AIM * (1 - slo.attainment) / truth                      AIM_RECORD where a share of the record is held
    margin     = of each ladder the first, from bold to safe, with late_m <= goal; between it and its neighbour, where a
                 share of the time with either would be late as often as the goal, unless there is an EDGE between them;
                 of these the cheapest

There are four ladders: the reactive rule, chances by the built-in table, chances of the demand at the end of a
start-up, and chances of the highest until then followed by shares of the record. Another one is climbed only where it
is cheaper by MUCH, and the built-in table's only once JUDGED_S have been shown.

The objective is a floor: what is aimed for is missed half of the time, so less than the budget is aimed for. What no
margin prevents is late with all of them alike: a bad day counts for its share of a week, and is no debt to pay back.

No margin is taken that costs more than MOST_DEARER times the cheapest one; where none is good enough within that, it is
the one with the fewest late requests. What a margin on the record misses while the record is being made is not held
against it: the record is known from then on. And what a share of the higher record would have shown before is what a
larger share of the former one did show::

    late_share = late of (share * record / former record), at most of all of the former one
    cost_share = cost of the same, at least that of holding the share all the time

What is missed while more workers would not come (limits, pauses) says nothing about a margin, and is not compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from warmfleet_operator.planning import blend
from warmfleet_operator.planning.blend import RAREST, Margin, Rule, Sight
from warmfleet_operator.state.memory import Coming, Rehearsal, Trial

DAY_S = 86_400.0
LEAST_MEMORY_S, MEMORY_S, GROWTH = DAY_S, 7 * DAY_S, 4.0
"""Memory of what was shown, seconds, and how many times as long it is as the time that it stands for: a first day,
without a table and without a record, is forgotten sooner than those after it."""
EVERY_S, LEAST_EVERY_S = 30.0, 5.0
"""Seconds between two steps of the rehearsal: a quarter of a start-up within these bounds."""
MOST_GAP_S = 150.0
"""After a longer gap the fleets begin anew with what is there; what they showed stays."""
AIM, AIM_RECORD = 0.7, 0.8
"""Share of the budget of late requests that is aimed for; with a margin on the record, which is dear."""
PRIOR_DAYS = 0.3
"""For how much traffic the usual shares count at first, in days of it."""
TRUTH = (0.7, 3.0)
"""Bounds of what came true over what was rehearsed."""
MOST_DEARER = 8.0
"""Most cost of a margin that is taken, over the cheapest one's."""
EDGE = 8.0
"""How many times as many requests are late with a margin as with the next safer one, where nothing lies between them:
it is either enough for a crowd, and nothing is late, or it is not."""
MUCH = 0.01
"""Share that a margin of another ladder must save to be taken instead."""
JUDGED_S = 0.75 * DAY_S
"""What must have been shown, seconds, before the built-in table is taken instead of the forecast's: about a day. What a
forecast buys ahead of a ramp is dear until the ramp is there, and whether it was worth it shows in a day's course."""
DRAIN_S = 30.0
"""Seconds for which a worker that leaves is paid for."""
LONGEST_WAIT_S = 60.0
"""Requests that wait for longer than this, or the objective, give up."""
RAISED = 1.01
"""A rate this much above the highest one known is a new record."""
MARGINS: tuple[Margin, ...] = (
    *(Margin(Rule.REACTIVE, share) for share in (1.6, 1.5, 1.4, 1.3, 1.2)),
    *(Margin(Rule.BUILT_IN, chance) for chance in (0.7, 0.4, 0.2, 0.1, 0.05, 0.02, RAREST)),
    *(Margin(Rule.AT_LEAD, chance) for chance in (0.95, 0.7, 0.4, 0.2, 0.1, 0.05, 0.02, RAREST)),
    *(Margin(Rule.QUANTILE, chance) for chance in (0.95, 0.7, 0.4, 0.2, 0.1, 0.05, 0.02, RAREST)),
    *(Margin(Rule.RECORD, share) for share in (0.1, 0.2, 0.3, 0.4, 0.55, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0)),
)
"""A queue decides; a chance is taken; a share of what was needed before is held. Each from bold to safe.

Close to each other where a crowd that comes again and again begins to be served: below, all of it is late."""
LADDERS = tuple(
    tuple(i for i, m in enumerate(MARGINS) if m.rule in rules)
    for rules in ((Rule.REACTIVE,), (Rule.QUANTILE, Rule.RECORD), (Rule.AT_LEAD,), (Rule.BUILT_IN,))
)
SHARES = (0.0, *(m.value for m in MARGINS if m.rule is Rule.RECORD))
"""Shares of the record that are held, from the rarest chance, which holds none of it."""
USUAL = (
    *((0.1, 0.96), (0.09, 1.0), (0.085, 1.04), (0.083, 1.05), (0.081, 1.06)),
    *((0.1, 1.05), (0.08, 1.07), (0.053, 1.09), (0.035, 1.11), (0.023, 1.13), (0.0134, 1.16), (0.0088, 1.2)),
    *((0.12, 1.03), (0.1, 1.05), (0.08, 1.07), (0.053, 1.09)),
    *((0.035, 1.11), (0.023, 1.13), (0.0134, 1.16), (0.0088, 1.2)),
    *((0.12, 1.03), (0.1, 1.05), (0.08, 1.07), (0.053, 1.09)),
    *((0.035, 1.11), (0.023, 1.13), (0.0134, 1.16), (0.0088, 1.2)),
    *((0.007, 1.3), (0.0055, 1.4), (0.004, 1.5), (0.003, 1.65), (0.0018, 1.85), (0.001, 2.05)),
    *((0.0008, 2.15), (0.0006, 2.25), (0.0004, 2.35), (0.0002, 2.45), (0.0001, 2.6)),
)
"""Share of late requests and cost over the optimum's, by margin, as on public traces: what is assumed at first."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a step of the rehearsal goes by.

    Attributes:
        seen: What is known of the time ahead.
        arrivals: Requests/s since the last step.
        missed: Share of them that were late in fact; None while unknown.
        steerable: Whether more workers would come if more were wanted.
        unit: What a worker sustains, requests/s.
        lead_s: Start-up time, seconds.
        catch_up_s: Time in which a queue is to be caught up, seconds.
        objective_s: Wait above which a request is late, seconds.
        holds_s: How long a worker must not have been missed to leave: with a quantile, with the reactive rule; seconds.
        least: Fewest workers.
        most: Most workers.
        ready: Capacity that there is, requests/s.
        phase: In [0, 1), another one for each deployment: not all of them are rehearsed in the same decision.
    """

    seen: Sight
    arrivals: float
    missed: float | None
    steerable: bool
    unit: float
    lead_s: float
    catch_up_s: float
    objective_s: float
    holds_s: tuple[float, float]
    least: int
    most: int
    ready: float
    phase: float = 0.0


def rehearse(state: Rehearsal, stage: Stage, target: float, now: float) -> Rehearsal:
    """The rehearsal after one more step, with the margin that it chooses; unchanged when it is too early.

    Args:
        state: Before.
        stage: What is at hand.
        target: Share of requests that may be late, in (0, 1).
        now: Logical seconds.
    """
    passed = math.inf if state.at is None else now - state.at
    if 0.0 <= passed <= MOST_GAP_S and _turn(stage, now) == _turn(stage, now - passed):
        return state
    if not (0.0 <= passed <= MOST_GAP_S and len(state.trials) == len(MARGINS)):
        return _begun(state, stage, target, now)
    higher = stage.seen.held > RAISED * state.held
    before, requests = _relabelled(state, stage) if higher else state, stage.arrivals * passed
    memory = math.exp(-passed / min(max(LEAST_MEMORY_S, GROWTH * state.seconds), MEMORY_S))
    raised = now + stage.lead_s if higher else state.raised_until
    learning = 0.0 <= raised - now <= stage.lead_s  # whatever the clock did
    trials, late, cost, shares = [], [], [], []
    for i, margin in enumerate(MARGINS):
        ahead = blend.reach(stage.seen, margin)
        trial, paid, share = _stepped(before.trials[i], margin, ahead, stage, passed, now)
        counted = 0.0 if learning and margin.rule is Rule.RECORD else share * requests
        trials.append(trial)
        shares.append(share)
        late.append(before.late[i] * memory + counted)
        cost.append(before.cost[i] * memory + paid)
    missed, rehearsed = before.missed * memory, before.rehearsed * memory
    if stage.missed is not None and stage.steerable:
        missed += stage.missed * requests
        rehearsed += _between(shares, before.position) * requests
    after = Rehearsal(
        at=now,
        trials=tuple(trials),
        late=tuple(late),
        cost=tuple(cost),
        requests=before.requests * memory + requests,
        seconds=before.seconds * memory + passed,
        missed=missed,
        rehearsed=rehearsed,
        position=before.position,
        held=max(stage.seen.held, before.held * memory),
        raised_until=raised,
    )
    return chosen(after, target)


def _relabelled(state: Rehearsal, stage: Stage) -> Rehearsal:
    """What was shown, by shares of the higher record that is known now."""
    if state.held <= 0.0:
        return state
    none = len(MARGINS) - len(SHARES)
    needed = np.array(SHARES[1:]) * stage.seen.held
    former = np.minimum(needed, state.held) / state.held
    late = np.interp(former, SHARES, state.late[none:])
    cost = np.maximum(np.interp(former, SHARES, state.cost[none:]), needed / stage.unit * state.seconds)
    return replace(
        state,
        late=(*state.late[: none + 1], *late.tolist()),
        cost=(*state.cost[: none + 1], *cost.tolist()),
    )


def _turn(stage: Stage, now: float) -> int:
    """Number of the time in which one step is made."""
    return math.floor(now / min(max(stage.lead_s / 4.0, LEAST_EVERY_S), EVERY_S) + stage.phase)


def chosen(state: Rehearsal, target: float) -> Rehearsal:
    """With the cheapest position that keeps ``target``."""
    weight = _prior(state)
    known = state.requests + weight
    late = [(count + weight * usual) / known for count, (usual, _) in zip(state.late, USUAL, strict=True)]
    level = sum(state.cost) / sum(cost for _, cost in USUAL)
    rate = weight / known
    cost = [
        (c / level if level > 0.0 else usual) * (1.0 - rate) + usual * rate
        for c, (_, usual) in zip(state.cost, USUAL, strict=True)
    ]
    ladders = [
        ladder for ladder in LADDERS if state.seconds >= JUDGED_S or MARGINS[ladder[0]].rule is not Rule.BUILT_IN
    ]
    return replace(state, position=_cheapest(ladders, late, cost, target / truth(state, target), state.position))


def _prior(state: Rehearsal) -> float:
    """Requests that the usual shares count for: fewer and fewer, the more has been seen."""
    if state.seconds <= 0.0:
        return 1.0
    return PRIOR_DAYS * DAY_S * math.exp(-2.0 * state.seconds / DAY_S) * state.requests / state.seconds


def truth(state: Rehearsal, target: float) -> float:
    """What came true over what was rehearsed, within ``TRUTH``: above 1, fewer late requests are aimed for."""
    some = AIM * target * PRIOR_DAYS * DAY_S * (state.requests / state.seconds if state.seconds > 0.0 else 1.0)
    some = max(some, 1e-9)
    return min(max((state.missed + some) / (state.rehearsed + some), TRUTH[0]), TRUTH[1])


def margin(state: Rehearsal) -> Margin:
    """The margin at the position that was chosen: between two neighbours, what lies between them."""
    position = min(max(state.position, 0.0), len(MARGINS) - 1.0)
    i = min(int(position), len(MARGINS) - 2)
    low, high, share = MARGINS[i], MARGINS[i + 1], position - i
    if low.rule is high.rule and low.rule in blend.CHANCES:
        return Margin(low.rule, low.value * (high.value / low.value) ** share)
    if low.rule is high.rule:
        return Margin(low.rule, low.value + (high.value - low.value) * share)
    if share <= 0.0:
        return low
    # Nothing lies between two ladders; the rarest chance holds none of the record yet.
    return high if low.rule is not Rule.QUANTILE else Margin(Rule.RECORD, high.value * share)


def late(queue: int | None, ready: float, objective_s: float) -> float | None:
    """Share of requests that come late, as far as the queue tells; None when it is unknown or nothing is ready."""
    if queue is None or ready <= 0.0:
        return None
    return 1.0 if queue / ready > objective_s else 0.0


def _begun(state: Rehearsal, stage: Stage, target: float, now: float) -> Rehearsal:
    """Fleets that begin with what is there."""
    ready = min(max(math.ceil(stage.ready / stage.unit - 1e-6), stage.least, 1), max(stage.most, 1))
    trial = Trial(ready, (), 0.0, now, ready, ready)
    known = len(state.late) == len(MARGINS) and len(state.cost) == len(MARGINS)
    none = (0.0,) * len(MARGINS)
    fresh = replace(
        state,
        at=now,
        trials=(trial,) * len(MARGINS),
        late=state.late if known else none,
        cost=state.cost if known else none,
        requests=state.requests if known else 0.0,
        seconds=state.seconds if known else 0.0,
    )
    return chosen(fresh, target)


def _stepped(
    trial: Trial, margin: Margin, ahead: float, stage: Stage, passed: float, now: float
) -> tuple[Trial, float, float]:
    """(the fleet after it served for ``passed`` seconds, bought and let go; seconds of workers paid; share late)."""
    ready, coming, queue, since, before, most = trial
    work = ready * passed
    paid = work
    have = ready
    if coming:
        started = sum([count for _, count in coming])
        have += started
        paid += passed * started
        while coming and coming[0][0] <= now:
            at, count = coming[0]
            ready, coming, work = ready + count, coming[1:], work + count * min(passed, now - at)
    unit = stage.unit
    left = queue + stage.arrivals * passed - work * unit
    limit = stage.objective_s * unit * ready
    share = 0.0
    if left > 0.0:
        left = min(left, max(LONGEST_WAIT_S, stage.objective_s) * unit * max(ready, 1))
        share = _late(queue, left, limit)
    elif queue > limit:
        left, share = 0.0, _late(queue, 0.0, limit)
    else:
        left = 0.0
    weight = blend.RECOVERY if left > limit else 1.0
    up, down = blend.bounds(stage.seen, margin, ahead, stage.arrivals, left / stage.catch_up_s, weight)
    buy = min(max(math.ceil(up / unit - 1e-6), stage.least), stage.most)
    if buy > have:
        return Trial(ready, (*coming, (now + stage.lead_s, buy - have)), left, now, buy, buy), paid, share
    keep = min(have, max(math.ceil(down / unit - 1e-6), stage.least))
    most = max(most, keep)
    if now - since < stage.holds_s[margin.rule is Rule.REACTIVE] / 2.0:
        return Trial(ready, coming, left, since, before, most), paid, share
    gone = have - max(before, most)
    if gone > 0:
        paid += gone * DRAIN_S
        ready, coming = _fewer(ready, coming, gone)
    return Trial(ready, coming, left, now, most, keep), paid, share


def _fewer(ready: int, coming: Coming, gone: int) -> tuple[int, Coming]:
    """What is left: of those that start the latest leave first, then those that serve."""
    while coming and gone:
        at, count = coming[-1]
        coming = coming[:-1]
        if count > gone:
            return ready, (*coming, (at, count - gone))
        gone -= count
    return ready - gone, coming


def _late(before: float, after: float, most: float) -> float:
    """Share of a step in which a queue that moves from ``before`` to ``after`` is longer than ``most``."""
    low, high = min(before, after), max(before, after)
    if high <= most:
        return 0.0
    return 1.0 if low >= most else (high - most) / (high - low)


def _between(values: Sequence[float], position: float) -> float:
    """What lies at a position."""
    i = min(max(int(position), 0), len(values) - 2)
    share = min(max(position - i, 0.0), 1.0)
    if not any(i in ladder and i + 1 in ladder for ladder in LADDERS):
        share = math.ceil(share)
    return values[i] + (values[i + 1] - values[i]) * share


def _cheapest(
    ladders: Sequence[Sequence[int]], late: Sequence[float], cost: Sequence[float], target: float, before: float
) -> float:
    """The cheapest position that is good enough; where none is that can be paid, the one that misses least."""
    allowed = [i for ladder in ladders for i in ladder]
    most = MOST_DEARER * min(cost[i] for i in allowed)
    affordable = [i for i in allowed if cost[i] <= most]
    good = [_boldest(ladder, late, target, set(affordable)) for ladder in ladders]
    if found := [(i, ladder) for i, ladder in zip(good, ladders, strict=True) if i is not None]:
        return min(found, key=lambda f: _between(cost, f[0]) * (1.0 - MUCH if int(before) in f[1] else 1.0))[0]
    return float(min(affordable, key=lambda i: (round(late[i], 5), cost[i])))


def _boldest(ladder: Sequence[int], late: Sequence[float], target: float, allowed: Set[int]) -> float | None:
    """The first position of a ladder that is good enough; None where there is none."""
    for i in ladder:
        goal = (AIM_RECORD if MARGINS[i].rule is Rule.RECORD else AIM) * target
        if late[i] > goal or i not in allowed:
            continue
        if i - 1 not in ladder or late[i - 1] > EDGE * max(late[i], goal / 4.0):
            return float(i)
        return i - 1 + min(max((late[i - 1] - goal) / max(late[i - 1] - late[i], 1e-12), 0.0), 1.0)
    return None
