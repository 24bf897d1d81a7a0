"""The Kubernetes API as a handful of verbs on plain dicts.

:class:`KubeApi` speaks over the official client's asyncio transport without its models, because turning every object
into a model costs more than everything else the operator does. Writes go through one gate: leadership is checked
before each attempt, a semaphore and a token bucket bound the load, 429 and 5xx are tried again with jitter and
``Retry-After``, and 409 is surfaced, never retried here, because only the caller knows whether its decision still
holds. Namespaces take turns, so that one tenant's thousand writes do not stand before everybody else's.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any, Literal

import aiohttp
import msgspec
from kubernetes.aio import client as kube
from warmfleet_runtime import nesting, rest
from warmfleet_runtime.resources import Resource

from warmfleet_operator.adapters.line import FairLine

Object = dict[str, Any]
PatchKind = Literal["merge", "json", "apply"]

USER_AGENT = "warmfleet-operator"
_LOG = logging.getLogger(__name__)
_RETRIED = frozenset({429, 500, 502, 503, 504})
_ATTEMPTS = 5
_PAGE = 500


class KubeError(rest.ApiError):
    """The API server refused a request, or could not be reached (status 0)."""

    @property
    def uncertain(self) -> bool:
        """Whether the request may have been carried out although no good answer came."""
        return self.status == 0 or self.status >= 500


class _Metadata(msgspec.Struct):
    """What a list of metadata is asked for; the decoder passes over the rest, which is most of it."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815 - as it is called in JSON


class _PageMetadata(msgspec.Struct):
    continue_: str | None = msgspec.field(default=None, name="continue")
    resourceVersion: str = ""  # noqa: N815 - as it is called in JSON


class _Named(msgspec.Struct):
    metadata: _Metadata


class _Page(msgspec.Struct):
    metadata: _PageMetadata = msgspec.field(default_factory=_PageMetadata)
    items: builtins.list[_Named] | None = None


_PAGE_OF_METADATA = msgspec.json.Decoder(_Page)


class TokenBucket:
    """At most ``rate`` requests per real second on average, ``burst`` at once.

    Args:
        rate: Tokens per second.
        burst: Capacity.
        monotonic: Real seconds of a monotonic clock; the loop's by default.
    """

    def __init__(self, rate: float, burst: int, monotonic: Callable[[], float] | None = None) -> None:
        self._rate, self._burst = rate, burst
        self._monotonic = monotonic or (lambda: asyncio.get_running_loop().time())
        self._tokens, self._at = float(burst), None if monotonic is None else monotonic()

    async def take(self) -> None:
        """Wait for a token; callers are served in the order they came."""
        now = self._monotonic()
        self._tokens = min(self._burst, self._tokens + (now - (self._at if self._at is not None else now)) * self._rate)
        self._at = now
        self._tokens -= 1
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / self._rate)


class KubeApi:
    """Verbs on plain dicts. Close it when done.

    Args:
        configuration: From :func:`warmfleet_runtime.kubeclient.load_configuration`.
        guard: Called before each attempt of a write; raises to forbid it (leadership lost).
        observe: Called with verb, plural and status code of each answer (code 0: none).
        rate: Writes per second on average.
        burst: Writes at once.
        timeout_seconds: Real seconds of one attempt.

    Raises (all verbs):
        KubeError: The API server refused, or could not be reached.
    """

    def __init__(
        self,
        configuration: kube.Configuration,
        *,
        guard: Callable[[], None] = lambda: None,
        observe: Callable[[str, str, int], None] = lambda *_: None,
        rate: float = 50.0,
        burst: int = 100,
        timeout_seconds: float = 30.0,
    ) -> None:
        self._api = kube.ApiClient(configuration)
        self._api.user_agent = USER_AGENT
        self._guard, self._observe = guard, observe
        self._writes = FairLine(20)
        self._bucket = TokenBucket(rate, burst)
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=10)

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """Read one object."""
        return await self._request("GET", resource, resource.path(namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        metadata_only: bool = False,
    ) -> builtins.list[Object]:
        """All objects of a collection, page by page; ``metadata_only``: name, namespace, uid and resourceVersion."""
        found, _ = await self.list_at(resource, namespace, label_selector=label_selector, metadata_only=metadata_only)
        return found

    async def list_at(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        metadata_only: bool = False,
    ) -> tuple[builtins.list[Object], str]:
        """The same with the resourceVersion that the list is of; empty when the answer names none."""
        accept, read = "application/json", _parse
        if metadata_only:
            accept, read = f"application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,{accept}", _parse_metadata
        query: dict[str, str] = {"limit": str(_PAGE)}
        if label_selector:
            query["labelSelector"] = label_selector
        found: list[Object] = []
        while True:
            page = await self._request("GET", resource, resource.path(namespace), query=query, accept=accept, read=read)
            found += page.get("items") or []
            meta = page.get("metadata") or {}
            token = meta.get("continue")
            if not token:
                return found, str(meta.get("resourceVersion") or "")
            query["continue"] = token

    async def create(self, resource: Resource, body: Object, namespace: str | None = None) -> Object:
        """POST an object."""
        return await self._write("POST", resource, resource.path(namespace), namespace, body=body)

    async def replace(self, resource: Resource, body: Object, namespace: str | None = None) -> Object:
        """PUT an object; its resourceVersion is the precondition."""
        path = resource.path(namespace, body["metadata"]["name"])
        return await self._write("PUT", resource, path, namespace, body=body)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: object,
        namespace: str | None = None,
        *,
        how: PatchKind = "merge",
        subresource: str | None = None,
        field_manager: str | None = None,
    ) -> Object:
        """PATCH an object; ``apply`` is forced, under ``field_manager``."""
        query = {"fieldManager": field_manager} if field_manager else {}
        if how == "apply":
            query["force"] = "true"
        path = resource.path(namespace, name, subresource)
        return await self._write(
            "PATCH", resource, path, namespace, body=body, query=query, content=rest.PATCH_TYPES[how]
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
    ) -> Object:
        """DELETE an object, only if it still is the one meant; what the API server answers: the object or a Status."""
        options = rest.delete_options(uid, resource_version, grace_seconds, "Background")
        return await self._write("DELETE", resource, resource.path(namespace, name), namespace, body=options)

    async def _write(self, method: str, resource: Resource, path: str, namespace: str | None, **how: Any) -> Object:
        async with self._writes.turn(namespace or "", urgent=resource.plural == "pods"):
            return await self._request(method, resource, path, write=True, **how)

    async def _request(self, method: str, resource: Resource, path: str, *, write: bool = False, **how: Any) -> Object:
        for attempt in range(_ATTEMPTS):
            if write:
                self._guard()
                await self._bucket.take()
                self._guard()
            error, wait = await self._once(method, resource, path, **how)
            if isinstance(error, dict):
                return error
            if wait is None or attempt == _ATTEMPTS - 1:
                raise error
            delay = max(wait, random.uniform(0.5, 1.0) * 0.2 * 2**attempt)
            _LOG.info("retrying in %.1f s: %s", delay, error)
            await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    async def _once(
        self,
        method: str,
        resource: Resource,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
        accept: str = "application/json",
        content: str = "application/json",
        read: Callable[[bytes, str], Object | KubeError] | None = None,
    ) -> tuple[Object | KubeError, float | None]:
        """The answer, or the error and how long to wait before trying again (None: do not)."""
        where = f"{method} {path}"
        try:
            answer = await rest.send(
                self._api,
                method,
                path,
                query=(query or {}).items(),
                body=body,
                accept=accept,
                content=content,
                timeout=self._timeout,
                agent=USER_AGENT,
            )
            raw: bytes = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._observe(method, resource.plural, 0)
            return KubeError(0, type(error).__name__, str(error), where), 0.0
        self._observe(method, resource.plural, answer.status)
        if 200 <= answer.status <= 299:
            return (read or _parse)(raw, where), None
        wait = _retry_after(answer.headers) if answer.status in _RETRIED else None
        return error_from(answer.status, raw, where), wait


def _parse(raw: bytes, where: str) -> Object | KubeError:
    try:
        parsed = nesting.decode(raw)
    except ValueError as error:
        return KubeError(0, "InvalidAnswer", str(error), where)
    return parsed if isinstance(parsed, dict) else KubeError(0, "InvalidAnswer", "not an object", where)


def _parse_metadata(raw: bytes, where: str) -> Object | KubeError:
    try:
        try:
            page = _PAGE_OF_METADATA.decode(raw)
        except RecursionError:
            page = _PAGE_OF_METADATA.decode(nesting.cut(raw))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return KubeError(0, "InvalidAnswer", str(error), where)
    items = [{"metadata": msgspec.structs.asdict(item.metadata)} for item in page.items or []]
    meta = {"continue": page.metadata.continue_, "resourceVersion": page.metadata.resourceVersion}
    return {"metadata": meta, "items": items}


def error_from(status: int, raw: bytes, where: str) -> KubeError:
    """The error of an answer that is none of the good ones, from its Status object if it is one."""
    return KubeError(status, *rest.refusal(raw), where)


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "")
    return min(30.0, float(text)) if text.isascii() and text.isdigit() else 0.0
