"""The margin that is forecast: which table counts, what events add, and how the attainment steers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from planning_specs import KEY, deployment, itype, scaling, spec
from planning_world import START, Cluster, decide, traffic, workers, world
from warmfleet_contracts.leadwindow import LeadWindowTable, Window
from warmfleet_contracts.reasons import ChosenBy
from warmfleet_contracts.trafficstate import TrafficState
from warmfleet_operator.planning import foresight, rehearsal
from warmfleet_operator.planning.blend import Margin, Rule
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state import checkpoint
from warmfleet_operator.state.decisions import Stage
from warmfleet_operator.state.memory import DeploymentMemory, PlannerMemory, Rehearsal
from warmfleet_operator.state.records import FleetSnapshot, ForecastRecord, Key

NOON = 1_795_000_000.0


def flat(ratio_log: float, **changes: Any) -> LeadWindowTable:
    """A table that expects ``exp(ratio_log)`` times the level, whatever the probability."""
    made = LeadWindowTable((0.5, 0.99), (Window(60.0, (ratio_log, ratio_log), scale_base=1.0),), peak=1e6)
    return replace(made, **changes)


def forecast(table: LeadWindowTable | None = None, **changes: Any) -> ForecastRecord:
    made = ForecastRecord(
        Key(KEY.namespace, "any"), "uid-f", KEY.name, START - 60.0, 1800.0, trusted=True, table=table or flat(0.5)
    )
    return replace(made, **changes)


def remembered(level: float, **changes: Any) -> PlannerMemory:
    state = TrafficState(START - 5.0, level, level, level, 1e-4, 1e-4)
    made = DeploymentMemory(
        deployment().uid, at=START - 5.0, traffic=state, peak=5 * level, usual=level, forecast_since=START - 1000.0
    )
    return PlannerMemory({KEY: replace(made, **changes)})


def asking(*found: ForecastRecord, arrivals: float = 40.0, **changes: Any) -> FleetSnapshot:
    record = deployment(spec(scaling=scaling(high=50) | {"forecast": {}} | changes))
    made = world(workers(5), traffic(arrivals), record=record)
    return replace(made, forecasts={KEY: tuple(found)}, wall_epoch=NOON)


def test_a_trusted_forecast_buys_ahead_and_says_so() -> None:
    made = decide(asking(forecast()), remembered(40.0))
    assert made.chosen_by is ChosenBy.FORECAST
    assert made.forecast == pytest.approx(40.0 * 1.6487, rel=1e-3)
    assert made.desired == 7
    assert "expected up to" in made.message


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"trusted": False}, "does not trust"),
        ({"issued_at": START - 1801.0}, "stale"),
        ({"issued_at": START + 61.0}, "in the future"),
        ({"issued_at": None}, "not complete"),
        ({"fault": "leadWindows.peak", "table": None}, "leadWindows.peak"),
    ],
)
def test_what_cannot_be_trusted_is_not_used_from_the_first_moment(wrong: dict[str, Any], why: str) -> None:
    bad = forecast(**wrong)
    assert why in foresight.refusal(bad, START)
    with_it, without = (decide(asking(*found), remembered(40.0)) for found in ((bad,), ()))
    assert (with_it.desired, with_it.forecast) == (without.desired, without.forecast)
    assert with_it.forecast != pytest.approx(40.0 * 1.6487, rel=1e-3)


def test_a_busy_half_minute_buys_nothing_where_the_forecast_says_that_it_passes() -> None:
    calm = forecast(flat(0.0))
    assert decide(asking(calm, arrivals=60.0), remembered(40.0)).desired == 5
    memory, now = remembered(40.0), START
    for _ in range(120):  # ten minutes of it: whatever the forecast says, this lasts
        snapshot = asking(forecast(flat(-1.0), issued_at=now - 1.0), arrivals=60.0)
        made, memory = plan(replace(snapshot, demand={KEY: traffic(60.0, at=now)}), memory, now)
        now += 5.0
    assert made.deployments[KEY].desired == 6


def test_a_forecast_that_comes_and_goes_is_never_used() -> None:
    memory, now = remembered(40.0, forecast_since=None), START
    for turn in range(60):
        good = turn % 10 != 9
        snapshot = asking(forecast(issued_at=now - 1.0, trusted=good))
        snapshot = replace(snapshot, demand={KEY: traffic(40.0, at=now)})
        made, memory = plan(snapshot, memory, now)
        assert made.deployments[KEY].forecast != pytest.approx(40.0 * 1.6487, rel=1e-3)
        now += 30.0


def test_without_the_field_a_forecast_changes_nothing() -> None:
    record = deployment(spec(scaling=scaling(high=50)))
    snapshot = replace(world(workers(5), traffic(40.0), record=record), forecasts={KEY: (forecast(),)})
    made = decide(snapshot, remembered(40.0))
    assert made.forecast is None
    assert made.desired == 5


def test_what_never_was_is_not_bought_ahead_of() -> None:
    made = decide(asking(forecast(flat(1.5, peak=0.0))), remembered(40.0, peak=44.0))
    assert made.forecast == pytest.approx(40.0 / 0.85)
    made = decide(asking(forecast(flat(1.5, peak=0.0))), remembered(40.0, peak=60.0))
    assert made.forecast == pytest.approx(60.0, rel=1e-3)


def test_a_declared_event_is_met_when_it_begins() -> None:
    sale = {"name": "sale", "start": "2026-11-18T12:00:00Z", "end": "2026-11-18T13:00:00Z", "factor": 3}
    start = 1_795_003_200.0
    for wall, desired in ((start - 65.0, 5), (start - 55.0, 15), (start + 3599.0, 15), (start + 3600.0, 5)):
        record = deployment(spec(scaling=scaling(high=50) | {"events": [sale]}))
        snapshot = replace(world(workers(5), traffic(40.0), record=record), wall_epoch=wall)
        made = decide(snapshot, remembered(40.0))
        assert made.desired == desired, wall
        assert (made.chosen_by is ChosenBy.EVENT) == (desired == 15)


def test_traffic_that_an_event_brought_is_not_multiplied_again() -> None:
    sale = {"name": "sale", "start": "2026-11-18T12:00:00Z", "end": "2026-11-18T13:00:00Z", "factor": 3}
    record = deployment(spec(scaling=scaling(high=80) | {"events": [sale]}))
    here = Cluster(replace(world(workers(5), record=record), wall_epoch=1_795_003_200.0 - 600.0))
    for _ in range(240):
        wall = (here.snapshot.wall_epoch or 0.0) + 5.0
        here.snapshot = replace(here.snapshot, wall_epoch=wall)
        rate = 120.0 if wall >= 1_795_003_200.0 else 40.0
        here.tick(5.0, {KEY: traffic(rate, at=here.now + 5.0)})
    assert here.serving() == 15


@pytest.mark.parametrize(
    ("margin", "need", "said"),
    [
        (Margin(Rule.QUANTILE, 0.4), 40.0 * math.exp(0.2), "exceeded with a chance of 0.4"),
        # The table says 1e6: no more than twice what was seen.
        (Margin(Rule.RECORD, 1.0), 400.0, "always 100% of the highest rate known"),
        (Margin(Rule.REACTIVE, 1.6), 40.0 / (0.85 * 1.6), "counting on 160%"),
        # A table that does not tell what will be at the end of the lead is asked for the highest until then.
        (Margin(Rule.AT_LEAD, 0.4), 40.0 * math.exp(0.2), "req/s when a new worker serves"),
    ],
)
def test_the_margin_that_was_rehearsed_is_asked_for_and_said(margin: Margin, need: float, said: str) -> None:
    memory = remembered(40.0)
    position = float(rehearsal.MARGINS.index(margin))
    known = replace(memory.deployments[KEY], rehearsal=Rehearsal(at=START, position=position))
    made = decide(asking(forecast(flat(0.2))), PlannerMemory({KEY: known}))
    assert made.figures["need_up_rps"] == pytest.approx(need, rel=0.01)
    assert said in " ".join(note.text for note in made.trace() if note.stage is Stage.BLEND)


def test_buying_goes_by_the_demand_at_the_end_of_a_start_up_and_leaving_by_the_highest_until_then() -> None:
    margin = Margin(Rule.AT_LEAD, 0.4)
    known = replace(
        remembered(40.0, peak=90.0).deployments[KEY],
        rehearsal=Rehearsal(at=START, position=float(rehearsal.MARGINS.index(margin))),
    )

    def needed(at_end: float) -> tuple[float, float]:
        table = flat(0.5, at_lead=flat(at_end).windows)
        figures = decide(asking(forecast(table)), PlannerMemory({KEY: known})).figures
        return figures["need_up_rps"], figures["need_down_rps"]

    highest = 40.0 * math.exp(0.5)
    for at_end in (0.2, 0.4, 0.5):
        assert needed(at_end) == (
            pytest.approx(40.0 * math.exp(at_end), rel=0.01),
            pytest.approx(highest, rel=0.03),
        )
    up, down = needed(-0.3)
    assert up == pytest.approx(40.0), "never less than the demand that is there"
    assert down == pytest.approx(highest, rel=0.01)


@pytest.mark.parametrize(("expects", "believed"), [(-0.5, False), (0.0, True), (0.2, True), (0.5, False)])
def test_a_table_that_does_not_fit_what_is_there_is_not_used_whoever_trusts_it(expects: float, believed: bool) -> None:
    """Half or one and a half times the demand, at every moment: neither is a forecast of anything."""
    here = Cluster(asking(forecast(flat(expects), valid_for=1e6)))
    for _ in range(8 * 60):
        here.tick(60.0, {KEY: traffic(40.0, at=here.now + 60.0)})
    misfit = here.memory.deployments[KEY].misfit
    assert (misfit <= foresight.MOST_MISFIT) is believed
    need = here.last.deployments[KEY].figures["need_up_rps"]
    without, _ = plan(replace(here.snapshot, forecasts={}), here.memory, here.now)
    assert (need == pytest.approx(without.deployments[KEY].figures["need_up_rps"])) is not believed
    again = replace(here.snapshot, forecasts={KEY: (forecast(flat(0.2), valid_for=1e6),)})
    here.snapshot = again
    for _ in range(8 * 60):
        here.tick(60.0, {KEY: traffic(40.0, at=here.now + 60.0)})
    assert here.memory.deployments[KEY].misfit < foresight.MOST_MISFIT, "a better one is used"


@pytest.mark.parametrize(
    ("ttft", "lead", "need"),
    [("2s", 60.0, 65.95), ("60s", 60.0, 65.95), ("120s", 60.0, 52.97), ("1h", 60.0, 40.0), ("120s", 600.0, 64.65)],
)
def test_what_may_wait_through_the_start_up_needs_no_margin(ttft: str, lead: float, need: float) -> None:
    """The table expects 1.65 times the 40 req/s that are there."""
    body = spec(scaling=scaling(high=50) | {"forecast": {}}, slo={"ttft": ttft})
    long = LeadWindowTable((0.5, 0.99), (Window(1.0, (0.5, 0.5), scale_base=1.0),), peak=1e6)
    snapshot = replace(asking(forecast(long)), deployments={KEY: deployment(body)})
    snapshot = replace(snapshot, instance_types={"h100": itype(startup=lead)})
    assert decide(snapshot, remembered(40.0)).figures["need_up_rps"] == pytest.approx(need, abs=0.01)
    queue = replace(snapshot, demand={KEY: traffic(40.0, queue=600)})
    made = decide(queue, remembered(40.0))
    assert made.figures["need_up_rps"] >= 40.0 + 600 / lead - 1e-6, "a queue counts however long it may wait"


def test_late_requests_count_against_the_rehearsal_unless_nothing_can_be_done() -> None:
    def missed(attained: float = 0.5, limit: int | None = None, **changes: Any) -> float:
        snapshot = asking(**changes)
        if limit is not None:
            snapshot = replace(snapshot, instance_types={"h100": itype(limit={"accelerators": limit})})
        memory = remembered(40.0)
        for now in (START, START + 30.0):
            demand = {KEY: traffic(40.0, at=now, slo_attainment=attained)}
            _, memory = plan(replace(snapshot, demand=demand), memory, now)
        return memory.deployments[KEY].rehearsal.missed

    held = len(asking().workers)
    assert missed() == pytest.approx(0.5 * 40.0 * 30.0)
    assert missed(max=5) == missed(limit=held) == missed(1.0) == 0.0
    assert missed(limit=held + 1) > 0.0


def test_the_checkpoint_keeps_what_was_learned() -> None:
    known = remembered(40.0).deployments[KEY]
    count = len(rehearsal.MARGINS)
    learned = Rehearsal(None, (), (1.5,) * count, (2.5e9,) * count, 1e12, 3.5, 4.5, 5.5, 2.5, 77.0)
    known = replace(known, rehearsal=learned, misfit=0.25)
    back = checkpoint.load(checkpoint.dump(known, START), 77.0)
    assert back.rehearsal == learned
    assert (back.peak, back.usual, back.misfit) == (known.peak, known.usual, 0.25)
    assert back.traffic == replace(known.traffic, at=72.0)  # type: ignore[type-var]
    older = {name: value for name, value in checkpoint.dump(known, START).items() if name != "rehearsal"}
    assert checkpoint.load(older | {"steering": [1.25, 38.5]}, 77.0).rehearsal == Rehearsal()
    for wrong in ({"sums": [1.0]}, {"late": [-1.0] * count}, {"late": [1.0]}, {"cost": None}, "x"):
        broken = checkpoint.dump(known, START)
        broken["rehearsal"] = {**broken["rehearsal"], **wrong} if isinstance(wrong, dict) else wrong
        with pytest.raises(checkpoint.CheckpointError, match="rehearsal"):
            checkpoint.load(broken, 77.0)
    with pytest.raises(checkpoint.CheckpointError, match="traffic"):
        checkpoint.load(checkpoint.dump(known, START) | {"traffic": [0.0, -1.0, 0.0, 0.0, 0.0, 0.0]}, 77.0)


def test_the_lead_is_that_of_the_type_which_would_be_bought() -> None:
    kinds = (itype(startup=60.0, price=32.0), itype("l40s", "L40S", startup=600.0, price=4.0))
    two = [
        {"name": "a", "instanceType": "h100", "performance": {"requestsPerSecond": 10.0}},
        {"name": "b", "instanceType": "l40s", "performance": {"requestsPerSecond": 10.0}},
    ]
    steep = LeadWindowTable((0.5,), (Window(60.0, (0.2,)), Window(600.0, (0.9,))), peak=1e6)
    record = deployment(spec(variants=two, scaling=scaling(high=50) | {"forecast": {}}))
    snapshot = replace(
        world(workers(5), traffic(40.0), record=record, types=kinds), forecasts={KEY: (forecast(steep),)}
    )
    assert decide(snapshot, remembered(40.0)).forecast == pytest.approx(40.0 * 2.4596, rel=1e-3)
