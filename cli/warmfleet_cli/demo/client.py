"""The demo's clients: one streaming chat completion per arrival, no retries, each checked to its last token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from warmfleet_contracts.traces import FloatArray
from warmfleet_runtime.clock import Clock

from warmfleet_cli.demo.conversations import ConversationBook, Prompt
from warmfleet_cli.demo.streams import StreamChecker, StreamError

_LOG = logging.getLogger(__name__)
Expected = Callable[[Mapping[str, Any]], str]
"""The text that the simulated engines answer to a request body."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended.

    Attributes:
        sent: When it was sent, logical seconds.
        ended: When it ended.
        ttft: Sent to first generated text, logical seconds; None when none came.
        tokens: Tokens of a whole answer; 0 otherwise.
        failure: Why it failed; None when it was answered whole.
    """

    sent: float
    ended: float
    ttft: float | None
    tokens: int
    failure: str | None


@dataclass(slots=True)
class Tally:
    """What the clients have seen so far.

    Attributes:
        sent: Requests sent.
        in_flight: Requests sent and not ended.
        outcomes: Ended requests, in order of their end.
    """

    sent: int = 0
    in_flight: int = 0
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failures(self) -> list[Outcome]:
        """Requests that were not answered whole."""
        return [o for o in self.outcomes if o.failure is not None]


class Clients:
    """Sends each request at its time, whether or not earlier ones have been answered (an open loop).

    Args:
        endpoint: URL of the router, such as http://127.0.0.5:8080.
        book: Chooses what requests say.
        clock: The demo's clock.
        expected: Text of the answer to a request body; None to check counts and order of events alone.
        timeout: Logical seconds after which a request has failed.
    """

    def __init__(
        self,
        endpoint: str,
        book: ConversationBook,
        clock: Clock,
        *,
        expected: Expected | None,
        timeout: float = 1800.0,
    ) -> None:
        self._url = f"{endpoint.rstrip('/')}/v1/chat/completions"
        self._book, self._clock, self._expected = book, clock, expected
        self._timeout = aiohttp.ClientTimeout(total=max(20.0, clock.real(timeout)))
        self.tally = Tally()

    async def run(self, arrivals: FloatArray, *, start: float) -> None:
        """Sends a request at each of ``arrivals`` (logical seconds after ``start``) and waits for all answers."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=5.0)
        # A reused connection that the router has just closed would have to be retried: each request has its own.
        session = aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, headers={"Connection": "close"}, trust_env=False
        )
        async with session, asyncio.TaskGroup() as group:
            for at in arrivals:
                await self._clock.sleep(start + float(at) - self._clock.now())
                group.create_task(self._request(session))

    async def probe(self) -> None:
        """One request outside the tally: whether the whole way works.

        Raises:
            StreamError, OSError, asyncio.TimeoutError, aiohttp.ClientError: It does not.
        """
        prompt = self._book.next()
        checker = self._checker(prompt)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10), trust_env=False) as session:
            await self._stream(session, prompt.body, checker)
            checker.end()

    def _checker(self, prompt: Prompt) -> StreamChecker:
        expected = self._expected(prompt.body) if self._expected else None
        return StreamChecker(tokens=prompt.output_tokens, expected=expected)

    async def _request(self, session: aiohttp.ClientSession) -> None:
        prompt, sent = self._book.next(), self._clock.now()
        checker = self._checker(prompt)
        self.tally.sent += 1
        self.tally.in_flight += 1
        ttft, failure = None, None
        try:
            first = await self._stream(session, prompt.body, checker)
            ttft = None if first is None else first - sent
            self._book.answered(prompt, checker.end())
        except (StreamError, OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
            failure = f"{type(error).__name__}: {error}"[:400]
            _LOG.warning("request failed: %s", failure)
        finally:
            self.tally.in_flight -= 1
        tokens = prompt.output_tokens if failure is None else 0
        self.tally.outcomes.append(Outcome(sent, self._clock.now(), ttft, tokens, failure))

    async def _stream(
        self, session: aiohttp.ClientSession, body: Mapping[str, Any], checker: StreamChecker
    ) -> float | None:
        """Reads an answer into ``checker``; when its first text came, logical seconds."""
        first: float | None = None
        async with session.post(self._url, json=body) as answer:
            if answer.status != 200:
                text = (await answer.text())[:200]
                raise StreamError(f"HTTP {answer.status}: {text}")
            async for data in answer.content.iter_any():
                if checker.feed(data) and first is None:
                    first = self._clock.now()
        return first
