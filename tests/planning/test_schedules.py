"""Bounds by the time of the week: zones, clock changes, contradictions, and capacity that is there in time."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from planning_specs import KEY, itype, spec
from planning_specs import deployment as simple
from planning_world import START, Cluster, decide, settled, traffic, workers, world
from warmfleet_contracts.api.scaling import Scaling
from warmfleet_contracts.reasons import ChosenBy, Reason
from warmfleet_operator.planning.schedules import Bounds, bounds

BERLIN = ZoneInfo("Europe/Berlin")
WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri"]


def schedule(name: str = "day", start: str = "08:00", end: str = "18:00", **changes: Any) -> dict[str, Any]:
    return {"name": name, "days": WEEKDAYS, "start": start, "end": end, "timeZone": "Europe/Berlin", **changes}


def scaling(*schedules: dict[str, Any], low: int = 1, high: int = 20) -> Scaling:
    return Scaling.model_validate({"min": low, "max": high, "schedules": list(schedules)})


def at(text: str, fold: int = 0) -> float:
    """Unix seconds of a local time in Berlin."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def found(block: Scaling, when: float, lead: float = 0.0) -> tuple[int, int]:
    made = bounds(block, when, lead)
    return made.floor, made.most


@pytest.mark.parametrize(
    ("when", "floor"),
    [
        ("2026-01-12T07:59:59", 1),  # a Monday in winter, UTC+1
        ("2026-01-12T08:00:00", 6),
        ("2026-01-12T17:59:59", 6),
        ("2026-01-12T18:00:00", 1),
        ("2026-07-13T08:00:00", 6),  # in summer, UTC+2
        ("2026-07-13T07:59:59", 1),
        ("2026-01-11T12:00:00", 1),  # a Sunday
    ],
)
def test_a_schedule_holds_by_the_clock_of_its_zone_on_its_days(when: str, floor: int) -> None:
    assert found(scaling(schedule(min=6)), at(when)) == (floor, 20)


def test_an_interval_over_midnight_belongs_to_the_day_on_which_it_starts() -> None:
    night = scaling(schedule("night", "22:00", "06:00", days=["Fri"], max=2))
    assert found(night, at("2026-01-16T23:00")) == (1, 2)
    assert found(night, at("2026-01-17T05:59")) == (1, 2), "Saturday morning"
    assert found(night, at("2026-01-16T05:59")) == (1, 20), "Friday morning belongs to Thursday"


def test_start_and_end_alike_mean_a_whole_day() -> None:
    always = scaling(schedule("all", "09:00", "09:00", days=["Wed"], min=3))
    assert [found(always, at(f"2026-01-{day}T{hour}"))[0] for day, hour in (("14", "09:00"), ("15", "08:59"))] == [3, 3]
    assert found(always, at("2026-01-15T09:00"))[0] == 1


def test_the_changes_of_the_clocks_neither_cut_an_interval_nor_lose_it() -> None:
    # 2026-03-29 02:00 -> 03:00 (the interval lies in the hour that does not exist); 2026-10-25 03:00 -> 02:00
    early = scaling(schedule("early", "02:30", "03:00", days=["Sun"], min=5))
    utc = ZoneInfo("UTC")
    assert found(early, datetime(2026, 3, 29, 0, 45, tzinfo=utc).timestamp())[0] == 5
    assert found(early, datetime(2026, 3, 29, 1, 0, tzinfo=utc).timestamp())[0] == 1
    assert found(early, at("2026-10-25T02:31"))[0] == 5
    assert found(early, at("2026-10-25T02:31", fold=1))[0] == 5, "and through the hour that comes twice"
    assert found(early, at("2026-10-25T03:00"))[0] == 1
    every = scaling(schedule("all", "00:00", "00:00", days=["Sat", "Sun", "Mon"], min=5))
    moment, end = at("2026-10-24T00:00"), at("2026-10-27T00:00")
    while moment < end:
        assert found(every, moment)[0] == 5
        moment += 600.0


def test_its_min_holds_earlier_by_the_lead_and_its_max_does_not() -> None:
    block = scaling(schedule(min=6, max=8))
    assert found(block, at("2026-01-12T07:50"), lead=600.0) == (6, 20)
    assert found(block, at("2026-01-12T07:49"), lead=600.0) == (1, 20)
    assert found(block, at("2026-01-12T08:00"), lead=600.0) == (6, 8)


def test_what_is_prepared_for_wins_over_a_max_that_is_about_to_end_and_is_no_contradiction() -> None:
    block = scaling(schedule(min=6), schedule("night", "18:00", "08:00", max=2))
    made = bounds(block, at("2026-01-13T07:55"), 600.0)
    assert made == Bounds(6, 6, floor_by="day", most_by="night")
    assert bounds(block, at("2026-01-13T07:40"), 600.0) == Bounds(1, 2, most_by="night")


@pytest.mark.parametrize(
    ("block", "limits", "fix"),
    [
        (scaling(schedule("a", min=8), schedule("b", max=3)), (8, 8), "contradict each other"),
        (scaling(schedule("a", min=5), schedule("b", min=9)), (9, 20), ""),
        (scaling(schedule("a", max=5), schedule("b", max=9)), (1, 5), ""),
        (scaling(schedule("a", min=50)), (20, 20), "raise max"),
        (scaling(schedule("a", max=2), low=4), (4, 4), "lower min"),
        (scaling(schedule("a", min=2), low=4), (4, 20), ""),
    ],
)
def test_of_contradictions_the_larger_count_wins_and_it_is_said(
    block: Scaling, limits: tuple[int, int], fix: str
) -> None:
    made = bounds(block, at("2026-01-12T12:00"), 0.0)
    assert (made.floor, made.most) == limits
    assert bool(made.problems) == bool(fix)
    for problem in made.problems:
        assert problem.reason is Reason.SCHEDULE_CONFLICT
        assert fix in problem.message
        assert not problem.stalled


@pytest.mark.parametrize("zone", ["Europe/Berlim", "/etc/passwd", "../x", "", "Europe", "a\x00b"])
def test_a_zone_that_nobody_knows_holds_its_min_always_and_says_so(zone: str) -> None:
    made = bounds(scaling(schedule(min=6, max=7, timeZone=zone)), at("2026-01-11T03:00"), 0.0)
    assert (made.floor, made.most) == (6, 20)
    assert "IANA" in made.problems[0].message


@pytest.mark.parametrize("moment", [None, -1e11, 1e11])
def test_without_a_sane_wall_time_nothing_breaks(moment: float | None) -> None:
    made = bounds(scaling(schedule(min=6, max=7)), moment, 1e12)
    assert made.floor in (1, 6)
    assert (made.floor, made.most, bool(made.problems)) == (6, 20, True) or moment is not None


def _fleet(there: int, wall: float, startup: float = 120.0) -> tuple[Cluster, float]:
    body = spec(scaling={"min": 1, "max": 20, "schedules": [schedule(min=6)], "scaleDown": {"maxStep": 20}})
    snapshot = world(workers(there), traffic(3.0), record=simple(body), types=[itype(startup=startup)])
    return Cluster(replace(snapshot, wall_epoch=wall), startup=startup, drain=20.0), wall - START


def test_the_workers_serve_when_the_schedule_starts_and_leave_after_its_end() -> None:
    morning, evening = at("2026-01-12T08:00"), at("2026-01-12T18:00")
    fleet, shift = _fleet(1, morning - 900.0)
    first = None
    while fleet.now + shift < evening + 900.0:
        fleet.snapshot = replace(fleet.snapshot, wall_epoch=fleet.now + 30.0 + shift)
        fleet.tick(30.0, {KEY: traffic(3.0, at=fleet.now + 30.0)})
        wall = fleet.now + shift
        if fleet.serving() > 1 and first is None:
            first = wall
        if morning <= wall < evening:
            assert fleet.serving() == 6
    assert first is not None
    assert 0 < morning - first <= 120.0, "not much earlier than needed"
    assert fleet.serving() == 1
    assert (fleet.created, fleet.removed) == (5, 5)


def test_a_clock_that_jumps_back_an_hour_removes_nobody_before_the_hold() -> None:
    fleet, shift = _fleet(6, at("2026-01-12T08:01"))
    for i in range(20):
        back = timedelta(hours=1).total_seconds() if i >= 4 else 0.0
        fleet.snapshot = replace(fleet.snapshot, wall_epoch=fleet.now + 15.0 + shift - back)
        fleet.tick(15.0, {KEY: traffic(3.0, at=fleet.now + 15.0)})
    assert fleet.removed == 0


def test_the_decision_names_the_schedule() -> None:
    record = simple(spec(scaling={"min": 1, "max": 20, "schedules": [schedule(min=6)]}))
    snapshot = replace(world(workers(1), traffic(3.0), record=record), wall_epoch=at("2026-01-12T09:00"))
    made = decide(snapshot, settled(1))
    assert (made.desired, made.chosen_by, made.limited) == (6, ChosenBy.SCHEDULE, Reason.TOO_FEW_REPLICAS)
    assert made.message.endswith("; min 6 by schedule day")
