"""What a forecast is asked for: one frozen record, the same for every series unless its owner says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

DAY_S = 86_400.0
HORIZONS_S = (600.0, 1800.0, 3600.0)
"""Leads at which skill is measured and shown, seconds."""


@dataclass(frozen=True, slots=True)
class Seasonality:
    """A configured shape besides day and week.

    Attributes:
        name: Its name, as it appears in messages.
        period_s: Length of the period, seconds.
        order: Fourier terms.
    """

    name: str
    period_s: float
    order: int = 3


@dataclass(frozen=True, slots=True)
class Holiday:
    """Days or hours that differ, past ones and coming ones of one name: the effect of the past ones is learned.

    Attributes:
        name: The same name on every occurrence.
        start: Seconds since the epoch.
        end: Seconds since the epoch.
    """

    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Event:
    """A declared change of traffic: nothing is learned about it, it is believed.

    Attributes:
        name: For messages.
        start: Seconds since the epoch.
        end: Seconds since the epoch.
        factor: Expected traffic over usual traffic.
    """

    name: str
    start: float
    end: float
    factor: float


@dataclass(frozen=True, slots=True)
class ForecastConfig:
    """How to forecast one series.

    Attributes:
        daily: Learn the shape of the day.
        weekly: Learn the shape of the week once two weeks are known.
        seasonalities: Further shapes.
        holidays: Days that differ, to be learned.
        events: Declared changes.
        time_zone: IANA zone in which day and week begin (daylight saving moves the traffic with the clock on the wall).
        lead_s: The lead at which the planner will use the forecast (start-up time), seconds; trust is judged there.
        history_s: How much history is used, seconds.
        valid_for_s: How long a forecast may be used after it was issued, seconds.
    """

    daily: bool = True
    weekly: bool = True
    seasonalities: tuple[Seasonality, ...] = ()
    holidays: tuple[Holiday, ...] = ()
    events: tuple[Event, ...] = ()
    time_zone: str = "Etc/UTC"
    lead_s: float = 600.0
    history_s: float = 28 * DAY_S
    valid_for_s: float = 1800.0
