"""A proxy in front of a Kubernetes API that makes it as bad as it can be: slow, refusing, forgetful, out of date.

It speaks plain HTTP to the operator and whatever the kubeconfig says (TLS, client certificates, tokens) to the API
server, so that the same faults can be had in front of the embedded API and of a real one. Which requests a fault meets
is drawn from a seeded generator. It also keeps a log of the deletions and creations of pods whose success the operator
was told, which nobody but the operator's counterpart can know.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web
from warmfleet_runtime.kubeclient import load_configuration

_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length"}
_GROUP_PREFIX = {"api": 2, "apis": 3}
_KEPT_LISTS = 40
_STATUS = {
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


class FaultKind(StrEnum):
    """What can happen to a request."""

    DELAY = "delay"
    """It waits, then is served."""
    DROP = "drop"
    """The connection ends before the API server has seen the request."""
    LOSE = "lose"
    """The API server carries it out, and the answer is lost."""
    REFUSE = "refuse"
    """It gets a status code at once: 409, 429 (with Retry-After), 500, 503."""
    GONE = "gone"
    """A watch is told 410 Gone; half of them as a status code, half as an event of the stream."""
    STALE = "stale"
    """A list is answered with an old one, with its old resourceVersion."""


WRITES = frozenset({"create", "update", "patch", "delete"})
LISTS = frozenset({"list"})
WATCHES = frozenset({"watch"})


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault in force.

    Attributes:
        kind: What happens.
        share: Share of the requests that it happens to.
        verbs: Verbs it is about; all when empty.
        spared: Resources it leaves alone; by default the Lease, so that a fault does not just end the leadership.
        seconds: Real seconds of a delay, at most; Retry-After of a 429.
        status: Status code of a refusal.
    """

    kind: FaultKind
    share: float = 1.0
    verbs: frozenset[str] = frozenset()
    spared: frozenset[str] = frozenset({"leases"})
    seconds: float = 0.5
    status: int = 500


@dataclass(frozen=True, slots=True)
class Call:
    """A request, taken apart as far as faults need it."""

    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str


def call_of(request: web.Request) -> Call:
    """What a request asks for; verb ``other`` for discovery, health and the like."""
    parts = [part for part in request.path.split("/") if part]
    rest = parts[_GROUP_PREFIX.get(parts[0], len(parts)) :] if parts else []
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = (*rest, "", "", "")[:3]
    if not resource:
        return Call("other", "", "", "", "")
    verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(request.method, "get")
    if verb == "get" and not name:
        verb = "watch" if request.query.get("watch") in ("true", "1") else "list"
    return Call(verb, resource, subresource, namespace, name)


@dataclass
class FaultProxy:
    """The proxy.

    Attributes:
        faults: What is in force; the first that meets a request happens to it.
        counts: How often each kind of fault happened.
        deleted: For each pod UID how many DELETEs were answered with success.
        told_created: Names of pods whose creation was answered with success, as (namespace, name).
        lease_asked: When the operator last asked for its Lease, loop time: a sign of life.
        url: Where the operator connects to.
    """

    target: str
    context: ssl.SSLContext | None
    random: random.Random
    headers: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    deleted: Counter[str] = field(default_factory=Counter)
    told_created: list[tuple[str, str]] = field(default_factory=list)
    lease_asked: float | None = None
    url: str = ""
    _session: aiohttp.ClientSession | None = None
    _streams: set[asyncio.Transport] = field(default_factory=set)
    _lists: dict[tuple[str, str], deque[bytes]] = field(default_factory=dict)

    @property
    def away(self) -> bool:
        """Whether nothing at all is answered, the Lease included."""
        return any(f.kind is FaultKind.DROP and f.share >= 1.0 and not f.spared and not f.verbs for f in self.faults)

    def cut_watches(self) -> int:
        """Resets every open watch; returns how many there were."""
        streams = list(self._streams)
        for transport in streams:
            transport.abort()
        self.counts["cut"] += len(streams)
        return len(streams)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request of the operator."""
        call = call_of(request)
        if call.resource == "leases":
            self.lease_asked = asyncio.get_running_loop().time()
        fault = self._drawn(call)
        if fault is not None:
            self.counts[fault.kind] += 1
            answer = await self._happen(fault, call, request)
            if answer is not None:
                return answer
        lose = fault is not None and fault.kind is FaultKind.LOSE
        return await self._forward(call, request, lose=lose)

    def _drawn(self, call: Call) -> Fault | None:
        for fault in self.faults:
            if call.verb == "other" or call.resource in fault.spared or (fault.verbs and call.verb not in fault.verbs):
                continue
            if fault.kind is FaultKind.GONE and call.verb != "watch":
                continue
            if fault.kind is FaultKind.STALE and call.verb != "list":
                continue
            if self.random.random() < fault.share:
                return fault
        return None

    async def _happen(self, fault: Fault, call: Call, request: web.Request) -> web.StreamResponse | None:
        match fault.kind:
            case FaultKind.DELAY:
                await asyncio.sleep(self.random.uniform(0.2, 1.0) * fault.seconds)
            case FaultKind.DROP:
                return _hang_up(request)
            case FaultKind.REFUSE:
                return _refusal(fault.status, retry_after=fault.seconds)
            case FaultKind.GONE:
                return await self._gone(request)
            case FaultKind.STALE:
                kept = self._lists.get(_list_key(request))
                if kept:
                    return web.Response(body=kept[0], content_type="application/json")
        return None

    async def _gone(self, request: web.Request) -> web.StreamResponse:
        if self.random.random() < 0.5:
            return _refusal(410)
        event = {"type": "ERROR", "object": json.loads(_status(410))}
        return web.Response(body=json.dumps(event).encode() + b"\n", content_type="application/json")

    async def _forward(self, call: Call, request: web.Request, *, lose: bool) -> web.StreamResponse:
        if self._session is None:
            raise RuntimeError("the proxy has not been started")
        body = await request.read()
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP} | self.headers
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        try:
            async with self._session.request(
                request.method,
                self.target + request.raw_path,
                data=body or None,
                headers=headers,
                timeout=timeout,
                ssl=self.context if self.context is not None else True,
                allow_redirects=False,
            ) as answer:
                if call.verb == "watch":
                    return await self._stream(request, answer)
                content = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return _hang_up(request)
        if lose:
            return _hang_up(request)
        self._note(call, request, answer.status, body, content)
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
        return web.Response(status=answer.status, body=content, headers=kept)

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(
            status=answer.status, headers={k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
        )
        transport = request.transport
        if transport is None:
            return response
        self._streams.add(transport)
        try:
            await response.prepare(request)
            async for data in answer.content.iter_any():
                await response.write(data)
        except (aiohttp.ClientError, OSError):
            transport.abort()
        finally:
            self._streams.discard(transport)
        return response

    def _note(self, call: Call, request: web.Request, status: int, body: bytes, content: bytes) -> None:
        if call.verb == "list" and status == 200:
            kept = self._lists.setdefault(_list_key(request), deque(maxlen=_KEPT_LISTS))
            kept.append(content)
        if call.resource != "pods" or call.subresource or not 200 <= status <= 299:
            return
        if call.verb == "delete":
            uid = (json.loads(body or b"{}").get("preconditions") or {}).get("uid", call.name)
            self.deleted[uid] += 1
        elif call.verb == "create":
            meta = json.loads(content).get("metadata") or {}
            self.told_created.append((str(meta.get("namespace")), str(meta.get("name"))))


def _list_key(request: web.Request) -> tuple[str, str]:
    query = sorted((k, v) for k, v in request.query.items() if k not in ("resourceVersion", "timeoutSeconds"))
    return request.path, f"{query} {'PartialObject' in request.headers.get('Accept', '')}"


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _status(code: int) -> str:
    reason = _STATUS.get(code, "Unknown")
    fields = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return json.dumps({**fields, "code": code, "reason": reason, "message": f"injected fault: {reason}"})


def _refusal(code: int, *, retry_after: float = 1.0) -> web.Response:
    headers = {"Retry-After": str(max(1, round(retry_after)))} if code == 429 else None
    return web.Response(status=code, text=_status(code), content_type="application/json", headers=headers)


@asynccontextmanager
async def proxied(
    kubeconfig: Path, folder: Path, seed: int, prepare: Callable[[FaultProxy], None] = lambda _: None
) -> AsyncIterator[tuple[FaultProxy, Path]]:
    """A running proxy, and a kubeconfig that leads through it.

    Args:
        kubeconfig: Whose cluster and user the proxy uses.
        folder: Where the new kubeconfig goes.
        seed: Of the choice of requests.
        prepare: Called with the proxy before it serves.
    """
    settings = await load_configuration(str(kubeconfig))
    context = None
    if settings.host.startswith("https"):
        context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    token = settings.api_key.get("BearerToken")
    headers = {"Authorization": token} if token else {}
    proxy = FaultProxy(settings.host.rstrip("/"), context, random.Random(seed), headers)
    prepare(proxy)
    app = web.Application(client_max_size=4 << 20)
    app.router.add_route("*", "/{tail:.*}", proxy.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, trust_env=False, auto_decompress=False) as session:
        proxy._session = session
        await site.start()
        proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        path = folder / "proxied.kubeconfig"
        path.write_text(yaml.safe_dump(_plain(proxy.url)))
        try:
            yield proxy, path
        finally:
            proxy.cut_watches()
            await runner.cleanup()


def _plain(url: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
