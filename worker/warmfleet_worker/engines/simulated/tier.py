"""The simulated engine's shared KV tier: vLLM's ``fs`` tier as seen from outside.

Blocks are stored as soon as they are computed, one job per engine step, in order, each taking
``blocks * block_size * kv_bytes_per_token / bandwidth`` logical seconds; loading takes the same. A block's file has the
place and the name that vLLM gives it, and appears whole; it holds nothing but its name, since there is no KV. Host
memory is as large as it has to be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from warmfleet_runtime.clock import Clock

from warmfleet_worker.engines.simulated.blocks import Offloaded

_LOG = logging.getLogger(__name__)
BYTES_PER_SECOND = 2e9
"""Default bandwidth to the shared file system, one way."""


@dataclass(frozen=True, slots=True)
class TierConfig:
    """``--kv-transfer-config`` with the OffloadingConnector.

    Attributes:
        root: ``root_dir`` of the fs tier; None for host memory only.
        bytes_per_second: Bandwidth to it.
    """

    root: Path | None
    bytes_per_second: float = BYTES_PER_SECOND


@dataclass(slots=True)
class TierStatistics:
    """What the tier's metrics are made from, since the engine's start."""

    stored_bytes: int = 0
    written_bytes: int = 0
    read_bytes: int = 0
    failures: int = 0
    jobs: int = 0


@dataclass(slots=True)
class _Job:
    blocks: list[int]
    bytes: int


@dataclass
class FsTier:
    """Tiers below accelerator memory.

    Attributes:
        config: Where and how fast.
        space: Name of the folder for engines that may share blocks.
        block_bytes: KV cache of one block.
        clock: Time.
        statistics: Counts.
    """

    config: TierConfig
    space: str
    block_bytes: int
    clock: Clock
    statistics: TierStatistics = field(default_factory=TierStatistics)
    _known: set[int] = field(default_factory=set)
    _queue: deque[_Job] = field(default_factory=deque)
    _events: list[Offloaded] = field(default_factory=list)
    _work: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def busy(self) -> bool:
        """Whether anything waits to be written."""
        return self.statistics.jobs > 0

    @property
    def seconds_per_block(self) -> float:
        """Logical seconds to write or read one block."""
        return self.block_bytes / self.config.bytes_per_second

    def store(self, hashes: Sequence[int]) -> None:
        """Blocks were computed: to host memory at once, to the file system in turn."""
        fresh = [h for h in hashes if h not in self._known]
        if not fresh:
            return
        self._known.update(fresh)
        self.statistics.stored_bytes += len(fresh) * self.block_bytes
        self._events.append(Offloaded(fresh, "CPU"))
        if self.config.root is not None:
            self.statistics.jobs += 1
            self._queue.append(_Job(fresh, len(fresh) * self.block_bytes))
            self._work.set()

    def match(self, hashes: Sequence[int]) -> int:
        """How many leading blocks are in a tier."""
        for index, key in enumerate(hashes):
            if key not in self._known:
                if not (self.config.root is not None and self._path(key).exists()):
                    return index
                self._known.add(key)
                self.statistics.read_bytes += self.block_bytes
        return len(hashes)

    def take_events(self) -> list[Offloaded]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    async def run(self) -> None:
        """Write, for ever."""
        while True:
            while not self._queue:
                self._work.clear()
                await self._work.wait()
            job = self._queue.popleft()
            await self.clock.sleep(job.bytes / self.config.bytes_per_second)
            try:
                await asyncio.to_thread(self._write, job.blocks)
            except OSError as error:
                _LOG.warning("KV blocks not stored: %s", error)
                self.statistics.failures += 1
            else:
                self.statistics.written_bytes += job.bytes
                self._events.append(Offloaded(job.blocks, "STORAGE"))
            self.statistics.jobs -= 1

    def _write(self, blocks: Sequence[int]) -> None:
        for key in blocks:
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}_{os.getpid()}.tmp")
            try:
                partial.write_text(path.stem)
                partial.replace(path)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    partial.unlink()

    def _path(self, key: int) -> Path:
        name = key.to_bytes(8, "big").hex()
        root = self.config.root or Path()
        return root / f"{self.space}_r0" / name[:3] / f"{name[3:5]}_g0" / f"{name}.bin"
