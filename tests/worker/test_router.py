"""The real vllm-router before simulated engines: which worker a conversation goes to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestClient
from warmfleet_worker.engines.simulated.tokens import chat_text, tokenize

ROUTER = Path(sys.executable).parent / "vllm-router"
FIRST = [{"role": "user", "content": " ".join(f"word-{i}" for i in range(400))}]
SECOND = [*FIRST, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and then?"}]


@asynccontextmanager
async def routed(port: int, metrics: int, clients: list[TestClient]) -> AsyncIterator[aiohttp.ClientSession]:
    """A session whose paths lead to a router before the engines."""
    urls = [str(client.make_url("")).rstrip("/") for client in clients]
    flags = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics), "--policy", "cache_aware"]
    process = await asyncio.create_subprocess_exec(
        *(str(ROUTER), *flags, "--worker-startup-check-interval", "1", "--worker-urls", *urls),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", trust_env=False) as session:
            for _ in range(600):
                if await ready(session):
                    break
                await asyncio.sleep(0.1)
            yield session
    finally:
        process.terminate()
        await process.wait()


async def ready(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("/readiness") as answer:
            return answer.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def cached(session: aiohttp.ClientSession, path: str, **body: Any) -> int:
    async with session.post(path, json={"model": "tiny", "max_tokens": 1, **body}) as answer:
        assert answer.status == 200, await answer.text()
        return (await answer.json())["usage"]["prompt_tokens_details"]["cached_tokens"]


async def second_turn(launch, free_port: Callable[[], int], *flags: str, by_ids: bool = False) -> int:
    """Tokens that the second turn finds while whoever had the first one is the busier worker."""
    engines = [await launch(*flags, scale=1.0) for _ in range(2)]
    async with routed(free_port(), free_port(), [client for _, client in engines]) as session:
        if by_ids:
            ids = tokenize(chat_text((m["role"], m["content"]) for m in FIRST))
            await cached(session, "/v1/completions", prompt=ids)
        else:
            await cached(session, "/v1/chat/completions", messages=FIRST)
        long = {"model": "tiny", "messages": FIRST, "max_tokens": 1000, "stream": True}
        async with session.post("/v1/chat/completions", json=long) as busy:
            await busy.content.readany()
            return await cached(session, "/v1/chat/completions", messages=SECOND)


async def test_a_conversation_goes_back_to_the_worker_that_has_it_however_busy(launch, free_port) -> None:
    assert await second_turn(launch, free_port, "--enable-scale-out") >= 380


async def test_a_prompt_handed_over_as_token_ids_is_found_by_its_conversation(launch, free_port) -> None:
    assert await second_turn(launch, free_port, "--enable-scale-out", by_ids=True) >= 380


async def test_an_engine_that_does_not_tell_token_ids_makes_the_router_blind(launch, free_port) -> None:
    """Why workers are started with --enable-scale-out: without it the less busy worker gets the second turn."""
    assert await second_turn(launch, free_port) == 0
