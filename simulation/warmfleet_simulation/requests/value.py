"""What a worker's cache is worth, and which prompts make it up; compiled."""

from __future__ import annotations

import numpy as np
from numba import njit
from warmfleet_worker.kv.index import HOT_TICKS, TICK

from warmfleet_simulation.requests.arrays import DONE, I4, I8, NONE, SERVING, State

HOT_S = HOT_TICKS * TICK
"""A prompt that was not used for so long is cold, seconds; as the agent has it."""


@njit(cache=True)
def hot_chains(st: State, w: int, since: float, chains: I4, lengths: I8) -> int:
    """The prompts whose beginnings a worker holds, the most recent first, each block named once.

    Its cache and its host memory count alike.

    A prompt that is the beginning of a more recent one is left out: that one covers it.

    Args:
        st: The state.
        w: The worker.
        since: Prompts that ended before this are cold.
        chains: Filled with request numbers.
        lengths: Filled with how many leading blocks of each the worker holds.

    Returns:
        How many there are.
    """
    mine = np.flatnonzero((st.worker == w) & (st.status == DONE) & (st.finish >= since))
    order = mine[np.argsort(-st.finish[mine])]
    seen = np.zeros(st.resident.shape[1], dtype=np.uint8)
    n = 0
    for r in order:
        held, fresh = 0, False
        while held < st.chain[r]:
            b = st.blocks[st.start[r] + held]
            if not st.resident[w, b] and not st.hosted[w, b]:
                break
            fresh = fresh or not seen[b]
            seen[b] = 1
            held += 1
        if fresh:
            chains[n] = r
            lengths[n] = held
            n += 1
    return n


def evicted_after(st: State, w: int, now: float) -> float | None:
    """Seconds since their last use of the blocks that a worker evicts, as its agent reports it; None while it does not.

    Args:
        st: The state.
        w: The worker.
        now: Seconds.
    """
    recent = st.evicted_at[w] >= max(0.0, now - HOT_S)
    return float(st.evicted_age[w]) if recent else None


@njit(cache=True)
def unique_hot_blocks(st: State, since: float) -> I8:
    """Blocks by worker that were used since then and that no other serving worker holds, shape (W,)."""
    out = np.zeros(len(st.phase), dtype=np.int64)
    for b in range(st.resident.shape[1]):
        holders, last = 0, NONE
        for w in range(len(st.phase)):
            if st.phase[w] == SERVING and (st.resident[w, b] or st.hosted[w, b]) and st.stamp[w, b] >= since:
                holders += 1
                last = w
        if holders == 1:
            out[last] += 1
    return out
