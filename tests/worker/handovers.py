"""What tests of hand-overs share: prompts, and a cache at work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from warmfleet_worker.engines.vllm import VllmEngine
from warmfleet_worker.kv.cache import WorkerCache


async def ask(client, prompt: str, **more: object) -> dict:
    body = {"prompt": prompt, "max_tokens": 1, "model": "tiny", **more}
    async with client.post("/v1/completions", json=body) as answer:
        return await answer.json()


def text(topic: str, words: int = 405) -> str:
    return " ".join(f"{topic}{i}" for i in range(words))


@asynccontextmanager
async def at_work(cache: WorkerCache, adapter: VllmEngine) -> AsyncIterator[None]:
    """The cache follows its engine; both are closed at the end."""
    task = asyncio.create_task(cache.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    cache.close()
    await adapter.close()
