"""Clients of a scenario: streaming chat completions, each checked to its last token, never retried."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from warmfleet_cli.demo.streams import StreamChecker, StreamError
from warmfleet_worker.engines.simulated.tokens import chat_text, expected_text, tokenize


@dataclass
class Streams:
    """Streams through one endpoint.

    Attributes:
        failures: Why streams were not whole.
        whole: Streams that were.
        in_flight: Streams that have begun and not ended.
    """

    endpoint: str
    model: str = "meta-llama/Llama-3.1-8B-Instruct"
    failures: list[str] = field(default_factory=list)
    whole: int = 0
    in_flight: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _sent: int = 0

    def send(self, count: int = 1, *, tokens: int = 400) -> None:
        """Starts ``count`` streams of ``tokens`` tokens each."""
        for _ in range(count):
            self._sent += 1
            task = asyncio.create_task(self._one(f"question number {self._sent} of a scenario", tokens))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def keep_sending(self, rate: float, seconds: float, *, tokens: int = 400) -> None:
        """``rate`` streams a real second for ``seconds`` real seconds, evenly spaced."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for index in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + index / rate - loop.time()))
            self.send(tokens=tokens)

    async def finish(self, seconds: float = 60.0) -> None:
        """Waits for all of them.

        Raises:
            AssertionError: One was not whole.
        """
        async with asyncio.timeout(seconds):
            while self._tasks:
                await asyncio.gather(*self._tasks)
        assert not self.failures, f"{len(self.failures)} of {self._sent} streams failed: {self.failures[:3]}"
        assert self.whole == self._sent

    async def _one(self, question: str, tokens: int) -> None:
        messages = [{"role": "user", "content": question}]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": tokens,
            "ignore_eos": True,
        }
        prompt = chat_text((m["role"], m["content"]) for m in messages)
        checker = StreamChecker(tokens=tokens, expected=expected_text(tokenize(prompt), tokens))
        self.in_flight += 1
        try:
            timeout = aiohttp.ClientTimeout(total=60)
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
                session.post(f"{self.endpoint}/v1/chat/completions", json=body) as answer,
            ):
                if answer.status != 200:
                    raise StreamError(f"HTTP {answer.status}: {(await answer.text())[:200]}")
                async for data in answer.content.iter_any():
                    checker.feed(data)
            checker.end()
            self.whole += 1
        except (StreamError, aiohttp.ClientError, OSError, TimeoutError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        finally:
            self.in_flight -= 1
