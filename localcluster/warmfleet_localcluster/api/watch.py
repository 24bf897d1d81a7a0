"""Watches: initial state, history, live changes, bookmarks; objects that enter or leave a selector."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from warmfleet_localcluster.api.embedded import EmbeddedApi
from warmfleet_localcluster.api.errors import ApiError, bad_request
from warmfleet_localcluster.api.objects import Object
from warmfleet_localcluster.api.reading import Query, selection, show, truthy
from warmfleet_localcluster.api.resources import Resource
from warmfleet_localcluster.api.selectors import Predicate
from warmfleet_localcluster.api.store import Change, Subscription
from warmfleet_localcluster.api.tables import View

BOOKMARK_SECONDS = 10.0
"""Real seconds between bookmarks of a quiet watch."""

DEFAULT_SECONDS = 1800.0
"""Real seconds a watch lasts when the client names no timeout."""

_INITIAL_END = {"k8s.io/initial-events-end": "true"}
Send = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What one client watches and how.

    Attributes:
        resource: The kind.
        namespace: One namespace, None for all.
        selected: Which objects.
        view: Presentation.
        query: The raw query, for presentation options.
        since: Resource version to resume after; None to begin with the present state.
        initial: Whether the present state is sent as ADDED events.
        mark_initial: Whether a bookmark ends the present state (WatchList).
        bookmarks: Whether bookmarks are wanted at all.
        seconds: Real seconds until the server ends the watch.
    """

    resource: Resource
    namespace: str | None
    selected: Predicate
    view: View
    query: Query
    since: int | None
    initial: bool
    mark_initial: bool
    bookmarks: bool
    seconds: float

    @classmethod
    def parse(
        cls, resource: Resource, namespace: str | None, name: str | None, query: Query, view: View
    ) -> WatchRequest:
        """Return the watch a request asks for.

        Raises:
            ApiError: 400, a parameter does not parse.
        """
        version = query.get("resourceVersion") or ""
        try:
            since = int(version) if version else 0
            seconds = float(query.get("timeoutSeconds") or DEFAULT_SECONDS)
        except ValueError as error:
            raise bad_request(f"invalid watch parameter: {error}") from error
        wanted = query.get("sendInitialEvents")
        streaming = truthy(wanted)
        from_now = since == 0 or streaming
        return cls(
            resource=resource,
            namespace=namespace if resource.namespaced else None,
            selected=selection(query, resource, name),
            view=view,
            query=query,
            since=None if from_now else since,
            initial=streaming if wanted is not None else from_now,
            mark_initial=streaming,
            bookmarks=truthy(query.get("allowWatchBookmarks")),
            seconds=seconds,
        )

    def matches(self, item: Object | None) -> bool:
        """Return whether the watch shows this object."""
        if item is None or (self.namespace is not None and item["metadata"].get("namespace") != self.namespace):
            return False
        return self.selected(item)


async def stream(api: EmbeddedApi, request: WatchRequest, send: Send) -> None:
    """Send a watch until it times out or is cut; the subscription is opened before anything is read.

    Args:
        api: The API.
        request: What to watch.
        send: Writes bytes to the client.
    """
    subscription = api.store.subscribe(request.resource.storage)
    try:
        try:
            beginning = _beginning(api, request)
        except ApiError as error:
            await send(_line("ERROR", error.status()))
            return
        # everything up to here is one turn of the loop: no change falls between the two
        if beginning:
            await send(beginning)
        await _follow(api, request, subscription, send)
    finally:
        api.store.unsubscribe(subscription)


def _beginning(api: EmbeddedApi, request: WatchRequest) -> bytes:
    if request.since is not None:
        changes = api.store.since(request.resource.storage, request.since)
        return b"".join(_event(api, request, change) for change in changes)
    lines: list[bytes] = []
    if request.initial:
        items = api.objects(request.resource, request.namespace)
        lines = [_line("ADDED", _shown(api, request, item)) for item in items if request.matches(item)]
    if request.mark_initial:
        lines.append(_bookmark(request, api.store.rv, _INITIAL_END))
    return b"".join(lines)


async def _follow(api: EmbeddedApi, request: WatchRequest, subscription: Subscription, send: Send) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + request.seconds
    while (left := end - loop.time()) > 0:
        try:
            async with asyncio.timeout(min(left, BOOKMARK_SECONDS)):
                changes = [await subscription.queue.get()]
        except TimeoutError:
            if request.bookmarks:
                await send(_bookmark(request, api.store.rv))
            continue
        while not subscription.queue.empty():
            changes.append(subscription.queue.get_nowait())
        lines = b"".join(_event(api, request, change) for change in changes if change is not None)
        if lines:
            await send(lines)
        if None in changes:
            return


def _event(api: EmbeddedApi, request: WatchRequest, change: Change) -> bytes:
    now, before = request.matches(change.new), request.matches(change.old)
    if change.type == "DELETED":
        kind = "DELETED" if now or before else ""
    elif now:
        kind = "MODIFIED" if before else "ADDED"
    else:
        kind = "DELETED" if before else ""
    if not kind:
        return b""
    item = change.new
    if kind == "DELETED" and not now and change.old is not None:
        # an object that left the selector is shown as it was, at the version that made it leave
        item = {**change.old, "metadata": {**change.old["metadata"], "resourceVersion": str(change.rv)}}
    return _line(kind, _shown(api, request, item))


def _shown(api: EmbeddedApi, request: WatchRequest, item: Object) -> Object:
    return show(api, request.resource, item, request.query, request.view)


def _bookmark(request: WatchRequest, rv: int, annotations: dict[str, str] | None = None) -> bytes:
    meta: Object = {"resourceVersion": str(rv), "creationTimestamp": None}
    if annotations:
        meta["annotations"] = annotations
    if request.view.table:
        table = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": [], "rows": []}
        return _line("BOOKMARK", table)
    kind, version = request.resource.kind, request.resource.group_version
    if request.view.partial:
        kind, version = "PartialObjectMetadata", "meta.k8s.io/v1"
    return _line("BOOKMARK", {"kind": kind, "apiVersion": version, "metadata": meta})


def _line(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}, separators=(",", ":")).encode() + b"\n"
