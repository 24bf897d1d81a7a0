"""Fields of a checkpoint, read from what may be anybody's: of their kind and within bounds, or named as bad.

Every function raises :class:`CheckpointError` that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST = 1e9
_MOST_SUM = 1e15
_MOST_COUNT = 10**9
_MOST_MARGINS = 64


class CheckpointError(ValueError):
    """The checkpoint is corrupt, or somebody else's; the memory starts empty instead."""


def bad(name: str, value: object) -> CheckpointError:
    """What to say of a field that cannot be what it is."""
    return CheckpointError(f"checkpoint: {name} cannot be {str(value)[:60]!r}; delete it")


def real(name: str, value: object, most: float = _MOST) -> float:
    """A finite number, at most ``most`` either way."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most
    if not ok or not isinstance(value, int | float):
        raise bad(name, value)
    return float(value)


def number(data: Mapping[str, Any], name: str) -> float | None:
    """A number, or None where there is none."""
    return None if data.get(name) is None else real(name, data[name])


def whole(name: str, value: object) -> int:
    """A count."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_COUNT:
        raise bad(name, value)
    return value


def count(data: Mapping[str, Any], name: str, value: object) -> int:
    """A count within a field of more than one."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_COUNT:
        raise bad(name, data.get(name) if not isinstance(value, int) else value)
    return value


def table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object of at most 64 names."""
    value = data.get(name)
    if not isinstance(value, Mapping) or len(value) > 64 or not all(isinstance(k, str) for k in value):
        raise bad(name, value)
    return value


def floats(data: Mapping[str, Any], name: str) -> dict[str, float]:
    """Numbers by name."""
    return {key: real(name, value) for key, value in table(data, name).items()}


def pairs(data: Mapping[str, Any], name: str) -> list[tuple[float, int]]:
    """(number, count) pairs, at most 256."""
    value = data.get(name)
    if not isinstance(value, list) or len(value) > 256:
        raise bad(name, value)
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        raise bad(name, value)
    return [(real(name, pair[0]), count(data, name, pair[1])) for pair in value]


def triple(data: Mapping[str, Any], name: str, *, holes: bool) -> tuple[float | None, float | None, float | None]:
    """Three numbers: two from 1 on and one in [0, 1]; ``holes``: each may be missing."""
    value = data.get(name)
    if not isinstance(value, list) or len(value) != 3:
        raise bad(name, value)
    first, second, third = (None if v is None and holes else real(name, v) for v in value)
    least = (1.0, 1.0, 0.0)
    for low, found in zip(least, (first, second, third), strict=True):
        if found is not None and found < low:
            raise bad(name, value)
    if third is not None and third > 1:
        raise bad(name, value)
    return first, second, third


def reals(name: str, value: object) -> tuple[float, ...]:
    """Numbers that are not negative."""
    if not isinstance(value, list) or len(value) > _MOST_MARGINS:
        raise bad(name, value)
    found = tuple(real(name, part, most=_MOST_SUM) for part in value)
    if found and min(found) < 0.0:
        raise bad(name, value)
    return found


def rate(data: Mapping[str, Any], name: str) -> float | None:
    """A number that is not negative, or None where there is none."""
    found = number(data, name)
    if found is not None and found < 0.0:
        raise bad(name, found)
    return found
