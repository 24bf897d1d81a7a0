"""Server-side apply without conflicts: what a manager applied before and no longer sends is removed.

Instead of `managedFields`, the last applied configuration is kept in memory per object, subresource and manager.
Leaving a field out removes it unless another applier still sends it. Two managers never conflict: the last one wins
(as with `--force-conflicts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warmfleet_localcluster.api.objects import Object, clone
from warmfleet_localcluster.api.patches import identity, merge_keys

_IDENTITY = frozenset({"apiVersion", "kind"})
_Schema = Mapping[str, Any] | None


class AppliedSets:
    """The last configuration every manager applied, per object (by uid) and subresource."""

    def __init__(self) -> None:
        self._sets: dict[str, dict[tuple[str, str], Object]] = {}

    def merge(self, live: Object, config: Object, *, manager: str, subresource: str, schema: _Schema) -> Object:
        """Return the live object after a manager applied a configuration; nothing is remembered yet.

        Args:
            live: The object as stored.
            config: The applied configuration.
            manager: Name of the field manager.
            subresource: `status`, or empty for the object itself.
            schema: Schema of a custom resource (it names the list keys), None for built-in kinds.
        """
        sets = self._sets.get(live["metadata"]["uid"], {})
        mine = sets.get((manager, subresource))
        result = live
        if mine is not None:
            others = [config, *(applied for owner, applied in sets.items() if owner != (manager, subresource))]
            result = _without(live, mine, others, schema, "")
        merged: Object = _merge(result, config, schema, "")
        return merged

    def remember(self, uid: str, config: Object, *, manager: str, subresource: str) -> None:
        """Keep a configuration as the manager's last one."""
        kept = {key: clone(value) for key, value in config.items() if key not in _IDENTITY}
        self._sets.setdefault(uid, {})[manager, subresource] = kept

    def forget(self, uid: str) -> None:
        """Drop everything about an object that is gone."""
        self._sets.pop(uid, None)


def list_keys(schema: _Schema, field: str, items: Sequence[Any]) -> tuple[str, ...] | None:
    """Return the keys that identify list items: from the schema's list type, else from the built-in table."""
    if schema is None or not schema:
        return merge_keys(field, items)
    if schema.get("x-kubernetes-list-type") != "map":
        return None
    return tuple(schema.get("x-kubernetes-list-map-keys") or ())


def _child(schema: _Schema, field: str) -> _Schema:
    if schema is None or field == "metadata":
        return None
    properties = schema.get("properties") or {}
    if field in properties:
        found: Mapping[str, Any] = properties[field]
        return found
    extra = schema.get("additionalProperties")
    return extra if isinstance(extra, dict) else {"type": "atomic"}


def _is_set(schema: _Schema, field: str) -> bool:
    return field == "finalizers" if schema is None else schema.get("x-kubernetes-list-type") == "set"


def _items_schema(schema: _Schema) -> _Schema:
    return None if schema is None else schema.get("items") or {"type": "atomic"}


def _merge(live: Any, config: Any, schema: _Schema, field: str) -> Any:
    if isinstance(config, dict) and (schema or {}).get("x-kubernetes-map-type") != "atomic":
        result = dict(live) if isinstance(live, dict) else {}
        for key, value in config.items():
            if value is not None:
                result[key] = _merge(result.get(key), value, _child(schema, key), key)
        return result
    if isinstance(config, list) and isinstance(live, list):
        if _is_set(schema, field):
            return live + [item for item in config if item not in live]
        keys = list_keys(schema, field, config + live)
        if keys:
            return _merge_items(live, config, keys, _items_schema(schema))
    return clone(config)


def _merge_items(live: list[Any], config: list[Any], keys: tuple[str, ...], schema: _Schema) -> list[Any]:
    result = list(live)
    for item in config:
        wanted = identity(item, keys)
        at = next((i for i, present in enumerate(result) if identity(present, keys) == wanted), None)
        if at is None:
            result.append(clone(item))
        else:
            result[at] = _merge(result[at], item, schema, "")
    return result


def _without(live: Any, mine: Any, others: Sequence[Any], schema: _Schema, field: str) -> Any:
    """Return `live` less what is in `mine` and in none of `others`."""
    if isinstance(live, dict) and isinstance(mine, dict):
        return _without_keys(live, mine, others, schema)
    if isinstance(live, list) and isinstance(mine, list):
        sides = [other for other in others if isinstance(other, list)]
        if _is_set(schema, field):
            return [item for item in live if item not in mine or any(item in side for side in sides)]
        keys = list_keys(schema, field, mine + live)
        if keys:
            return _without_items(live, mine, sides, keys, _items_schema(schema))
    return live


def _without_keys(live: Object, mine: Object, others: Sequence[Any], schema: _Schema) -> Object:
    result = dict(live)
    for key, value in mine.items():
        if key not in result:
            continue
        sending = [other[key] for other in others if isinstance(other, dict) and other.get(key) is not None]
        if sending:
            result[key] = _without(result[key], value, sending, _child(schema, key), key)
            continue
        rest = _unowned(result[key], value, _child(schema, key), key)
        if rest is None:
            del result[key]
        else:
            result[key] = rest
    return result


def _unowned(live: Any, mine: Any, schema: _Schema, field: str) -> Any:
    """Return what remains of a field nobody sends any more: the parts its applier never owned, None for nothing."""
    composite = isinstance(live, dict | list) and isinstance(mine, type(live)) and bool(mine)
    rest = _without(live, mine, (), schema, field) if composite else None
    return rest if rest and rest != live else None


def _without_items(
    live: list[Any], mine: list[Any], sides: Sequence[list[Any]], keys: tuple[str, ...], schema: _Schema
) -> list[Any]:
    owned = {identity(item, keys): item for item in mine}
    result = []
    for item in live:
        key = identity(item, keys)
        sending = [other for side in sides for other in side if identity(other, keys) == key]
        if key not in owned:
            result.append(item)
        elif sending:
            result.append(_without(item, owned[key], sending, schema, ""))
    return result
