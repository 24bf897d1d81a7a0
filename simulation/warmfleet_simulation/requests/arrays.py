"""The arrays of a simulated fleet and the constants of a run.

A worker is a row, a request an index, a block a number below U. The index U is the sentinel of the linked lists. Times
are seconds, lengths tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]
I4 = NDArray[np.int32]
U1 = NDArray[np.uint8]

GONE, STARTING, SERVING, DRAINING = 0, 1, 2, 3
"""Phases of a worker."""
AHEAD, WAITING, RUNNING, DONE, LOST = 0, 1, 2, 3, 4
"""What became of a request."""
ROUND_ROBIN, LEAST_LOAD, PREFIX_AWARE = 0, 1, 2
NEVER = np.inf
NONE = -1


class Machine(NamedTuple):
    """What all workers have in common.

    Times of a step in seconds, as in :class:`warmfleet_contracts.perfmodel.PerfProfile` but for the unit.
    """

    h: float
    a0: float
    a1: float
    moe_e: float
    moe_r: float
    p0: float
    p1: float
    c: float
    p2: float
    blocks: int
    block_tokens: int
    block_bytes: float
    max_num_seqs: int
    max_num_batched_tokens: int
    link_bytes_per_s: float
    store_bytes_per_s: float
    store_blocks: int
    store_latency_s: float
    host_bytes_per_s: float
    host_blocks: int
    policy: int
    threshold: float
    balance_abs: int
    balance_rel: float
    even: bool


class State(NamedTuple):
    """Everything that changes. Shapes: R requests, W workers, U blocks, B block references of all prompts."""

    arrival: F8
    inputs: I8
    outputs: I8
    start: I8
    chain: I8
    replay: U1
    status: U1
    worker: I4
    hit: I8
    loaded: I8
    computed: I8
    generated: I8
    pending: I8
    private: I8
    ready_at: F8
    first_token: F8
    finish: F8
    following: I4
    blocks: I4
    pinned: U1
    phase: U1
    clock: F8
    batch: I4
    size: I8
    steps: I8
    head: I4
    tail: I4
    low_head: I4
    low_tail: I4
    used: I8
    load: I8
    routed: I8
    prefill_s: F8
    ref: I4
    resident: U1
    newer: I4
    older: I4
    stamp: F8
    evicted_at: F8
    evicted_age: F8
    idle: I8
    believed: U1
    stored_at: F8
    store_newer: I4
    store_older: I4
    hosted: U1
    host_newer: I4
    host_older: I4
    host_used: I8
    host_link: F8
    link_out: F8
    link_in: F8
    scalars: F8
    cursor: I8
