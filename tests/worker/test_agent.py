"""The agent's loop and protocol against a scripted engine, on a clock that stands still."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer
from warmfleet_contracts.agent import AgentState, DrainRequest, EngineCounters, LatencyState, Phase, Strategy
from warmfleet_runtime.clock import ManualClock
from warmfleet_worker.agent import Agent
from warmfleet_worker.drain_events import HandoverFinished, HandoverProgress
from warmfleet_worker.engines.base import Health, Load, Observation, OffloadState
from warmfleet_worker.kv.cache import build
from warmfleet_worker.kv.handover import Progress
from warmfleet_worker.kv.replay import ReplayHandover
from warmfleet_worker.server import AgentServer
from warmfleet_worker.settings import Settings, SettingsError, settings_from_env

REFUSED = Observation(Health.REFUSED, problem="refused")
UNWELL = Observation(Health.UNWELL, problem="HTTP 500")
BLIND = Observation(Health.READY, problem="no metrics")


def busy(running: int, waiting: int = 0) -> Observation:
    return Observation(Health.READY, Load(running, waiting, 0.1, 1000, EngineCounters(), LatencyState()))


class ScriptedEngine:
    def __init__(self) -> None:
        self.now = REFUSED

    async def observe(self) -> Observation:
        return self.now

    async def close(self) -> None:
        pass


class Bench:
    def __init__(self) -> None:
        self.clock, self.engine = ManualClock(), ScriptedEngine()
        settings = Settings("uid-1", "127.0.0.1", unroute=2.0, unroute_real=0.5, drain_deadline=100.0)
        self.agent = Agent(settings, self.engine, self.clock)
        self.client = TestClient(TestServer(AgentServer(self.agent).app()))

    async def look(self, observation: Observation, times: int = 1) -> None:
        self.engine.now = observation
        await self.wait(times)

    async def wait(self, seconds: float) -> None:
        passed = 0.0
        while passed < seconds:
            self.clock.advance(0.5)
            passed += 0.5
            for _ in range(10):
                await asyncio.sleep(0)

    async def state(self) -> AgentState:
        return AgentState.model_validate_json(await (await self.client.get("/v1/state")).text())

    async def drain(self, deadline: float = 60.0, **more) -> int:
        body = {"reason": "LowestKvValue", "deadlineSeconds": deadline, **more}
        return (await self.client.post("/v1/drain", json=body)).status

    async def ready(self) -> bool:
        return (await self.client.get("/readyz")).status == 200


@pytest.fixture
async def bench():
    bench = Bench()
    await bench.client.start_server()
    loop = asyncio.create_task(bench.agent.run())
    yield bench
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    await bench.client.close()


async def test_ready_follows_the_engine(bench: Bench) -> None:
    assert not await bench.ready()
    await bench.look(busy(0), 2)
    assert await bench.ready()
    state = await bench.state()
    assert (state.phase, state.pod_uid) == (Phase.SERVING, "uid-1")
    assert state.engine.ready_after_seconds is not None
    await bench.look(UNWELL, 2)
    assert await bench.ready(), "a hiccup is not the end"
    await bench.look(UNWELL, 2)
    assert not await bench.ready()
    await bench.look(busy(0), 1)
    assert await bench.ready()
    await bench.look(REFUSED, 1)
    assert not await bench.ready(), "a closed port is believed at once"
    assert (await bench.state()).counters is None


async def test_a_drain_runs_to_its_end(bench: Bench) -> None:
    await bench.look(busy(2), 2)
    assert await bench.drain() == 202
    assert not await bench.ready()
    await bench.wait(2)
    assert (await bench.state()).phase is Phase.SETTLING
    await bench.wait(10)
    state = await bench.state()
    assert state.phase is Phase.SETTLING
    assert state.drain is not None
    assert state.drain.cancellable
    await bench.look(busy(0), 3)
    state = await bench.state()
    assert state.phase is Phase.DRAINED
    assert state.drain is not None
    assert state.drain.report is not None
    assert not state.drain.report.partial
    assert (await bench.client.delete("/v1/drain")).status == 409


class Recorded:
    """A strategy that ends when it is told that the requests have."""

    begins_ahead = True

    def __init__(self) -> None:
        self.begun: list[bool] = []

    async def run(self, budget: float, progress: Progress, settled: asyncio.Event | None = None) -> HandoverFinished:
        assert settled is not None
        self.begun.append(settled.is_set())
        progress(HandoverProgress(5, 10))
        await settled.wait()
        return HandoverFinished(20, 15, 0)


@pytest.mark.parametrize("host_memory", [True, False])
async def test_with_host_memory_migrate_begins_while_requests_run(bench: Bench, host_memory: bool) -> None:
    recorded = bench.agent._cache.strategies[Strategy.MIGRATE] = Recorded()
    offload = OffloadState(0, 0, 0) if host_memory else None

    def seen(running: int) -> Observation:
        load = Load(running, 0, 0.1, 1000, EngineCounters(), LatencyState(), offload)
        return Observation(Health.READY, load)

    await bench.look(seen(1), 2)
    assert await bench.drain(strategies=["migrate"]) == 202
    await bench.wait(4)
    assert (await bench.state()).phase is Phase.SETTLING
    assert recorded.begun == [False] * host_memory
    assert (await bench.client.delete("/v1/drain")).status == 200
    assert await bench.drain(strategies=["migrate"]) == 202
    await bench.wait(4)
    await bench.look(seen(0), 4)
    assert recorded.begun == ([False, False] if host_memory else [True]), "begun once per drain, and not again"
    state = await bench.state()
    assert state.phase is Phase.DRAINED
    assert state.drain is not None
    assert state.drain.report is not None
    assert (state.drain.report.strategy, state.drain.report.moved_tokens) == (Strategy.MIGRATE, 15)


async def test_the_deadline_only_tightens(bench: Bench) -> None:
    await bench.look(busy(1), 2)
    await bench.drain(60)
    await bench.drain(10)
    await bench.drain(300)
    state = await bench.state()
    assert state.drain is not None
    assert state.drain.remaining_seconds == 10
    await bench.wait(11)
    state = await bench.state()
    assert state.phase is Phase.DRAINED
    assert state.drain is not None
    assert state.drain.report is not None
    assert (state.drain.report.partial, state.drain.report.aborted_requests) == (True, 1)


async def test_cancel_brings_it_back(bench: Bench) -> None:
    await bench.look(busy(1), 2)
    assert (await bench.client.delete("/v1/drain")).status == 200
    await bench.drain()
    await bench.wait(5)
    assert (await bench.client.delete("/v1/drain")).status == 200
    assert await bench.ready()
    assert (await bench.state()).drain is None


async def test_what_an_order_leaves_no_room_for_holds_until_it_is_cancelled() -> None:
    settings = Settings(
        "uid-1", "127.0.0.1", kv_events="ipc:///nowhere", handover=(Strategy.REPLAY,), endpoint="http://192.0.2.1"
    )
    engine, clock = ScriptedEngine(), ManualClock()
    cache = build(settings, engine, clock)
    replay = cache.strategies[Strategy.REPLAY]
    assert isinstance(replay, ReplayHandover)
    agent = Agent(settings, engine, clock, cache)
    agent.drain(DrainRequest(reason="LowestKvValue", deadline_seconds=60, used_within_seconds=75))
    assert replay.used_within == 75.0
    agent.cancel()
    assert replay.used_within is None, "a departure that nobody orders brings all that is hot"
    cache.close()


async def test_prestop_blocks_until_drained_and_is_final(bench: Bench) -> None:
    await bench.look(busy(1), 2)
    hook = asyncio.create_task(bench.client.get("/v1/prestop?deadline=30"))
    await bench.wait(5)
    assert not hook.done()
    assert (await bench.client.delete("/v1/drain")).status == 409
    await bench.look(busy(0), 3)
    answer = await asyncio.wait_for(hook, 5)
    state = AgentState.model_validate_json(await answer.text())
    assert (answer.status, state.phase) == (200, Phase.DRAINED)
    assert not state.engine.ready
    assert (await asyncio.wait_for(bench.client.get("/v1/prestop"), 5)).status == 200


async def test_prestop_uses_the_configured_deadline_and_never_outlives_it(bench: Bench) -> None:
    await bench.look(BLIND, 2)
    hook = asyncio.create_task(bench.client.get("/v1/prestop"))
    await bench.wait(98)
    assert not hook.done(), "an unknown load is not idle"
    await bench.wait(4)
    assert (await asyncio.wait_for(hook, 5)).status == 200


async def test_an_engine_restarted_by_its_liveness_probe_serves_again(bench: Bench) -> None:
    await bench.look(busy(0), 2)
    hook = asyncio.create_task(bench.client.get("/v1/prestop"))
    await bench.wait(8)
    assert (await asyncio.wait_for(hook, 5)).status == 200
    await bench.look(REFUSED, 4)
    await bench.look(busy(0), 2)
    assert await bench.ready()


async def test_an_engine_that_dies_ends_the_drain(bench: Bench) -> None:
    await bench.look(busy(3), 2)
    await bench.drain()
    await bench.look(REFUSED, 4)
    state = await bench.state()
    assert state.phase is Phase.DRAINED
    assert state.drain is not None
    assert state.drain.report is not None
    assert state.drain.report.aborted_requests == 3


async def test_a_worker_that_is_still_starting_goes_at_once(bench: Bench) -> None:
    await bench.look(REFUSED, 4)
    await bench.drain()
    assert (await bench.state()).phase is Phase.DRAINED


async def test_a_strategy_this_agent_lacks_is_named(bench: Bench) -> None:
    await bench.look(busy(0), 2)
    await bench.drain(strategies=["store", "none"])
    await bench.wait(6)
    state = await bench.state()
    assert state.drain is not None
    assert state.drain.report is not None
    assert state.drain.report.partial
    assert "no hand-over by store" in state.drain.report.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "JSON"),
        ("[]", "object"),
        ('{"reason": "x"}', "deadlineSeconds"),
        ('{"reason": "", "deadlineSeconds": 1}', "reason"),
        ('{"reason": "x", "deadlineSeconds": -1}', "deadlineSeconds"),
        ('{"reason": "x", "deadlineSeconds": 1e999}', "deadlineSeconds"),
        ('{"reason": "x", "deadlineSeconds": 1, "strategies": ["magic"]}', "strategies"),
        ('{"reason": "x", "deadlineSeconds": 1, "strategies": []}', "strategies"),
    ],
)
async def test_bad_drain_requests_are_refused(bench: Bench, body: str, words: str) -> None:
    answer = await bench.client.post("/v1/drain", data=body)
    assert answer.status == 400
    assert words in (await answer.json())["error"]
    assert (await bench.state()).drain is None


@pytest.mark.parametrize("deadline", ["x", "-1", "nan", "1e9"])
async def test_bad_prestop_deadlines_are_refused(bench: Bench, deadline: str) -> None:
    answer = await bench.client.get("/v1/prestop", params={"deadline": deadline})
    assert answer.status == 400
    assert (await bench.state()).drain is None


async def test_own_health_and_metrics(bench: Bench) -> None:
    await bench.look(busy(0), 2)
    assert (await bench.client.get("/healthz")).status == 200
    text = await (await bench.client.get("/metrics")).text()
    assert 'warmfleet_agent_phase{phase="Serving"} 1.0' in text
    assert "warmfleet_agent_ready 1.0" in text
    bench.agent.looked_at -= 1000
    assert (await bench.client.get("/healthz")).status == 503


GOOD = {"WARMFLEET_POD_UID": "u", "WARMFLEET_POD_IP": "10.0.0.7"}


def test_settings_have_defaults_and_scale() -> None:
    settings = settings_from_env(GOOD)
    assert (settings.port, settings.engine_url) == (9600, "http://127.0.0.1:8000")
    assert settings.propagation(1.0) == 2.0
    assert settings.propagation(60.0) == 90.0
    assert settings.period(1.0) == 1.0
    assert settings.period(60.0) == 15.0
    assert settings.period(60.0, urgent=True) == 6.0


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"WARMFLEET_POD_UID": ""}, "WARMFLEET_POD_UID"),
        ({"WARMFLEET_POD_IP": ""}, "WARMFLEET_POD_IP"),
        ({"WARMFLEET_POD_IP": "worker-1"}, "WARMFLEET_POD_IP"),
        ({"WARMFLEET_AGENT_PORT": "0"}, "WARMFLEET_AGENT_PORT"),
        ({"WARMFLEET_ENGINE_URL": "localhost:8000"}, "WARMFLEET_ENGINE_URL"),
        ({"WARMFLEET_ENGINE_URL": "http://h/path"}, "WARMFLEET_ENGINE_URL"),
        ({"WARMFLEET_SLO_TTFT_SECONDS": "2s"}, "WARMFLEET_SLO_TTFT_SECONDS"),
        ({"WARMFLEET_SLO_TPOT_SECONDS": "0"}, "WARMFLEET_SLO_TPOT_SECONDS"),
        ({"WARMFLEET_POLL_SECONDS": "nan"}, "WARMFLEET_POLL_SECONDS"),
        ({"WARMFLEET_UNROUTE_SECONDS": "-1"}, "WARMFLEET_UNROUTE_SECONDS"),
        ({"WARMFLEET_DRAIN_DEADLINE_SECONDS": "inf"}, "WARMFLEET_DRAIN_DEADLINE_SECONDS"),
    ],
)
def test_wrong_settings_are_named(changed, name) -> None:
    with pytest.raises(SettingsError, match=name):
        settings_from_env(GOOD | changed)
