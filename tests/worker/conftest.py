"""Fixtures of the worker's tests."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from warmfleet_runtime.clock import ScaledClock
from warmfleet_worker.engines.simulated.config import parse_config
from warmfleet_worker.engines.simulated.engine import Engine
from warmfleet_worker.engines.simulated.server import Server

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
