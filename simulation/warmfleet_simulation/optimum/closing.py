"""The last gap: a forward programme over (workers, cost, missed) that drops what cannot beat the best plan known.

A label at step t is dropped when ``cost + m * missed + V_{t+1}(workers)`` reaches ``best + m * budget``: with misses at
price m even the best continuation would not be cheaper than what is known. With m from the bisection nearly all labels
go at once. Among labels with the same workers only those on the front of (cost, missed) stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from warmfleet_contracts.traces import FloatArray, IntArray

from warmfleet_simulation.optimum.problem import Problem

_MOST_LABELS = 40_000
_MOST_PAIRS = 20_000_000


@dataclass(frozen=True, slots=True)
class Closed:
    """What the programme found.

    Attributes:
        finished: False when there were too many labels; nothing is proved then.
        workers: A plan cheaper than the one known, shape (T, V); None: the one known is the best.
    """

    finished: bool
    workers: IntArray | None = None


def close_gap(
    problem: Problem,
    states: IntArray,
    togo: Sequence[FloatArray],
    short: Callable[[int], FloatArray],
    price: float,
    best: float,
) -> Closed:
    """Finds the cheapest plan below ``best``, or proves that there is none.

    Args:
        problem: To be solved.
        states: All workers that are looked at, shape (S, V).
        togo: Value from each step on by the state of the step before, with misses at ``price``; T+1 arrays.
        short: Requests missed in a step by state.
        price: Of a missed request.
        best: Cost of the best plan known.
    """
    ceiling = best + price * problem.budget - 1e-9 * max(1.0, best)
    state = np.arange(len(states))
    cost, missed = np.zeros(len(states)), np.zeros(len(states))
    parents: list[tuple[IntArray, IntArray]] = []
    for t in range(len(problem.demand)):
        if len(state) * len(states) > _MOST_PAIRS:
            return Closed(finished=False)
        running = (states @ problem.price) * float(problem.counts[t])
        new_cost = cost[:, None] + _jump(problem, states, state, first=t == 0) + running
        new_missed = missed[:, None] + short(t)
        keep = (new_cost + price * new_missed + togo[t + 1] < ceiling) & (new_missed <= problem.budget + 1e-9)
        rows, columns = np.nonzero(keep)
        if not len(rows):
            return Closed(finished=True)
        chosen = _front(columns, new_cost[rows, columns], new_missed[rows, columns])
        if len(chosen) > _MOST_LABELS:
            return Closed(finished=False)
        rows, columns = rows[chosen], columns[chosen]
        parents.append((rows, columns))
        state, cost, missed = columns, new_cost[rows, columns], new_missed[rows, columns]
    label = int(np.argmin(cost))
    plan = np.empty((len(parents), states.shape[1]), dtype=np.int64)
    for t in range(len(parents) - 1, -1, -1):
        before, at = parents[t]
        plan[t] = states[at[label]]
        label = int(before[label])
    return Closed(finished=True, workers=plan)


def _jump(problem: Problem, states: IntArray, now: IntArray, *, first: bool) -> FloatArray:
    """Cost of going from each label's state to every state, shape (labels, S); the first step starts where it is."""
    if first:
        return np.where(now[:, None] == np.arange(len(states)), 0.0, np.inf)
    more = np.maximum(states[None, :, :] - states[now][:, None, :], 0)
    return np.asarray(more @ problem.start, dtype=np.float64)


def _front(state: IntArray, cost: FloatArray, missed: FloatArray) -> IntArray:
    """Labels that no other label of the same state beats in both cost and misses."""
    order = np.lexsort((missed, cost, state))
    changes = np.diff(state[order], prepend=-1) != 0
    # Shifting each group below the last makes one running minimum serve all groups.
    shifted = missed[order] - np.cumsum(changes) * (float(missed.max()) + 1.0)
    running = np.minimum.accumulate(shifted)
    keep = np.concatenate([[True], shifted[1:] < running[:-1] - 1e-12])
    return np.asarray(order[keep], dtype=np.int64)
