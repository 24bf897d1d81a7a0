"""The margins, each rehearsed with a fleet of its own, and the one that is taken."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from warmfleet_contracts.leadwindow import Outlook, outlook
from warmfleet_contracts.perfmodel import Workload
from warmfleet_contracts.trafficstate import TrafficState, advance
from warmfleet_operator.planning import blend, rehearsal
from warmfleet_operator.planning.blend import Basis, Margin, Rule
from warmfleet_operator.planning.demand import Grade, Traffic
from warmfleet_operator.planning.rehearsal import MARGINS, Stage
from warmfleet_operator.state.memory import Rehearsal, Trial

DAY = 86_400.0
LEAD = 300.0


def stage(state: TrafficState, peak: float, **changes: object) -> Stage:
    made = Stage(
        seen=blend.sight(outlook(blend.PRIOR, state, LEAD, 0.0), state, basis=Basis.PRIOR, peak=peak, record=None),
        arrivals=state.level,
        missed=None,
        steerable=True,
        unit=10.0,
        lead_s=LEAD,
        catch_up_s=LEAD,
        objective_s=10.0,
        holds_s=(150.0, 300.0),
        least=1,
        most=100,
        ready=state.level,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def rehearsed(rate: Callable[[float], float], days: float, peak: float = 0.0, **changes: object) -> Rehearsal:
    """What the rehearsal knows after some days of a rate by time."""
    state, found = None, Rehearsal()
    for step in range(int(days * DAY / 60.0)):
        now = 1000.0 + 60.0 * step
        state = advance(state, rate(now), now)
        peak = max(peak, state.level)
        found = rehearsal.rehearse(found, stage(state, peak, arrivals=rate(now), **changes), 0.01, now)
    return found


def test_what_can_be_foretold_is_bought_by_what_will_be_there() -> None:
    """A wave whose next minutes are known exactly, under noise that is over before what it buys serves."""

    def mean(now: float) -> float:
        return 100.0 - 60.0 * math.cos(2 * math.pi * now / (DAY / 4))

    state, found = None, Rehearsal()
    for step in range(int(1.5 * DAY / 60.0)):
        now = 1000.0 + 60.0 * step
        rate = mean(now) * (0.9 + 0.2 * _random(now))
        state = advance(state, rate, now)
        until = Outlook((0.5, 0.99), tuple(max(state.level, mean(now), mean(now + LEAD)) * x for x in (1.04, 1.2)))
        at_end = Outlook((0.5, 0.99), (mean(now + LEAD), mean(now + LEAD) * 1.1))
        seen = blend.sight(until, state, basis=Basis.FORECAST, peak=200.0, record=200.0, at_lead=at_end)
        found = rehearsal.rehearse(found, replace(stage(state, 200.0), seen=seen, arrivals=rate), 0.01, now)
    assert rehearsal.margin(found).rule is Rule.AT_LEAD
    at_lead, quantile = (min(c for late, c in of(found, rule) if late < 0.01) for rule in (Rule.AT_LEAD, Rule.QUANTILE))
    assert at_lead < 0.97 * quantile


def _random(number: float) -> float:
    """The same for the same number, in [0, 1)."""
    wild = math.sin(number * 12.9898) * 43758.5453
    return wild - math.floor(wild)


def wavy(now: float) -> float:
    """A day's course of 20 to 180 requests/s, for ten minutes at a time up to a third as much again."""
    swing = _random(now // 600.0)
    return (100.0 - 80.0 * math.cos(2 * math.pi * now / DAY)) * (0.95 + 0.1 * _random(now)) * (1.0 + 0.3 * swing**3)


@pytest.fixture(scope="module")
def two_days() -> Rehearsal:
    return rehearsed(wavy, 2.0)


def of(found: Rehearsal, rule: Rule) -> list[tuple[float, float]]:
    """(late, cost) of the margins of a rule, from cheap to safe."""
    known = zip(MARGINS, found.late, found.cost, strict=True)
    return [(late / found.requests, cost) for margin, late, cost in known if margin.rule is rule]


@pytest.mark.parametrize("rule", [Rule.QUANTILE, Rule.REACTIVE])
def test_a_safer_margin_costs_more_and_misses_less(two_days: Rehearsal, rule: Rule) -> None:
    shown = of(two_days, rule)
    assert [late for late, _ in shown] == sorted((late for late, _ in shown), reverse=True)
    assert [cost for _, cost in shown] == sorted(cost for _, cost in shown)
    assert shown[0][0] > 0.01
    assert (shown[-1][0] < 0.01) is (rule is Rule.QUANTILE)


def test_the_cheapest_one_that_keeps_the_objective_is_taken(two_days: Rehearsal) -> None:
    chosen = rehearsal.margin(two_days)
    stricter, looser = (rehearsal.margin(rehearsal.chosen(two_days, target)) for target in (0.003, 0.05))
    assert chosen.rule is stricter.rule is looser.rule is Rule.QUANTILE
    assert stricter.value < chosen.value < looser.value
    low = sum(m.rule is Rule.QUANTILE and m.value >= chosen.value for m in MARGINS) - 1
    late = [late for late, _ in of(two_days, Rule.QUANTILE)]
    assert late[low] >= rehearsal.AIM * 0.01 * 0.5
    assert late[min(low + 1, len(late) - 1)] <= rehearsal.AIM * 0.01 * 1.5


def test_what_no_margin_prevents_does_not_make_the_margin_much_rarer() -> None:
    """Five minutes of ten times the traffic, at the end: every margin that looks ahead misses them."""
    burst = 1000.0 + 1.985 * DAY
    calm = rehearsed(wavy, 2.0, peak=300.0)
    hit = rehearsed(lambda now: wavy(now) * (10.0 if burst <= now < burst + 300.0 else 1.0), 2.0, peak=300.0)
    extra = [b[0] - a[0] for a, b in zip(of(calm, Rule.QUANTILE), of(hit, Rule.QUANTILE), strict=True)]
    assert min(extra) > 0.002
    assert max(extra) < 2.0 * min(extra), "about the same for all of them"
    assert calm.position < hit.position < calm.position + 1.5


def test_where_waiting_a_little_makes_nothing_late_a_queue_decides() -> None:
    found = rehearsed(lambda now: 9.0 if now % DAY < DAY / 2 else 11.0, 2.0, objective_s=60.0)
    assert rehearsal.margin(found).rule is Rule.REACTIVE
    assert rehearsal.margin(found).value >= 1.2


def test_what_comes_without_a_warning_is_met_by_holding_what_was_needed_before() -> None:
    found = rehearsed(lambda now: 100.0 if now % 21_600.0 > 20_000.0 else 20.0, 3.0)
    chosen = rehearsal.margin(found)
    assert chosen.rule is Rule.RECORD or chosen.value < 0.01, chosen
    record = of(found, Rule.RECORD)
    assert record[-1][0] < 0.005, "what is missed while the record is made is not held against it"


@pytest.mark.parametrize(("missed", "expected"), [(0.2, rehearsal.TRUTH[1]), (0.0, rehearsal.TRUTH[0])])
def test_what_came_true_moves_the_goal(two_days: Rehearsal, missed: float, expected: float) -> None:
    found = rehearsed(wavy, 2.0, missed=missed)
    assert rehearsal.truth(found, 0.01) == pytest.approx(expected, rel=0.2)
    assert (found.position > two_days.position) is (missed > 0.0)
    full = rehearsed(wavy, 0.5, missed=missed, steerable=False)
    assert rehearsal.truth(full, 0.01) == 1.0, "nothing could be done about it"


def test_a_gap_begins_the_fleets_anew_and_forgets_nothing(two_days: Rehearsal) -> None:
    assert two_days.at is not None
    state = TrafficState(two_days.at, 100.0, 100.0, 100.0)
    early = rehearsal.rehearse(two_days, stage(state, 180.0), 0.01, two_days.at + 5.0)
    assert early is two_days
    for later in (two_days.at + 3600.0, two_days.at - 10.0):
        found = rehearsal.rehearse(two_days, stage(state, 180.0, ready=95.0), 0.01, later)
        assert found.trials == (Trial(10, (), 0.0, later, 10, 10),) * len(MARGINS)
        assert (found.late, found.cost, found.requests) == (two_days.late, two_days.cost, two_days.requests)


def test_fleets_keep_their_limits() -> None:
    found = rehearsed(wavy, 1.0, least=3, most=6)
    for trial in found.trials:
        assert 3 <= trial.ready + sum(count for _, count in trial.coming) <= 6


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (-1.0, Margin(Rule.REACTIVE, 1.6)),
        (1.5, Margin(Rule.REACTIVE, 1.45)),
        (4.0, Margin(Rule.REACTIVE, 1.2)),
        (4.5, Margin(Rule.BUILT_IN, 0.7)),
        (7.5, Margin(Rule.BUILT_IN, math.sqrt(0.2 * 0.1))),
        (11.5, Margin(Rule.AT_LEAD, 0.95)),
        (14.5, Margin(Rule.AT_LEAD, math.sqrt(0.4 * 0.2))),
        (19.5, Margin(Rule.QUANTILE, 0.95)),
        (22.5, Margin(Rule.QUANTILE, math.sqrt(0.4 * 0.2))),
        (27.0, Margin(Rule.QUANTILE, blend.RAREST)),
        (27.5, Margin(Rule.RECORD, 0.05)),
        (30.5, Margin(Rule.RECORD, 0.35)),
        (99.0, Margin(Rule.RECORD, 1.0)),
    ],
)
def test_between_two_margins_lies_what_is_between_them(position: float, expected: Margin) -> None:
    found = rehearsal.margin(Rehearsal(position=position))
    assert found.rule is expected.rule
    assert found.value == pytest.approx(expected.value)


def _shown(late: dict[Margin, float], cost: dict[Margin, float], position: float) -> Rehearsal:
    """A rehearsal of a week in which the other margins of the reactive rule miss a lot, and chances cost more."""
    return Rehearsal(
        late=tuple(1e6 * late.get(m, 0.2 if m.rule is Rule.REACTIVE else 0.0) for m in MARGINS),
        cost=tuple(cost.get(m, 1.0 if m.rule is Rule.REACTIVE else 1.5) for m in MARGINS),
        requests=1e6,
        seconds=7 * DAY,
        position=position,
    )


@pytest.mark.parametrize(
    ("queue_decides", "chance", "before", "expected"),
    [
        (1.0, 1.1, Rule.QUANTILE, Rule.REACTIVE),
        (1.1, 1.0, Rule.REACTIVE, Rule.QUANTILE),
        (1.1, 1.095, Rule.REACTIVE, Rule.REACTIVE),
        (1.095, 1.1, Rule.QUANTILE, Rule.QUANTILE),
    ],
)
def test_of_two_rules_that_keep_the_objective_the_cheaper_one_is_taken(
    queue_decides: float, chance: float, before: Rule, expected: Rule
) -> None:
    safest, boldest = Margin(Rule.REACTIVE, 1.2), next(m for m in MARGINS if m.rule is Rule.QUANTILE)
    at = MARGINS.index(safest if before is Rule.REACTIVE else boldest)
    shown = _shown({safest: 0.0}, {safest: queue_decides, boldest: chance}, at)
    found = rehearsal.margin(rehearsal.chosen(shown, 0.01))
    assert found.rule is expected, "the other one only where it saves more than a little"


@pytest.mark.parametrize(("late", "expected"), [(0.04, 0.8), (0.012, 0.7666)])
def test_where_one_margin_misses_everything_and_the_next_nothing_it_is_the_next(late: float, expected: float) -> None:
    """A crowd that a tenth less capacity misses: most of what lies between them misses it as well."""
    low, high = (Margin(Rule.RECORD, share) for share in (0.75, 0.8))
    bold = {m: late for m in MARGINS if m.rule is not Rule.RECORD or m.value <= low.value}
    found = rehearsal.margin(rehearsal.chosen(_shown(bold | {high: 0.0}, {}, 8.0), 0.01))
    assert found.value == pytest.approx(expected, abs=0.01)


def test_what_was_shown_of_a_share_counts_for_a_smaller_one_when_the_record_rises() -> None:
    """A day of 100 requests/s at most; then one minute of 200, which is what the shares are of from now on."""
    calm = rehearsed(lambda now: 100.0 if now % 21_600.0 > 20_000.0 else 20.0, 1.0, peak=100.0)
    assert calm.at is not None
    state = TrafficState(calm.at + 60.0, 200.0, 200.0, 200.0)
    risen = rehearsal.rehearse(calm, stage(state, 200.0), 0.01, calm.at + 60.0)
    was, now = (
        {m.value: v for m, v in zip(MARGINS, f.late, strict=True) if m.rule is Rule.RECORD} for f in (calm, risen)
    )
    assert was[0.4] > 2.0 * was[0.8] > 0.0, "it makes a difference here"
    assert now[0.4] == pytest.approx(was[0.8], rel=0.01)
    assert now[0.2] == pytest.approx(was[0.4], rel=0.01)
    assert now[0.7] == pytest.approx(was[1.0], rel=0.01)
    paid = [cost for _, cost in of(risen, Rule.RECORD)]
    assert paid == sorted(paid)
    assert paid[-1] > 1.9 * calm.cost[-1], "twice the record costs twice as much"


def test_the_built_in_table_is_taken_where_it_is_cheaper_than_the_one_that_was_learned() -> None:
    """A table that expects three times the demand is never late, and dear: chances of it cost three times as much."""
    timid = replace(
        blend.PRIOR, windows=tuple(replace(w, drift=w.drift + math.log(3.0)) for w in blend.PRIOR.windows), peak=1e9
    )
    state, found, ahead = None, Rehearsal(), None
    for step in range(int(1.5 * 1440)):
        now = 1000.0 + 60.0 * step
        state = advance(state, wavy(now), now)
        usual = outlook(blend.PRIOR, state, LEAD, 0.0)
        ahead = blend.sight(
            outlook(timid, state, LEAD, 0.0), state, basis=Basis.FORECAST, peak=180.0, record=900.0, usual=usual
        )
        found = rehearsal.rehearse(found, replace(stage(state, 180.0), seen=ahead, arrivals=wavy(now)), 0.01, now)
    assert ahead is not None
    chosen = rehearsal.margin(found)
    assert chosen.rule is Rule.BUILT_IN
    young = rehearsal.chosen(replace(found, seconds=0.5 * DAY), 0.01)
    assert rehearsal.margin(young).rule is not Rule.BUILT_IN, "a table that knows the time of day is judged by a day"
    need = blend.foresighted(Traffic(Grade.COMPLETE, 100.0, 0, 100.0, Workload(1000, 200)), ahead, chosen, late=False)
    assert need is not None
    assert need.basis is Basis.BUILT_IN
    assert need.forecast == blend.reach(ahead, chosen) < blend.reach(ahead, Margin(Rule.QUANTILE, chosen.value))


def test_a_margin_that_may_not_be_taken_yet_makes_no_other_one_too_dear() -> None:
    """A checkpoint, whoever wrote it, in which only the built-in table's chances cost nothing."""
    free = {m: 0.0 for m in MARGINS if m.rule is Rule.BUILT_IN}
    shown = replace(_shown({}, free, 0.0), seconds=0.74 * DAY)
    assert rehearsal.margin(rehearsal.chosen(shown, 0.01)).rule is not Rule.BUILT_IN


def test_without_any_traffic_it_is_what_is_usual() -> None:
    fresh = rehearsal.rehearse(Rehearsal(), stage(TrafficState(0.0, 40.0, 40.0, 40.0), 40.0), 0.01, 0.0)
    assert rehearsal.margin(fresh).rule is Rule.RECORD, "the rarest chance, and next to nothing of the record"
    assert rehearsal.margin(fresh).value < 0.1
    assert rehearsal.rehearse(
        Rehearsal(late=(1.0,), cost=(1.0,)), stage(TrafficState(0.0, 4.0, 4.0, 4.0), 4.0), 0.01, 0.0
    )
