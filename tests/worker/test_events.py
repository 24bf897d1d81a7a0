"""The reader of KV events beside a publisher on real sockets: gaps, replays, restarts, and bytes that are no events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.asyncio
from warmfleet_worker.kv import events
from warmfleet_worker.kv.events import KvEventReader
from warmfleet_worker.kv.index import BlockIndex

SIZE = 16


def payload(block: int, ts: float | None = None) -> bytes:
    """A batch that stores one block."""
    stored = {"type": "BlockStored", "block_hashes": [b"%032d" % block], "block_size": SIZE, "medium": "GPU"}
    return msgspec.msgpack.encode([1e9 + block if ts is None else ts, [{**stored, "token_ids": [1] * SIZE}], 0])


class Publisher:
    """vLLM's side: numbered batches on one socket, and those it still has on another."""

    def __init__(self, folder: Path) -> None:
        self.endpoint, self.replay_endpoint = f"ipc://{folder}/e", f"ipc://{folder}/r"
        self._context = zmq.asyncio.Context()
        self._events, self._replay = self._context.socket(zmq.PUB), self._context.socket(zmq.ROUTER)
        self._events.bind(self.endpoint)
        self._replay.bind(self.replay_endpoint)
        self.kept: dict[int, bytes] = {}
        self.number = 0
        self.asked: list[int] = []
        self._task = asyncio.create_task(self._answer())

    async def publish(self, body: bytes, *, sent: bool = True, kept: bool = True) -> None:
        """One batch, which may get lost on its way, and may be too old for the replay."""
        if kept:
            self.kept[self.number] = body
        if sent:
            await self._events.send_multipart([b"kv", self.number.to_bytes(8, "big"), body])
        self.number += 1

    async def resend(self, number: int) -> None:
        await self._events.send_multipart([b"kv", number.to_bytes(8, "big"), self.kept[number]])

    async def _answer(self) -> None:
        while True:
            peer, _, first = await self._replay.recv_multipart()
            self.asked.append(int.from_bytes(first, "big"))
            for number, body in [(n, b) for n, b in self.kept.items() if n >= self.asked[-1]]:
                await self._replay.send_multipart([peer, b"", number.to_bytes(8, "big"), body])
            await self._replay.send_multipart([peer, b"", (-1).to_bytes(8, "big", signed=True), b""])

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._context.destroy(linger=0)


class Scene:
    """A publisher, and a reader that fills an index."""

    def __init__(self, publisher: Publisher, *, replays: bool = True) -> None:
        self.publisher, self.index, self.restarts = publisher, BlockIndex(), 0
        replay = publisher.replay_endpoint if replays else ""
        self.reader = KvEventReader(publisher.endpoint, replay, self.index.take, self._restarted, self.index.miss)
        self._task = asyncio.create_task(self.reader.run())

    def _restarted(self) -> None:
        self.restarts += 1
        self.index.restart()

    async def holds(self, blocks: int) -> None:
        async with asyncio.timeout(10):
            while len(self.index) != blocks:  # noqa: ASYNC110 - events come over a socket
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.reader.close()


@pytest.fixture
async def publisher(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Publisher]:
    one = Publisher(tmp_path_factory.mktemp("e"))
    yield one
    await one.close()


@pytest.fixture
async def scene(publisher: Publisher) -> AsyncIterator[Scene]:
    one = Scene(publisher)
    for block in range(3):
        await publisher.publish(payload(block), sent=False)
    await one.holds(3)  # published before anybody listened
    await publisher.publish(payload(3))
    async with asyncio.timeout(10):
        while len(one.index) != 4:
            await publisher.resend(3)  # until the subscription has arrived
            await asyncio.sleep(0.02)
    yield one
    await one.close()


async def test_a_gap_is_mended_by_the_replay(scene: Scene, publisher: Publisher) -> None:
    await publisher.publish(payload(4), sent=False)
    await publisher.publish(payload(5), sent=False)
    await publisher.publish(payload(6))
    await scene.holds(7)
    assert (scene.index.complete, scene.restarts) == (True, 0)
    assert publisher.asked[-1] == 4, "only what was missed is asked for"


async def test_what_the_publisher_has_no_more_leaves_the_index_incomplete(scene: Scene, publisher: Publisher) -> None:
    await publisher.publish(payload(4), sent=False, kept=False)
    await publisher.publish(payload(5), sent=False)
    await publisher.publish(payload(6))
    await scene.holds(6)
    assert (scene.index.complete, scene.restarts) == (False, 0)


async def test_a_gap_without_a_replay_leaves_the_index_incomplete(publisher: Publisher) -> None:
    scene = Scene(publisher, replays=False)
    async with asyncio.timeout(10):
        while not scene.index.seen:
            await publisher.publish(payload(publisher.number))
            await asyncio.sleep(0.02)
    before = scene.index.seen
    scene.index.complete = True  # what was published before it listened does not matter here
    await publisher.publish(payload(900), sent=False)
    await publisher.publish(payload(901))
    async with asyncio.timeout(10):
        while scene.index.complete or scene.index.seen == before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await scene.close()


async def test_what_a_replay_brought_and_comes_again_is_no_restart(scene: Scene, publisher: Publisher) -> None:
    for number in range(4):
        await publisher.resend(number)
    await publisher.publish(payload(4))
    await scene.holds(5)
    assert (scene.index.complete, scene.restarts) == (True, 0)


async def test_a_lower_number_of_a_later_time_is_a_new_engine(scene: Scene, publisher: Publisher) -> None:
    publisher.number, publisher.kept = 0, {}
    await publisher.publish(payload(700), sent=False)
    await publisher.publish(payload(701))
    await scene.holds(2)
    assert (scene.index.complete, scene.restarts) == (True, 1)


async def test_an_engine_that_was_seen_to_exit_may_have_a_clock_that_was_set_back(
    scene: Scene, publisher: Publisher
) -> None:
    scene.index.restart()
    scene.reader.reset()
    publisher.number, publisher.kept = 0, {}
    await publisher.publish(payload(1, ts=1.0))
    await scene.holds(1)
    assert scene.index.complete


@pytest.mark.parametrize("body", [b"", b"\xff" * 40, msgspec.msgpack.encode({"no": "batch"})])
async def test_bytes_that_are_no_events_leave_it_incomplete_and_are_passed_over(
    body: bytes, scene: Scene, publisher: Publisher
) -> None:
    await publisher.publish(body)
    await publisher.publish(payload(5))
    await scene.holds(5)
    assert (scene.index.complete, scene.restarts) == (False, 0)


async def test_a_publisher_that_never_answers_a_replay_holds_nobody_up(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "REPLAY_TIMEOUT", 0.1)
    publisher._task.cancel()
    scene = Scene(publisher)
    async with asyncio.timeout(10):
        while not scene.index.seen:
            await publisher.publish(payload(publisher.number))
            await asyncio.sleep(0.02)
    await scene.close()
