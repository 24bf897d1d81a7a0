"""Bounds by the time of the week.

::

    interval(day) = [start on day, end on day (or the next, if end <= start))       wall time in the schedule's zone
    min holds     in [interval.start - lead, interval.end)      lead = start-up time: the capacity is there at the start
    max holds     in [interval.start, interval.end)
    floor         = max(scaling.min, min of every schedule that holds), at most scaling.max
    most          = max(floor, min(scaling.max, max of every schedule that holds))

A pure function of the wall time (Unix seconds): nothing is remembered, so a clock that jumps back changes the bounds
and harms nobody, because fewer workers are wanted only after the hold (see :mod:`.limits`). Daylight saving: of a local
time that happens twice, or is skipped and can be read in two ways, a start takes the earlier moment and an end the
later one, so no interval is cut short or lost.

The safe side is always the larger count: where schedules contradict each other the highest min holds; a schedule whose
zone is unknown holds its min at all times and its max at none, and so do all of them while the wall time is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from warmfleet_contracts.api.scaling import Scaling, Schedule
from warmfleet_contracts.reasons import ChosenBy, Reason

from warmfleet_operator.state.decisions import Problem

SETTLING = 30.0
"""Seconds beyond the start-up time until a new worker surely gets traffic: a decision, readiness, the routers."""
MAX_LEAD = 86_400.0
"""Seconds before its start from which a schedule's min may hold at most."""
_LAST = 2.5e11
"""Unix seconds of the last moment that is believed (the year 9892); outside, or with NaN, the wall time is unknown."""
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_REACH = 2
"""Days before and after today whose intervals may hold now: the interval before midnight, and the lead."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What scaling and its schedules allow now.

    Attributes:
        floor: Fewest workers.
        most: Most workers.
        floor_by: Schedule that raises the floor above scaling.min; empty when none does.
        most_by: Schedule that lowers the most below scaling.max; empty when none does.
        problems: Contradictions and what cannot be read.
    """

    floor: int
    most: int
    floor_by: str = ""
    most_by: str = ""
    problems: tuple[Problem, ...] = ()


def bounds(scaling: Scaling, wall_epoch: float | None, lead: float) -> Bounds:
    """The bounds of a deployment at a moment.

    Args:
        scaling: The block of the spec.
        wall_epoch: Unix seconds; None while unknown.
        lead: Seconds from a purchase to a worker that serves.
    """
    if not scaling.schedules:
        return Bounds(scaling.min, scaling.max)
    wall_epoch = wall_epoch if wall_epoch is not None and 0 <= wall_epoch <= _LAST else None
    lead = min(MAX_LEAD, max(0.0, lead))
    unread = _unread(scaling.schedules, wall_epoch)
    floors = {s.name: s.min for s in scaling.schedules if s.min is not None and _holds(s, wall_epoch, lead)}
    now = {s.name for s in scaling.schedules if wall_epoch is not None and _holds(s, wall_epoch, 0.0)}
    mosts = {s.name: s.max for s in scaling.schedules if s.max is not None and s.name in now and _zone(s.time_zone)}
    wanted, by = max(((least, name) for name, least in floors.items()), default=(0, ""))
    ceiling, cap = min(((most, name) for name, most in mosts.items()), default=(scaling.max, ""))
    floor = min(max(scaling.min, wanted), scaling.max)
    allowed = max(floor, min(scaling.max, ceiling))
    problems = (*unread, *_conflicts(scaling, (wanted, by), (ceiling, cap), began=by in now))
    return Bounds(floor, allowed, by if floor > scaling.min else "", cap if allowed < scaling.max else "", problems)


def named(found: Bounds | None, rule: ChosenBy, message: str) -> tuple[ChosenBy, str]:
    """The rule and message of a decision, with the schedule's name where it was the schedule that bound."""
    if found is None:
        return rule, message
    by = {ChosenBy.MIN: found.floor_by, ChosenBy.MAX: found.most_by}.get(rule, "")
    return (ChosenBy.SCHEDULE, f"{message} by schedule {by}") if by else (rule, message)


def _unread(schedules: Sequence[Schedule], wall_epoch: float | None) -> list[Problem]:
    if wall_epoch is None:
        text = "scaling.schedules: the wall time is unknown; every min holds and no max does"
        return [_problem(text)]
    return [
        _problem(
            f"scaling.schedules[{s.name}].timeZone: there is no time zone {s.time_zone[:64]!r}; write an IANA name "
            "such as Europe/Berlin; until then its min holds at all times and its max at none"
        )
        for s in schedules
        if _zone(s.time_zone) is None
    ]


def _conflicts(scaling: Scaling, low: tuple[int, str], high: tuple[int, str], *, began: bool) -> list[Problem]:
    (wanted, by), (ceiling, cap) = low, high
    found = []
    if wanted > scaling.max:
        found.append(
            _problem(
                f"scaling.schedules[{by}].min {wanted} is above scaling.max {scaling.max}, which holds; raise max or "
                "lower the schedule's min"
            )
        )
    if cap and ceiling < scaling.min:
        found.append(
            _problem(
                f"scaling.schedules[{cap}].max {ceiling} is below scaling.min {scaling.min}, which holds; lower min or "
                "raise the schedule's max"
            )
        )
    # While a schedule is only being prepared, the other one is right until the start: no contradiction.
    if cap and began and ceiling < wanted:
        found.append(
            _problem(
                f"scaling.schedules[{by}].min {wanted} and scaling.schedules[{cap}].max {ceiling} contradict each "
                f"other now; min {wanted} holds; change their times or numbers"
            )
        )
    return found


def _problem(text: str) -> Problem:
    return Problem(Reason.SCHEDULE_CONFLICT, text, stalled=False)


def _holds(schedule: Schedule, wall_epoch: float | None, lead: float) -> bool:
    zone = _zone(schedule.time_zone)
    if wall_epoch is None or zone is None:
        return True
    today = (datetime.fromtimestamp(0, UTC) + timedelta(seconds=wall_epoch)).astimezone(zone).date()
    return any(
        begin - lead <= wall_epoch < end
        for offset in range(-_REACH, _REACH + 1)
        for begin, end in _interval(schedule.days, schedule.start, schedule.end, zone, today + timedelta(days=offset))
    )


@lru_cache(maxsize=65_536)
def _interval(
    days: tuple[str, ...], start: str, end: str, zone: ZoneInfo, day: date
) -> tuple[tuple[float, float], ...]:
    """The interval that starts on a day, in Unix seconds; nothing when none does."""
    if _DAYS[day.weekday()] not in days:
        return ()
    first, last = time.fromisoformat(start), time.fromisoformat(end)
    until = day + timedelta(days=int(last <= first))
    return ((min(_moments(day, first, zone)), max(_moments(until, last, zone))),)


def _moments(day: date, at: time, zone: ZoneInfo) -> tuple[float, float]:
    """Both readings of a local time; the same moment but for the hours around a change of the clocks."""
    return tuple(datetime.combine(day, at.replace(fold=fold), zone).timestamp() for fold in (0, 1))  # type: ignore[return-value]


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo | None:
    """The zone; None when the time zone database has none of that name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; malformed, such as an absolute path; a folder of the database
        return None
