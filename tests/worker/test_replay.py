"""Replay: a leaving worker's hot prompts are computed by survivors before they are asked for."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from handovers import ask, at_work, text
from warmfleet_contracts.agent import Strategy
from warmfleet_worker.drain_events import HandoverFinished, HandoverProgress
from warmfleet_worker.engines.vllm import VllmEngine
from warmfleet_worker.kv.cache import WorkerCache, build
from warmfleet_worker.kv.chains import HotChains
from warmfleet_worker.kv.events import Batch, BlockStored, raw_tokens
from warmfleet_worker.kv.handover import HandoverError
from warmfleet_worker.kv.index import BlockIndex
from warmfleet_worker.kv.physics import LARGEST_TOKEN, Physics
from warmfleet_worker.kv.replay import FAILURES, TOKENS, ReplayHandover, SendError
from warmfleet_worker.settings import Settings

BLOCK = 16


class Fleet:
    """A worker that leaves, and one that stays."""

    def __init__(self, cache: WorkerCache, leaving, staying) -> None:
        self.cache, self.leaving, self.staying = cache, leaving, staying

    async def hand_over(self, budget: float = 600.0) -> HandoverFinished:
        return await self.cache.strategies[Strategy.REPLAY].run(budget, lambda _: None)


@pytest.fixture
async def fleet(launch, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    folder: Path = tmp_path_factory.mktemp("r")
    events, replay = f"ipc://{folder}/e", f"ipc://{folder}/r"
    published = {"enable_kv_cache_events": True, "endpoint": events, "replay_endpoint": replay}
    engine, leaving = await launch("--kv-events-config", json.dumps(published))
    _, staying = await launch()
    adapter = VllmEngine(str(leaving.make_url("")).rstrip("/"), slo_ttft=2.0, slo_tpot=0.05)
    await adapter.observe()
    settings = Settings(
        "u", "127.0.0.1", kv_events=events, kv_replay=replay, handover=(Strategy.REPLAY,), endpoint="http://192.0.2.1"
    )
    cache = build(settings, adapter, engine.clock)
    async with at_work(cache, adapter):
        yield Fleet(cache, leaving, staying)


async def test_survivors_have_the_hot_prompts_before_they_are_asked(fleet: Fleet) -> None:
    prompts = [text("a"), f"{text('a')} {text('b', 200)}", text("c")]
    first = [await ask(fleet.leaving, prompt) for prompt in prompts]
    await ask(fleet.staying, prompts[2])  # the survivor has this one already
    whole = [answer["usage"]["prompt_tokens"] // BLOCK * BLOCK for answer in first]
    held = whole[1] + whole[2]
    while fleet.cache.held_tokens != held:  # noqa: ASYNC110 - events come from another thread
        await asyncio.sleep(0.01)
    fleet.cache.send_to(str(fleet.staying.make_url("")).rstrip("/"))
    report = await fleet.hand_over()
    assert (report.kept_tokens, report.dropped_tokens, report.partial) == (held, 0, False), report
    assert whole[1] <= report.moved_tokens <= whole[1] + BLOCK, "what the survivor had is kept, not moved"
    for prompt, before, full in zip(prompts, first, whole, strict=True):
        answer = await ask(fleet.staying, prompt)
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= full - BLOCK
        assert answer["choices"] == before["choices"]


async def test_prompts_are_sent_to_nobody_an_order_made_up(fleet: Fleet) -> None:
    """Whoever reaches the agent's port must not get the prompts of users."""
    assert fleet.cache.endpoint is not None
    for url in (
        "http://198.51.100.7:8080",
        "http://localhost.evil.test",
        "https://127.0.0.1",
        "http://127.0.0.1/x",
        "",
    ):
        fleet.cache.send_to(url)
        assert fleet.cache.endpoint.url == "http://192.0.2.1"
    fleet.cache.endpoint.url = ""
    with pytest.raises(HandoverError, match=r"routing\.mode"):
        await fleet.hand_over()


class Recorder:
    """A sender that fails where it is told to."""

    def __init__(self, *, fails_after: float = math.inf, seconds: float = 0.0, clock=None) -> None:
        self.sent: list[list[int]] = []
        self._fails_after, self._seconds, self._clock = fails_after, seconds, clock

    async def send(self, tokens: Sequence[int], within: float) -> int | None:
        self.sent.append(list(tokens))
        if len(self.sent) > self._fails_after:
            raise SendError("HTTP 503")
        if self._seconds:
            await self._clock.sleep(self._seconds)
        return None

    async def close(self) -> None:
        """Nothing is open."""


def prompts(count: int, clock) -> tuple[BlockIndex, HotChains]:
    index = BlockIndex()
    chains = HotChains(index)
    for i in range(count):
        stored = BlockStored([b"%032d" % i], BLOCK, "GPU", 0, None, raw_tokens([i] * BLOCK))
        batch = Batch(clock.wall().timestamp() - 100 + i / 10, [stored])
        index.take(batch)
        chains.take(batch)
    return index, chains


async def run(recorder: Recorder, index, chains, clock, budget: float = 600.0, **limits: float):
    told: list[HandoverProgress] = []
    strategy = ReplayHandover(index, chains, recorder, clock, **limits)
    return await strategy.run(budget, told.append), told


async def test_tokens_and_time_are_bounded_and_the_hottest_go_first(launch) -> None:
    engine, _ = await launch()
    clock = engine.clock
    index, chains = prompts(400, clock)
    recorder = Recorder()
    report, told = await run(recorder, index, chains, clock, tokens=10 * BLOCK)
    assert sum(map(len, recorder.sent)) == 10 * BLOCK
    # Of the last tick, or of the one before where the last has begun less than ten prompts ago; a tick has 100 prompts.
    assert min(tokens[0] for tokens in recorder.sent) >= 290
    assert report == HandoverFinished(10 * BLOCK, 10 * BLOCK, 390 * BLOCK, True, report.message)
    assert "budget of 160 tokens" in report.message
    assert told[-1].kept_tokens == report.kept_tokens

    slow = Recorder(seconds=1e6, clock=clock)
    report, _ = await run(slow, index, chains, clock, budget=30.0)
    assert (report.kept_tokens, report.partial) == (0, True)
    assert "the time was up" in report.message

    began = clock.now()
    await run(Recorder(), index, chains, clock, rate=400 * BLOCK / 60.0, budget=6000.0)
    assert clock.now() - began >= 50.0


async def test_survivors_that_refuse_are_left_alone(launch) -> None:
    engine, _ = await launch()
    index, chains = prompts(100, engine.clock)
    refusing = Recorder(fails_after=0)
    with pytest.raises(HandoverError, match="HTTP 503"):  # another strategy may do better
        await run(refusing, index, chains, engine.clock)
    assert FAILURES <= len(refusing.sent) < FAILURES + 8

    tired = Recorder(fails_after=20)
    report, _ = await run(tired, index, chains, engine.clock)
    assert 20 + FAILURES <= len(tired.sent) < 20 + FAILURES + 8
    assert (report.kept_tokens, report.dropped_tokens, report.partial) == (20 * BLOCK, 80 * BLOCK, True)
    assert "HTTP 503" in report.message


async def test_a_budget_in_bytes_bounds_what_survivors_get(fleet: Fleet) -> None:
    """What the user allows, and what the drain's order allows instead; an unknown size counts as a large one."""
    strategy = fleet.cache.strategies[Strategy.REPLAY]
    assert isinstance(strategy, ReplayHandover)
    assert strategy.tokens == TOKENS
    fleet.cache.settings = replace(fleet.cache.settings, handover_bytes=64 * LARGEST_TOKEN)
    fleet.cache.spend(None)
    assert strategy.tokens == 64
    fleet.cache.settings = replace(fleet.cache.settings, physics=Physics(kv_bytes_per_token=131_072.0))
    fleet.cache.spend(None)
    assert strategy.tokens == 512
    fleet.cache.spend(20 * BLOCK * 131_072)
    held = 0
    for topic in "abc":
        held += (await ask(fleet.leaving, text(topic, 200)))["usage"]["prompt_tokens"] // BLOCK * BLOCK
    while fleet.cache.held_tokens != held:  # noqa: ASYNC110 - events come from another thread
        await asyncio.sleep(0.01)
    fleet.cache.send_to(str(fleet.staying.make_url("")).rstrip("/"))
    report = await fleet.hand_over()
    assert 0 < report.kept_tokens <= 20 * BLOCK < held, report
    assert (report.partial, report.dropped_tokens) == (True, held - report.kept_tokens)
    assert "budget" in report.message
    fleet.cache.spend(0)
    assert (await fleet.hand_over()).kept_tokens == 0, "nothing is allowed"
    fleet.cache.spend(None, 45.0)
    assert (strategy.tokens, strategy.used_within) == (512, 45.0)


async def test_what_survivors_have_no_room_for_stays_behind(launch) -> None:
    engine, _ = await launch()
    clock = engine.clock
    index, chains = prompts(400, clock)  # ten a second, the last one 60 s ago
    recorder = Recorder()
    strategy = ReplayHandover(index, chains, recorder, clock)
    strategy.used_within = 75.0
    report = await strategy.run(600.0, lambda _: None)
    oldest = min(tokens[0] for tokens in recorder.sent)
    assert 140 <= oldest <= 260, "75 s ago and up to a tick earlier"
    assert (report.kept_tokens, report.partial) == ((400 - oldest) * BLOCK, False)
    assert report.dropped_tokens == oldest * BLOCK
    assert "room for what was used within 75 s" in report.message
