"""The simulated engine's NixlConnector: blocks of one request that another engine pulls, as seen from outside.

A request with ``kv_transfer_params.do_remote_decode`` is answered with the place of its blocks, and they count as lent
until they have been pulled or the lease has ended; an engine with lent blocks does not exit by itself. A request that
carries such an answer asks the lender over the side channel, takes ``blocks * block_bytes / bandwidth`` logical seconds
for those it does not hold, and has them then. The side channel is a line of JSON each way, not vLLM's own protocol: two
simulated engines understand each other, a real one does not. Nobody answers, or not for this request: status 500, as
vLLM's ``kv_load_failure_policy`` has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from warmfleet_runtime.clock import Clock

ANSWER_TIMEOUT = 5.0
"""Real seconds for a lender to answer."""
_LINE = 4096


class PullError(Exception):
    """The blocks are not to be had; the message says why."""


@dataclass(frozen=True, slots=True)
class NixlConfig:
    """``--kv-transfer-config`` with the NixlConnector, and vLLM's variables for it.

    Attributes:
        host: Address of the side channel.
        port: Its port; 0: any free one.
        lease: Logical seconds that lent blocks are kept.
        bytes_per_second: Bandwidth between two engines.
    """

    host: str
    port: int
    lease: float
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where the blocks of a prompt are, as one engine tells another."""

    host: str
    port: int
    request: str
    tokens: int


class _Asked(msgspec.Struct):
    request: str


class _Told(msgspec.Struct):
    tokens: int | None = None


@dataclass
class Nixl:
    """The connector of one engine.

    Attributes:
        config: Where and how long.
        clock: Time.
        block_bytes: KV cache of one block.
        identity: Name of this engine among those that pull.
    """

    config: NixlConfig
    clock: Clock
    block_bytes: int
    identity: str = field(default_factory=lambda: str(uuid.uuid4()))
    pulled_bytes: int = 0
    _lent: dict[str, tuple[int, float]] = field(default_factory=dict)
    _server: asyncio.Server | None = None
    _port: int = 0

    async def start(self) -> None:
        """Listen for those who pull."""
        self._server = await asyncio.start_server(self._answer, self.config.host, self.config.port, limit=_LINE)
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    @property
    def lending(self) -> bool:
        """Whether blocks are kept for somebody."""
        now = self.clock.now()
        self._lent = {key: kept for key, kept in self._lent.items() if kept[1] > now}
        return bool(self._lent)

    def lend(self, tokens: int, blocks: int) -> dict[str, Any]:
        """Keep the blocks of a request that has ended; returns the answer's ``kv_transfer_params``."""
        request = f"cmpl-{uuid.uuid4().hex}"
        self._lent[request] = (tokens, self.clock.now() + self.config.lease)
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [list(range(1, blocks + 1))],
            "remote_engine_id": self.identity,
            "remote_request_id": request,
            "remote_host": self.config.host,
            "remote_port": self._port,
            "remote_num_tokens": tokens,
            "tp_size": 1,
            "transfer_mode": "pull",
        }

    async def pull(self, place: Place, missing: Callable[[], int]) -> int:
        """Fetch blocks from another engine.

        Args:
            place: Where they are.
            missing: Gives the number of blocks not held here.

        Returns:
            Tokens of the prompt that are here then.

        Raises:
            PullError: They are not to be had.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                told = await self._ask(place)
        except (OSError, TimeoutError, msgspec.DecodeError, ValueError) as error:
            raise PullError(f"NIXL: {place.host}:{place.port}: {error or type(error).__name__}") from None
        if told.tokens is None:
            raise PullError(f"NIXL: {place.request} is not lent any more")
        size = missing() * self.block_bytes
        await self.clock.sleep(size / self.config.bytes_per_second)
        self.pulled_bytes += size
        return min(told.tokens, place.tokens)

    async def _ask(self, place: Place) -> _Told:
        reader, writer = await asyncio.open_connection(place.host, place.port, limit=_LINE)
        try:
            writer.write(msgspec.json.encode(_Asked(place.request)) + b"\n")
            await writer.drain()
            return msgspec.json.decode(await reader.readline(), type=_Told)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, msgspec.DecodeError):
            asked = msgspec.json.decode(await reader.readline(), type=_Asked)
            tokens, until = self._lent.pop(asked.request, (0, 0.0))
            told = _Told(tokens if until > self.clock.now() else None)
            writer.write(msgspec.json.encode(told) + b"\n")
            await writer.drain()
        writer.close()


def place_of(params: Mapping[str, Any]) -> Place | None:
    """Where a request's blocks are, from its ``kv_transfer_params``; None when they do not say so."""
    if params.get("do_remote_prefill") is not True or not params.get("remote_block_ids"):
        return None
    host, port, request = params.get("remote_host"), params.get("remote_port"), params.get("remote_request_id")
    tokens = params.get("remote_num_tokens")
    if not (isinstance(host, str) and isinstance(request, str) and type(port) is int and type(tokens) is int):
        return None
    return Place(host, port, request, tokens)
