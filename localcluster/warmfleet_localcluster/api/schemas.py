"""Pruning and defaulting of custom resources by their structural schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warmfleet_localcluster.api.objects import Object, clone

Schema = Mapping[str, Any]
"""An OpenAPI v3 schema as a CustomResourceDefinition holds it."""

_ENVELOPE = ("apiVersion", "kind", "metadata")


def body_of(item: Object) -> Object:
    """Return the object without what is common to all kinds."""
    return {key: value for key, value in item.items() if key not in _ENVELOPE}


def prune(schema: Schema, item: Object) -> list[str]:
    """Remove the fields a schema does not know, in place.

    Returns:
        The paths that were removed, e.g. `spec.typo`.
    """
    removed: list[str] = []
    _prune(schema, item, "", removed, root=True)
    return removed


def _prune(schema: Schema, value: Any, path: str, removed: list[str], *, root: bool = False) -> None:
    if isinstance(value, list):
        items = schema.get("items")
        for index, entry in enumerate(value if isinstance(items, dict) else ()):
            _prune(items or {}, entry, f"{path}[{index}]", removed)
    elif isinstance(value, dict):
        _prune_map(schema, value, path, removed, root=root or bool(schema.get("x-kubernetes-embedded-resource")))


def _prune_map(schema: Schema, value: Object, path: str, removed: list[str], *, root: bool) -> None:
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    keep = bool(schema.get("x-kubernetes-preserve-unknown-fields")) or extra is True
    for key in list(value):
        where = f"{path}.{key}" if path else key
        if root and key in _ENVELOPE:
            continue
        if key in properties:
            _prune(properties[key], value[key], where, removed)
        elif isinstance(extra, dict):
            _prune(extra, value[key], where, removed)
        elif not keep:
            del value[key]
            removed.append(where)


def apply_defaults(schema: Schema, value: Any) -> None:
    """Fill in the schema's defaults, in place; an explicit null of a field that is not nullable counts as absent."""
    if isinstance(value, list):
        for entry in value:
            apply_defaults(schema.get("items") or {}, entry)
    if not isinstance(value, dict):
        return
    properties: Mapping[str, Schema] = schema.get("properties") or {}
    for key, field in properties.items():
        if value.get(key) is None and "default" in field and not (key in value and field.get("nullable")):
            value[key] = clone(field["default"])
        if key in value:
            apply_defaults(field, value[key])
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict):
        for key in value.keys() - properties.keys():
            apply_defaults(extra, value[key])
