"""Agent and simulated engine as processes: start, stream, drain, preStop, SIGTERM, and what they cost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from warmfleet_contracts.agent import Phase
from warmfleet_worker.engines.simulated.tokens import expected_text, tokenize
from worker_processes import PACKAGES, Worker, seconds_of_tokens, status, until

MAX_AGENT_RSS_MB = 60


def rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


async def test_a_worker_lives_drains_and_leaves(worker: Worker, http: aiohttp.ClientSession) -> None:
    await worker.start("--shutdown-timeout", "60", WARMFLEET_SIM_STARTUP_SECONDS="4")
    state = await worker.state()
    assert (state.phase, state.pod_uid) == (Phase.SERVING, "uid-1")
    assert rss_mb(worker.agent.pid) < MAX_AGENT_RSS_MB
    # a drain that is cancelled while a stream runs
    tokens = seconds_of_tokens(1.5)
    running = asyncio.create_task(worker.stream(tokens))
    await asyncio.sleep(0.3)
    assert await worker.drain(600) == 202
    assert not await worker.ready()
    async with http.delete(f"{worker.agent_url}/v1/drain") as response:
        assert response.status == 200
    assert await worker.ready()
    # a drain that waits for the stream
    assert await worker.drain(600) == 202
    text, ended = await running
    assert ended
    assert text == expected_text(tokenize("a story"), tokens)
    await until(worker.is_drained)
    drain = (await worker.state()).drain
    assert drain is not None
    assert drain.report is not None
    assert (drain.report.aborted_requests, drain.report.partial) == (0, False)
    # the pod goes: the hook returns at once, the engine exits, then the agent
    assert await status(http, f"{worker.agent_url}/v1/prestop") == 200
    worker.engine.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(worker.engine.wait(), 5) == 0
    worker.agent.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(worker.agent.wait(), 3) == 0


async def test_prestop_holds_the_engine_until_its_streams_end(worker: Worker, http: aiohttp.ClientSession) -> None:
    await worker.start()
    tokens = seconds_of_tokens(1.0)
    running = asyncio.create_task(worker.stream(tokens))
    await asyncio.sleep(0.2)
    hook = asyncio.create_task(status(http, f"{worker.agent_url}/v1/prestop?deadline=600"))
    await asyncio.sleep(0.3)
    assert not hook.done()
    async with http.delete(f"{worker.agent_url}/v1/drain") as response:
        assert response.status == 409
    text, ended = await running
    assert not hook.done()
    assert await asyncio.wait_for(hook, 5) == 200
    assert ended
    assert text == expected_text(tokenize("a story"), tokens)


async def test_sigterm_with_a_timeout_finishes_streams_and_refuses_new_ones(worker, http) -> None:
    await worker.start("--shutdown-timeout", "100")
    tokens = seconds_of_tokens(1.0)
    running = asyncio.create_task(worker.stream(tokens))
    await asyncio.sleep(0.3)
    worker.engine.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    assert await status(http, f"{worker.engine_url}/health") == 200
    code, text = await worker.generate()
    assert code == 500
    assert "cannot schedule new futures after shutdown" in text
    text, ended = await running
    assert ended
    assert text == expected_text(tokenize("a story"), tokens)
    assert await asyncio.wait_for(worker.engine.wait(), 5) == 0


async def test_sigterm_with_a_short_timeout_cuts_streams_off(worker) -> None:
    await worker.start("--shutdown-timeout", "4")
    running = asyncio.create_task(worker.stream(seconds_of_tokens(5.0)))
    await asyncio.sleep(0.3)
    worker.engine.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(worker.engine.wait(), 3) == 0
    with pytest.raises(aiohttp.ClientError):
        await running


async def test_sigterm_without_a_timeout_leaves_streams_hanging(worker, http) -> None:
    await worker.start()
    running = asyncio.create_task(worker.stream(seconds_of_tokens(0.6)))
    await asyncio.sleep(0.3)
    assert await status(http, f"{worker.engine_url}/health") == 200  # leaves an idle connection behind
    worker.engine.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    assert await status(http, f"{worker.engine_url}/health") is None
    await asyncio.sleep(1.0)
    assert not running.done(), "neither an end nor a close"
    assert worker.engine.returncode is None, "the process stays for its client"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await asyncio.wait_for(worker.engine.wait(), 5) == 0


async def test_an_engine_that_dies_takes_readiness_with_it(worker: Worker) -> None:
    await worker.start()
    worker.engine.kill()
    await worker.engine.wait()

    async def unready() -> bool:
        return not await worker.ready()

    await until(unready)
    assert (await worker.state()).engine.running is None
    await worker.drain(600)
    await until(worker.is_drained)


async def test_an_agent_beside_a_hanging_engine_stays_responsive(worker, http) -> None:
    connections = []

    async def hang(reader, writer) -> None:
        connections.append(writer)

    server = await asyncio.start_server(hang, "127.0.0.1", worker.engine_port)
    agent = await worker.start_agent()

    async def up() -> bool:
        return await status(http, f"{worker.agent_url}/healthz") == 200

    await until(up)
    assert (await worker.state()).phase is Phase.STARTING
    await worker.drain(10)
    await until(worker.is_drained)
    report = (await worker.state()).drain.report
    assert report.partial
    assert "unknown number of requests" in report.message
    agent.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(agent.wait(), 3) == 0
    for writer in connections:
        writer.close()
    server.close()
    await server.wait_closed()


async def test_wrong_settings_and_flags_end_with_a_message() -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": PACKAGES}
    for module, words in (
        ("warmfleet_worker", b"WARMFLEET_POD_UID"),
        ("warmfleet_worker.engines.simulated", b"no model"),
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, env=env, stderr=asyncio.subprocess.PIPE
        )
        _, message = await process.communicate()
        assert process.returncode == 2
        assert words in message
        assert b"Traceback" not in message
