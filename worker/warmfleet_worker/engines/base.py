"""What the agent asks of an engine's adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from warmfleet_contracts.agent import EngineCounters, LatencyState

TAG = "X-Warmfleet-Handover"
"""Header of all requests that no user has sent; its value says what for."""


class Health(StrEnum):
    """Outcome of one look at the engine."""

    READY = "ready"
    """It answers and lists a model."""
    UNWELL = "unwell"
    """It accepts connections but does not answer as it should."""
    REFUSED = "refused"
    """Nothing listens."""


@dataclass(frozen=True, slots=True)
class OffloadState:
    """What an engine's metrics say of its KV tiers below accelerator memory, since its start.

    Attributes:
        active_cascades: Writes from host memory to a tier below that are under way.
        stored_bytes: Copied from accelerator to host memory.
        written_bytes: Written to the tiers below.
        failed_cascades: Writes that failed.
        dropped_blocks: Blocks not written because the tier was too slow.
    """

    active_cascades: int
    stored_bytes: int
    written_bytes: int
    failed_cascades: int = 0
    dropped_blocks: int = 0

    def troubles(self) -> list[str]:
        """What went wrong, in words."""
        notes = []
        if self.active_cascades:
            notes.append(f"{self.active_cascades} writes are under way")
        if self.failed_cascades:
            notes.append(f"{self.failed_cascades} writes failed since the engine's start")
        if self.dropped_blocks:
            notes.append(f"{self.dropped_blocks} blocks were left out because storage was slow")
        return notes


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine's metrics say.

    Attributes:
        running: Requests in the batch; None while unknown.
        waiting: Requests in the queue; None while unknown.
        kv_usage: Share of the KV cache that running requests hold, 0..1; None while unknown.
        kv_capacity_tokens: Tokens the KV cache holds; None while unknown.
        counters: Since the engine's start.
        latency: SLO counts since the engine's start.
        offload: KV tiers below accelerator memory; None without any.
    """

    running: int | None
    waiting: int | None
    kv_usage: float | None
    kv_capacity_tokens: int | None
    counters: EngineCounters
    latency: LatencyState
    offload: OffloadState | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at the engine.

    Attributes:
        health: Outcome.
        load: None when the metrics could not be read.
        problem: What was wrong, for a log; empty when nothing was.
    """

    health: Health
    load: Load | None = None
    problem: str = ""


class EngineAdapter(Protocol):
    """Access to one engine."""

    @property
    def model(self) -> str:
        """Name of the model it serves; empty while unknown."""

    async def observe(self) -> Observation:
        """Look once; never raises for anything the engine does."""

    async def touch(self, tokens: Sequence[int]) -> bool:
        """Have one token generated after ``tokens``, so that their blocks are in the cache; whether it was."""

    async def lend(self, tokens: Sequence[int], within: float) -> Mapping[str, object] | None:
        """Keep the cached blocks of ``tokens`` for another engine to pull; what to tell it, None when that fails.

        Args:
            tokens: Token ids.
            within: Real seconds.
        """

    async def close(self) -> None:
        """Let go of connections."""
