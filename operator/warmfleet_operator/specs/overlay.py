"""Merges a ``podTemplate`` overlay into a built object, the way a strategic merge patch does.

Maps merge key by key, ``null`` deletes a key, scalars replace. Lists whose items carry an identity in Kubernetes
(containers by name, ports by containerPort, tolerations as a whole ...) merge item by item; an item with
``$patch: delete`` is removed; all other lists replace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MERGE_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "ports": ("containerPort", "protocol"),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "resourceClaims": ("name",),
}
"""Lists that merge, and the fields that identify their items."""

APPENDED = frozenset({"tolerations"})
"""Lists without identity to which an overlay adds."""

_DEFAULTS = {"protocol": "TCP"}


def merge(base: Any, overlay: Any, name: str = "") -> Any:
    """``base`` with ``overlay`` merged into it; neither is changed.

    Args:
        base: The built value.
        overlay: What a person wrote.
        name: Name of the field both stand in, which decides how lists merge.
    """
    if isinstance(base, Mapping) and isinstance(overlay, Mapping):
        return _merge_maps(base, overlay)
    if isinstance(base, list) and isinstance(overlay, list):
        if name in APPENDED:
            return base + [item for item in overlay if item not in base]
        keys = MERGE_KEYS.get(name)
        if keys is not None and all(isinstance(item, Mapping) for item in [*base, *overlay]):
            return _merge_lists(base, overlay, keys)
    return overlay


def _merge_maps(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overlay.items():
        if value is None:
            merged.pop(key, None)
        elif key in merged:
            merged[key] = merge(merged[key], value, key)
        elif key != "$patch":
            merged[key] = merge({}, value, key) if isinstance(value, Mapping) else value
    return merged


def _merge_lists(
    base: list[Mapping[str, Any]], overlay: list[Mapping[str, Any]], keys: tuple[str, ...]
) -> list[Mapping[str, Any]]:
    def identity(item: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(item.get(key, _DEFAULTS.get(key)) for key in keys)

    merged = {identity(item): item for item in base}
    for item in overlay:
        if item.get("$patch") == "delete":
            merged.pop(identity(item), None)
        else:
            merged[identity(item)] = merge(merged.get(identity(item), {}), item)
    return list(merged.values())
