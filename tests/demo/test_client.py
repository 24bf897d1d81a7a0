"""The clients against a small server that behaves, and one that cuts streams."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from warmfleet_cli.demo.client import Clients
from warmfleet_cli.demo.conversations import ConversationBook, Shape
from warmfleet_cli.demo.run import expected_answer
from warmfleet_runtime.clock import ScaledClock

SEEN = web.AppKey("seen", list[dict[str, Any]])
CUT = web.AppKey("cut", set[int])
SHAPE = Shape(
    tenants=2,
    system_tokens=20,
    document_tokens=10,
    user_tokens=5,
    kept_tokens=4,
    output_min=10,
    output_max=20,
    pause_min=20.0,
    pause_max=60.0,
)


async def answer(request: web.Request) -> web.StreamResponse:
    body: dict[str, Any] = await request.json()
    seen = request.app[SEEN]
    seen.append(body)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    words = expected_answer(body).split(" ")[1:]
    if len(seen) in request.app[CUT]:
        words = words[:3]
    for word in words:
        await response.write(b'data: {"choices": [{"delta": {"content": " %s"}}]}\n\n' % word.encode())
    if len(seen) not in request.app[CUT]:
        told = {
            "completion_tokens": body["max_tokens"],
            "prompt_tokens": 40,
            "prompt_tokens_details": {"cached_tokens": 30},
        }
        usage = json.dumps({"choices": [], "usage": told}).encode()
        await response.write(b'data: {"choices": [{"delta": {}, "finish_reason": "length"}]}\n\n')
        await response.write(b"data: " + usage + b"\n\ndata: [DONE]\n\n")
    return response


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async with await start() as running:
        yield running


def clients(server: TestServer, *more: TestServer) -> Clients:
    book = ConversationBook(SHAPE, model="m", seed=1)
    endpoints = {f"fleet-{i}": str(each.make_url("")) for i, each in enumerate([server, *more])}
    return Clients(endpoints, book, ScaledClock(600.0), expected=expected_answer)


async def start(*, cut: set[int] | None = None) -> TestServer:
    app = web.Application()
    app[SEEN], app[CUT] = [], cut or set()
    app.router.add_post("/v1/chat/completions", answer)
    return TestServer(app, host="127.0.0.1")


async def test_every_request_is_sent_once_and_checked(server: TestServer) -> None:
    sent = clients(server)
    await sent.run(np.linspace(0, 300, 40), start=0.0)
    tally = sent.tallies["fleet-0"]
    assert (tally.sent, tally.in_flight, tally.failures) == (40, 0, [])
    assert len(server.app[SEEN]) == 40
    assert all(outcome.ttft is not None and outcome.tokens >= 10 for outcome in tally.outcomes)
    assert {(outcome.prompt, outcome.cached) for outcome in tally.outcomes} == {(40, 30)}
    repeated = [outcome.repeated for outcome in tally.outcomes]
    assert repeated.count(0) == SHAPE.tenants, "the first to send a tenant's system prompt"
    assert set(repeated) == {0, SHAPE.system_tokens, 40}, "else that is known, or the session's prompt before"


async def test_two_fleets_get_the_same_requests_at_the_same_moments(server: TestServer) -> None:
    async with await start(cut={5}) as other:
        sent = clients(server, other)
        await sent.run(np.linspace(0, 300, 40), start=0.0)
        first, second = server.app[SEEN], other.app[SEEN]
        assert sorted(map(json.dumps, first)) == sorted(map(json.dumps, second))
        assert [len(tally.failures) for tally in sent.tallies.values()] == [0, 1]
        cut = second[4]["messages"]
        longer = [b["messages"] for b in first if len(b["messages"]) > len(cut) and b["messages"][: len(cut)] == cut]
        assert not longer, "a session that one of them has not answered does not go on"
        moments = [{round(outcome.sent, 6) for outcome in tally.outcomes} for tally in sent.tallies.values()]
        assert len(moments[0]) == len(moments[1]) == 40


async def test_a_cut_stream_fails_and_is_not_tried_again(server: TestServer) -> None:
    server.app[CUT].update({3, 17})
    sent = clients(server)
    await sent.run(np.linspace(0, 300, 20), start=0.0)
    assert len(server.app[SEEN]) == 20
    failures = sent.tallies["fleet-0"].failures
    assert len(failures) == 2
    assert all("cut off" in (outcome.failure or "") and outcome.tokens == 0 for outcome in failures)


async def test_conversations_grow_from_a_shared_system_prompt(server: TestServer) -> None:
    sent = clients(server)
    await sent.run(np.linspace(0, 1200, 60), start=0.0)
    bodies = server.app[SEEN]
    assert len({body["messages"][0]["content"] for body in bodies}) <= SHAPE.tenants
    longest = max(bodies, key=lambda body: len(body["messages"]))["messages"]
    assert len(longest) >= 4
    earlier = [body["messages"] for body in bodies if body["messages"] == longest[:-2]]
    assert earlier, "a follow-up repeats its conversation word for word"
    assert max(len(body["messages"]) for body in bodies) <= 2 * SHAPE.max_turns


def test_a_session_comes_back_after_its_pause_and_is_given_up_when_it_cannot() -> None:
    book = ConversationBook(SHAPE, model="m", seed=1)
    first = book.next(0.0)
    book.answered(first, "a b c d e f", 10.0)
    assert book.next(29.0).conversation is not first.conversation, "not before its shortest pause"
    came = next((t for t in range(30, 200) if book.next(float(t)).conversation is first.conversation), None)
    assert came is not None
    second = book.next(1000.0)
    book.answered(second, "a b c d e f", 1000.0)
    later = 1000.0 + SHAPE.pause_max + SHAPE.patience + 1.0
    assert all(book.next(later).conversation is not second.conversation for _ in range(50))
