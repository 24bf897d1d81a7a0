"""The ``spec.scaling`` block of an LLMDeployment."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from warmfleet_contracts.api.base import ApiModel, Duration, Name, NonNegative, Rule
from warmfleet_contracts.api.unsupported import unsupported_rules


class Holiday(ApiModel):
    """Days that differ from others: what those in the history had in common is expected of those that come."""

    name: Name
    """Name of the holiday; days of one name are alike."""
    days: Annotated[
        tuple[Annotated[str, Field(max_length=10, json_schema_extra={"format": "date"})], ...],
        Field(min_length=1, max_length=64, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ]
    """Past and coming days, YYYY-MM-DD in the forecaster's timeZone."""


class Forecast(ApiModel):
    """Buy ahead of traffic by a forecast."""

    forecaster: Literal["Internal", "External"] = "Internal"
    """Internal: warmfleet fits one; External: something else fills the TrafficForecast's status."""
    seasonalities: Annotated[
        tuple[Annotated[str, Field(max_length=6, pattern=r"^(daily|weekly|[2-9]h|[1-9][0-9]{1,2}h)$")], ...],
        Field(max_length=4, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = (
        "daily",
        "weekly",
    )
    """Seasonal shapes that the model may learn: daily, weekly, or a period in hours, such as 8h."""
    holidays: Annotated[
        tuple[Holiday, ...],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = ()
    """Days that differ from others."""
    history: Duration = 28 * 24 * 3600.0
    """How much history is used."""


class ScaleDown(ApiModel):
    """How fast the fleet may shrink."""

    stabilization_window: Annotated[Duration, Field(ge=0)] | None = None
    """The need must have stayed lower for at least this long. Unset: 5 minutes without ``forecast``, 1 minute with it,
    and never less than half a start-up (a whole one without ``forecast``)."""
    max_step: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Most workers that may start to drain in one step period."""
    step_period: Annotated[Duration, Field(ge=0)] = 60.0
    """Length of a step period."""


class Schedule(ApiModel):
    """Bounds that hold at certain times of the week. Workers are started early, so that they serve at the start."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.min) || has(self.max)",
            "schedules: set min, max or both; without either the schedule does nothing",
            lambda s: s.min is not None or s.max is not None,
        ),
        Rule(
            "!has(self.min) || !has(self.max) || self.min <= self.max",
            "schedules: min must not be above max; lower min or raise max",
            lambda s: s.min is None or s.max is None or s.min <= s.max,
        ),
    )

    name: Name
    """Name of the schedule."""
    days: Annotated[
        tuple[Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], ...],
        Field(min_length=1, max_length=7, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    """Days on which it starts."""
    start: Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", max_length=5)]
    """Start, HH:MM in timeZone."""
    end: Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", max_length=5)]
    """End, HH:MM in timeZone; not after start means the next day."""
    time_zone: Annotated[str, Field(max_length=64)] = "Etc/UTC"
    """IANA time zone, such as Europe/Berlin."""
    min: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Fewest workers while it holds, within scaling.max; the largest of several schedules counts."""
    max: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Most workers while it holds, never fewer than any min; the smallest of several schedules counts."""


class Event(ApiModel):
    """A known coming change of traffic."""

    name: Name
    """Name of the event."""
    start: Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
    """Start (RFC 3339)."""
    end: Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
    """End (RFC 3339)."""
    factor: Annotated[float, Field(gt=0, le=1000)]
    """Expected traffic over usual traffic."""


class Budget(ApiModel):
    """Upper bound of the cost."""

    max_cost_per_hour: NonNegative
    """Most US dollars per hour of all workers together, those on their way out included; above scaling.min, workers
    beyond it leave."""


class Scaling(ApiModel):
    """Autoscaling of the fleet."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.min <= self.max",
            "min must not be above max; lower min or raise max",
            lambda s: s.min <= s.max,
        ),
        *unsupported_rules("Scaling"),
    )

    mode: Literal["Auto", "Advisory"] = "Auto"
    """Auto acts. Advisory reports what it would do and save, and neither creates nor removes workers."""
    min: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Fewest workers over all variants."""
    max: Annotated[int, Field(ge=1, le=10_000)]
    """Most workers over all variants."""
    forecast: Forecast | None = None
    """Buy ahead of traffic by a forecast."""
    scale_down: ScaleDown = ScaleDown()
    """How fast the fleet may shrink."""
    schedules: Annotated[
        tuple[Schedule, ...],
        Field(
            max_length=32,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = ()
    """Bounds by time of the week."""
    events: Annotated[
        tuple[Event, ...],
        Field(
            max_length=32,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = ()
    """Known coming changes of traffic."""
    max_spot_share: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Most of the need that spot capacity is to carry; on-demand workers are bought for the rest while they can be had.
    Unset: 30 % of the spot capacity may be reclaimed at once and the rest still carries the demand of now."""
    budget: Budget | None = None
    """Upper bound of the cost."""
