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
SHAPE = Shape(tenants=2, system_tokens=20, user_tokens=5, kept_tokens=4, output_min=10, output_max=20)


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
        usage = json.dumps({"choices": [], "usage": {"completion_tokens": body["max_tokens"]}}).encode()
        await response.write(b'data: {"choices": [{"delta": {}, "finish_reason": "length"}]}\n\n')
        await response.write(b"data: " + usage + b"\n\ndata: [DONE]\n\n")
    return response


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    app = web.Application()
    app[SEEN], app[CUT] = [], set()
    app.router.add_post("/v1/chat/completions", answer)
    async with TestServer(app, host="127.0.0.1") as running:
        yield running


def clients(server: TestServer) -> Clients:
    book = ConversationBook(SHAPE, model="m", seed=1)
    return Clients(str(server.make_url("")), book, ScaledClock(600.0), expected=expected_answer)


async def test_every_request_is_sent_once_and_checked(server: TestServer) -> None:
    sent = clients(server)
    await sent.run(np.linspace(0, 300, 40), start=0.0)
    assert (sent.tally.sent, sent.tally.in_flight, sent.tally.failures) == (40, 0, [])
    assert len(server.app[SEEN]) == 40
    assert all(outcome.ttft is not None and outcome.tokens >= 10 for outcome in sent.tally.outcomes)


async def test_a_cut_stream_fails_and_is_not_tried_again(server: TestServer) -> None:
    server.app[CUT].update({3, 17})
    sent = clients(server)
    await sent.run(np.linspace(0, 300, 20), start=0.0)
    assert len(server.app[SEEN]) == 20
    assert len(sent.tally.failures) == 2
    assert all("cut off" in (outcome.failure or "") and outcome.tokens == 0 for outcome in sent.tally.failures)


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
