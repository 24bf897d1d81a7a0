"""Faults a test can order: slow answers, failing requests, cut watches, a forgotten event log."""

from __future__ import annotations

from dataclasses import dataclass

from warmfleet_localcluster.api.errors import ApiError

_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(slots=True)
class _Failure:
    left: int
    code: int
    verb: str
    resource: str
    subresource: str | None

    def meets(self, verb: str, resource: str, subresource: str) -> bool:
        return (
            self.left > 0
            and self.verb in {"*", verb}
            and self.resource in {"*", resource}
            and self.subresource in {None, subresource}
        )


class Faults:
    """Ordered faults; none by default. Cutting watches and forgetting events are methods of the store.

    Attributes:
        delay_seconds: Real seconds every API request waits before it is served.
    """

    def __init__(self) -> None:
        self.delay_seconds = 0.0
        self._failures: list[_Failure] = []

    def fail(
        self, count: int, code: int, *, verb: str = "*", resource: str = "*", subresource: str | None = None
    ) -> None:
        """Let the next requests fail.

        Args:
            count: How many.
            code: HTTP status they get.
            verb: API verb (get, list, watch, create, update, patch, delete, deletecollection) or `*`.
            resource: Plural, or `*`.
            subresource: Only this one (empty: only the object itself); None for any.
        """
        self._failures.append(_Failure(count, code, verb, resource, subresource))

    def clear(self) -> None:
        """Take all orders back."""
        self.delay_seconds = 0.0
        self._failures.clear()

    def check(self, verb: str, resource: str, subresource: str) -> None:
        """Fail if an order says so.

        Raises:
            ApiError: With the ordered code.
        """
        for failure in self._failures:
            if failure.meets(verb, resource, subresource):
                failure.left -= 1
                reason = _REASONS.get(failure.code, "Unknown")
                raise ApiError(failure.code, reason, f"injected fault: {verb} {resource}")
