"""Fleets measured through Prometheus: what is read, what counts as no answer, and who is still asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from addresses import close
from aiohttp import web
from warmfleet_contracts.agent import AgentState
from warmfleet_operator.adapters.agents import AgentClient, NoAnswerError
from warmfleet_operator.adapters.prometheus import DEPLOYMENT, MOST_BYTES, PrometheusSource, parse, queries
from warmfleet_operator.adapters.telemetry import Telemetry
from warmfleet_operator.state.fleetsamples import FleetSample
from warmfleet_operator.state.readings import Readings
from warmfleet_operator.state.records import FleetSnapshot, Key, WorkerPhase, WorkerRecord
from warmfleet_runtime.clock import ManualClock

CHAT = Key("prod", "chat")


def vector(*values: tuple[Mapping[str, str], str]) -> bytes:
    result: list[Any] = [{"metric": dict(labels), "value": [1.5, value]} for labels, value in values]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


def worker(name: str, phase: WorkerPhase = WorkerPhase.READY) -> WorkerRecord:
    return WorkerRecord(Key("prod", name), name, "1", "chat", "a", "h100", "r", phase, 1, 0.0)


def test_what_is_no_number_or_below_zero_is_not_known() -> None:
    chat, nan, below = ({"namespace": "prod", DEPLOYMENT: name} for name in ("chat", "nan", "below"))
    assert parse(vector((chat, "4.5"), (nan, "NaN"), (below, "-1"))) == {CHAT: 4.5}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"data":{"result":[{"metric":{},"value":["x"]}]}}',
        b"\xff",
        b'{"data":1}',
        b'{"data":{"result":[],"odd":' + b"[" * 5000 + b"]" * 5000 + b"}}",
    ],
)
def test_nonsense_is_no_answer(body: bytes) -> None:
    with pytest.raises(NoAnswerError):
        parse(body)


def test_every_field_has_a_query() -> None:
    assert queries(60, 300).keys() == FleetSample.__dataclass_fields__.keys()


def test_a_sample_stands_for_the_agents_until_it_is_too_old() -> None:
    readings = Readings(20, 300, stale_after=60)
    readings.fleets_answered({CHAT: FleetSample(arrivals=4.0, queue=2.0, reporting=1.0)}, 100.0)
    workers = [worker("a"), worker("b"), worker("c", WorkerPhase.STARTING)]
    demand = readings.demand(CHAT, workers, (), 120.0)
    assert (demand.at, demand.arrivals, demand.queue, demand.sources) == (100.0, 4.0, 2, ("prometheus",))
    assert (demand.reporting_workers, demand.silent_workers) == (1, 1)
    assert demand.input_tokens is None
    assert readings.demand(Key("prod", "other"), workers, (), 120.0).arrivals is None
    assert readings.demand(CHAT, workers, (), 161.0).arrivals is None


@asynccontextmanager
async def prometheus(answer: Callable[[str], Awaitable[web.Response]]) -> AsyncIterator[PrometheusSource]:
    """A source whose server answers queries as told."""

    async def handle(request: web.Request) -> web.Response:
        return await answer(str((await request.post())["query"]))

    app = web.Application()
    app.router.add_post("/api/v1/query", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with aiohttp.ClientSession(trust_env=False) as session:
            yield PrometheusSource(url, session, rate_window=60, mean_window=300, timeout_seconds=0.3)
    finally:
        await close(runner)


async def test_means_are_asked_for_now_and_then_and_the_rest_each_time() -> None:
    asked: list[str] = []

    async def answer(query: str) -> web.Response:
        asked.append(query)
        return web.Response(body=vector(({"namespace": "prod", DEPLOYMENT: "chat"}, str(len(asked)))))

    async with prometheus(answer) as source:
        samples = [(await source.read(now))[CHAT] for now in (100.0, 102.0, 131.0)]
    assert len(asked) == 7 + 4 + 7
    assert samples[0].hit_ratio == samples[1].hit_ratio
    assert samples[1].hit_ratio != samples[2].hit_ratio
    assert len({sample.arrivals for sample in samples}) == 3


@pytest.mark.parametrize("mode", ["hangs", "refuses", "lies", "is endless"])
async def test_a_prometheus_that_is_not_well_is_no_answer_and_takes_no_time(mode: str) -> None:
    async def answer(_: str) -> web.Response:
        if mode == "hangs":
            await asyncio.sleep(60)
        status = 503 if mode == "refuses" else 200
        return web.Response(status=status, body=b"x" * (MOST_BYTES + 1) if mode == "is endless" else b'{"data":{}}')

    async with prometheus(answer) as source:
        async with asyncio.timeout(20):
            with pytest.raises(NoAnswerError):
                await source.read(0.0)


async def test_a_prometheus_that_is_not_there_is_no_answer() -> None:
    async with aiohttp.ClientSession(trust_env=False) as session:
        source = PrometheusSource("http://127.0.0.1:9", session, rate_window=60, mean_window=300)
        with pytest.raises(NoAnswerError):
            await source.read(0.0)


async def test_a_step_of_traffic_does_not_wait_for_agents_that_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = iter((1.0, 50.0))

    class Steps:
        async def read(self, now: float) -> Mapping[Key, FleetSample]:
            return {CHAT: FleetSample(arrivals=next(arrivals))}

    async def hang(client: AgentClient, of: WorkerRecord) -> AgentState:
        await asyncio.sleep(60)
        raise NoAnswerError("timeout")

    monkeypatch.setattr(AgentClient, "state", hang)
    starting = replace(worker("a", WorkerPhase.STARTING), ip="127.0.0.1")
    store = Mock(routers=lambda: ())
    store.snapshot.return_value = FleetSnapshot({}, {}, (starting,), {}, {}, {})
    told, readings = asyncio.Event(), Readings(20, 300, stale_after=60)
    telemetry = Telemetry(
        store, readings, ManualClock(), period=2.0, on_news=told.set, on_failure=Mock(), timeout_seconds=0.5,
        fleets=Steps(),
    )  # fmt: skip
    async with aiohttp.ClientSession(trust_env=False) as session:
        await telemetry.round(session)
        readings.decided_on()
        told.clear()
        running = asyncio.create_task(telemetry.round(session))
        async with asyncio.timeout(20):
            await told.wait()
        assert not running.done(), "the agent was waited for"
        await running
        await telemetry._turns.close()
