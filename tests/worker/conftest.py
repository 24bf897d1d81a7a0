"""Fixtures of the worker's tests."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

sys.path[:0] = [str(Path(__file__).resolve().parent)]  # this folder is no package

from warmfleet_runtime.clock import ScaledClock  # noqa: E402
from warmfleet_worker.engines.simulated.config import parse_config  # noqa: E402
from warmfleet_worker.engines.simulated.engine import Engine  # noqa: E402
from warmfleet_worker.engines.simulated.server import Server  # noqa: E402
from worker_processes import PACKAGES, SCALE, Spawn, Worker  # noqa: E402

Launch = Callable[..., Awaitable[tuple[Engine, "TestClient"]]]


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Finds a loopback port that nobody uses."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture
async def launch() -> AsyncIterator[Launch]:
    """Starts simulated engines inside the test: flags in, (engine, client) out."""
    started = []

    async def start(*flags: str, scale: float = 60.0, **environ: str) -> tuple[Engine, TestClient]:
        argv = ["serve", "meta-llama/Llama-3.1-8B", "--served-model-name", "tiny", "--max-model-len", "8192", *flags]
        engine = Engine(parse_config(argv, environ), ScaledClock(scale))
        await engine.start()
        client = TestClient(TestServer(Server(engine).app()), timeout=aiohttp.ClientTimeout(total=20))
        await client.start_server()
        started.append((engine, client))
        return engine, client

    yield start
    for engine, client in started:
        await engine.halt()
        await client.close()


@pytest.fixture
async def spawn() -> AsyncIterator[Spawn]:
    started: list[asyncio.subprocess.Process] = []

    async def start(module: str, *argv: str, **environ: str) -> asyncio.subprocess.Process:
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": PACKAGES, "WARMFLEET_CLOCK": f"scale={SCALE}", **environ}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *argv, env=env, stderr=asyncio.subprocess.DEVNULL
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


@pytest.fixture
def worker(spawn: Spawn, http: aiohttp.ClientSession, free_port: Callable[[], int]) -> Worker:
    return Worker(spawn, http, free_port)
