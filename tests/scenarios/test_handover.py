"""A worker that leaves by migrate, the way of replay too: conversations find their prefixes with the survivor."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from warmfleet_contracts import labels
from warmfleet_runtime.openmetrics import parse
from warmfleet_runtime.resources import EVENTS
from warmfleet_worker.engines.simulated.tokens import chat_text, expected_text, tokenize
from world import World, deployment, eventually, instance_type

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
TOKENS = 320
EXTERNAL = "vllm:external_prefix_cache_hits_total"


async def converse(endpoint: str, number: int, *, again: bool) -> dict[str, Any]:
    """The first turn of a conversation, or its second; returns the usage."""
    messages = [{"role": "user", "content": " ".join(f"{number}-word-{i}" for i in range(200))}]
    if again:
        prompt = chat_text((m["role"], m["content"]) for m in messages)
        messages.append({"role": "assistant", "content": expected_text(tokenize(prompt), TOKENS)})
        messages.append({"role": "user", "content": "and then?"})
    body = {"model": MODEL, "messages": messages, "max_tokens": 1 if again else TOKENS, "ignore_eos": True}
    timeout = aiohttp.ClientTimeout(total=30)
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
        session.post(f"{endpoint}/v1/chat/completions", json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return (await answer.json())["usage"]


async def found_elsewhere(url: str) -> float:
    """Tokens that an engine has got from outside its own memory."""
    async with aiohttp.ClientSession(trust_env=False) as session, session.get(url) as answer:
        samples = parse(await answer.text(), wanted=[EXTERNAL])
    return samples.total(EXTERNAL) or 0.0


async def test_a_migration_leaves_the_prefixes_with_the_survivor(running: World) -> None:
    if running.api is None:
        pytest.skip("the bare control plane has no DNS, and an agent reaches the router by its Service's name")
    spec = deployment(replicas=2, kvCache={"drainDeadline": "2m", "handover": ["migrate", "replay"]})
    await running.apply(instance_type(), spec)
    pods = await running.until_ready(2)
    # Not through the router, which may give all of them to one worker: whoever leaves must hold some.
    workers = [f"http://{pod['status']['podIP']}:{labels.ENGINE_PORT}" for pod in pods]
    first = [await converse(workers[n % 2], n, again=False) for n in range(6)]
    await running.kubectl("scale", "llmd", "chat", "--replicas=1")

    async def told() -> str:
        events = await running.kube.list(EVENTS, "default")
        return next((e["message"] for e in events["items"] if e["reason"] == "DrainCompleted"), "")

    message = await eventually(told, "report of the drain", seconds=60)
    assert " 0 dropped" in message, message
    (survivor,) = await running.until_ready(1, seconds=60)
    pulled = await found_elsewhere(f"http://{survivor['status']['podIP']}:{labels.ENGINE_PORT}/metrics")
    assert pulled > 0, "the router does not pass on where the blocks are: it was a replay"
    endpoint = await running.until_endpoint()
    second = [await converse(endpoint, n, again=True) for n in range(6)]
    for before, after in zip(first, second, strict=True):
        assert after["prompt_tokens_details"]["cached_tokens"] >= before["total_tokens"] - 2 * 16, (message, second)
