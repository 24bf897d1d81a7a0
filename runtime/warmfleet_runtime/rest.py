"""What every client of a Kubernetes API here does alike: paths, one exchange over the official client, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp

PATCH_TYPES: Mapping[str, str] = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
"""Content types of a PATCH."""


class ApiError(Exception):
    """The API server refused a request.

    Attributes:
        status: HTTP status.
        reason: Reason of the Status object, such as ``NotFound``, ``AlreadyExists`` or ``Expired``.
        message: For a person.
    """

    def __init__(self, status: int, reason: str, message: str, where: str) -> None:
        super().__init__(f"{where}: {status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


def path_of(
    api: str, plural: str, namespace: str | None, name: str | None = None, subresource: str | None = None
) -> str:
    """URL path of an object, or of a collection when ``name`` is None; of all namespaces, or of none, without one.

    Args:
        api: ``v1`` or ``<group>/<version>``.
        plural: As in the URL.
        namespace: None: every namespace, or a resource without.
        name: Of the object.
        subresource: Of the object.
    """
    parts = ["apis" if "/" in api else "api", api]
    if namespace:
        parts += ["namespaces", namespace]
    parts.append(plural)
    return "/" + "/".join(parts + [part for part in (name, subresource) if part])


async def send(  # noqa: PLR0913 - the parts of a request, each named at the call
    api: Any,
    method: str,
    path: str,
    *,
    timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - connecting and reading have bounds of their own
    query: Iterable[tuple[str, str]] = (),
    body: object = None,
    accept: str = "application/json",
    content: str = "application/json",
    agent: str | None = None,
) -> Any:
    """One exchange, without the client's models: turning objects into models costs more than anything else done here.

    Args:
        api: ``kubernetes.aio.client.ApiClient``.
        method: HTTP verb.
        path: URL path.
        timeout: Real seconds.
        query: Parameters.
        body: Sent as JSON; None: nothing.
        accept: Media types that are wanted.
        content: Media type of the body.
        agent: User-Agent; None: the client's own.

    Returns:
        The client's response, whatever its status; its body has not been read.

    Raises:
        aiohttp.ClientError, OSError, TimeoutError: No answer.
    """
    headers = {"Accept": accept, "Content-Type": content, **({"User-Agent": agent} if agent else {})}
    request = await api.param_serialize(
        method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
    )
    return await api.call_api(*request, _request_timeout=timeout)


def delete_options(
    uid: str | None, resource_version: str | None, grace_seconds: int | None, propagation: str | None
) -> dict[str, Any]:
    """Body of a DELETE: of no other object than the one with this uid and resourceVersion, if they are given."""
    preconditions = {"uid": uid, "resourceVersion": resource_version}
    options = {
        "preconditions": {name: value for name, value in preconditions.items() if value} or None,
        "gracePeriodSeconds": grace_seconds,
        "propagationPolicy": propagation,
    }
    known = {name: value for name, value in options.items() if value is not None}
    return {"apiVersion": "v1", "kind": "DeleteOptions", **known}


def refusal(raw: bytes) -> tuple[str, str]:
    """(reason, message) of an answer that is none of the good ones, from its Status object if it is one."""
    try:
        body = json.loads(raw)
        return str(body.get("reason") or ""), str(body.get("message") or "")
    except (ValueError, AttributeError, RecursionError):
        return "", raw[:200].decode(errors="replace")
