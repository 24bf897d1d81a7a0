"""Migrate: survivors pull a leaving worker's hot blocks; two simulated engines with the NixlConnector."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from handovers import ask, at_work, text
from warmfleet_contracts.agent import EngineCounters, Strategy
from warmfleet_worker.agent import Agent
from warmfleet_worker.drain_events import EngineExited, EngineReady, HandoverFinished, HandoverProgress
from warmfleet_worker.engines.base import Health, Load, Observation
from warmfleet_worker.engines.simulated.config import ConfigError, parse_config
from warmfleet_worker.engines.simulated.engine import Engine
from warmfleet_worker.engines.vllm import VllmEngine
from warmfleet_worker.kv.cache import WorkerCache, build
from warmfleet_worker.kv.handover import HandoverError
from warmfleet_worker.kv.physics import SHARE, Physics
from warmfleet_worker.settings import Settings

BLOCK = 16
NIXL = {"kv_connector": "NixlConnector", "kv_connector_extra_config": {"kv_lease_duration": 10}}
CONNECTOR = ("--kv-transfer-config", json.dumps(NIXL))
SIDE = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": "0"}


@dataclass
class Fleet:
    """A worker that leaves, and one that stays."""

    cache: WorkerCache
    adapter: VllmEngine
    engine: Engine
    survivor: Engine
    leaving: object
    staying: object

    async def hand_over(self, budget: float = 600.0) -> HandoverFinished:
        return await self.cache.strategies[Strategy.MIGRATE].run(budget, lambda _: None)

    async def holds(self, tokens: int) -> None:
        async with asyncio.timeout(60):
            while self.cache.held_tokens != tokens:  # noqa: ASYNC110 - events come from another thread
                await asyncio.sleep(0.01)


def whole(answer: dict) -> int:
    return answer["usage"]["prompt_tokens"] // BLOCK * BLOCK


@pytest.fixture
async def fleet(launch, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    folder: Path = tmp_path_factory.mktemp("m")
    events, replay = f"ipc://{folder}/e", f"ipc://{folder}/r"
    published = {"enable_kv_cache_events": True, "endpoint": events, "replay_endpoint": replay}
    engine, leaving = await launch("--kv-events-config", json.dumps(published), *CONNECTOR, **SIDE)
    survivor, staying = await launch(*CONNECTOR, **SIDE)
    adapter = VllmEngine(str(leaving.make_url("")).rstrip("/"), slo_ttft=2.0, slo_tpot=0.05)
    await adapter.observe()
    settings = Settings("u", "127.0.0.1", kv_events=events, kv_replay=replay, handover=(Strategy.MIGRATE,))
    cache = build(settings, adapter, engine.clock)
    cache.send_to(str(staying.make_url("")).rstrip("/"))
    async with at_work(cache, adapter):
        yield Fleet(cache, adapter, engine, survivor, leaving, staying)


async def test_survivors_pull_what_they_do_not_have(fleet: Fleet) -> None:
    prompts = [text("a"), f"{text('a')} {text('b', 200)}", text("c")]
    first = [await ask(fleet.leaving, prompt) for prompt in prompts]
    await ask(fleet.staying, prompts[2])  # the survivor has this one already
    held = whole(first[1]) + whole(first[2])
    await fleet.holds(held)
    report = await fleet.hand_over()
    assert (report.kept_tokens, report.dropped_tokens, report.partial) == (held, 0, False), report
    # The last block of a prompt is computed, as one token of it always is.
    assert held - 3 * BLOCK <= report.moved_tokens <= held
    assert fleet.survivor.nixl is not None
    block = fleet.survivor.nixl.block_bytes
    assert fleet.survivor.nixl.pulled_bytes == pytest.approx(whole(first[1]) // BLOCK * block, abs=2 * block)
    for prompt, before in zip(prompts, first, strict=True):
        answer = await ask(fleet.staying, prompt)
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= whole(before) - BLOCK
        assert answer["choices"] == before["choices"]
    assert fleet.engine.nixl is not None
    assert not fleet.engine.nixl.lending, "what was pulled is still kept"


async def test_a_router_that_strips_the_parameters_makes_it_a_replay(fleet: Fleet) -> None:
    answer = await ask(fleet.leaving, text("a"))
    await fleet.holds(whole(answer))
    connector, fleet.survivor.nixl = fleet.survivor.nixl, None  # takes no notice of where the blocks are
    report = await fleet.hand_over()
    fleet.survivor.nixl = connector
    assert (report.kept_tokens, report.moved_tokens) == (whole(answer), 0), report
    later = await ask(fleet.staying, text("a"))
    assert later["usage"]["prompt_tokens_details"]["cached_tokens"] >= whole(answer) - BLOCK


async def test_an_engine_that_does_not_lend_is_said_to(fleet: Fleet) -> None:
    answer = await ask(fleet.leaving, text("a"))
    await fleet.holds(whole(answer))
    connector, fleet.engine.nixl = fleet.engine.nixl, None
    try:
        with pytest.raises(HandoverError, match="NixlConnector"):  # the next strategy is tried
            await fleet.hand_over()
    finally:
        fleet.engine.nixl = connector


async def test_blocks_nobody_comes_for_are_kept_no_longer_than_the_lease(fleet: Fleet) -> None:
    lent = await fleet.adapter.lend(list(range(64)), 10.0)
    assert lent is not None
    assert fleet.engine.at_work
    gone = {**lent, "remote_request_id": "cmpl-other"}
    async with fleet.staying.post(
        "/v1/completions", json={"prompt": list(range(64)), "kv_transfer_params": gone, "max_tokens": 1}
    ) as answer:
        assert answer.status == 500, "vLLM fails a request whose blocks are gone"
    await fleet.engine.clock.sleep(10.0)
    assert not fleet.engine.at_work
    async with fleet.staying.post(
        "/v1/completions", json={"prompt": list(range(64)), "kv_transfer_params": lent, "max_tokens": 1}
    ) as answer:
        assert answer.status == 500


async def test_its_own_requests_are_not_the_users(fleet: Fleet) -> None:
    """A drain that is cut short reports how many users' requests it aborted."""
    assert fleet.cache.migrating is not None
    agent = Agent(Settings("u", "127.0.0.1"), fleet.adapter, fleet.engine.clock, fleet.cache)
    seen = await fleet.adapter.observe()
    assert seen.load is not None
    load = Load(3, 0, None, None, seen.load.counters, seen.load.latency)
    agent._take_in(Observation(Health.READY, load), own=2)
    assert agent.machine.load == 1
    assert fleet.cache.own_requests == 0
    fleet.cache.migrating.lending = 2
    assert fleet.cache.own_requests == 2
    fleet.cache.migrating.lending = 0
    agent._take_in(Observation(Health.READY, load), own=2)
    assert agent.state().engine.running == 1


async def test_what_is_idle_goes_ahead_of_what_still_runs(fleet: Fleet) -> None:
    idle = await ask(fleet.leaving, text("a"))
    await fleet.holds(whole(idle))
    seen: list[HandoverProgress] = []
    settled = asyncio.Event()
    strategy = fleet.cache.strategies[Strategy.MIGRATE]
    assert strategy.begins_ahead
    task = asyncio.create_task(strategy.run(600.0, seen.append, settled))
    async with asyncio.timeout(60):
        while not seen:  # noqa: ASYNC110 - it tells by a callback
            await asyncio.sleep(0.01)
    assert seen[-1].kept_tokens == whole(idle)
    last = await ask(fleet.leaving, text("b"))
    longer = await ask(fleet.leaving, f"{text('a')} {text('c', 100)}")
    held = whole(last) + whole(longer)
    await fleet.holds(held)
    assert not task.done()
    settled.set()
    report = await task
    assert (report.kept_tokens, report.dropped_tokens, report.partial) == (held, 0, False), report
    assert held - 3 * BLOCK <= report.moved_tokens <= held, "what had gone ahead is neither lost nor counted twice"
    assert fleet.cache.sent is not None
    assert fleet.cache.sent.requests == 3
    strategy.used_within = 60.0
    assert not strategy.begins_ahead, "where survivors have not room for all, the last requests say what is hottest"


async def test_what_failed_ahead_is_tried_again_at_the_end(fleet: Fleet) -> None:
    answer = await ask(fleet.leaving, text("a"))
    await fleet.holds(whole(answer))
    connector, fleet.engine.nixl = fleet.engine.nixl, None
    settled = asyncio.Event()
    task = asyncio.create_task(fleet.cache.strategies[Strategy.MIGRATE].run(600.0, lambda _: None, settled))
    async with asyncio.timeout(60):
        while not fleet.cache.own_counts.requests:  # noqa: ASYNC110 - the engine counts
            await asyncio.sleep(0.01)
    assert not task.done()
    fleet.engine.nixl = connector
    settled.set()
    report = await task
    assert (report.kept_tokens, report.dropped_tokens, report.partial) == (whole(answer), 0, True), report
    assert "needs the NixlConnector" in report.message


async def test_what_it_sent_and_lent_is_said_apart_from_the_users_requests(fleet: Fleet) -> None:
    answer = await ask(fleet.leaving, text("a"))
    tokens = answer["usage"]["prompt_tokens"]
    await fleet.holds(whole(answer))
    agent = Agent(Settings("u", "127.0.0.1"), fleet.adapter, fleet.engine.clock, fleet.cache)
    await fleet.hand_over()
    agent._take_in(await fleet.adapter.observe())
    state = agent.state()
    assert state.counters is not None
    assert (state.counters.requests, state.counters.prompt_tokens) == (1, tokens), "the loan is not a user's request"
    assert (state.counters.generation_tokens, state.counters.cache_query_tokens) == (1, tokens)
    assert state.sent is not None
    assert (state.sent.requests, state.sent.prompt_tokens) == (1, whole(answer))
    fleet.cache.engine_was(EngineReady())
    fleet.cache.engine_was(EngineExited())
    assert fleet.cache.own_counts == EngineCounters(), "the engine counts from zero again"


async def test_auto_is_replaced_when_the_drain_begins(fleet: Fleet) -> None:
    wanted = (Strategy.AUTO, Strategy.STORE, Strategy.MIGRATE)
    order, reason = fleet.cache.order(wanted, 60.0)
    assert order == (Strategy.MIGRATE,), "this agent has no store"
    assert "only means" in reason
    assert fleet.cache.order((Strategy.NONE,), 60.0) == ((Strategy.NONE,), "")
    assert Physics(1000.0, 1.0, 1e6).migration_rate() == SHARE * 1000.0


def test_connectors_the_engine_does_not_have_are_refused() -> None:
    both = {"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": [NIXL]}}
    argv = ["serve", "llama-3.1-8b", "--kv-transfer-config"]
    assert parse_config([*argv, json.dumps(both)], SIDE).nixl is not None
    with pytest.raises(ConfigError, match="NixlConnector only"):
        parse_config([*argv, json.dumps({"kv_connector": "LMCacheConnectorV1"})], {})
    broken = {**NIXL, "kv_connector_extra_config": {"kv_lease_duration": 0}}
    with pytest.raises(ConfigError, match="kv_lease_duration"):
        parse_config([*argv, json.dumps(broken)], {})
