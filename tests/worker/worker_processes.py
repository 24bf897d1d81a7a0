"""Agents and simulated engines as processes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from warmfleet_contracts.agent import AgentState, DrainReport, Phase

SCALE = 20.0
_ROOT = Path(__file__).resolve().parents[2]
PACKAGES = os.pathsep.join(str(_ROOT / folder) for folder in ("contracts", "runtime", "worker"))
Spawn = Callable[..., Awaitable[asyncio.subprocess.Process]]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the condition lives in another process
            await asyncio.sleep(0.05)


async def status(http: aiohttp.ClientSession, url: str) -> int | None:
    try:
        async with http.get(url) as response:
            return response.status
    except aiohttp.ClientConnectionError:
        return None


class Worker:
    """One engine and its agent."""

    def __init__(self, spawn: Spawn, http: aiohttp.ClientSession, free_port: Callable[[], int]) -> None:
        self._spawn, self._http = spawn, http
        self.engine_port, self.agent_port = free_port(), free_port()
        self.engine_url = f"http://127.0.0.1:{self.engine_port}"
        self.settings: dict[str, str] = {}
        self.agent_url = f"http://127.0.0.1:{self.agent_port}"

    async def start(self, *flags: str, **environ: str) -> None:
        argv = ["serve", "llama-3.1-8b", "--host", "127.0.0.1", "--port", str(self.engine_port), *flags]
        self.engine = await self._spawn("warmfleet_worker.engines.simulated", *argv, **environ)
        self.agent = await self.start_agent()
        await until(self.ready, 20.0)

    async def start_agent(self) -> asyncio.subprocess.Process:
        return await self._spawn(
            "warmfleet_worker",
            WARMFLEET_POD_UID="uid-1",
            WARMFLEET_POD_IP="127.0.0.1",
            WARMFLEET_AGENT_PORT=str(self.agent_port),
            WARMFLEET_ENGINE_URL=self.engine_url,
            WARMFLEET_UNROUTE_REAL_SECONDS="0.2",
            **self.settings,
        )

    async def ready(self) -> bool:
        return await status(self._http, f"{self.agent_url}/readyz") == 200

    async def state(self) -> AgentState:
        async with self._http.get(f"{self.agent_url}/v1/state") as response:
            return AgentState.model_validate_json(await response.text())

    async def is_drained(self) -> bool:
        return (await self.state()).phase is Phase.DRAINED

    async def drain(self, deadline: float, *strategies: str, endpoint: str = "") -> int:
        body = {"reason": "LowestKvValue", "deadlineSeconds": deadline, "endpoint": endpoint}
        body |= {"strategies": strategies} if strategies else {}
        async with self._http.post(f"{self.agent_url}/v1/drain", json=body) as response:
            return response.status

    async def stream(self, tokens: int) -> tuple[str, bool]:
        """Text of one stream and whether it ended as it should."""
        body = {"prompt": "a story", "max_tokens": tokens, "stream": True}
        text, ended = "", False
        async with self._http.post(f"{self.engine_url}/v1/completions", json=body) as response:
            async for line in response.content:
                ended = ended or line == b"data: [DONE]\n"
                if line.startswith(b"data: {"):
                    text += json.loads(line[6:])["choices"][0]["text"]
        return text, ended

    async def generate(self, prompt: str = "x") -> tuple[int, str]:
        async with self._http.post(
            f"{self.engine_url}/v1/completions", json={"prompt": prompt, "max_tokens": 1}
        ) as answer:
            return answer.status, await answer.text()

    async def report(self) -> DrainReport:
        """The drain's report; waits for it."""
        await until(self.is_drained)
        drain = (await self.state()).drain
        assert drain is not None
        assert drain.report is not None
        return drain.report


def seconds_of_tokens(seconds: float) -> int:
    """Tokens that take about that many real seconds: a step of this model is about 6.8 ms."""
    return int(seconds * SCALE / 0.0068)
