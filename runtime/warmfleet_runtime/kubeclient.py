"""Plain-dict access to any Kubernetes API over the official client's asyncio flavour.

`kubernetes.aio` brings kubeconfig loading (client certificates, CA, tokens, exec plugins), the transport and
the watch. Added here: verbs on dicts, and `follow`, a list + watch that never loses an object: it resumes from
the last resourceVersion or bookmark, backs off while the API is away, and after a 410 lists again and reports
what vanished in between.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
from kubernetes.aio import client as kube
from kubernetes.aio import config as kube_config
from kubernetes.aio import watch as kube_watch

from warmfleet_runtime import nesting, rest
from warmfleet_runtime.resources import Resource
from warmfleet_runtime.rest import ApiError

Object = dict[str, Any]
_LOG = logging.getLogger(__name__)
_PAGE = 500
_SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_WATCH_SECONDS = 240


@dataclass(frozen=True, slots=True)
class Event:
    """One step of `follow`. `SYNCED` (empty object) says that a full list has been reported."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "SYNCED"]
    object: Object


async def load_configuration(kubeconfig: str | None = None) -> kube.Configuration:
    """Connection settings: ``kubeconfig``, else KUBECONFIG, else the pod's service account, else ~/.kube/config."""
    configuration = kube.Configuration()
    path = kubeconfig or os.environ.get("KUBECONFIG")
    if path is None and await asyncio.to_thread(_SERVICE_ACCOUNT_TOKEN.exists):
        kube_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
            path, None, configuration, persist_config=False
        )
    # Proxies of the environment must not swallow the API server's address; a kubeconfig's proxy-url still counts.
    configuration.client_session_kwargs = {"trust_env": False}
    configuration.retries = False
    return configuration


class KubeClient:
    """Verbs on plain dicts. Close it, or use it as an async context manager.

    Attributes:
        heard: Called at every word of the API to a `follow`: a list, a change, a bookmark, the orderly end of a watch.
            A quiet watch has one every minute or two; one that ended silently has none.

    Raises (all verbs):
        ApiError: The API answered with an error status.
        OSError, asyncio.TimeoutError, aiohttp.ClientError: It could not be reached.
    """

    def __init__(self, configuration: kube.Configuration) -> None:
        # Proxies of the environment must not swallow loopback traffic; a kubeconfig's proxy-url still counts.
        configuration.client_session_kwargs = {"trust_env": False}
        self._configuration = configuration
        self._api = kube.ApiClient(configuration)
        self.heard: Callable[[Resource], None] = lambda _: None

    @classmethod
    async def from_kubeconfig(cls, path: str | Path | None = None, context: str | None = None) -> KubeClient:
        """Load a kubeconfig: `path`, else KUBECONFIG, else ~/.kube/config; `context` or the current one."""
        configuration = kube.Configuration()
        file = None if path is None else str(path)
        await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
            file, context, configuration, persist_config=False
        )
        return cls(configuration)

    @classmethod
    def for_server(cls, url: str) -> KubeClient:
        """A client for an API without authentication, such as the embedded one."""
        return cls(kube.Configuration(host=url))

    @property
    def configuration(self) -> kube.Configuration:
        """The loaded connection settings (host, ssl_ca_cert, ...)."""
        return self._configuration

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """Read one object."""
        return await self._call("GET", resource.path(namespace, name))

    async def text(self, path: str, **query: object) -> str:
        """The body of a GET that is no object, such as a container's log."""
        answer = await self._send("GET", path, query)
        raw: bytes = await answer.read()
        return raw.decode("utf-8", errors="replace")

    async def list(self, resource: Resource, namespace: str | None = None, **selectors: str) -> Object:
        """List a collection, all pages; `selectors`: labelSelector, fieldSelector."""
        path, query = resource.path(namespace), dict[str, object](selectors, limit=_PAGE)
        items: builtins.list[Object] = []
        while True:
            page = await self._call("GET", path, query)
            items += page.get("items") or []
            if not (token := page["metadata"].get("continue")):
                return {**page, "items": items}
            query["continue"] = token

    async def create(
        self,
        resource: Resource,
        body: Object,
        namespace: str | None = None,
        *,
        name: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        """POST an object, or to a subresource (binding, eviction, token) of `name`."""
        namespace = namespace or body.get("metadata", {}).get("namespace")
        if resource.namespaced and namespace is None:
            raise ValueError(f"{resource.plural}: metadata.namespace is required to create one")
        return await self._call("POST", resource.path(namespace, name, subresource), body=body)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: object,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
        how: Literal["merge", "strategic", "json", "apply"] = "merge",
        **query: object,
    ) -> Object:
        """PATCH an object; `query`: fieldManager, force. `metadata.uid` in `body` guards a merge."""
        path = resource.path(namespace, name, subresource)
        return await self._call("PATCH", path, query, body, content_type=rest.PATCH_TYPES[how])

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace_seconds: int | None = None,
        uid: str | None = None,
        propagation: str | None = None,
    ) -> Object:
        """DELETE an object, only if it still has `uid` when that is given."""
        options = rest.delete_options(uid, None, grace_seconds, propagation)
        return await self._call("DELETE", resource.path(namespace, name), body=options)

    async def follow(self, resource: Resource, namespace: str | None = None, **selectors: str) -> AsyncIterator[Event]:
        """List, then watch, for ever; every change of every matching object is reported once."""
        known: dict[tuple[str | None, str], Object] = {}
        version: str | None = None
        failures = 0
        while True:
            try:
                if version is None:
                    listed = await self.list(resource, namespace, **selectors)
                    self.heard(resource)
                    for event in _differences(known, listed["items"]):
                        yield event
                    version = listed["metadata"]["resourceVersion"]
                    yield Event("SYNCED", {})
                failures += 1  # until the first event: an API that keeps hanging up is not asked in a tight loop
                watcher = _Watch()  # type: ignore[no-untyped-call]
                async with watcher:
                    async for raw in watcher.stream(  # type: ignore[no-untyped-call]
                        self._open_watch,
                        resource.path(namespace),
                        selectors,
                        resource_version=version,
                        timeout_seconds=_WATCH_SECONDS,
                    ):
                        version, failures = watcher.resource_version, 0
                        self.heard(resource)
                        if raw["type"] != "BOOKMARK":
                            _remember(known, raw)
                            yield Event(raw["type"], raw["object"])
                self.heard(resource)
            except Exception as error:  # noqa: BLE001 - whatever the API or the network answers, ask again
                failures += 1
                _LOG.log(logging.INFO if failures < 6 else logging.WARNING, "watch %s: %r", resource.plural, error)
                if not isinstance(error, OSError | TimeoutError | aiohttp.ClientError):
                    version = None  # 410, or an answer that made no sense: start from a fresh list
            await asyncio.sleep(min(5.0, 0.02 * 2**failures) * random.uniform(0.5, 1.0) if failures else 0)

    async def _open_watch(self, path: str, selectors: Mapping[str, str], **how: Any) -> Any:
        """What `Watch.stream` calls for each connection; returns the raw streaming response."""
        query = {
            **selectors,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": how["resource_version"],
            "timeoutSeconds": how["timeout_seconds"],
        }
        timeout = aiohttp.ClientTimeout(total=_WATCH_SECONDS + 30, sock_connect=10)
        return (await self._send("GET", path, query, deadline=timeout)).response

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> Object:
        answer: Any = await self._send(method, path, query, body, content_type=content_type)
        parsed: Object = nesting.decode(await answer.read())
        return parsed

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: object = None,
        *,
        content_type: str = "application/json",
        deadline: aiohttp.ClientTimeout | None = None,
    ) -> Any:
        pairs = [(key, str(value)) for key, value in (query or {}).items() if value is not None]
        timeout = deadline or aiohttp.ClientTimeout(total=30)
        answer = await rest.send(self._api, method, path, query=pairs, body=body, content=content_type, timeout=timeout)
        if not 200 <= answer.status <= 299:
            raise ApiError(answer.status, *rest.refusal(await answer.read()), f"{method} {path}")
        return answer


class _Watch(kube_watch.Watch):
    """The client's watch, to which an event may be nested however deep."""

    def unmarshal_event(self, data: str, response_type: object) -> Any:
        """An event from its line."""
        try:
            return super().unmarshal_event(data, response_type)
        except RecursionError:
            return super().unmarshal_event(nesting.cut(data.encode()).decode(), response_type)


def _key(item: Object) -> tuple[str | None, str]:
    return item["metadata"].get("namespace"), item["metadata"]["name"]


def _remember(known: dict[tuple[str | None, str], Object], raw: Object) -> None:
    if raw["type"] == "DELETED":
        known.pop(_key(raw["object"]), None)
    else:
        known[_key(raw["object"])] = raw["object"]


def _differences(known: dict[tuple[str | None, str], Object], items: list[Object]) -> list[Event]:
    """Bring `known` up to a fresh list; an object recreated under its name is a deletion and an addition."""
    fresh = {_key(item): item for item in items}
    events = []
    for key, old in list(known.items()):
        new = fresh.get(key)
        if new is None or new["metadata"]["uid"] != old["metadata"]["uid"]:
            events.append(Event("DELETED", known.pop(key)))
    for key, new in fresh.items():
        old_or_none = known.get(key)
        known[key] = new
        if old_or_none is None:
            events.append(Event("ADDED", new))
        elif old_or_none["metadata"]["resourceVersion"] != new["metadata"]["resourceVersion"]:
            events.append(Event("MODIFIED", new))
    return events
