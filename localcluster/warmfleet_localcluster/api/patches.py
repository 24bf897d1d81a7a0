"""JSON patch, JSON merge patch and (lite) strategic merge patch.

The strategic form knows the merge keys of the built-in list fields by field name, not by type: enough for pods, their
templates, services and statuses. Custom resources have no strategic form, as in the real apiserver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jsonpatch

from warmfleet_localcluster.api.errors import ApiError, bad_request
from warmfleet_localcluster.api.objects import Object, clone

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCHES = frozenset({"application/apply-patch+yaml", "application/apply-patch+json"})

_BY_NAME = (
    "containers",
    "initContainers",
    "ephemeralContainers",
    "env",
    "volumes",
    "imagePullSecrets",
    "webhooks",
    "secrets",
    "resourceClaims",
)
MERGE_KEYS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(_BY_NAME, ("name",)),
    "conditions": ("type",),
    "addresses": ("type",),
    "ownerReferences": ("uid",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "hostAliases": ("ip",),
    "podIPs": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
"""Which fields tell the items of a built-in list apart."""

_REFUSED = "the server rejected our request due to an error in our request"


def merge_keys(field: str, items: Sequence[Any]) -> tuple[str, ...] | None:
    """Return the keys that identify the items of a built-in list, None when the list is replaced as a whole.

    Args:
        field: Name of the field that holds the list.
        items: Items of both sides; ports of containers and of services differ only by their content.
    """
    if field == "ports":
        keys: tuple[str, ...] | None = ("containerPort",) if "containerPort" in _first(items) else ("port",)
    else:
        keys = MERGE_KEYS.get(field)
    if keys is None or not all(isinstance(item, dict) and keys[0] in item for item in items):
        return None
    return keys


def _first(items: Sequence[Any]) -> Mapping[str, Any]:
    return items[0] if items and isinstance(items[0], dict) else {}


def identity(item: Mapping[str, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    """Return what tells this list item from its neighbours."""
    return tuple(item.get(key) for key in keys)


def json_patch(target: Object, operations: Any) -> Object:
    """Return the object after an RFC 6902 patch.

    Raises:
        ApiError: 400 for a malformed patch, 422 when a `test` fails or a path does not exist.
    """
    if not isinstance(operations, list):
        raise bad_request("a JSON patch must be a list of operations")
    try:
        result: Object = jsonpatch.apply_patch(target, operations)
    except jsonpatch.InvalidJsonPatch as error:
        raise bad_request(f"malformed JSON patch: {error}") from error
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        # covers a failed test and a path that does not exist: the real server says 422 for both
        raise ApiError(422, "Invalid", f"{_REFUSED}: {error}") from error
    return result


def merge_patch(target: Any, patch: Any) -> Any:
    """Return the value after an RFC 7396 patch."""
    if not isinstance(patch, dict):
        return clone(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_patch(target: Any, patch: Any, field: str = "") -> Any:
    """Return the value after a strategic merge patch.

    Honoured directives: `$patch: replace | delete`, `$deleteFromPrimitiveList/FIELD`, `$retainKeys`;
    `$setElementOrder/FIELD` is ignored.
    """
    if isinstance(patch, dict):
        return _strategic_map(target if isinstance(target, dict) else {}, patch)
    if isinstance(patch, list) and isinstance(target, list):
        return _strategic_list(target, patch, field)
    if isinstance(patch, list):
        return _strategic_list([], patch, field)
    return patch


def _strategic_map(target: Object, patch: Object) -> Object:
    if patch.get("$patch") == "replace":
        return {key: clone(value) for key, value in patch.items() if key != "$patch"}
    result = dict(target)
    if retained := patch.get("$retainKeys"):
        result = {key: value for key, value in result.items() if key in retained}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [item for item in result.get(name) or [] if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None or (isinstance(value, dict) and value.get("$patch") == "delete"):
            result.pop(key, None)
        else:
            result[key] = strategic_patch(result.get(key), value, key)
    return result


def _strategic_list(target: list[Any], patch: list[Any], field: str) -> list[Any]:
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [clone(item) for item in patch if item.get("$patch") != "replace"]
    if field == "finalizers":
        return target + [item for item in patch if item not in target]
    keys = merge_keys(field, patch + target)
    if keys is None:
        return [clone(item) for item in patch]
    result = list(target)
    for item in patch:
        wanted = identity(item, keys)
        at = next((i for i, present in enumerate(result) if identity(present, keys) == wanted), None)
        if item.get("$patch") == "delete":
            result = [present for present in result if identity(present, keys) != wanted]
        elif at is None:
            result.append(strategic_patch({}, item))
        else:
            result[at] = strategic_patch(result[at], item)
    return result
