"""Request traces as the engines take them: arrays, one clock, blocks numbered from 0.

A block is identified by the chained hash of the trace: equal identifiers mean the same prefix up to and including that
block, so the blocks of a request are its chain, and a hit is always a leading part of it. Only full blocks are cached.

The agentic workload has sessions without a common clock. They start uniformly over ``spread_s`` (seeded) and then keep
their own recorded offsets (open loop): a slow fleet does not slow its clients down. Requests that no single worker
could hold are dropped, as the workload's description says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from warmfleet_contracts.traces import FloatArray, IntArray, RequestTrace, TraceError, load_requests

MOST_TOKENS = 131_072
"""Prompts longer than this are left out of the agentic workload."""
SESSIONS = 80
SPREAD_S = 3600.0


@dataclass(frozen=True, slots=True)
class Work:
    """Requests in order of arrival.

    Attributes:
        name: Where they come from.
        block_tokens: Tokens of a block.
        arrival_s: Seconds since the start, ascending, shape (n,).
        input_tokens: Prompt tokens, shape (n,).
        output_tokens: Generated tokens, at least 1, shape (n,).
        first: Where a request's blocks begin in ``blocks``, shape (n + 1,).
        blocks: Numbers of the full blocks of all prompts, shape (first[-1],).
        distinct: How many different blocks there are.
    """

    name: str
    block_tokens: int
    arrival_s: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray
    first: IntArray
    blocks: NDArray[np.int32]
    distinct: int

    @property
    def duration_s(self) -> float:
        """Seconds from the start to the last arrival."""
        return float(self.arrival_s[-1]) if len(self.arrival_s) else 0.0


def conversation(folder: Path) -> Work:
    """The Mooncake conversation trace, as it is: 512-token blocks, its own clock."""
    return pack(load_requests(folder / "mooncake_conversation.parquet"), block_tokens=512)


def agentic(folder: Path, seed: int, *, sessions_count: int = SESSIONS, spread_s: float = SPREAD_S) -> Work:
    """Coding-agent sessions, drawn and started by ``seed``: 64-token blocks.

    Args:
        folder: Folder of the traces.
        seed: Which sessions, and when they start.
        sessions_count: How many.
        spread_s: Seconds over which they start.
    """
    return sessions(load_requests(folder / "weka_agentic.parquet"), seed, count=sessions_count, spread_s=spread_s)


def sessions(
    trace: RequestTrace, seed: int, *, count: int = SESSIONS, spread_s: float = SPREAD_S, block_tokens: int = 64
) -> Work:
    """Sessions of a trace without a common clock, drawn and started by ``seed``.

    Args:
        trace: Requests by session.
        seed: Which sessions, and when they start.
        count: How many, at most.
        spread_s: Seconds over which they start.
        block_tokens: Tokens of the blocks that ``hash_ids`` speak of.

    Raises:
        TraceError: The trace has no sessions.
    """
    if trace.session is None:
        raise TraceError(f"{trace.name}: no column session_id")
    rng = np.random.default_rng(seed)
    names = sorted(set(trace.session))
    chosen = rng.choice(len(names), size=min(count, len(names)), replace=False)
    starts = dict(zip((names[i] for i in chosen), rng.uniform(0.0, spread_s, size=len(chosen)), strict=True))
    kept = [i for i, s in enumerate(trace.session) if s in starts and 0 < trace.input_tokens[i] <= MOST_TOKENS]
    arrival = np.array([starts[trace.session[i]] for i in kept]) + trace.arrival_s[kept]
    order = np.argsort(arrival, kind="stable")
    rows = [kept[i] for i in order]
    hashes = None if trace.hash_ids is None else tuple(trace.hash_ids[i] for i in rows)
    return pack(
        RequestTrace(
            name=f"{trace.name} ({len(chosen)} sessions, seed {seed})",
            arrival_s=arrival[order],
            input_tokens=trace.input_tokens[rows],
            output_tokens=trace.output_tokens[rows],
            session=None,
            hash_ids=hashes,
        ),
        block_tokens=block_tokens,
    )


def until(work: Work, seconds: float) -> Work:
    """The requests that arrive before ``seconds``."""
    n = int(np.searchsorted(work.arrival_s, seconds, side="left"))
    return Work(
        name=work.name,
        block_tokens=work.block_tokens,
        arrival_s=work.arrival_s[:n],
        input_tokens=work.input_tokens[:n],
        output_tokens=work.output_tokens[:n],
        first=work.first[: n + 1],
        blocks=work.blocks[: work.first[n]],
        distinct=work.distinct,
    )


def repeated(work: Work, times: int) -> Work:
    """The same requests again and again, one round after the other."""
    n, period = len(work.arrival_s), work.duration_s + 1.0
    rounds = np.repeat(np.arange(times), n)
    return Work(
        name=f"{work.name} {times} times",
        block_tokens=work.block_tokens,
        arrival_s=np.tile(work.arrival_s, times) + rounds * period,
        input_tokens=np.tile(work.input_tokens, times),
        output_tokens=np.tile(work.output_tokens, times),
        first=np.concatenate([[0], np.cumsum(np.tile(np.diff(work.first), times))]).astype(np.int64),
        blocks=np.tile(work.blocks, times),
        distinct=work.distinct,
    )


def pack(trace: RequestTrace, *, block_tokens: int) -> Work:
    """A trace with one clock as arrays.

    Args:
        trace: Requests sorted by arrival. Without ``hash_ids`` no prompt shares anything with another.
        block_tokens: Tokens of the blocks that ``hash_ids`` speak of.

    Raises:
        TraceError: The trace is empty, or its sessions have no common clock.
    """
    n = len(trace.arrival_s)
    if n == 0:
        raise TraceError(f"{trace.name}: no requests")
    if trace.session is not None:
        raise TraceError(f"{trace.name}: its sessions have no common clock; give each a start first")
    inputs = np.maximum(trace.input_tokens, 1)
    if trace.hash_ids is None:
        blocks, first = np.empty(0, dtype=np.int32), np.zeros(n + 1, dtype=np.int64)
        distinct = 0
    else:
        full = np.minimum([len(h) for h in trace.hash_ids], inputs // block_tokens)
        first = np.concatenate([[0], np.cumsum(full)]).astype(np.int64)
        flat = np.concatenate([h[:k] for h, k in zip(trace.hash_ids, full, strict=True)])
        known, numbers = np.unique(flat, return_inverse=True)
        blocks, distinct = numbers.astype(np.int32), len(known)
    return Work(
        name=trace.name,
        block_tokens=block_tokens,
        arrival_s=np.ascontiguousarray(trace.arrival_s - trace.arrival_s[0], dtype=np.float64),
        input_tokens=np.ascontiguousarray(inputs, dtype=np.int64),
        output_tokens=np.ascontiguousarray(np.maximum(trace.output_tokens, 1), dtype=np.int64),
        first=first,
        blocks=blocks,
        distinct=distinct,
    )
