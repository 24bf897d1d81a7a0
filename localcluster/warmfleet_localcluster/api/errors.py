"""Errors in the shape of the apiserver's `Status` objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warmfleet_localcluster.api.resources import Resource

UNKNOWN_PATH = "the server could not find the requested resource"
STALE = "the object has been modified; please apply your changes to the latest version and try again"


class ApiError(Exception):
    """A refusal with an HTTP code, a machine-readable reason and a message for people.

    Attributes:
        code: HTTP status code.
        reason: The `metav1.StatusReason`, e.g. `NotFound`.
        message: The sentence a client shows.
        details: The `details` of the Status (name, group, kind, causes, retryAfterSeconds).
    """

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> dict[str, Any]:
        """Return the error as a `Status` object."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            body["details"] = self.details
        return body


@dataclass(frozen=True, slots=True)
class Cause:
    """One field that makes an object invalid.

    Attributes:
        field: Path of the field, e.g. `spec.scaling`; empty for the object itself.
        reason: e.g. `FieldValueInvalid`, `FieldValueRequired`.
        message: What is wrong, without the path.
    """

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field or '<nil>'}: {self.message}"


def invalid_value(field: str, value: Any, message: str) -> Cause:
    """Return a cause reading `FIELD: Invalid value: VALUE: MESSAGE`, composite values shown by their type."""
    return Cause(field, "FieldValueInvalid", f"Invalid value: {shown(value)}: {message}")


def required_value(field: str, message: str = "") -> Cause:
    """Return a cause reading `FIELD: Required value`."""
    return Cause(field, "FieldValueRequired", "Required value" + (f": {message}" if message else ""))


def forbidden_value(field: str, message: str) -> Cause:
    """Return a cause reading `FIELD: Forbidden: MESSAGE`."""
    return Cause(field, "FieldValueForbidden", f"Forbidden: {message}")


def shown(value: Any) -> str:
    """Return how the apiserver prints a rejected value: JSON-like scalars, the type's name for composites."""
    if isinstance(value, dict):
        return '"object"'
    if isinstance(value, list):
        return '"array"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return '"null"'
    return f'"{value}"' if isinstance(value, str) else str(value)


def not_found(resource: Resource, name: str) -> ApiError:
    """The named object does not exist (404)."""
    message = f'{resource.qualified} "{name}" not found'
    return ApiError(404, "NotFound", message, name=name, group=resource.group, kind=resource.plural)


def unknown_path() -> ApiError:
    """No such group, version, resource or subresource (404)."""
    return ApiError(404, "NotFound", UNKNOWN_PATH)


def already_exists(resource: Resource, name: str) -> ApiError:
    """The name is taken (409)."""
    message = f'{resource.qualified} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, name=name, group=resource.group, kind=resource.plural)


def conflict(resource: Resource, name: str, why: str = STALE) -> ApiError:
    """The write lost an optimistic-locking race or missed a precondition (409)."""
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, name=name, group=resource.group, kind=resource.plural)


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> ApiError:
    """The object breaks its schema or a rule (422); the message lists every cause."""
    listed = ", ".join(map(str, causes))
    text = listed if len(causes) == 1 else f"[{listed}]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    return ApiError(
        422,
        "Invalid",
        f'{kind} "{name}" is invalid: {text}',
        name=name,
        group=resource.group,
        kind=resource.kind,
        causes=[{"reason": c.reason, "message": c.message, "field": c.field or "<nil>"} for c in causes],
    )


def forbidden(resource: Resource, name: str, why: str) -> ApiError:
    """The write is not allowed in this state (403)."""
    message = f'{resource.qualified} "{name}" is forbidden: {why}'
    return ApiError(403, "Forbidden", message, name=name, group=resource.group, kind=resource.plural)


def bad_request(message: str) -> ApiError:
    """The request cannot be understood (400)."""
    return ApiError(400, "BadRequest", message)


def method_not_allowed(method: str) -> ApiError:
    """The path exists but not with this method (405)."""
    message = f"the server does not allow this method on the requested resource: {method}"
    return ApiError(405, "MethodNotAllowed", message)


def unsupported_media(message: str) -> ApiError:
    """The body's content type is not understood here (415)."""
    return ApiError(415, "UnsupportedMediaType", message)


def expired(message: str) -> ApiError:
    """The resource version or continue token is older than what is remembered (410)."""
    return ApiError(410, "Expired", message)
