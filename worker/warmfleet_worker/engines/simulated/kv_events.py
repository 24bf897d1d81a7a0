"""KV events over ZMQ, in vLLM's framing, so that one index reads both engines.

A message is [topic, sequence (8 bytes, big-endian), msgpack of [ts, [events], data parallel rank]]. The replay
endpoint (ROUTER) takes [b"", first sequence] and answers [b"", sequence, payload] for each batch kept from there on,
then [b"", -1, b""].
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import zmq
import zmq.asyncio
from warmfleet_runtime.clock import Clock

from warmfleet_worker.engines.simulated.blocks import Cleared, Offloaded, Removed, Stored
from warmfleet_worker.engines.simulated.config import KvEventsConfig

_LOG = logging.getLogger(__name__)
_END = (-1).to_bytes(8, "big", signed=True)


PoolEvent = Stored | Removed | Cleared | Offloaded
Hash = Callable[[int], int | bytes]


def wire_events(event: PoolEvent, block_size: int, name: Hash = int) -> list[dict[str, Any]]:
    """An event as vLLM writes it: one, but of tiers below accelerator memory one a block.

    Args:
        event: The event.
        block_size: Tokens of a block.
        name: Form of a hash on the wire.
    """
    if isinstance(event, Cleared):
        return [{"type": "AllBlocksCleared"}]
    hashes = [name(h) for h in event.hashes]
    if isinstance(event, Removed):
        return [{"type": "BlockRemoved", "block_hashes": hashes, "medium": "GPU", "group_idx": 0}]
    if isinstance(event, Offloaded):
        return [_below(one, event.medium) for one in hashes]
    return [_computed(event, hashes, block_size, name)]


def _below(block: int | bytes, medium: str) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": [block],
        "parent_block_hash": None,
        "token_ids": [],
        "block_size": 0,
        "lora_id": None,
        "medium": medium,
        "lora_name": None,
        "group_idx": 0,
    }


def _computed(event: Stored, hashes: list[int | bytes], block_size: int, name: Hash) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": None if event.parent is None else name(event.parent),
        "token_ids": event.token_ids,
        "block_size": block_size,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None] * len(hashes),
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }


class KvPublisher:
    """Publishes batches of events and replays them.

    Args:
        config: Endpoints and sizes.
        block_size: Tokens of a block.
        clock: Source of the batches' time.
    """

    def __init__(self, config: KvEventsConfig, block_size: int, clock: Clock) -> None:
        self._config = config
        self._block_size = block_size
        self._clock = clock
        self._topic = config.topic.encode()
        self._sequence = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=config.buffer_steps)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._publisher = self._context.socket(zmq.PUB)
        self._publisher.set_hwm(config.hwm)
        _attach(self._publisher, config.endpoint)
        self._task: asyncio.Task[None] | None = None
        self._router: zmq.asyncio.Socket | None = None
        if config.replay_endpoint is not None:
            self._router = zmq.asyncio.Context(self._context).socket(zmq.ROUTER)
            self._router.bind(config.replay_endpoint)
            self._task = asyncio.create_task(self._replay(self._router))

    def publish(self, events: Iterable[PoolEvent]) -> None:
        """Send events, if there are any, as one batch."""
        name = _whole if self._config.whole_hashes else int
        wired = [wire for event in events for wire in wire_events(event, self._block_size, name)]
        if not wired:
            return
        payload = msgspec.msgpack.encode([self._clock.wall().timestamp(), wired, 0])
        number, self._sequence = self._sequence, self._sequence + 1
        self._kept.append((number, payload))
        try:
            self._publisher.send_multipart([self._topic, number.to_bytes(8, "big"), payload], zmq.NOBLOCK)
        except zmq.Again:
            _LOG.warning("KV events dropped: the publisher's queue is full", extra={"sequence": number})

    async def close(self) -> None:
        """Close the sockets."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._router is not None:
            self._router.close(linger=0)
        self._publisher.close(linger=0)
        self._context.term()

    async def _replay(self, router: zmq.asyncio.Socket) -> None:
        while True:
            client, *rest = await router.recv_multipart()
            if len(rest) != 2 or len(rest[1]) != 8:
                _LOG.warning("KV replay request ignored: want an empty frame and 8 bytes of sequence number")
                continue
            start = int.from_bytes(rest[1], "big")
            for number, payload in list(self._kept):
                if number >= start:
                    await router.send_multipart([client, b"", number.to_bytes(8, "big"), payload])
            await router.send_multipart([client, b"", _END, b""])


def _whole(block: int) -> bytes:
    """A hash in all its bytes."""
    return block.to_bytes(8, "big")


def _attach(socket: zmq.Socket[bytes], endpoint: str) -> None:
    if "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://")):
        socket.bind(endpoint)
    else:
        socket.connect(endpoint)
