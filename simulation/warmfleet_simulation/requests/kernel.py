"""Engines with continuous batching and a prefix cache each, a router before them, a store beside them; compiled.

::

    step      decodes first, then prefill chunks in order of arrival, up to max_num_batched_tokens together;
              it lasts step_ms of `warmfleet_contracts.perfmodel` (the same formula, the same coefficients)
    admit     in order of arrival, while the batch has a place and the cache has blocks for prompt and output
    hit       leading full blocks of the prompt that the worker holds; at least one token is always computed
    cache     full prompt blocks stay when a request ends, the prompt's beginning as the youngest; the oldest unpinned
              block is evicted first. Blocks of generated text are not kept: the traces do not name them
    store     every block is written through as it is computed, one after the other on the worker's link; what follows
              the local hits and has arrived there is loaded over worker link and store link before prefill goes on
    route     round robin | least loaded | prefix-aware as vllm-router's cache_aware: the worker believed to hold the
              longest beginning if that is more than `threshold` of the prompt, else the least loaded one; always the
              least loaded one when loads differ by more than `balance_abs` and by the factor `balance_rel`;
              of equally loaded ones that which was sent the fewest requests

Between two events of a worker in which only decodes run, its steps are taken together until the next arrival anywhere,
so the time is exact and the cost is per event. Everything is deterministic: there is no random draw in here.

Compiled code is kept on disk. numba sees only changes to a function's own file: after a change in `blocks` or `router`
remove `__pycache__/*.nb*`, or the old one runs on.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from warmfleet_simulation.requests.arrays import DONE, I4, LOST, NEVER, NONE, RUNNING, WAITING, Machine, State
from warmfleet_simulation.requests.blocks import evict, fetch, fetch_host, host, keep, pin, store, touch_host, unpin
from warmfleet_simulation.requests.router import route


@njit(cache=True)
def _enter(m: Machine, st: State, r: int, w: int, now: float) -> bool:
    """Takes a request into the batch; False when the cache has no room for it yet."""
    bt = m.block_tokens
    total = (st.inputs[r] + st.outputs[r] + bt - 1) // bt
    h = 0
    while h < st.chain[r] and st.resident[w, st.blocks[st.start[r] + h]]:
        h += 1
    free = st.idle[w]
    for j in range(h):
        free -= st.ref[w, st.blocks[st.start[r] + j]] == 0
    missing = st.used[w] + total - h - m.blocks
    if missing > free:
        return False
    for j in range(h):
        pin(st, w, st.blocks[st.start[r] + j])
    if missing > 0:
        evict(m, st, w, missing, now)
    st.ready_at[r] = now
    e = fetch_host(m, st, r, w, h, now)
    e += fetch(m, st, r, w, h + e, now)
    st.used[w] += total - h
    st.private[r] = total - h
    for j in range(h):
        st.pinned[st.start[r] + j] = 1
    for j in range(h, h + e):
        keep(st, r, w, j, now)
    touch_host(m, st, r, w, h + e, now)
    st.hit[r] = min(h * bt, st.inputs[r] - 1)
    st.loaded[r] = min((h + e) * bt, st.inputs[r] - 1) - st.hit[r]
    st.computed[r] = st.hit[r] + st.loaded[r]
    st.generated[r] = 0
    st.pending[r] = 0
    st.status[r] = RUNNING
    st.batch[w, st.size[w]] = r
    st.size[w] += 1
    return True


@njit(cache=True)
def _leave(st: State, r: int, w: int, now: float) -> None:
    """Gives back what the request holds; its prompt's beginning becomes the youngest block."""
    for j in range(st.chain[r] - 1, -1, -1):
        if st.pinned[st.start[r] + j]:
            st.pinned[st.start[r] + j] = 0
            unpin(st, w, st.blocks[st.start[r] + j], now)
    st.used[w] -= st.private[r]
    st.private[r] = 0
    st.load[w] -= 1


@njit(cache=True)
def _admit_from(m: Machine, st: State, w: int, now: float, heads: I4, tails: I4) -> None:
    while st.size[w] < m.max_num_seqs and heads[w] != NONE:
        r = heads[w]
        if (st.inputs[r] + st.outputs[r] + m.block_tokens - 1) // m.block_tokens > m.blocks:
            st.status[r] = LOST
            st.finish[r] = now
            st.load[w] -= 1
        elif not _enter(m, st, r, w, now):
            return
        heads[w] = st.following[r]
        if heads[w] == NONE:
            tails[w] = NONE


@njit(cache=True)
def _queue(st: State, r: int, w: int, heads: I4, tails: I4) -> None:
    st.following[r] = NONE
    if heads[w] == NONE:
        heads[w] = r
    else:
        st.following[tails[w]] = r
    tails[w] = r


@njit(cache=True)
def _finish_step(m: Machine, st: State, w: int, now: float) -> None:
    """What the step that ends now has brought."""
    bt, kept = m.block_tokens, 0
    for i in range(st.size[w]):
        r = st.batch[w, i]
        if st.pending[r] > 0:
            before = st.computed[r]
            st.computed[r] = before + st.pending[r]
            st.pending[r] = 0
            for j in range(before // bt, min(st.chain[r], st.computed[r] // bt)):
                if keep(st, r, w, j, now):
                    host(m, st, w, st.blocks[st.start[r] + j], now)
                    store(m, st, w, st.blocks[st.start[r] + j], now)
            if st.computed[r] >= st.inputs[r]:
                st.generated[r] = 1
                st.first_token[r] = now
        elif st.computed[r] >= st.inputs[r]:
            st.generated[r] += st.steps[w]
        if st.computed[r] >= st.inputs[r] and st.generated[r] >= st.outputs[r]:
            st.status[r] = DONE
            st.finish[r] = now
            _leave(st, r, w, now)
        else:
            st.batch[w, kept] = r
            kept += 1
    st.size[w] = kept
    st.steps[w] = 0


@njit(cache=True)
def _seconds(m: Machine, tokens: float, context: float, attention: float) -> float:
    memory = m.a0 + m.a1 * tokens
    if m.moe_r > 0:
        memory += m.moe_e * (1.0 - (1.0 - m.moe_r) ** tokens)
    return m.h + max(memory, m.p0 + m.p1 * tokens) + m.c * context + m.p2 * attention


@njit(cache=True)
def _plan_prefill(m: Machine, st: State, w: int, now: float, decodes: int) -> tuple[float, float]:
    """Gives out the step's prefill tokens; answers how many, and their attention work."""
    budget, tokens, attention = m.max_num_batched_tokens - decodes, 0.0, 0.0
    for low in range(2):
        if low == 1 and tokens > 0:
            break  # a replay computes only in steps in which no user's prompt does
        for i in range(st.size[w]):
            r = st.batch[w, i]
            if st.replay[r] != low or st.computed[r] >= st.inputs[r] or st.ready_at[r] > now or budget <= 0:
                continue
            new = min(budget, st.inputs[r] - st.computed[r])
            st.pending[r] = new
            budget -= new
            tokens += new
            attention += new * (st.computed[r] + new / 2.0)
    return tokens, attention


@njit(cache=True)
def _begin_step(m: Machine, st: State, w: int, now: float, horizon: float) -> None:
    """Starts what runs next; `clock` says when it ends."""
    _admit_from(m, st, w, now, st.head, st.tail)
    if st.head[w] == NONE:
        _admit_from(m, st, w, now, st.low_head, st.low_tail)
    decodes, context, least, loading = 0, 0.0, np.int64(1) << 60, NEVER
    for i in range(st.size[w]):
        r = st.batch[w, i]
        if st.computed[r] >= st.inputs[r]:
            decodes += 1
            context += st.inputs[r] + st.generated[r]
            least = min(least, st.outputs[r] - st.generated[r])
        elif st.ready_at[r] > now:
            loading = min(loading, st.ready_at[r])
    tokens, attention = _plan_prefill(m, st, w, now, decodes)
    if tokens > 0:
        st.steps[w] = 1
        busy = _seconds(m, decodes + tokens, context, attention)
        st.prefill_s[w] += busy - (_seconds(m, decodes, context, 0.0) if decodes else 0.0)
        st.clock[w] = now + busy
    elif decodes:
        end, k = now, 0
        limit = min(horizon, loading)
        base = _seconds(m, decodes, 0.0, 0.0)
        while True:
            end += base + m.c * (context + k * decodes)
            k += 1
            if k >= least or end >= limit:
                break
        st.steps[w] = k
        st.clock[w] = end
    else:
        st.clock[w] = loading


@njit(cache=True)
def send(m: Machine, st: State, r: int, now: float) -> int:
    """Routes a request and queues it there; lost, with -1, when nobody serves."""
    w = route(m, st, r)
    if w == NONE:
        st.status[r] = LOST
        st.finish[r] = now
        return w
    st.status[r] = WAITING
    st.worker[r] = w
    st.load[w] += 1
    if st.replay[r]:
        _queue(st, r, w, st.low_head, st.low_tail)
    else:
        _queue(st, r, w, st.head, st.tail)
    if st.steps[w] == 0:  # idle, or waiting for the store
        st.clock[w] = min(st.clock[w], now)
    return w


@njit(cache=True)
def cut(st: State, w: int, now: float, out: I4) -> int:
    """Ends a worker at once; its requests go into ``out``, their number is the answer."""
    n = 0
    for i in range(st.size[w]):
        r = st.batch[w, i]
        st.pending[r] = 0
        _leave(st, r, w, now)
        out[n] = r
        n += 1
    st.size[w] = 0
    for heads in (st.head, st.low_head):
        r = heads[w]
        while r != NONE:
            out[n] = r
            n += 1
            st.load[w] -= 1
            r = st.following[r]
        heads[w] = NONE
    st.tail[w] = NONE
    st.low_tail[w] = NONE
    st.steps[w] = 0
    st.clock[w] = NEVER
    return n


@njit(cache=True)
def advance(m: Machine, st: State, users: int, until: float) -> int:
    """Lets the time pass until ``until``; answers how many events there were.

    Args:
        m: The machine.
        st: The state; changed in place.
        users: The first so many requests arrive by themselves, in order.
        until: Seconds.
    """
    events = 0
    while True:
        w, at = NONE, NEVER
        for i in range(len(st.clock)):
            if st.clock[i] < at:
                w, at = i, st.clock[i]
        r = st.cursor[0]
        coming = st.arrival[r] if r < users else NEVER
        if min(at, coming) >= until:
            return events
        events += 1
        if coming <= at:
            st.cursor[0] += 1
            send(m, st, r, coming)
        else:
            _finish_step(m, st, w, at)
            _begin_step(m, st, w, at, min(coming, until))
