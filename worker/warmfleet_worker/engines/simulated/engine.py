"""Drives the scheduler by the clock and wakes the streams that have new tokens."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from hashlib import sha256

from warmfleet_runtime.clock import Clock

from warmfleet_worker.engines.simulated.blocks import BlockPool, Stored, block_hashes
from warmfleet_worker.engines.simulated.config import EngineConfig
from warmfleet_worker.engines.simulated.histograms import Statistics
from warmfleet_worker.engines.simulated.kv_events import KvPublisher, PoolEvent
from warmfleet_worker.engines.simulated.nixl import Nixl
from warmfleet_worker.engines.simulated.scheduler import Limits, QueueFull, Request, Scheduler
from warmfleet_worker.engines.simulated.tier import FsTier, TierConfig

_LOG = logging.getLogger(__name__)

TICK = 0.02
"""Real seconds between two looks at the clock while there is work: bounds the cost at any clock speed."""


class ShutDown(Exception):  # noqa: N818 - it is an answer, not an error
    """The engine takes no new requests."""


class Stream:
    """A request in flight and the tokens its client has not seen.

    Args:
        request: The request.
        every_chunk: Wake for each chunk instead of only at the end.
    """

    __slots__ = ("_news", "every_chunk", "request", "sent")

    def __init__(self, request: Request, *, every_chunk: bool) -> None:
        self.request = request
        self.every_chunk = every_chunk
        self.sent = 0
        self._news = asyncio.Event()

    def poke(self) -> None:
        """Wake the reader if there is something for it."""
        if self.request.finished or (self.every_chunk and self.request.tokens > self.sent):
            self._news.set()

    async def take(self) -> tuple[int, int, bool]:
        """Wait for tokens: first, end (exclusive), and whether they are the last."""
        await self._news.wait()
        self._news.clear()
        start, self.sent = self.sent, self.request.tokens
        return start, self.sent, self.request.finished


class Engine:
    """The engine of one server.

    Args:
        config: Configuration.
        clock: Time.
    """

    def __init__(self, config: EngineConfig, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.accepting = True
        self.streams: set[Stream] = set()
        pool = BlockPool(
            config.blocks,
            config.block_size,
            caching=config.prefix_caching,
            record=config.kv_events is not None or config.tier is not None,
        )
        self.tier = None if config.tier is None else _tier(config, config.tier, clock)
        limits = Limits(config.max_num_seqs, config.max_num_batched_tokens, config.max_num_queued_reqs)
        self.scheduler = Scheduler(
            config.profile, pool, limits, Statistics(config.max_model_len), clock.now(), self.tier
        )
        block_bytes = config.block_size * config.profile.kv_bytes_per_token
        self.nixl = None if config.nixl is None else Nixl(config.nixl, clock, block_bytes)
        self._publisher: KvPublisher | None = None
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._storing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to run."""
        if self.config.kv_events is not None:
            self._publisher = KvPublisher(self.config.kv_events, self.config.block_size, self.clock)
        if self.nixl is not None:
            await self.nixl.start()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_crash)
        if self.tier is not None:
            self._storing = asyncio.create_task(self._store(self.tier))
            self._storing.add_done_callback(_crash)

    def submit(
        self, prompt: list[int], max_tokens: int, finish_reason: str, *, every_chunk: bool, pulled: int = 0
    ) -> Stream:
        """Take in a request; ``pulled`` tokens of its prompt came from another engine.

        Raises:
            ShutDown: The engine takes no new requests.
            QueueFull: The queue limit is reached.
        """
        if not self.accepting:
            raise ShutDown("cannot schedule new futures after shutdown")
        request = Request(prompt, max_tokens, self.clock.now(), finish_reason, pulled=pulled)
        self.scheduler.add(request)
        stream = Stream(request, every_chunk=every_chunk)
        self.streams.add(stream)
        self._work.set()
        return stream

    def missing(self, prompt: list[int]) -> int:
        """Full blocks of a prompt that are not held."""
        pool = self.scheduler.pool
        hashes = block_hashes(prompt, pool.block_size)
        return len(hashes) - pool.match(hashes)

    def leave(self, stream: Stream) -> None:
        """End a stream; a request that has not finished is aborted."""
        self.streams.discard(stream)
        if not stream.request.finished and self._task is not None:
            self.scheduler.abort(stream.request, self.clock.now())

    def refresh(self) -> None:
        """Bring the state to the current time."""
        if self._task is not None:
            self.scheduler.advance(self.clock.now())

    def clear_cache(self) -> None:
        """Forget all prefix blocks that no request holds."""
        self.refresh()
        self.scheduler.pool.clear()
        self._publish()

    async def halt(self) -> None:
        """Stop at once, as a killed engine process does: streams get nothing more, not even an end."""
        self.accepting = False
        tasks = [task for task in (self._task, self._storing) if task is not None]
        self._task = self._storing = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.nixl is not None:
            await self.nixl.close()
        if self._publisher is not None:
            await self._publisher.close()
            self._publisher = None

    async def until(self, idle: Callable[[], bool], bound: float) -> bool:
        """Wait until ``idle()``, at most ``bound`` real seconds; whether it came true."""
        loop = asyncio.get_running_loop()
        end = loop.time() + bound
        while not idle():
            if loop.time() >= end:
                return False
            await asyncio.sleep(TICK)
        return True

    async def _run(self) -> None:
        interval, due = self.clock.real(self.config.stream_interval), 0.0
        now = asyncio.get_running_loop().time
        while True:
            if not self.scheduler.busy:
                self._flush(every=True)
                self._work.clear()
                await self._work.wait()
            await asyncio.sleep(TICK)
            self.scheduler.advance(self.clock.now())
            every = now() >= due
            self._flush(every=every)
            due = now() + interval if every else due

    def _flush(self, *, every: bool) -> None:
        """Wake streams: all that have news, or only those whose first or last chunk is due whatever the interval."""
        for stream in self.streams:
            if every or not stream.sent or stream.request.finished:
                stream.poke()
        self._publish()

    @property
    def at_work(self) -> bool:
        """Whether a request runs or waits, or blocks are to be stored or lent: a graceful shutdown waits for them."""
        stored, lent = self.tier is not None and self.tier.busy, self.nixl is not None and self.nixl.lending
        return bool(self.streams) or stored or lent

    async def _store(self, tier: FsTier) -> None:
        """Store blocks, and tell of it even while no request runs."""
        running = asyncio.create_task(tier.run())
        try:
            while not running.done():
                await asyncio.sleep(TICK)
                self._publish()
            running.result()
        finally:
            running.cancel()

    def _publish(self) -> None:
        events: list[PoolEvent] = list(self.scheduler.pool.drain_events())
        if self.tier is not None:
            for event in events:
                if isinstance(event, Stored):
                    self.tier.store(event.hashes)
            events += self.tier.take_events()
        if self._publisher is not None:
            self._publisher.publish(events)


def _tier(config: EngineConfig, tier: TierConfig, clock: Clock) -> FsTier:
    """The tier of engines with this configuration: those that agree in it share their blocks."""
    facts = repr((config.model, config.block_size, config.cache_dtype, config.profile.dtype))
    space = f"{config.model.replace('/', '_')}_{sha256(facts.encode()).hexdigest()[:12]}"
    return FsTier(tier, space, config.block_size * config.profile.kv_bytes_per_token, clock)


def _crash(task: asyncio.Task[None]) -> None:
    """An engine whose loop broke must not look alive: end the process, as vLLM does when its core dies."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _LOG.critical("the engine loop broke", exc_info=error)
        os.kill(os.getpid(), signal.SIGKILL)


__all__ = ["Engine", "QueueFull", "ShutDown", "Stream"]
