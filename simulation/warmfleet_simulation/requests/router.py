"""Which worker a request is sent to; compiled.

::

    prefix-aware    as vllm-router's cache_aware: the worker believed to hold the longest beginning if that is more than
                    `threshold` of the prompt, else the least loaded one; always the least loaded one when loads differ
                    by more than `balance_abs` and by the factor `balance_rel`; of equal ones that which was sent least
                    (``even``) or the first one, as vllm-router itself does
"""

from __future__ import annotations

import numpy as np
from numba import njit

from warmfleet_simulation.requests.arrays import LEAST_LOAD, NONE, ROUND_ROBIN, SERVING, Machine, State


@njit(cache=True)
def matched(st: State, r: int, w: int) -> int:
    """Leading blocks of a prompt that the router believes a worker to hold."""
    n = 0
    while n < st.chain[r] and st.believed[w, st.blocks[st.start[r] + n]]:
        n += 1
    return n


@njit(cache=True)
def _idlest(m: Machine, st: State) -> tuple[int, int, int]:
    """The least loaded worker, -1 for none; most and fewest requests on a worker."""
    idlest, most, least = NONE, np.int64(0), np.int64(1) << 60
    for w in range(len(st.phase)):
        if st.phase[w] != SERVING:
            continue
        most = max(most, st.load[w])
        least = min(least, st.load[w])
        fewer = idlest == NONE or st.load[w] < st.load[idlest]
        if fewer or (m.even and st.load[w] == st.load[idlest] and st.routed[w] < st.routed[idlest]):
            idlest = w
    return idlest, int(most), int(least)


@njit(cache=True)
def _next(st: State) -> int:
    w = int(st.scalars[2])
    for _ in range(len(st.phase)):
        w = (w + 1) % len(st.phase)
        if st.phase[w] == SERVING:
            break
    st.scalars[2] = w
    return w


@njit(cache=True)
def longest(st: State, r: int) -> tuple[int, int]:
    """The serving worker believed to hold most of a prompt's beginning, and how many blocks; -1 for none."""
    best, most = NONE, 0
    for w in range(len(st.phase)):
        if st.phase[w] == SERVING:
            n = matched(st, r, w)
            if n > most or (n == most and n > 0 and st.load[w] < st.load[best]):
                best, most = w, n
    return best, most


@njit(cache=True)
def _choose(m: Machine, st: State, r: int) -> int:
    idlest, most, least = _idlest(m, st)
    if idlest == NONE or m.policy == LEAST_LOAD:
        return idlest
    if m.policy == ROUND_ROBIN:
        return _next(st)
    if most - least > m.balance_abs and most > least * m.balance_rel:
        return idlest
    best, blocks = longest(st, r)
    return best if best != NONE and blocks > m.threshold * st.chain[r] else idlest


@njit(cache=True)
def learn(st: State, r: int, length: int, w: int) -> None:
    """The router believes from now on that a worker holds the leading blocks of a prompt."""
    for j in range(length):
        st.believed[w, st.blocks[st.start[r] + j]] = 1


@njit(cache=True)
def route(m: Machine, st: State, r: int) -> int:
    """The worker for a request; the router remembers what it sent there. -1 when nobody serves."""
    w = _choose(m, st, r)
    if w != NONE:
        learn(st, r, st.chain[r], w)
        st.routed[w] += 1
    return w
