"""Small helpers on Kubernetes objects held as plain JSON dictionaries.

Objects in the store are immutable by convention: whoever wants to change one clones it first.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


def clone(value: Any) -> Any:
    """Return a deep copy of a JSON value (several times faster than `copy.deepcopy`)."""
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clone(item) for item in value]
    return value


def dig(value: Any, *path: str) -> Any:
    """Return the value under a path of keys, or None when any step is absent."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def timestamp(moment: datetime) -> str:
    """Return a moment as Kubernetes writes `metav1.Time`: UTC, whole seconds, `Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    """Return the moment a `metav1.Time` or `MicroTime` names.

    Raises:
        ValueError: The text is not an RFC 3339 timestamp.
    """
    return datetime.fromisoformat(text)


def labels_of(item: Object) -> dict[str, str]:
    """Return the labels, an empty dictionary when there are none."""
    return item["metadata"].get("labels") or {}


def is_deleting(item: Object) -> bool:
    """Return whether a deletion was requested and not yet finished."""
    return bool(item["metadata"].get("deletionTimestamp"))


def condition_true(item: Object, kind: str) -> bool:
    """Return whether the status condition of this type has status "True"."""
    conditions = dig(item, "status", "conditions") or []
    return any(c.get("type") == kind and c.get("status") == "True" for c in conditions)
