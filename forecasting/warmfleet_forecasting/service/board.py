"""What is watched, and what follows from it: which forecasts to make, which objects to create or remove. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from warmfleet_forecasting.config import ForecastConfig
from warmfleet_forecasting.history import Key
from warmfleet_forecasting.service import objects, sharding
from warmfleet_forecasting.service.objects import Object, Target
from warmfleet_forecasting.service.status import Status


@dataclass(frozen=True, slots=True)
class Assignment:
    """A TrafficForecast to keep up to date.

    Attributes:
        key: The TrafficForecast.
        uid: Its uid.
        generation: Its generation.
        target: The LLMDeployment.
        config: What is asked for.
    """

    key: Key
    uid: str
    generation: int
    target: Key
    config: ForecastConfig


@dataclass(frozen=True, slots=True)
class Chores:
    """Objects to create and to remove."""

    create: tuple[Object, ...]
    remove: tuple[Object, ...]


class Board:
    """The watched objects of one replica.

    Args:
        replicas: How many replicas share the deployments.
        ordinal: This one's number.
        time_zone: IANA zone in which the traffic's days begin.
        valid_for_s: How long a forecast may be used, seconds.
        changed: Called when something was seen.
    """

    def __init__(
        self, *, replicas: int, ordinal: int, time_zone: str, valid_for_s: float, changed: Callable[[], None]
    ) -> None:
        self._replicas, self._ordinal, self._changed = replicas, ordinal, changed
        self._time_zone, self._valid_for_s = time_zone, valid_for_s
        self._targets: dict[Key, Target] = {}
        self._forecasts: dict[Key, Object] = {}
        self._leads: dict[str, float] = {}

    def deployment(self, item: Object, *, deleted: bool) -> None:
        """An LLMDeployment was seen."""
        if deleted:
            self._targets.pop(objects.key_of(item), None)
        else:
            self._targets[objects.key_of(item)] = objects.target_of(item)
        self._changed()

    def forecast(self, item: Object, *, deleted: bool) -> None:
        """A TrafficForecast was seen."""
        if deleted:
            self._forecasts.pop(objects.key_of(item), None)
        else:
            self._forecasts[objects.key_of(item)] = item
        self._changed()

    def instance_type(self, item: Object, *, deleted: bool) -> None:
        """An InstanceType was seen."""
        lead = None if deleted else objects.lead_of(item)
        if lead is None:
            self._leads.pop(item["metadata"]["name"], None)
        else:
            self._leads[item["metadata"]["name"]] = lead
        self._changed()

    def faults(self) -> dict[Key, tuple[str, ...]]:
        """What could not be read, by LLMDeployment."""
        return {key: target.faults for key, target in self._targets.items() if target.faults}

    def published(self, key: Key) -> Status:
        """The status of a TrafficForecast as it was last seen."""
        status = self._forecasts.get(key, {}).get("status")
        return status if isinstance(status, dict) else {}

    def assignments(self) -> dict[Key, Assignment]:
        """The forecasts that are this replica's to make, by TrafficForecast."""
        found = {}
        for key, item in self._forecasts.items():
            target = self._targets.get(objects.target_key(item))
            if target is None or target.deleting or not objects.internal(item) or not self._mine(target.key):
                continue
            if item["metadata"].get("deletionTimestamp") is not None:
                continue
            config = objects.config_of(target, self._leads, time_zone=self._time_zone, valid_for_s=self._valid_for_s)
            meta = item["metadata"]
            found[key] = Assignment(key, meta.get("uid", ""), int(meta.get("generation", 0)), target.key, config)
        return found

    def chores(self) -> Chores:
        """TrafficForecasts that are asked for and missing, and those made here that nobody asks for any more."""
        served = {objects.target_key(item) for item in self._forecasts.values()}
        create = [
            objects.manifest(target)
            for key, target in self._targets.items()
            if target.asks and self._mine(key) and key not in served and key not in self._forecasts
        ]
        remove = []
        for item in self._forecasts.values():
            target = self._targets.get(objects.target_key(item))
            if target is None or target.deleting or target.asks or not self._mine(target.key):
                continue
            if objects.internal(item) and objects.made_for(item, target):
                remove.append(item)
        return Chores(tuple(create), tuple(remove))

    def _mine(self, key: Key) -> bool:
        return sharding.owner(key, self._replicas) == self._ordinal
