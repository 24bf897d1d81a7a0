"""What the agent asks of an engine's adapter."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from warmfleet_contracts.agent import EngineCounters, LatencyState


class Health(StrEnum):
    """Outcome of one look at the engine."""

    READY = "ready"
    """It answers and lists a model."""
    UNWELL = "unwell"
    """It accepts connections but does not answer as it should."""
    REFUSED = "refused"
    """Nothing listens."""


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
    """

    running: int | None
    waiting: int | None
    kv_usage: float | None
    kv_capacity_tokens: int | None
    counters: EngineCounters
    latency: LatencyState


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

    async def observe(self) -> Observation:
        """Look once; never raises for anything the engine does."""

    async def close(self) -> None:
        """Let go of connections."""
