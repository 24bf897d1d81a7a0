"""The demo's clients: one streaming chat completion per arrival and fleet, no retries, each checked to its last token.

Every fleet gets the same requests at the same moments. A session goes on when all of them have answered it, so that
none of them is asked for the next turn before it could have the last one in its cache.
"""

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
        prompt: Tokens of its prompt; 0 unless it was answered whole.
        cached: Of these, tokens that were in the engine's prefix cache.
        repeated: Of these, tokens that were asked before.
    """

    sent: float
    ended: float
    ttft: float | None
    tokens: int
    failure: str | None
    prompt: int = 0
    cached: int = 0
    repeated: int = 0


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
        endpoints: URLs of the routers, such as http://127.0.0.5:8080, by the name of the fleet behind each.
        book: Chooses what requests say.
        clock: The demo's clock.
        expected: Text of the answer to a request body; None to check counts and order of events alone.
        timeout: Logical seconds after which a request has failed.

    Attributes:
        tallies: What has been seen so far, by fleet.
    """

    def __init__(
        self,
        endpoints: Mapping[str, str],
        book: ConversationBook,
        clock: Clock,
        *,
        expected: Expected | None,
        timeout: float = 1800.0,
    ) -> None:
        self._urls = {name: f"{url.rstrip('/')}/v1/chat/completions" for name, url in endpoints.items()}
        self._book, self._clock, self._expected = book, clock, expected
        self._timeout = aiohttp.ClientTimeout(total=max(20.0, clock.real(timeout)))
        self.tallies = {name: Tally() for name in endpoints}

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
                group.create_task(self._everywhere(session))

    async def probe(self) -> None:
        """One request to each fleet, outside the tallies: whether the whole way works.

        Raises:
            StreamError, OSError, asyncio.TimeoutError, aiohttp.ClientError: It does not.
        """
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10), trust_env=False) as session:
            for url in self._urls.values():
                prompt = self._book.next(self._clock.now())
                checker = StreamChecker(tokens=prompt.output_tokens, expected=self._text_of(prompt))
                await self._stream(session, url, prompt.body, checker)
                checker.end()

    def _text_of(self, prompt: Prompt) -> str | None:
        return self._expected(prompt.body) if self._expected else None

    async def _everywhere(self, session: aiohttp.ClientSession) -> None:
        """One request to every fleet."""
        prompt = self._book.next(self._clock.now())
        expected = self._text_of(prompt)
        answers = await asyncio.gather(
            *(
                self._request(session, name, prompt, StreamChecker(tokens=prompt.output_tokens, expected=expected))
                for name in self._urls
            )
        )
        whole = [answer for answer in answers if answer is not None]
        if len(whole) == len(answers):
            text, tokens = whole[0]
            self._book.answered(prompt, text, self._clock.now(), tokens=tokens)

    async def _request(
        self, session: aiohttp.ClientSession, name: str, prompt: Prompt, checker: StreamChecker
    ) -> tuple[str, int] | None:
        """One request; the text of a whole answer and the tokens of its prompt."""
        tally, sent = self.tallies[name], self._clock.now()
        tally.sent += 1
        tally.in_flight += 1
        ttft, failure, text = None, None, None
        try:
            first = await self._stream(session, self._urls[name], prompt.body, checker)
            ttft = None if first is None else first - sent
            text = checker.end()
        except (StreamError, OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
            failure = f"{type(error).__name__}: {error}"[:400]
            _LOG.warning("request to %s failed: %s", name, failure)
        finally:
            tally.in_flight -= 1
        now = self._clock.now()
        if text is None:
            tally.outcomes.append(Outcome(sent, now, ttft, 0, failure))
            return None
        asked, cached = checker.prompt_tokens, checker.cached_tokens
        repeated = min(asked, prompt.repeated)
        tally.outcomes.append(Outcome(sent, now, ttft, prompt.output_tokens, None, asked, cached, repeated))
        return text, asked

    async def _stream(
        self, session: aiohttp.ClientSession, url: str, body: Mapping[str, Any], checker: StreamChecker
    ) -> float | None:
        """Reads an answer into ``checker``; when its first text came, logical seconds."""
        first: float | None = None
        async with session.post(url, json=body) as answer:
            if answer.status != 200:
                text = (await answer.text())[:200]
                raise StreamError(f"HTTP {answer.status}: {text}")
            async for data in answer.content.iter_any():
                if checker.feed(data) and first is None:
                    first = self._clock.now()
        return first
