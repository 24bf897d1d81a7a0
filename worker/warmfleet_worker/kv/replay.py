"""Hand-over by ``replay``: the survivors compute the hottest prompts before they are asked for.

The prompts go as token ids through the deployment's own endpoint, each for one generated token, so that whoever routes
there decides, and learns, who has them from now on; the leaving worker itself is not routed to any more. It needs no
connector and no shared storage; it costs the survivors a prefill of what they do not have yet::

    order     chains by last use, the latest first, none whose tokens hotter ones have already
    chosen    those used within the time that the order to drain names: for others, survivors would evict younger ones
    bounded   by (1 - RESERVE) of the time to the deadline, by TOKENS prompt tokens, by AT_ONCE requests in flight and
              by RATE prompt tokens per second, and over after FAILURES in a row
    moved     tokens of the chains that were answered, each once, less those that the survivor says it had before
    kept      those included
    ahead     where survivors have room for all that is hot, what is hot now is sent while users' requests still run,
              and what those have added when they have ended

Requests carry the header :data:`~warmfleet_worker.engines.base.TAG` and the lowest priority, for engines that schedule
by priority.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
import msgspec
from warmfleet_contracts.agent import SentState
from warmfleet_runtime.clock import Clock, sleep_or

from warmfleet_worker.drain_events import HandoverFinished, HandoverProgress
from warmfleet_worker.engines.base import TAG
from warmfleet_worker.kv.chains import Chain, HotChains
from warmfleet_worker.kv.events import BlockHash
from warmfleet_worker.kv.handover import HandoverError, Progress
from warmfleet_worker.kv.index import BlockIndex

PRIORITY = 1_000_000
"""vLLM serves lower numbers first; requests of users have 0 unless they say otherwise."""
TOKENS = 4_000_000
"""Most prompt tokens of one hand-over."""
RATE = 50_000.0
"""Most prompt tokens per logical second: about what three or four accelerators prefill."""
AT_ONCE = 4
"""Requests in flight: survivors serve users, too."""
FAILURES = 5
"""Requests in a row without an answer after which nobody is asked any more."""
RESERVE = 0.1
"""Share of the time until the drain's deadline that is kept back."""
MAX_ANSWER = 1024 * 1024
_LOG = logging.getLogger(__name__)


class SendError(Exception):
    """A prompt was not taken; the message says why."""


class Sender(Protocol):
    """Sends prompts to survivors."""

    async def send(self, tokens: Sequence[int], within: float) -> int | None:
        """Have one token generated after ``tokens``.

        Args:
            tokens: Token ids.
            within: Real seconds.

        Returns:
            Tokens that it did not take over by this: it had them already, say; None when that is not known.

        Raises:
            SendError: It was not.
        """

    async def close(self) -> None:
        """Let go of connections; they are opened again when needed."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


class EndpointSender:
    """Sends through an OpenAI endpoint.

    Args:
        url: Base URL, without /v1; empty while there is none.
        model: Gives the name of the model to ask for.

    Attributes:
        sent: What has been answered so far.
    """

    def __init__(self, url: str, model: Callable[[], str]) -> None:
        self.url = url
        self.sent = SentState()
        self._model = model
        self._session: aiohttp.ClientSession | None = None
        self._priority = True

    async def send(self, tokens: Sequence[int], within: float, more: Mapping[str, object] | None = None) -> int | None:
        """Have one token generated after ``tokens``; see :class:`Sender`.

        Args:
            tokens: Token ids.
            within: Real seconds.
            more: Further fields of the request.

        Returns:
            Tokens that the engine had in its cache when it began to compute; None when it does not say.

        Raises:
            SendError: It was not.
        """
        body: dict[str, object] = {"model": self._model(), "prompt": list(tokens), "max_tokens": 1, "temperature": 0}
        body |= more or {}
        status, answer = await self._post(body | ({"priority": PRIORITY} if self._priority else {}), within)
        if status == 400 and self._priority:
            self._priority = False  # an engine that schedules by arrival takes no priority
            status, answer = await self._post(body, within)
        self._count(len(tokens), 0)
        if status != 200:
            raise SendError(f"HTTP {status}")
        try:
            usage = msgspec.json.decode(answer, type=_Answer).usage
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SendError(f"the answer is not OpenAI's: {error}") from None
        details = usage.prompt_tokens_details if usage is not None else None
        cached = details.cached_tokens if details is not None else None
        self._count(None, cached or 0)
        return cached

    def _count(self, tokens: int | None, cached: int) -> None:
        """One more request was answered, or something more is known of it."""
        sent = self.sent
        self.sent = SentState(
            requests=sent.requests + (tokens is not None),
            prompt_tokens=sent.prompt_tokens + (tokens or 0),
            cached_tokens=sent.cached_tokens + max(0, cached),
        )

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _post(self, body: dict[str, object], within: float) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(headers={TAG: "handover"})
        try:
            timeout = aiohttp.ClientTimeout(total=within)
            async with self._session.post(
                f"{self.url}/v1/completions", json=body, timeout=timeout, allow_redirects=False
            ) as response:
                return response.status, await response.content.read(MAX_ANSWER)
        except TimeoutError:
            raise SendError(f"no answer in {within:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise SendError(str(error) or type(error).__name__) from None


@dataclass(slots=True)
class _Tally:
    """What has happened so far."""

    kept: int = 0
    moved: int = 0
    sent: int = 0
    failures: int = 0
    in_a_row: int = 0
    problem: str = ""
    ended: str = ""
    known: set[BlockHash] = field(default_factory=set)


def is_loopback(url: str) -> bool:
    """Whether a base URL names an address of this machine itself."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and not parts.path and ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


class ReplayHandover:
    """The strategy.

    Args:
        index: The engine's blocks.
        chains: Their tokens.
        sender: Takes them to survivors.
        clock: Time.
        tokens: Most prompt tokens.
        rate: Most prompt tokens per logical second.
        endpoint: Where the sender sends to, if it is not itself one.

    Attributes:
        tokens: Most prompt tokens.
        used_within: Only what was used so many seconds ago or later is sent; None: all that is hot.
    """

    def __init__(
        self,
        index: BlockIndex,
        chains: HotChains,
        sender: Sender,
        clock: Clock,
        *,
        tokens: int = TOKENS,
        rate: float = RATE,
        endpoint: EndpointSender | None = None,
    ) -> None:
        self._index = index
        self._chains = chains
        self._clock = clock
        self.tokens = tokens
        self.used_within: float | None = None
        self._rate = rate
        self._sender = sender
        self._endpoint = sender if isinstance(sender, EndpointSender) else endpoint

    @property
    def endpoint(self) -> EndpointSender | None:
        """Where it sends to; None for another kind of sender."""
        return self._endpoint

    @property
    def begins_ahead(self) -> bool:
        """Whether survivors have room for all that is hot."""
        return self.used_within is None

    async def run(self, budget: float, progress: Progress, settled: asyncio.Event | None = None) -> HandoverFinished:
        """Send the hottest prompts; see the module's header.

        Args:
            budget: Logical seconds until the drain's deadline.
            progress: Takes what has been answered so far.
            settled: Set when no user's request runs any more; None: it is so already.

        Raises:
            HandoverError: There is nobody to send to, or nobody who takes anything.
        """
        if self.endpoint is not None and not self.endpoint.url:
            raise HandoverError("there is no endpoint to send prompts to; set routing.mode to router or service")
        end = self._clock.now() + (1 - RESERVE) * budget
        tally = _Tally()
        try:
            if settled is not None and not settled.is_set():
                await self._send_hottest(tally, end, progress)
                await sleep_or(self._clock, max(0.0, end - self._clock.now()), settled)
                tally.ended, tally.in_a_row = "", 0
            left = await self._send_hottest(tally, end, progress)
        finally:
            await self._sender.close()
        if tally.failures and not tally.kept:
            raise HandoverError(f"nobody took a prompt: {tally.problem}")
        return self._result(tally, left)

    async def _send_hottest(self, tally: _Tally, end: float, progress: Progress) -> int:
        """Send what is hot now and was not answered yet; returns how many prompts were not sent."""
        began, before = self._clock.now(), tally.sent
        chains = self._chains.hottest(self._clock.wall().timestamp(), self.used_within, tally.known)
        todo = [chain for chain in reversed(chains) if chain.fresh]

        async def work() -> None:
            while todo and not tally.ended:
                chain = todo[-1]
                if tally.sent + len(chain.tokens) > self.tokens:
                    tally.ended = f"the budget of {self.tokens} tokens was used up"
                    return
                todo.pop()
                tally.sent += len(chain.tokens)
                await self._one(chain, end, tally)
                progress(HandoverProgress(tally.moved, tally.kept))
                due = began + (tally.sent - before) / self._rate
                await self._clock.sleep(max(0.0, due - self._clock.now()))

        workers = [asyncio.create_task(work()) for _ in range(AT_ONCE)]
        bound = asyncio.create_task(self._clock.sleep(max(0.0, end - self._clock.now())))
        try:
            while any(not task.done() for task in workers) and not bound.done():
                busy = [task for task in workers if not task.done()]
                await asyncio.wait([*busy, bound], return_when=asyncio.FIRST_COMPLETED)
            for task in workers:
                if task.done():
                    task.result()
                else:
                    tally.ended = "the time was up"
        finally:
            for task in (*workers, bound):
                task.cancel()
            await asyncio.gather(*workers, bound, return_exceptions=True)
        return len(todo)

    async def _one(self, chain: Chain, end: float, tally: _Tally) -> None:
        within = max(1.0, (end - self._clock.now()) / self._clock.scale)
        try:
            cached = await self._sender.send(chain.tokens, within)
        except SendError as error:
            tally.failures += 1
            tally.in_a_row += 1
            tally.problem = str(error)
            if tally.in_a_row >= FAILURES:
                tally.ended = f"{FAILURES} requests in a row failed"
            return
        tally.in_a_row = 0
        tally.known.update(chain.blocks)
        tally.kept += chain.fresh
        tally.moved += min(chain.fresh, len(chain.tokens) - (cached or 0))

    def _result(self, tally: _Tally, left: int) -> HandoverFinished:
        notes = []
        if tally.ended:
            notes.append(f"{tally.ended} with {left} hot prompts not sent")
        if tally.failures:
            notes.append(f"{tally.failures} prompts were not taken, the last one: {tally.problem}")
        if not self._index.complete:
            notes.append("KV events were missed: the figures are lower bounds")
        dropped = max(0, self._index.held_tokens - tally.kept)
        if self.used_within is not None and dropped:
            notes.append(f"survivors have room for what was used within {self.used_within:.0f} s, no more was sent")
        partial = bool(tally.ended or tally.failures) or not self._index.complete
        _LOG.info("sent to survivors", extra={"tokens": tally.sent, "kept": tally.kept, "moved": tally.moved})
        return HandoverFinished(tally.kept, tally.moved, dropped, partial, "; ".join(notes))
