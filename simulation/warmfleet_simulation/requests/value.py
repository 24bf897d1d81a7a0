"""What a worker's cache is worth, and which prompts make it up; compiled."""

from __future__ import annotations

import numpy as np
from numba import njit

from warmfleet_simulation.requests.arrays import DONE, I4, I8, NONE, SERVING, Machine, State
from warmfleet_simulation.requests.blocks import oldest_stamp


@njit(cache=True)
def hot_chains(st: State, w: int, since: float, chains: I4, lengths: I8) -> int:
    """The prompts whose beginnings a worker holds, the most recent first, each block named once.

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
            if not st.resident[w, b]:
                break
            fresh = fresh or not seen[b]
            seen[b] = 1
            held += 1
        if fresh:
            chains[n] = r
            lengths[n] = held
            n += 1
    return n


@njit(cache=True)
def unique_hot_blocks(st: State, since: float) -> I8:
    """Blocks by worker that were used since then and that no other serving worker holds, shape (W,)."""
    out = np.zeros(len(st.phase), dtype=np.int64)
    for b in range(st.resident.shape[1]):
        holders, last = 0, NONE
        for w in range(len(st.phase)):
            if st.phase[w] == SERVING and st.resident[w, b] and st.stamp[w, b] >= since:
                holders += 1
                last = w
        if holders == 1:
            out[last] += 1
    return out


@njit(cache=True)
def roomiest(m: Machine, st: State, r: int, length: int) -> int:
    """Where a departing worker's prompt is kept best.

    The survivor that holds most of it; of those, and when none holds any, the one whose next block to be evicted was
    used longest ago. One with free blocks comes before all that are full.

    Returns:
        The worker; -1 when every survivor uses all it holds more recently than this prompt.
    """
    best, held, age, used = NONE, -1, 0.0, 0
    for w in range(len(st.phase)):
        if st.phase[w] != SERVING:
            continue
        n = 0
        while n < length and st.resident[w, st.blocks[st.start[r] + n]]:
            n += 1
        stamp = oldest_stamp(m, st, w)
        if stamp > st.finish[r]:
            continue
        if best == NONE or n > held or (n == held and (stamp, st.used[w]) < (age, used)):
            best, held, age, used = w, n, stamp, st.used[w]
    return best
