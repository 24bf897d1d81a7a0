"""The API client: what is tried again, what is surfaced, what is never sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from addresses import close
from aiohttp import web
from kubernetes.aio import client as kube
from warmfleet_operator.adapters.kube import KubeApi, KubeError, TokenBucket
from warmfleet_operator.adapters.lease import NotLeaderError
from warmfleet_runtime import resources


class Server:
    def __init__(self) -> None:
        self.answers: list[web.Response] = []
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        self.seen.append((request.method, request.path_qs, dict(request.headers), body))
        return self.answers.pop(0) if self.answers else web.json_response({"metadata": {"name": "x"}})


Make = Callable[..., KubeApi]


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, Make]]:
    handler, app, made = Server(), web.Application(), []
    app.router.add_route("*", "/{tail:.*}", handler.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    def make(**how: Any) -> KubeApi:
        configuration = kube.Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
        configuration.client_session_kwargs = {"trust_env": False}
        configuration.retries = False
        made.append(KubeApi(configuration, **how))
        return made[-1]

    yield handler, make
    for api in made:
        await api.close()
    await close(runner)


async def test_overload_and_failures_are_tried_again(server: tuple[Server, Make]) -> None:
    handler, make = server
    handler.answers = [web.Response(status=429, headers={"Retry-After": "0"}), web.Response(status=503)]
    codes: list[int] = []
    api = make(observe=lambda _verb, _plural, code: codes.append(code))
    await api.create(resources.PODS, {"metadata": {"name": "x"}}, "n")
    assert codes == [429, 503, 200]
    assert handler.seen[0][2]["User-Agent"] == "warmfleet-operator"


async def test_a_conflict_is_surfaced_at_once(server: tuple[Server, Make]) -> None:
    handler, make = server
    handler.answers = [web.json_response({"reason": "Conflict", "message": "m"}, status=409)]
    with pytest.raises(KubeError) as caught:
        await make().patch(resources.PODS, "x", {}, "n")
    assert (caught.value.status, caught.value.reason, len(handler.seen)) == (409, "Conflict", 1)


async def test_nothing_is_written_without_leadership_but_reading_goes_on(server: tuple[Server, Make]) -> None:
    handler, make = server

    def refuse() -> None:
        raise NotLeaderError("no")

    api = make(guard=refuse)
    with pytest.raises(NotLeaderError):
        await api.delete(resources.PODS, "x", "n")
    assert handler.seen == []
    await api.get(resources.PODS, "x", "n")
    assert len(handler.seen) == 1


async def test_leadership_is_checked_before_each_attempt(server: tuple[Server, Make]) -> None:
    handler, make = server
    handler.answers = [web.Response(status=503)] * 3
    calls = []

    def guard() -> None:
        calls.append(1)
        if handler.seen:
            raise NotLeaderError("lost meanwhile")

    with pytest.raises(NotLeaderError):
        await make(guard=guard).create(resources.PODS, {"metadata": {"name": "x"}}, "n")
    assert len(handler.seen) == 1


async def test_deletes_carry_their_preconditions(server: tuple[Server, Make]) -> None:
    handler, make = server
    await make().delete(resources.PODS, "x", "n", uid="u", resource_version="5", grace_seconds=7)
    assert handler.seen[0][3]["preconditions"] == {"uid": "u", "resourceVersion": "5"}
    assert handler.seen[0][3]["gracePeriodSeconds"] == 7


async def test_lists_are_read_page_by_page(server: tuple[Server, Make]) -> None:
    handler, make = server
    pages = [
        web.json_response({"items": [{"a": 1}], "metadata": {"continue": "t"}}),
        web.json_response({"items": [{"a": 2}], "metadata": {}}),
    ]
    handler.answers = pages
    assert await make().list(resources.PODS, label_selector="a=b") == [{"a": 1}, {"a": 2}]
    assert "continue=t" in handler.seen[1][1]


async def test_of_a_list_of_metadata_only_the_identities_are_kept(server: tuple[Server, Make]) -> None:
    handler, make = server
    identity = {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7"}
    item = {"metadata": {**identity, "managedFields": [{"fieldsV1": {"f:x": {}}}], "labels": {"k": "v"}}}
    handler.answers = [
        web.json_response({"items": [item], "metadata": {"continue": "t", "resourceVersion": "9"}}),
        web.json_response({"items": None, "metadata": {"continue": None}}),
        web.json_response({"items": [{"metadata": []}]}),
    ]
    assert await make().list(resources.PODS, metadata_only=True) == [{"metadata": identity}]
    with pytest.raises(KubeError, match="InvalidAnswer"):
        await make().list(resources.PODS, metadata_only=True)


async def test_an_unreachable_server_is_an_uncertain_error() -> None:
    configuration = kube.Configuration(host="http://127.0.0.1:1")
    configuration.retries = False
    api = KubeApi(configuration)
    error, wait = await api._once("GET", resources.PODS, "/api/v1/pods")
    assert isinstance(error, KubeError)
    assert error.uncertain
    assert wait == 0.0
    await api.close()


async def test_the_token_bucket_refills() -> None:
    now = [0.0]
    bucket = TokenBucket(10.0, 2, lambda: now[0])
    await bucket.take()
    await bucket.take()
    assert bucket._tokens == 0
    now[0] = 0.1
    await bucket.take()
    assert bucket._tokens == pytest.approx(0)
