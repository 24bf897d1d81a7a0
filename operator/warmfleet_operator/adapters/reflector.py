"""Lists and watches one kind of which there are thousands, holding no more than a page of raw objects at a time.

kopf keeps a whole list in memory, and a task, a queue and a memory for every object, before the first of them reaches
its handler; for 20,000 pods that is most of a gigabyte. Here each object goes into the store as it arrives, as a slim
record, and the rest of it (``managedFields`` above all) is dropped with its page.

kopf also reads JSON as Python's decoder does, which ends at about a thousand levels: an object nested deeper, which the
API server takes, would hide all others of its kind. Here it is read as far as it needs to be refused.

A watch resumes where it ended, from the last version or bookmark. After 410 Gone the kind is listed anew, and what the
list no longer shows is forgotten. A list that is older than what has been seen already, of an API server that has lost
touch, would bring back what is gone: it is refused. When the API server refuses, or is away for longer than the
attempts last, it raises.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import aiohttp
from kubernetes.aio import client as kube
from warmfleet_runtime import nesting, rest
from warmfleet_runtime.resources import Resource

from warmfleet_operator.adapters.kube import USER_AGENT, error_from
from warmfleet_operator.state import parse
from warmfleet_operator.state.snapshot import FleetStore, Kind

_LOG = logging.getLogger(__name__)
PAGE = 100
"""Objects asked for at once. Records made of a page lie in memory among what is dropped with it, so a page's size is
what stays lost: in a trial with 2,000 pods of 9.5 KB, 36 MB at 500 a page and 9 MB at 100."""
WATCH_SECONDS = 600
"""Real seconds after which the server ends a watch, which is then resumed."""
_SILENCE = 180.0
"""Real seconds without a byte, bookmarks included, after which a connection counts as dead."""
_SHORT = 2.0
"""Real seconds below which a watch counts as refused rather than ended."""
_MOST_LINE = 16 * 1024 * 1024
_TROUBLE = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


class WatchRefusedError(Exception):
    """The API server's answer to a list or a watch was an error, or made no sense."""


class ExpiredError(Exception):
    """The version to go on from is gone."""


class Reflector:
    """Keeps one kind of the store up to date.

    Args:
        kind: The kind.
        resource: Where it is.
        store: Gets every object.
        configure: Loads the connection settings; called for each connection after a failure.
        namespace: Only this namespace; None: all.
        selector: Label selector; empty: every object.
        backoffs: Real seconds between attempts; when they are used up, the failure is raised.
    """

    def __init__(
        self,
        kind: Kind,
        resource: Resource,
        store: FleetStore,
        configure: Callable[[], Awaitable[kube.Configuration]],
        *,
        namespace: str | None,
        selector: str,
        backoffs: Sequence[float],
    ) -> None:
        self._kind, self._store, self._configure = kind, store, configure
        self._path = resource.path(namespace if resource.namespaced else None)
        self._query = {"labelSelector": selector} if selector else {}
        self._backoffs = backoffs
        self._failures = 0
        self._version: str | None = None

    async def run(self) -> None:
        """List, then watch, for ever.

        Raises:
            WatchRefusedError: The API server refused again and again.
            OSError, TimeoutError, aiohttp.ClientError: It could not be reached for too long.
        """
        while True:
            api = kube.ApiClient(await self._configure())
            try:
                while True:
                    await self._turn(api)
            except (*_TROUBLE, WatchRefusedError) as error:
                if self._failures >= len(self._backoffs):
                    raise
                pause = self._backoffs[self._failures]
                self._failures += 1
                _LOG.info("watch of %s: %s; again in %.1f s", self._kind, error or type(error).__name__, pause)
            finally:
                await api.close()  # type: ignore[no-untyped-call]
            await asyncio.sleep(pause)

    async def _turn(self, api: kube.ApiClient) -> None:
        """One list if there is nothing to go on from, then one watch to its end."""
        try:
            if self._version is None:
                self._version = await self._list(api)
            await self._watch(api, self._version)
        except ExpiredError:
            _LOG.info("watch of %s: the version is gone; listing anew", self._kind)
            self._version = None

    async def _list(self, api: kube.ApiClient) -> str:
        """All pages into the store; the version to watch from."""
        before = self._store.known(self._kind)
        listed: dict[Any, str] = {}
        query = {**self._query, "limit": str(PAGE)}
        while True:
            answer = await self._send(api, query, aiohttp.ClientTimeout(total=60, sock_connect=10))
            page = parse.mapping(nesting.decode(await answer.read()))
            meta = parse.mapping(page.get("metadata"))
            if not listed:
                self._refuse_old(parse.text(meta.get("resourceVersion")))
            for item in page.get("items") or ():
                found = parse.identity(item)
                if found is not None:
                    listed[found[0]] = found[1]
                    self._store.observe(self._kind, item)
            self._failures = 0
            token = parse.text(meta.get("continue"))
            if not token:
                break
            query["continue"] = token
        version = parse.text(meta.get("resourceVersion"))
        self._store.prune(self._kind, {key: uid for key, uid in before.items() if listed.get(key) != uid}, version)
        return version

    def _refuse_old(self, version: str) -> None:
        """Versions grow with every write of the cluster, so a list is never older than an object that was seen."""
        number, newest = parse.number(version), self._store.newest(self._kind)
        if number is not None and number < newest:
            raise WatchRefusedError(f"the list of version {version} is older than what was seen, {newest}")

    async def _watch(self, api: kube.ApiClient, version: str) -> None:
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(total=WATCH_SECONDS + 30, sock_connect=10, sock_read=_SILENCE)
        loop = asyncio.get_running_loop()
        began, answer = loop.time(), await self._send(api, query, timeout)
        try:
            async for line in _lines(answer):
                self._take(parse.mapping(nesting.decode(line)))
                self._failures = 0
        except TimeoutError:
            _LOG.info("watch of %s: silent for %.0f s; resumed", self._kind, _SILENCE)
        finally:
            answer.close()
        if loop.time() - began < _SHORT:  # not asked again in a tight loop
            raise WatchRefusedError(f"the stream ended within {_SHORT:.0f} s")
        self._failures = 0

    def _take(self, event: Any) -> None:
        body, what = parse.mapping(event.get("object")), event.get("type")
        if what == "ERROR":
            if body.get("code") == 410:
                raise ExpiredError
            raise WatchRefusedError(f"{body.get('code')} {body.get('reason')}: {body.get('message')}")
        if what in ("ADDED", "MODIFIED", "DELETED"):
            self._store.observe(self._kind, body, deleted=what == "DELETED")
        version = parse.text(parse.mapping(body.get("metadata")).get("resourceVersion"))
        self._version = version or self._version

    async def _send(
        self, api: kube.ApiClient, query: dict[str, str], limits: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        sent = await rest.send(api, "GET", self._path, query=query.items(), timeout=limits, agent=USER_AGENT)
        answer: aiohttp.ClientResponse = sent.response
        if answer.status == 410:
            answer.close()
            raise ExpiredError
        if answer.status != 200:
            raise WatchRefusedError(str(error_from(answer.status, await answer.read(), self._path)))
        return answer


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The lines of a stream, however long; a last one without its end was cut off and is dropped.

    Raises:
        WatchRefusedError: A line is longer than any object can be.
    """
    rest = b""
    async for chunk in answer.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(rest) > _MOST_LINE:
            raise WatchRefusedError(f"a line of more than {_MOST_LINE} bytes")
