"""Building blocks of the API models: durations, conditions, shared small types, and the base from :mod:`..wire`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from warmfleet_contracts.wire import ApiModel, Rule

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"


def parse_duration(value: object) -> float:
    """Seconds of a duration such as ``250ms``, ``30s``, ``1h30m``.

    Raises:
        ValueError: The text is not a sequence of number and unit.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str) or not re.match(DURATION_PATTERN, value):
        raise ValueError(f"{value!r} is not a duration; write a number with ms, s, m or h, such as 30s or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(value))


def format_duration(seconds: float) -> str:
    """The shortest exact duration text of ``seconds`` (milliseconds are the finest grain)."""
    millis = round(seconds * 1000)
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if millis and millis % size == 0:
            return f"{millis // size}{unit}"
    return f"{millis}ms" if millis % 1000 or not millis else f"{millis // 1000}s"


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "maxLength": 32}),
]
"""A length of time: text such as ``30s`` on the wire, seconds (float) in Python."""

_COUNT_OR_SHARE = re.compile(r"[0-9]{1,5}|([0-9]|[1-9][0-9]|100)%")


def _count_or_share(value: object) -> str:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not _COUNT_OR_SHARE.fullmatch(text):
        raise ValueError(
            f"{value!r} is neither a count nor a percentage; write a number such as 2 or a text such as 10%"
        )
    return text


CountOrShare = Annotated[
    str,
    BeforeValidator(_count_or_share),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "pattern": r"^([0-9]{1,5}|([0-9]|[1-9][0-9]|100)%)$",
            "maxLength": 5,
            "minimum": 0,
            "maximum": 99999,
        }
    ),
]
"""A number such as 2 or a percentage such as 10%; text in Python."""

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A DNS label."""

ShortText = Annotated[str, Field(min_length=1, max_length=253)]
LongText = Annotated[str, Field(max_length=1024)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Condition(ApiModel):
    """A ``metav1.Condition``."""

    type: Annotated[str, Field(max_length=64)]
    """Kind of condition, in CamelCase."""
    status: Annotated[str, Field(pattern="^(True|False|Unknown)$", max_length=7)]
    """True, False or Unknown."""
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """Why, as one CamelCase word from a fixed table."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Why, for a person, with figures."""
    observed_generation: int | None = None
    """The metadata.generation this condition speaks of."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When status last changed."""


Conditions = Annotated[
    tuple[Condition, ...],
    Field(max_length=8, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]
"""Conditions of an object, merged by type."""


class ObjectMeta(ApiModel):
    """The part of ``metav1.ObjectMeta`` that warmfleet reads."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    deletion_timestamp: str | None = None


__all__ = [
    "DURATION_PATTERN",
    "ApiModel",
    "Condition",
    "Duration",
    "LongText",
    "Name",
    "NonNegative",
    "ObjectMeta",
    "Ratio",
    "Rule",
    "ShortText",
    "format_duration",
    "parse_duration",
]
