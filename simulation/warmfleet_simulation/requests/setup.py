"""An arm's settings and the engine's profile as the arrays and constants the compiled code takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from warmfleet_contracts.perfmodel import MAX_NUM_BATCHED_TOKENS, PerfProfile
from warmfleet_contracts.traces import FloatArray

from warmfleet_simulation.requests import arrays
from warmfleet_simulation.requests.arrays import Machine, State
from warmfleet_simulation.requests.workload import Work

_GBIT = 1e9 / 8
_POLICIES = {
    "round_robin": arrays.ROUND_ROBIN,
    "least_load": arrays.LEAST_LOAD,
    "cache_aware": arrays.PREFIX_AWARE,
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to scale.

    Attributes:
        name: Short name.
        routing: round_robin, least_load or cache_aware.
        victims: ``planner``: by cache value, as shipped; ``newest``: the youngest workers, as a ReplicaSet does;
            ``arbitrary``: drawn, as nodes are that are consolidated or taken back.
        leaving: ``drain`` or ``cut``.
        handover: none, store, migrate or replay.
        link_gbit: Bandwidth of a worker's link, Gbit/s.
        store_tokens: What the shared store holds, tokens; 0 for no store.
        store_gbit: Bandwidth of the store for all readers together, Gbit/s.
        host_tokens: What a worker's host memory holds beside its cache, tokens; 0 for no such tier.
        even: Of equally loaded workers the router takes the one that was sent the fewest requests; else always the
            first one, as vllm-router 0.1.17 does.
        deadline_s: Longest hand-over after the requests have ended.
        balance_abs: Difference in requests from which the router looks at loads alone; 64 is vllm-router's default.
            None: as many requests of the workload's mean length as a worker's cache holds, at most a full batch.
    """

    name: str
    routing: str = "cache_aware"
    victims: str = "planner"
    leaving: str = "drain"
    handover: str = "none"
    link_gbit: float = 100.0
    store_tokens: int = 0
    store_gbit: float = 400.0
    host_tokens: int = 0
    deadline_s: float = 60.0
    balance_abs: int | None = 64
    even: bool = True


@dataclass(frozen=True, slots=True)
class Engine:
    """The workers' engine and accelerator.

    Attributes:
        profile: Step times and cache size.
        max_num_seqs: Largest batch.
        max_num_batched_tokens: Tokens of one step.
        host_gbyte_s: Bandwidth between the accelerator and its host's memory, GB/s; half of PCIe 5's, all of PCIe 4's.
    """

    profile: PerfProfile
    max_num_seqs: int = 256
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS
    host_gbyte_s: float = 25.0


def concurrency(work: Work, engine: Engine) -> int:
    """How many requests of the workload's mean length a worker's cache holds, at most a full batch, at least 1."""
    mean = float(np.mean(work.input_tokens + work.output_tokens))
    return max(1, min(engine.max_num_seqs, int(engine.profile.kv_tokens / mean)))


def machine(work: Work, engine: Engine, arm: Arm) -> Machine:
    """The constants of a run."""
    p = engine.profile
    return Machine(
        h=p.h_ms / 1e3,
        a0=p.a0_ms / 1e3,
        a1=p.a1_ms / 1e3,
        moe_e=p.moe_e_ms / 1e3,
        moe_r=p.moe_r,
        p0=p.p0_ms / 1e3,
        p1=p.p1_ms / 1e3,
        c=p.c_ms / 1e3,
        p2=p.p2_ms / 1e3,
        blocks=p.kv_tokens // work.block_tokens,
        block_tokens=work.block_tokens,
        block_bytes=float(p.kv_bytes_per_token * work.block_tokens),
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        link_bytes_per_s=arm.link_gbit * _GBIT,
        store_bytes_per_s=arm.store_gbit * _GBIT,
        store_blocks=arm.store_tokens // work.block_tokens,
        store_latency_s=0.01,
        host_bytes_per_s=engine.host_gbyte_s * 1e9,
        host_blocks=arm.host_tokens // work.block_tokens,
        policy=_POLICIES[arm.routing],
        threshold=0.3,
        balance_abs=concurrency(work, engine) if arm.balance_abs is None else arm.balance_abs,
        balance_rel=1.5,
        even=arm.even,
    )


def fresh_state(work: Work, workers: int, max_num_seqs: int, spare: int) -> State:
    """A state in which nothing has happened: all rows gone, all requests ahead.

    Args:
        work: The requests.
        workers: Rows for workers.
        max_num_seqs: Largest batch.
        spare: Rows for requests that the fleet sends itself.
    """
    n, u = len(work.arrival_s), work.distinct
    total = n + spare

    def long(
        values: FloatArray | np.ndarray[tuple[int], np.dtype[np.int64]],
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        out = np.zeros(total, dtype=np.int64)
        out[:n] = values
        return out

    def seconds(fill: float) -> FloatArray:
        return np.full(total, fill)

    def ring(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        out = np.full(shape, -1, dtype=np.int32)
        out[..., -1] = u
        return out

    arrival = seconds(np.inf)
    arrival[:n] = work.arrival_s
    return State(
        arrival=arrival,
        inputs=long(work.input_tokens),
        outputs=long(work.output_tokens),
        start=long(work.first[:-1]),
        chain=long(np.diff(work.first)),
        replay=np.zeros(total, dtype=np.uint8),
        status=np.zeros(total, dtype=np.uint8),
        worker=np.full(total, -1, dtype=np.int32),
        hit=np.zeros(total, dtype=np.int64),
        loaded=np.zeros(total, dtype=np.int64),
        computed=np.zeros(total, dtype=np.int64),
        generated=np.zeros(total, dtype=np.int64),
        pending=np.zeros(total, dtype=np.int64),
        private=np.zeros(total, dtype=np.int64),
        ready_at=seconds(0.0),
        first_token=seconds(np.nan),
        finish=seconds(np.nan),
        following=np.full(total, -1, dtype=np.int32),
        blocks=work.blocks,
        pinned=np.zeros(len(work.blocks), dtype=np.uint8),
        phase=np.zeros(workers, dtype=np.uint8),
        clock=np.full(workers, np.inf),
        batch=np.zeros((workers, max_num_seqs), dtype=np.int32),
        size=np.zeros(workers, dtype=np.int64),
        steps=np.zeros(workers, dtype=np.int64),
        head=np.full(workers, -1, dtype=np.int32),
        tail=np.full(workers, -1, dtype=np.int32),
        low_head=np.full(workers, -1, dtype=np.int32),
        low_tail=np.full(workers, -1, dtype=np.int32),
        used=np.zeros(workers, dtype=np.int64),
        load=np.zeros(workers, dtype=np.int64),
        routed=np.zeros(workers, dtype=np.int64),
        prefill_s=np.zeros(workers),
        ref=np.zeros((workers, u), dtype=np.int32),
        resident=np.zeros((workers, u), dtype=np.uint8),
        newer=ring((workers, u + 1)),
        older=ring((workers, u + 1)),
        stamp=np.zeros((workers, u)),
        evicted_at=np.full(workers, -1.0),
        evicted_age=np.zeros(workers),
        idle=np.zeros(workers, dtype=np.int64),
        believed=np.zeros((workers, u), dtype=np.uint8),
        stored_at=np.full(u, np.inf),
        store_newer=ring((u + 1,)),
        store_older=ring((u + 1,)),
        hosted=np.zeros((workers, u), dtype=np.uint8),
        host_newer=ring((workers, u + 1)),
        host_older=ring((workers, u + 1)),
        host_used=np.zeros(workers, dtype=np.int64),
        host_link=np.zeros(workers),
        link_out=np.zeros(workers),
        link_in=np.zeros(workers),
        scalars=np.zeros(4),
        cursor=np.zeros(1, dtype=np.int64),
    )
