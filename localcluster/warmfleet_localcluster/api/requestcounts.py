"""Counters of API requests, for tests that bound what a client writes or reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RequestKind:
    """What requests are counted by.

    Attributes:
        verb: API verb: get, list, watch, create, update, patch, delete or deletecollection.
        resource: Plural of the resource.
        subresource: Empty for the object itself.
        user_agent: As the client sent it.
    """

    verb: str
    resource: str
    subresource: str
    user_agent: str


class RequestCounts:
    """How often each kind of request arrived, whether or not it succeeded."""

    def __init__(self) -> None:
        self._counts: Counter[RequestKind] = Counter()

    def add(self, kind: RequestKind) -> None:
        """Count one request."""
        self._counts[kind] += 1

    def total(self, verb: str | None = None, resource: str | None = None, *, user_agent: str | None = None) -> int:
        """Return the number of requests; None matches anything, the user agent matches by substring."""
        return sum(
            count
            for kind, count in self._counts.items()
            if verb in {None, kind.verb}
            and resource in {None, kind.resource}
            and (user_agent is None or user_agent in kind.user_agent)
        )

    def reset(self) -> None:
        """Start from zero."""
        self._counts.clear()

    def as_json(self) -> list[dict[str, Any]]:
        """Return the counters as JSON rows: verb, resource, subresource, user_agent, count."""
        return [{**asdict(kind), "count": count} for kind, count in self._counts.items()]
