"""List and watch: resuming, bookmarks, and starting again after 410 without losing what happened in between."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from warmfleet_runtime.kubeclient import Event, KubeClient
from warmfleet_runtime.resources import INSTANCE_TYPES, PODS
from warmfleet_runtime.rest import ApiError


def pod(name: str, version: int, uid: str = "") -> dict:
    metadata = {"name": name, "namespace": "default", "uid": uid or name, "resourceVersion": str(version)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


class ScriptedApi:
    """Answers lists and watches from a script; a watch without one stays open."""

    def __init__(self) -> None:
        self.lists: list[tuple[int, list[dict]]] = []
        self.watches: list[list[dict]] = []
        self.asked: list[str] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            self.asked.append("list")
            version, items = self.lists.pop(0)
            return web.json_response({"metadata": {"resourceVersion": str(version)}, "items": items})
        self.asked.append(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if not self.watches:
            await asyncio.sleep(30)
            return response
        for event in self.watches.pop(0):
            await response.write(json.dumps(event).encode() + b"\n")
        return response


@pytest.fixture
async def api() -> AsyncIterator[ScriptedApi]:
    api, app = ScriptedApi(), web.Application()
    app.router.add_route("*", "/api/v1/pods", api.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield api
    await runner.cleanup()


async def events(api: ScriptedApi, until: str) -> list[tuple[str, str]]:
    """What `follow` reports, up to the given `TYPE name`."""
    seen: list[tuple[str, str]] = []

    async def collect(client: KubeClient) -> None:
        stream = client.follow(PODS)
        async for event in stream:
            seen.append((event.type, _name(event)))
            if " ".join(seen[-1]).strip() == until:
                await stream.aclose()
                return

    async with KubeClient.for_server(api.url) as client:
        await asyncio.wait_for(collect(client), 5)
    return seen


def _name(event: Event) -> str:
    return str(event.object.get("metadata", {}).get("name", ""))


def bookmark(version: int) -> dict:
    return {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": str(version)}}}


GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}


async def test_a_watch_resumes_from_the_last_event_or_bookmark(api: ScriptedApi) -> None:
    api.lists = [(5, [pod("a", 3)])]
    api.watches = [
        [{"type": "ADDED", "object": pod("b", 7)}],
        [bookmark(20)],
        [{"type": "DELETED", "object": pod("a", 22)}],
    ]
    seen = await events(api, "DELETED a")
    assert seen == [("ADDED", "a"), ("SYNCED", ""), ("ADDED", "b"), ("DELETED", "a")]
    assert api.asked == ["list", "5", "7", "20"]


async def test_after_410_only_the_differences_are_reported(api: ScriptedApi) -> None:
    api.lists = [
        (5, [pod("same", 1), pod("changed", 2), pod("lost", 3), pod("reborn", 4)]),
        (50, [pod("same", 1), pod("changed", 40), pod("reborn", 41, uid="other"), pod("new", 42)]),
    ]
    api.watches = [[GONE]]
    seen = await events(api, "ADDED new")
    assert api.asked == ["list", "5", "list"]
    assert seen[5:] == [
        ("DELETED", "lost"),
        ("DELETED", "reborn"),
        ("MODIFIED", "changed"),
        ("ADDED", "reborn"),
        ("ADDED", "new"),
    ]


async def test_garbage_leads_to_a_fresh_list(api: ScriptedApi) -> None:
    api.lists = [(5, []), (9, [pod("a", 8)])]
    api.watches = [[{"nonsense": True}]]
    assert await events(api, "ADDED a") == [("SYNCED", ""), ("ADDED", "a")]


async def test_errors_name_the_request_and_the_reason(api: ScriptedApi) -> None:
    async with KubeClient.for_server(api.url) as client:
        with pytest.raises(ApiError, match="GET /api/v1/namespaces/default/pods/x: 404") as caught:
            await client.get(PODS, "x", "default")
        assert caught.value.status == 404
        with pytest.raises(ValueError, match="namespace is required"):
            await client.get(PODS, "x")


def test_paths() -> None:
    assert PODS.path(None) == "/api/v1/pods"
    assert PODS.path("n", "p", "status") == "/api/v1/namespaces/n/pods/p/status"
    custom = INSTANCE_TYPES
    assert custom.path(None, "l4") == "/apis/warmfleet.dev/v1alpha1/instancetypes/l4"
