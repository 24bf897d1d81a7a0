"""vLLM's KV events on the wire: decoding, and a reader that mends gaps from the publisher's replay endpoint.

A message is [topic, sequence (8 bytes, big-endian), msgpack of [ts, [events], data parallel rank]]. The publisher
binds, and numbers its batches from 0; a number that is not the next one is a gap, mended by asking the replay endpoint
for the batches from there on. A lower number is a batch that a replay has brought already, if it is not younger than
the last one; else it is a new publisher (the engine was restarted).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from array import array
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import zmq
import zmq.asyncio

_LOG = logging.getLogger(__name__)
REPLAY_TIMEOUT = 2.0
"""Real seconds to wait for a replayed batch."""
QUEUE = 100_000
"""Batches that wait for the reader; beyond, ZMQ drops, which shows as a gap."""

BlockHash = bytes | int
BlockSize = Annotated[int, msgspec.Meta(ge=0, le=2**24)]
Group = Annotated[int, msgspec.Meta(ge=0, le=255)]
Time = Annotated[float, msgspec.Meta(ge=0, le=2**33)]
Token = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]

BlockKey = tuple[BlockHash, int]
"""Hash of a block as the events write it, and its KV cache group."""


_TOKENS = msgspec.msgpack.Decoder(list[Token])


def raw_tokens(tokens: Sequence[int]) -> msgspec.Raw:
    """Token ids as they are on the wire."""
    return msgspec.Raw(msgspec.msgpack.encode(list(tokens)))


NO_TOKENS = raw_tokens(())


def token_count(raw: bytes | memoryview) -> int:
    """How many token ids there are said to be, without reading them; 0 when they are no list."""
    first = raw[0] if len(raw) else 0
    if first & 0xF0 == 0x90:
        return first & 0x0F
    width = {0xDC: 2, 0xDD: 4}.get(first, 0)
    return int.from_bytes(raw[1 : 1 + width], "big")


def tokens_of(raw: bytes | msgspec.Raw) -> array[int] | None:
    """The token ids as 32-bit numbers; None when they are none (those of a prompt given as embeddings, for one)."""
    try:
        return array("I", _TOKENS.decode(raw))
    except (msgspec.DecodeError, RecursionError):
        return None


class BlockStored(msgspec.Struct, tag="BlockStored", gc=False):
    """Blocks that can be found from now on.

    Attributes:
        block_hashes: Their hashes, in order.
        block_size: Tokens of a block; 0 for media below the accelerator's memory.
        medium: GPU, CPU or STORAGE; None is the accelerator's memory.
        group_idx: KV cache group.
        parent_block_hash: Hash of the block before the first; None at the start of a prompt.
        token_ids: Their tokens, as they came (:func:`tokens_of`): most are never asked for. Empty for media below the
            accelerator's memory.
    """

    block_hashes: list[BlockHash]
    block_size: BlockSize = 0
    medium: str | None = None
    group_idx: Group | None = None
    parent_block_hash: BlockHash | None = None
    token_ids: msgspec.Raw = NO_TOKENS


class BlockRemoved(msgspec.Struct, tag="BlockRemoved", gc=False):
    """Blocks that were evicted from a medium.

    Attributes:
        block_hashes: Their hashes.
        medium: As above.
        group_idx: KV cache group.
    """

    block_hashes: list[BlockHash]
    medium: str | None = None
    group_idx: Group | None = None


class AllBlocksCleared(msgspec.Struct, tag="AllBlocksCleared", gc=False):
    """The cache was emptied."""


class Batch(msgspec.Struct, array_like=True, gc=False):
    """Events of one engine step.

    Attributes:
        ts: When, seconds since the epoch.
        events: In order.
        data_parallel_rank: Whose they are.
    """

    ts: Time
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


_DECODER = msgspec.msgpack.Decoder(Batch)


def decode(payload: bytes) -> Batch:
    """A batch from its third frame.

    Raises:
        ValueError: It is none.
    """
    try:
        return _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"KV events: {error}") from None


class KvEventReader:
    """Follows one publisher.

    Args:
        endpoint: Its ZMQ endpoint, which this side connects to.
        replay_endpoint: Where missed batches can be had; empty for nowhere.
        take: Called with each batch in order.
        restarted: Called when a new publisher begins.
        missed: Called when batches are lost for good.
    """

    def __init__(
        self,
        endpoint: str,
        replay_endpoint: str,
        take: Callable[[Batch], None],
        restarted: Callable[[], None],
        missed: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._replay_endpoint = replay_endpoint
        self._take = take
        self._restarted = restarted
        self._missed = missed
        self._next = 0
        self._last = 0.0  # time of the youngest batch
        self._context = zmq.asyncio.Context()

    async def run(self) -> None:
        """Follow for ever."""
        socket = self._context.socket(zmq.SUB)
        socket.set_hwm(QUEUE)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        try:
            socket.connect(self._endpoint)
            await self._catch_up()  # an agent that was restarted beside a running engine
            while True:
                frames = await socket.recv_multipart()
                if len(frames) == 3 and len(frames[1]) == 8:
                    await self._receive(int.from_bytes(frames[1], "big"), frames[2])
        finally:
            socket.close(linger=0)

    def close(self) -> None:
        """Let go of the sockets."""
        self._context.destroy(linger=0)

    def reset(self) -> None:
        """The engine has gone: the next batch is a new publisher's first."""
        self._next, self._last = 0, 0.0

    async def _receive(self, number: int, payload: bytes) -> None:
        if number < self._next:
            if self._is_known(payload):
                return
            self._restarted()
            self.reset()
        if number > self._next:
            await self._catch_up(number)
        if number > self._next:
            _LOG.warning("KV events missed", extra={"first": self._next, "next": number})
            self._missed()
        if number >= self._next:
            self._deliver(number, payload)

    def _is_known(self, payload: bytes) -> bool:
        """Whether a batch with a number that has been is the one that was: a replay brings what is on its way too."""
        try:
            return decode(payload).ts <= self._last
        except ValueError:
            return False

    def _deliver(self, number: int, payload: bytes) -> None:
        self._next = number + 1
        try:
            batch = decode(payload)
        except ValueError as error:
            _LOG.warning("%s", error)
            self._missed()
            return
        self._last = max(self._last, batch.ts)
        self._take(batch)

    async def _catch_up(self, until: int | None = None) -> None:
        """Ask for the batches from the next one on, at most those before ``until``."""
        if not self._replay_endpoint:
            return
        socket = self._context.socket(zmq.DEALER)
        try:
            socket.connect(self._replay_endpoint)
            await socket.send_multipart([b"", self._next.to_bytes(8, "big")])
            while True:
                # Not wait_for: it loses a cancellation that comes together with an answer.
                async with asyncio.timeout(REPLAY_TIMEOUT):
                    frames = await socket.recv_multipart()
                number = int.from_bytes(frames[-2], "big", signed=True) if len(frames) > 1 else -1
                if number < 0 or (until is not None and number >= until):
                    return
                if number == self._next:
                    self._deliver(number, frames[-1])
                elif number > self._next:
                    self._missed()
                    self._deliver(number, frames[-1])
        except TimeoutError:
            return
        finally:
            with contextlib.suppress(zmq.ZMQError):
                socket.close(linger=0)
