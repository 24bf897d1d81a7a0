"""The watch of the many: pages, resuming, what a fresh list no longer shows, and when it gives up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest
from addresses import close
from aiohttp import web
from kubernetes.aio import client as kube
from warmfleet_operator.adapters import reflector as module
from warmfleet_operator.adapters.reflector import Reflector, WatchRefusedError
from warmfleet_operator.state.records import Key
from warmfleet_operator.state.snapshot import FleetStore, Kind
from warmfleet_runtime import resources
from warmfleet_runtime.clock import ManualClock

Json = dict[str, Any]
GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}


def node(name: str, version: int, uid: str = "") -> Json:
    return {"metadata": {"name": name, "uid": uid or f"u-{name}", "resourceVersion": str(version)}}


def page(*items: Json, version: int = 10, token: str = "") -> Json:
    return {"metadata": {"resourceVersion": str(version), "continue": token}, "items": list(items)}


def event(kind: str, item: Json) -> Json:
    return {"type": kind, "object": item}


DEEP = "nested without end"


def as_json(body: Json) -> str:
    """With 4,000 levels in place of a word: as a real API server was seen to take and show them."""
    return json.dumps(body).replace(f'"{DEEP}"', '{"a":' * 4000 + "1" + "}" * 4000)


class Server:
    """Answers lists and watches in the order given; a watch that is not scripted stays open and silent."""

    def __init__(self) -> None:
        self.lists: list[Json | int] = []
        self.watches: list[Iterable[Json] | int] = []
        self.asked: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        if "watch" not in request.query:
            found = self.lists.pop(0)
            return web.Response(status=found) if isinstance(found, int) else web.Response(text=as_json(found))
        script = self.watches.pop(0) if self.watches else None
        if isinstance(script, int):
            return web.Response(status=script)
        answer = web.StreamResponse()
        await answer.prepare(request)
        text = "".join(as_json(one) + "\n" for one in script or ())
        await answer.write(text[:7].encode())  # lines do not come in one piece
        await asyncio.sleep(0.01)
        await answer.write(text[7:].encode())
        if script is None:
            await asyncio.sleep(30)
        return answer


Run = Callable[..., tuple[FleetStore, "asyncio.Task[None]"]]


@pytest.fixture
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Server, Run]]:
    monkeypatch.setattr(module, "_SHORT", 0.0)
    server, app, tasks = Server(), web.Application(), []
    app.router.add_get("/api/v1/nodes", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    async def configure() -> kube.Configuration:
        configuration = kube.Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
        configuration.client_session_kwargs = {"trust_env": False}
        configuration.retries = False
        return configuration

    def run(backoffs: tuple[float, ...] = (0.01, 0.01)) -> tuple[FleetStore, asyncio.Task[None]]:
        store = FleetStore(ManualClock())
        how: dict[str, Any] = {"namespace": None, "selector": "a=b", "backoffs": backoffs}
        task = asyncio.create_task(Reflector(Kind.NODE, resources.NODES, store, configure, **how).run())
        tasks.append(task)
        return store, task

    yield server, run
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await close(runner)


async def until(store: FleetStore, *names: str) -> None:
    async with asyncio.timeout(20):
        while sorted(store.known(Kind.NODE)) != sorted(Key("", name) for name in names):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_pages_are_listed_and_the_watch_goes_on_from_the_last_event(running: tuple[Server, Run]) -> None:
    server, run = running
    server.lists = [page(node("a", 1), token="t"), page(node("b", 2), version=10)]
    bookmark = event("BOOKMARK", {"metadata": {"resourceVersion": "15"}})
    server.watches = [[event("ADDED", node("c", 11)), event("DELETED", node("a", 12)), bookmark], []]
    store, _ = run()
    await until(store, "b", "c")
    async with asyncio.timeout(20):
        while len(server.asked) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [query.get("continue") for query in server.asked[:2]] == [None, "t"]
    assert [query.get("resourceVersion") for query in server.asked[2:4]] == ["10", "15"]
    assert all(query["labelSelector"] == "a=b" for query in server.asked)


async def test_an_object_that_is_nested_without_end_hides_no_other(running: tuple[Server, Run]) -> None:
    server, run = running
    server.lists = [page({**node("deep", 1), "spec": {"x": DEEP}}, node("a", 2))]
    server.watches = [[event("MODIFIED", {**node("deep", 11), "spec": DEEP}), event("ADDED", node("b", 12))]]
    store, task = run(())
    await until(store, "deep", "a", "b")
    assert not task.done()


async def test_a_list_that_is_older_than_what_was_seen_brings_nothing_back(running: tuple[Server, Run]) -> None:
    """The API server has lost touch: its list still has ``a``, which this process has never seen or deleted."""
    server, run = running
    old, fresh = page(node("a", 1), node("b", 2), version=5), page(node("b", 21), version=22)
    server.lists = [page(node("b", 20), version=20), old, old, fresh]
    server.watches = [[event("MODIFIED", node("b", 21)), GONE]]
    store, task = run()
    async with asyncio.timeout(20):
        while server.lists:
            await asyncio.sleep(0.01)
            assert Key("", "a") not in store.known(Kind.NODE)
    await until(store, "b")
    assert not task.done()


async def test_an_api_server_that_never_catches_up_ends_the_watch(running: tuple[Server, Run]) -> None:
    server, run = running
    server.lists = [page(node("b", 20), version=20)] + [page(version=5)] * 3
    server.watches = [[GONE]]
    _, task = run()
    with pytest.raises(WatchRefusedError, match="older than what was seen"):
        await asyncio.wait_for(task, 20)


async def test_after_an_expired_version_what_vanished_meanwhile_is_forgotten(running: tuple[Server, Run]) -> None:
    server, run = running
    server.lists = [page(node("a", 1), node("b", 2)), page(node("b", 2), node("c", 20, "new"), version=30)]
    server.watches = [[event("ADDED", node("c", 11)), GONE]]
    store, _ = run()
    await until(store, "b", "c")
    assert store.known(Kind.NODE)[Key("", "c")] == "new"


async def test_a_server_that_comes_back_loses_nothing(running: tuple[Server, Run]) -> None:
    server, run = running
    server.lists = [503, page(node("a", 1))]
    server.watches = [500, [event("ADDED", node("b", 11))]]
    store, _ = run()
    await until(store, "a", "b")


async def test_a_watch_that_is_refused_again_and_again_ends_with_the_reason(running: tuple[Server, Run]) -> None:
    server, run = running
    server.lists = [page(node("a", 1))]
    server.watches = [403, 403, 403]
    _, task = run()
    with pytest.raises(WatchRefusedError, match="403"):
        await asyncio.wait_for(task, 20)
