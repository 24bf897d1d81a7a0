"""What goes wrong while a worker leaves: each of it is bounded in time and reported, and what could finish finishes.

Agents and simulated engines as processes; the same on a real engine is in ``tests/vllm``.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from warmfleet_contracts.agent import DrainRequest, Phase, Strategy
from warmfleet_worker.agent import Agent
from warmfleet_worker.engines.simulated.tier import FsTier
from warmfleet_worker.engines.simulated.tokens import expected_text, tokenize
from warmfleet_worker.engines.vllm import VllmEngine
from warmfleet_worker.kv.cache import WorkerCache, build
from warmfleet_worker.kv.folder import StoreFolder
from warmfleet_worker.settings import Settings
from worker_processes import SCALE, Worker, seconds_of_tokens, status, until

BLOCK = 16
PROMPTS = 12


def events(folder: Path) -> tuple[tuple[str, str], dict[str, str]]:
    """The engine's flags and the agent's settings for KV events."""
    endpoint, replay = f"ipc://{folder}/e", f"ipc://{folder}/r"
    config = {"enable_kv_cache_events": True, "endpoint": endpoint, "replay_endpoint": replay}
    return ("--kv-events-config", json.dumps(config)), {
        "WARMFLEET_KV_EVENTS": endpoint,
        "WARMFLEET_KV_REPLAY": replay,
    }


def words(topic: str, count: int = 100) -> str:
    return " ".join(f"{topic}{i}" for i in range(count))


async def warmed(worker: Worker) -> int:
    """Ask for some prompts; returns the tokens that the worker then holds."""
    for i in range(PROMPTS):
        code, text = await worker.generate(words(f"p{i}-"))
        assert code == 200, text

    async def seen() -> bool:
        kv = (await worker.state()).kv
        return kv is not None and kv.held_tokens >= PROMPTS * (100 // BLOCK * BLOCK)

    await until(seen)
    kv = (await worker.state()).kv
    assert kv is not None
    return kv.held_tokens


async def finished(stream: asyncio.Task[tuple[str, bool]], tokens: int) -> bool:
    """Whether a stream brought all of its text and ended as it should."""
    return await stream == (expected_text(tokenize("a story"), tokens), True)


async def test_hooks_that_are_called_twice_and_a_second_sigterm_lose_no_stream(worker: Worker, http) -> None:
    """A kubelet that was restarted begins anew: the hook, then SIGTERM, although both have been."""
    await worker.start("--shutdown-timeout", "200")
    tokens = seconds_of_tokens(2.5)
    stream = asyncio.create_task(worker.stream(tokens))
    await asyncio.sleep(0.3)
    hooks = [asyncio.create_task(status(http, f"{worker.agent_url}/v1/prestop?deadline=10")) for _ in range(2)]
    assert await asyncio.gather(*hooks) == [200, 200], "after 10 logical seconds, with a stream in flight"
    assert not stream.done()
    report = await worker.report()
    assert (report.partial, report.aborted_requests) == (True, 1), report
    worker.engine.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    assert await status(http, f"{worker.agent_url}/v1/prestop?deadline=600") == 200, "it is drained already"
    worker.engine.send_signal(signal.SIGTERM)
    assert await finished(stream, tokens)
    assert await asyncio.wait_for(worker.engine.wait(), 10) == 0


async def test_an_agent_told_twice_to_stop_goes_at_once_whoever_waits_for_it(worker: Worker, http) -> None:
    await worker.start()
    tokens = seconds_of_tokens(2.0)
    stream = asyncio.create_task(worker.stream(tokens))
    await asyncio.sleep(0.2)
    hook = asyncio.create_task(status(http, f"{worker.agent_url}/v1/prestop?deadline=600"))
    await asyncio.sleep(0.2)
    worker.agent.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.02)  # or the two are one
    worker.agent.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(worker.agent.wait(), 5) == 0
    assert await hook is None, "the kubelet goes on to SIGTERM, for which the engine has a timeout of its own"
    assert await finished(stream, tokens)


async def test_an_agent_that_crashes_knows_everything_again_and_ends_the_drain(worker: Worker, http, tmp_path_factory):
    folder = tmp_path_factory.mktemp("f")
    flags, worker.settings = events(folder)
    await worker.start(*flags)
    held = await warmed(worker)
    tokens = seconds_of_tokens(4.0)
    stream = asyncio.create_task(worker.stream(tokens))
    await asyncio.sleep(0.2)
    assert await worker.drain(600) == 202
    worker.agent.kill()
    await worker.agent.wait()
    worker.agent = await worker.start_agent()
    await until(worker.ready)  # nobody has told it yet; the operator's label keeps requests away

    async def knows() -> bool:
        kv = (await worker.state()).kv
        return kv is not None and kv.complete and kv.held_tokens >= held

    await until(knows)
    assert await worker.drain(600) == 202
    assert await finished(stream, tokens)
    report = await worker.report()
    assert (report.aborted_requests, report.partial) == (0, False), report
    assert report.dropped_tokens >= held


async def test_an_engine_that_crashes_in_its_hand_over_ends_it_with_what_was_stored(
    worker: Worker, tmp_path_factory
) -> None:
    folder = tmp_path_factory.mktemp("f")
    flags, worker.settings = events(folder)
    extra = {
        "spec_name": "TieringOffloadingSpec",
        "cpu_bytes_to_use": 2**30,
        "secondary_tiers": [{"type": "fs", "root_dir": str(folder / "kv"), "enable_kv_events": True}],
    }
    connector = {"kv_connector": "OffloadingConnector", "kv_connector_extra_config": extra}
    worker.settings |= {"WARMFLEET_KV_STORE": str(folder / "kv"), "WARMFLEET_HANDOVER": "store"}
    await worker.start(
        *flags,
        *("--kv-transfer-config", json.dumps(connector)),
        VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES="0",
        WARMFLEET_SIM_STORE_BYTES_PER_SECOND="1e6",  # 2 MiB a block: two logical seconds each
    )
    held = await warmed(worker)
    assert await worker.drain(6000, "store") == 202

    async def some_are_stored() -> bool:
        phase = (await worker.state()).phase
        return phase is Phase.HANDING_OVER and len([*(folder / "kv").rglob("*.bin")]) >= 10

    await until(some_are_stored)
    worker.engine.kill()
    report = await worker.report()
    stored = len([*(folder / "kv").rglob("*.bin")]) * BLOCK
    assert report.partial
    assert "the engine exited" in report.message
    assert 0 < report.kept_tokens <= stored < held
    assert report.kept_tokens + report.dropped_tokens == held


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A network that is cut: connections stand, and nothing comes."""
    await reader.read()
    writer.close()


@pytest.mark.parametrize("cut", [False, True], ids=["dead", "cut"])
async def test_survivors_that_die_or_fall_silent_hold_a_drain_up_no_longer_than_its_deadline(
    cut: bool, worker: Worker, free_port, tmp_path_factory
) -> None:
    flags, worker.settings = events(tmp_path_factory.mktemp("f"))
    worker.settings |= {"WARMFLEET_HANDOVER": "replay"}
    await worker.start(*flags)
    held = await warmed(worker)
    port = free_port()
    server = await asyncio.start_server(silent, "127.0.0.1", port) if cut else None
    began = asyncio.get_running_loop().time()
    assert await worker.drain(100, "replay", endpoint=f"http://127.0.0.1:{port}") == 202
    report = await worker.report()
    took = (asyncio.get_running_loop().time() - began) * SCALE
    assert took < 100 + 2 * SCALE
    assert (report.partial, report.kept_tokens, report.dropped_tokens) == (True, 0, held), report
    assert report.aborted_requests == 0
    assert report.message
    # The worker that could not hand over can still be told to go, and its engine still answers whoever comes late.
    assert (await worker.generate("late"))[0] == 200
    if server is not None:
        server.close()
        await server.wait_closed()


async def test_a_store_that_does_not_answer_keeps_no_worker_from_serving_or_going(
    worker: Worker, http, tmp_path_factory
) -> None:
    """A read that never returns, as of a file server that has gone: here a note that is a pipe nobody writes to."""
    folder = tmp_path_factory.mktemp("f")
    (folder / "kv" / "hot").mkdir(parents=True)
    os.mkfifo(folder / "kv" / "hot" / "other.json")
    flags, worker.settings = events(folder)
    worker.settings |= {"WARMFLEET_KV_STORE": str(folder / "kv"), "WARMFLEET_PREWARM_SECONDS": "10"}
    await worker.start(*flags)  # waits until it is ready
    assert (await worker.generate())[0] == 200
    assert await worker.drain(600) == 202
    await worker.report()
    worker.agent.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(worker.agent.wait(), 5) == 0, "threads that hang are waited for"


# -- storage that fails, seen by an agent in this process --------------------------------------------------------------


class Storing:
    """A simulated engine with a store, its adapter, and its agent's cache."""

    def __init__(self, launch, folder: Path) -> None:
        self._launch, self._folder = launch, folder

    async def start(self) -> None:
        folder = self._folder
        extra = {
            "spec_name": "TieringOffloadingSpec",
            "cpu_bytes_to_use": 2**30,
            "secondary_tiers": [{"type": "fs", "root_dir": str(folder / "kv"), "enable_kv_events": True}],
        }
        connector = {"kv_connector": "OffloadingConnector", "kv_connector_extra_config": extra}
        flags, env = events(folder)
        engine, self.client = await self._launch(
            *flags,
            *("--kv-transfer-config", json.dumps(connector)),
            VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES="0",
        )
        self.adapter = VllmEngine(str(self.client.make_url("")).rstrip("/"), slo_ttft=2.0, slo_tpot=0.05)
        settings = Settings(
            "u",
            "127.0.0.1",
            kv_events=env["WARMFLEET_KV_EVENTS"],
            kv_replay=env["WARMFLEET_KV_REPLAY"],
            kv_store=folder / "kv",
            kv_store_bytes=2**30,
            unroute_real=0.1,
        )
        self.cache: WorkerCache = build(settings, self.adapter, engine.clock)
        self.agent = Agent(settings, self.adapter, engine.clock, self.cache)
        self._tasks = [asyncio.create_task(self.cache.run()), asyncio.create_task(self.agent.run())]
        await self.becomes(Phase.SERVING)

    async def ask(self, prompt: str) -> None:
        body = {"prompt": prompt, "max_tokens": 1, "model": "tiny"}
        async with self.client.post("/v1/completions", json=body) as answer:
            assert answer.status == 200

    async def holds(self, tokens: int) -> None:
        async with asyncio.timeout(10):
            while (self.cache.held_tokens or 0) < tokens:  # noqa: ASYNC110 - events come over a socket
                await asyncio.sleep(0.01)

    async def becomes(self, phase: Phase) -> None:
        async with asyncio.timeout(20):
            while self.agent.machine.phase is not phase:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cache.close()
        await self.adapter.close()


@pytest.fixture
async def storing(launch, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Storing]:
    one = Storing(launch, tmp_path_factory.mktemp("f"))
    await one.start()
    yield one
    await one.close()


async def test_a_full_disk_is_a_partial_hand_over(storing: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    write = FsTier._write
    fits = 2

    def until_full(self: FsTier, blocks: list[int]) -> None:
        nonlocal fits
        if fits == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fits -= 1
        write(self, blocks)

    monkeypatch.setattr(FsTier, "_write", until_full)
    for i in range(6):
        await storing.ask(words(f"p{i}-"))
    await storing.holds(6 * 96)
    storing.agent.drain(
        DrainRequest(reason="ScaleDown", deadline_seconds=600, strategies=(Strategy.STORE, Strategy.NONE))
    )
    await storing.becomes(Phase.DRAINED)
    drain = storing.agent.machine.drain
    assert drain is not None
    report = drain.report
    assert report is not None
    held = storing.cache.held_tokens
    assert (report.partial, report.aborted_requests) == (True, 0)
    assert 0 < report.kept_tokens < held
    assert report.kept_tokens + report.dropped_tokens == held
    assert "writes failed" in report.message
    assert report.seconds < 540, "what will not come is not waited for to the end"


async def test_a_folder_that_hangs_is_asked_no_longer_than_the_deadline(
    storing: Storing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the drain nor readiness nor the agent's own health waits for the call that does not return."""
    let_go = threading.Event()
    for name in ("spaces", "take_turn", "prune"):
        monkeypatch.setattr(StoreFolder, name, lambda *_, **__: let_go.wait(60) and ())
    monkeypatch.setattr(FsTier, "_write", lambda *_: None)  # said to be written, and no event of it
    monkeypatch.setattr(FsTier, "take_events", lambda _: [])
    try:
        await storing.ask(words("a"))
        await storing.holds(96)
        storing.agent.drain(
            DrainRequest(reason="ScaleDown", deadline_seconds=120, strategies=(Strategy.STORE, Strategy.NONE))
        )
        await storing.becomes(Phase.HANDING_OVER)
        await storing.becomes(Phase.DRAINED)
        assert storing.agent.alive
        drain = storing.agent.machine.drain
        assert drain is not None
        assert drain.report is not None
        assert drain.report.partial
        assert drain.report.seconds <= 130
        assert drain.report.dropped_tokens == storing.cache.held_tokens
    finally:
        let_go.set()
