"""The two Event kinds: one store, kept in the core form, converted at the edge of `events.k8s.io`."""

from __future__ import annotations

from warmfleet_localcluster.api.objects import Object
from warmfleet_localcluster.api.resources import Resource

_FIELDS = (
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
)


def from_events_group(item: Object) -> Object:
    """Return an `events.k8s.io` event in the core form."""
    return _renamed(item, dict(_FIELDS), "v1")


def present(resource: Resource, item: Object) -> Object:
    """Return a stored object as one of its versions shows it."""
    if item["apiVersion"] == resource.group_version:
        return item
    if resource.group == "events.k8s.io":
        return _renamed(item, {core: new for new, core in _FIELDS}, resource.group_version)
    if resource.storage == ("", "events"):
        return {**item, "apiVersion": "v1"}
    return {**item, "apiVersion": resource.group_version}


def _renamed(item: Object, names: dict[str, str], version: str) -> Object:
    return {**{names.get(key, key): value for key, value in item.items()}, "apiVersion": version}
