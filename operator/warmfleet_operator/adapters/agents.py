"""Talks to the worker agents. What does not answer in time, in size or in form counts as no answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import aiohttp
from pydantic import ValidationError
from warmfleet_contracts import labels
from warmfleet_contracts.agent import AgentState, DrainRequest

from warmfleet_operator.state.records import WorkerRecord

MAX_BYTES = 64 * 1024


class NoAnswerError(Exception):
    """The other side gave no usable answer; the message is one word or two, fit for a metric label."""


@dataclass(frozen=True, slots=True)
class CancelResult:
    """Whether a drain could be cancelled."""

    cancelled: bool


@contextmanager
def or_no_answer() -> Iterator[None]:
    """Gives whatever keeps an answer away its word.

    Raises:
        NoAnswerError: Instead of what the client raises.
    """
    try:
        yield
    except TimeoutError as error:
        raise NoAnswerError("timeout") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NoAnswerError("unreachable") from error


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, if it is not longer than ``limit`` bytes.

    Raises:
        NoAnswerError: It is longer.
    """
    body = await response.content.read(limit + 1)
    while len(body) <= limit and not response.content.at_eof():
        body += await response.content.read(limit + 1 - len(body))
    if len(body) > limit:
        raise NoAnswerError("too large")
    return body


class Keys(Protocol):
    """Where the tokens for agents come from."""

    def bearers(self, worker: WorkerRecord, /) -> tuple[str, ...]:
        """Tokens for a worker's agent, in the order in which they are tried."""

    def refused(self, namespace: str, /) -> None:
        """An agent took none of them."""

    async def refresh(self, namespace: str, /) -> None:
        """Read them again, if that is due."""


class NoKeys:
    """Agents are asked without a token."""

    def bearers(self, _: WorkerRecord, /) -> tuple[str, ...]:
        """None."""
        return ()

    def refused(self, _: str, /) -> None:
        """Nothing can be done."""

    async def refresh(self, _: str, /) -> None:
        """Nothing to read."""


class AgentClient:
    """HTTP client of the agents' protocol.

    Args:
        session: Shared keep-alive session.
        timeout_seconds: Real seconds for one exchange.
        port: Port of the agents.
        keys: Where the tokens come from.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        timeout_seconds: float = 2.0,
        port: int = labels.AGENT_PORT,
        keys: Keys | None = None,
    ) -> None:
        self._session, self._port = session, port
        self._keys = keys or NoKeys()
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def state(self, worker: WorkerRecord) -> AgentState:
        """``GET /v1/state``.

        Raises:
            NoAnswerError: No usable answer.
        """
        status, body = await self._ask("GET", worker, "/v1/state")
        if status != 200:
            raise NoAnswerError(f"status {status}")
        return _parse(body)

    async def drain(self, worker: WorkerRecord, request: DrainRequest) -> AgentState:
        """``POST /v1/drain``: start a drain or tighten its deadline.

        Raises:
            NoAnswerError: No usable answer.
        """
        status, body = await self._ask("POST", worker, "/v1/drain", request.model_dump_json(by_alias=True))
        if status not in (200, 202):
            raise NoAnswerError(f"status {status}")
        return _parse(body)

    async def cancel(self, worker: WorkerRecord) -> CancelResult:
        """``DELETE /v1/drain``.

        Raises:
            NoAnswerError: No usable answer.
        """
        status, _ = await self._ask("DELETE", worker, "/v1/drain")
        if status not in (200, 204, 409):
            raise NoAnswerError(f"status {status}")
        return CancelResult(cancelled=status != 409)

    async def _ask(self, method: str, worker: WorkerRecord, path: str, body: str | None = None) -> tuple[int, bytes]:
        if not worker.ip:
            raise NoAnswerError("no address")
        url = f"http://{address(worker.ip)}:{self._port}{path}"
        headers = {"Content-Type": "application/json"} if body is not None else {}
        for token in self._keys.bearers(worker) or ("",):
            if token:
                headers["Authorization"] = f"Bearer {token}"
            with or_no_answer():
                async with self._session.request(
                    method, url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
                ) as response:
                    if response.status != 401:
                        return response.status, await read_bounded(response, MAX_BYTES)
        self._keys.refused(worker.key.namespace)
        raise NoAnswerError("unauthorized")


def address(ip: str) -> str:
    """A pod address as it stands in a URL."""
    return f"[{ip}]" if ":" in ip else ip


def _parse(body: bytes) -> AgentState:
    try:
        return AgentState.model_validate_json(body)
    except (ValidationError, RecursionError) as error:
        raise NoAnswerError("invalid answer") from error
