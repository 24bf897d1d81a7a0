"""A worker's prefix cache, and the store beside all of them; compiled.

::

    cache    full prompt blocks stay when a request ends; the oldest unpinned one is evicted first
    store    blocks are written through over the worker's link, one after the other; the one used longest ago goes first
    age      seconds since their last use of the blocks that leave a worker, a mean that fades over MEAN_BLOCKS of the
             agent's blocks, as the agent keeps it
"""

from __future__ import annotations

from numba import njit
from warmfleet_worker.kv.index import MEAN_BLOCKS

from warmfleet_simulation.requests.arrays import I4, NEVER, NONE, Machine, State

_ENGINE_BLOCK = 16
"""Tokens of a block of vLLM, which an agent counts; a trace's blocks are longer."""


@njit(cache=True)
def _unlink(newer: I4, older: I4, b: int) -> None:
    o, n = older[b], newer[b]
    newer[o] = n
    older[n] = o
    newer[b] = NONE
    older[b] = NONE


@njit(cache=True)
def _push(newer: I4, older: I4, b: int) -> None:
    """As the youngest; the sentinel is the last element: newer[s] is the oldest, older[s] the youngest."""
    s = len(newer) - 1
    young = older[s]
    newer[young] = b
    older[b] = young
    newer[b] = s
    older[s] = b


@njit(cache=True)
def pin(st: State, w: int, b: int) -> None:
    """One more running request uses a block that is held."""
    if st.ref[w, b] == 0:
        _unlink(st.newer[w], st.older[w], b)
        st.idle[w] -= 1
    st.ref[w, b] += 1


@njit(cache=True)
def unpin(st: State, w: int, b: int, now: float) -> None:
    """One fewer uses it; the last one leaves it as the youngest."""
    st.ref[w, b] -= 1
    if st.ref[w, b] == 0:
        _push(st.newer[w], st.older[w], b)
        st.idle[w] += 1
    st.stamp[w, b] = now


@njit(cache=True)
def _note_evicted(m: Machine, st: State, w: int, b: int, now: float) -> None:
    """A block leaves the worker, whose memory it was in for the last time."""
    fades = _ENGINE_BLOCK * MEAN_BLOCKS / m.block_tokens
    share = 1.0 if st.evicted_at[w] < 0.0 else 1.0 / (1.0 + fades)
    st.evicted_age[w] += share * (now - st.stamp[w, b] - st.evicted_age[w])
    st.evicted_at[w] = now


@njit(cache=True)
def evict(m: Machine, st: State, w: int, wanted: int, now: float) -> None:
    """Drops the oldest unpinned blocks; there are as many."""
    s = st.newer.shape[1] - 1
    for _ in range(wanted):
        b = st.newer[w, s]
        if not st.hosted[w, b]:
            _note_evicted(m, st, w, b, now)
        _unlink(st.newer[w], st.older[w], b)
        st.resident[w, b] = 0
        st.idle[w] -= 1
        st.used[w] -= 1


@njit(cache=True)
def insert(m: Machine, st: State, w: int, b: int, now: float) -> bool:
    """Puts a block that came from elsewhere into a worker's cache, as the youngest; False when there is no room."""
    if st.resident[w, b]:
        return True
    if st.used[w] >= m.blocks:
        if st.idle[w] == 0:
            return False
        evict(m, st, w, 1, now)
    st.resident[w, b] = 1
    st.ref[w, b] = 0
    st.used[w] += 1
    _push(st.newer[w], st.older[w], b)
    st.idle[w] += 1
    st.stamp[w, b] = now
    return True


@njit(cache=True)
def keep(st: State, r: int, w: int, j: int, now: float) -> bool:
    """Block j of the request is full now: it becomes one of the cache's. False when another request brought it."""
    b = st.blocks[st.start[r] + j]
    if st.resident[w, b]:
        return False
    st.resident[w, b] = 1
    st.ref[w, b] = 1
    st.newer[w, b] = NONE
    st.older[w, b] = NONE
    st.stamp[w, b] = now
    st.pinned[st.start[r] + j] = 1
    st.private[r] -= 1
    return True


@njit(cache=True)
def host(m: Machine, st: State, w: int, b: int, now: float) -> None:
    """Writes a block through to the worker's own host memory, or notes that it was used there."""
    if m.host_blocks <= 0:
        return
    newer, older = st.host_newer[w], st.host_older[w]
    if st.hosted[w, b]:
        _unlink(newer, older, b)
        _push(newer, older, b)
        return
    if st.host_used[w] >= m.host_blocks:
        old = newer[len(newer) - 1]
        if not st.resident[w, old]:
            _note_evicted(m, st, w, old, now)
        _unlink(newer, older, old)
        st.hosted[w, old] = 0
        st.host_used[w] -= 1
    st.hosted[w, b] = 1
    _push(newer, older, b)
    st.host_used[w] += 1


@njit(cache=True)
def fetch_host(m: Machine, st: State, r: int, w: int, h: int, now: float) -> int:
    """Leading blocks after the first ``h`` that the worker's host memory has; they are loaded over its own bus."""
    if m.host_blocks <= 0:
        return 0
    e = 0
    for j in range(h, st.chain[r]):
        b = st.blocks[st.start[r] + j]
        if not st.hosted[w, b] or st.resident[w, b]:
            break
        e += 1
    if e:
        st.host_link[w] = max(st.host_link[w], now) + e * m.block_bytes / m.host_bytes_per_s
        st.ready_at[r] = max(st.ready_at[r], st.host_link[w])
    return e


@njit(cache=True)
def touch_host(m: Machine, st: State, r: int, w: int, length: int, now: float) -> None:
    """The leading blocks of a prompt are used: its beginning becomes the youngest in host memory."""
    if m.host_blocks <= 0:
        return
    for j in range(length - 1, -1, -1):
        host(m, st, w, st.blocks[st.start[r] + j], now)


@njit(cache=True)
def store(m: Machine, st: State, w: int, b: int, now: float) -> None:
    """Writes a block through: it is there when the link has carried all before it."""
    if m.store_blocks <= 0:
        return
    if st.stored_at[b] < NEVER:
        _unlink(st.store_newer, st.store_older, b)
        _push(st.store_newer, st.store_older, b)
        return
    if st.scalars[1] >= m.store_blocks:
        old = st.store_newer[len(st.store_newer) - 1]
        _unlink(st.store_newer, st.store_older, old)
        st.stored_at[old] = NEVER
        st.scalars[1] -= 1
    st.link_out[w] = max(st.link_out[w], now) + m.block_bytes / m.link_bytes_per_s
    st.stored_at[b] = st.link_out[w]
    _push(st.store_newer, st.store_older, b)
    st.scalars[1] += 1


@njit(cache=True)
def fetch(m: Machine, st: State, r: int, w: int, h: int, now: float) -> int:
    """Leading blocks after the first ``h`` that the store has; they are loaded over both links."""
    if m.store_blocks <= 0:
        return 0
    e = 0
    for j in range(h, st.chain[r]):
        b = st.blocks[st.start[r] + j]
        if st.stored_at[b] > now or st.resident[w, b]:
            break
        e += 1
        _unlink(st.store_newer, st.store_older, b)
        _push(st.store_newer, st.store_older, b)
    if e:
        size = e * m.block_bytes
        st.link_in[w] = max(st.link_in[w], now) + size / m.link_bytes_per_s
        st.scalars[0] = max(st.scalars[0], now) + size / m.store_bytes_per_s
        st.ready_at[r] = max(st.ready_at[r], max(st.link_in[w], st.scalars[0]) + m.store_latency_s)
    return e


@njit(cache=True)
def move_chain(m: Machine, st: State, r: int, length: int, target: int, now: float) -> int:
    """Copies the leading blocks of a prompt into another worker's cache, its beginning as the youngest.

    Returns:
        How many blocks had to move; those that were there already cost nothing.
    """
    moved = 0
    for j in range(length - 1, -1, -1):
        b = st.blocks[st.start[r] + j]
        if not st.resident[target, b] and not st.hosted[target, b]:
            if not insert(m, st, target, b, now):
                break
            moved += 1
            host(m, st, target, b, now)
    return moved


@njit(cache=True)
def forget(st: State, w: int) -> None:
    """Empties a worker's cache and what the router believes of it."""
    s = st.newer.shape[1] - 1
    for b in range(s):
        st.resident[w, b] = 0
        st.ref[w, b] = 0
        st.believed[w, b] = 0
        st.hosted[w, b] = 0
    st.host_newer[w, s] = s
    st.host_older[w, s] = s
    st.host_used[w] = 0
    st.host_link[w] = 0.0
    st.newer[w, s] = s
    st.older[w, s] = s
    st.idle[w] = 0
    st.used[w] = 0
    st.evicted_at[w] = NONE
    st.load[w] = 0
    st.routed[w] = 0
    st.link_in[w] = 0.0
    st.link_out[w] = 0.0
