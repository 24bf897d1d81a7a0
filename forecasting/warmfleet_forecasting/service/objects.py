"""What the watched objects ask of the forecaster. Pure.

Objects are read field by field and leniently: a resource that this version cannot read in full may still have its
traffic forecast, and one field of it that makes no sense costs that field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as midnight
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import ValidationError
from warmfleet_contracts import labels
from warmfleet_contracts.api import API_VERSION
from warmfleet_contracts.api.base import parse_duration
from warmfleet_contracts.api.scaling import Event as DeclaredEvent
from warmfleet_contracts.api.scaling import Forecast

from warmfleet_forecasting.config import Event, ForecastConfig, Holiday, Seasonality
from warmfleet_forecasting.history import Key

Object = dict[str, Any]
_DEFAULT_LEAD_S = 300.0
_LEADS_S = (60.0, 3600.0)
_HOUR_S = 3600.0
_MOST_ORDER = 3


@dataclass(frozen=True, slots=True)
class Target:
    """An LLMDeployment as the forecaster sees it.

    Attributes:
        key: Its namespace and name.
        uid: Its uid.
        forecast: ``spec.scaling.forecast``; None when it asks for none.
        events: ``spec.scaling.events``.
        instance_types: Names of the InstanceTypes it may buy.
        deleting: Whether it is being deleted.
        holidays: ``spec.scaling.forecast.holidays``, name and day.
        faults: What could not be read, for a person.
    """

    key: Key
    uid: str
    forecast: Forecast | None
    events: tuple[Event, ...]
    instance_types: tuple[str, ...]
    deleting: bool
    holidays: tuple[tuple[str, date], ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def asks(self) -> bool:
        """Whether a forecast is to be made here."""
        return self.forecast is not None and self.forecast.forecaster == "Internal" and not self.deleting


def key_of(item: Object) -> Key:
    """Namespace and name."""
    return Key(item["metadata"].get("namespace", ""), item["metadata"]["name"])


def target_of(item: Object) -> Target:
    """Reads an LLMDeployment."""
    scaling = _mapping(_mapping(item.get("spec")).get("scaling"))
    faults: list[str] = []
    asked = _asked(scaling.get("forecast"), faults)
    events = []
    for number, raw in enumerate(_list(scaling.get("events"))):
        try:
            events.append(_event(raw))
        except ValueError as error:
            faults.append(f"scaling.events[{number}]: {error}")
    variants = [_mapping(v).get("instanceType") for v in _list(_mapping(item.get("spec")).get("variants"))]
    return Target(
        key=key_of(item),
        uid=item["metadata"].get("uid", ""),
        forecast=asked,
        events=tuple(events),
        instance_types=tuple(sorted({v for v in variants if isinstance(v, str)})),
        deleting=item["metadata"].get("deletionTimestamp") is not None,
        holidays=_holidays(asked, faults),
        faults=tuple(faults),
    )


def _asked(raw: object, faults: list[str]) -> Forecast | None:
    """What is asked for, without the fields that make no sense; None when it is not clear whose forecast it is."""
    if raw is None:
        return None
    try:
        return Forecast.model_validate(raw)
    except ValidationError as error:
        faults += [f"scaling.forecast.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        wrong = {str(e["loc"][0]) if e["loc"] else "forecaster" for e in error.errors()}
    if "forecaster" in wrong:
        return None
    return Forecast.model_validate({key: value for key, value in _mapping(raw).items() if key not in wrong})


def _holidays(asked: Forecast | None, faults: list[str]) -> tuple[tuple[str, date], ...]:
    """Name and day of each holiday; what is no day is a fault and costs that day."""
    found = []
    for holiday in asked.holidays if asked is not None else ():
        for text in holiday.days:
            try:
                found.append((holiday.name, date.fromisoformat(text)))
            except ValueError:
                faults.append(f"scaling.forecast.holidays[{holiday.name}]: {text!r} is not a day; write 2026-12-25")
    return tuple(found)


def _event(raw: object) -> Event:
    try:
        event = DeclaredEvent.model_validate(raw)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from error
    start, end = (datetime.fromisoformat(text) for text in (event.start, event.end))
    if start.tzinfo is None or end.tzinfo is None:
        raise ValueError("start and end need a time zone, such as Z or +02:00")
    if end <= start:
        raise ValueError("end must be after start")
    return Event(event.name, start.timestamp(), end.timestamp(), event.factor)


def lead_of(item: Object) -> float | None:
    """Start-up time of an InstanceType at the 90th percentile, measured or else declared, seconds; None: unreadable."""
    for part in ("status", "spec"):
        p90 = _mapping(_mapping(item.get(part)).get("startup")).get("p90")
        try:
            seconds = parse_duration(p90) if p90 is not None else math.nan
        except ValueError:
            continue
        if seconds > 0:
            return seconds
    return None


def config_of(target: Target, leads: Mapping[str, float], *, time_zone: str, valid_for_s: float) -> ForecastConfig:
    """What the forecast of a target is asked for.

    Args:
        target: The LLMDeployment.
        leads: Start-up time by InstanceType, seconds.
        time_zone: IANA zone in which the traffic's days begin.
        valid_for_s: How long a forecast may be used, seconds.
    """
    asked = target.forecast or Forecast()
    known = [leads[name] for name in target.instance_types if name in leads]
    lead = max(known, default=_DEFAULT_LEAD_S)
    zone = ZoneInfo(time_zone)
    return ForecastConfig(
        daily="daily" in asked.seasonalities,
        weekly="weekly" in asked.seasonalities,
        seasonalities=tuple(_seasonality(text) for text in asked.seasonalities if text not in {"daily", "weekly"}),
        holidays=tuple(
            Holiday(name, _begin(day, zone), _begin(day + timedelta(1), zone)) for name, day in target.holidays
        ),
        events=target.events,
        time_zone=time_zone,
        lead_s=min(max(lead, _LEADS_S[0]), _LEADS_S[1]),
        history_s=asked.history,
        valid_for_s=valid_for_s,
    )


def _seasonality(text: str) -> Seasonality:
    """A period in hours. Two hours to a Fourier term, as the curve is fitted on hourly means."""
    hours = int(text.removesuffix("h"))
    return Seasonality(text, hours * _HOUR_S, min(_MOST_ORDER, hours // 2))


def _begin(day: date, zone: ZoneInfo) -> float:
    """When a day begins there, seconds since the epoch."""
    return datetime.combine(day, midnight.min, zone).timestamp()


def manifest(target: Target) -> Object:
    """The TrafficForecast of a target, owned by it."""
    return {
        "apiVersion": API_VERSION,
        "kind": "TrafficForecast",
        "metadata": {
            "name": target.key.name,
            "namespace": target.key.namespace,
            "labels": {labels.MANAGED_BY: labels.MANAGED_BY_VALUE, labels.DEPLOYMENT: target.key.name},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": "LLMDeployment",
                    "name": target.key.name,
                    "uid": target.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {"target": {"name": target.key.name}, "forecaster": "Internal"},
    }


def internal(forecast: Object) -> bool:
    """Whether the status of a TrafficForecast is this program's to fill."""
    return str(_mapping(forecast.get("spec")).get("forecaster", "Internal")) == "Internal"


def target_key(forecast: Object) -> Key:
    """The LLMDeployment a TrafficForecast is for."""
    name = _mapping(_mapping(forecast.get("spec")).get("target")).get("name")
    return Key(forecast["metadata"].get("namespace", ""), str(name or ""))


def made_for(forecast: Object, target: Target) -> bool:
    """Whether this program made a TrafficForecast for the target."""
    meta = forecast["metadata"]
    owners = [owner.get("uid") for owner in _list(meta.get("ownerReferences"))]
    return _mapping(meta.get("labels")).get(labels.MANAGED_BY) == labels.MANAGED_BY_VALUE and target.uid in owners


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
