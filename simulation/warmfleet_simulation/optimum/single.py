"""One type: dynamic programming, exact.

With a price m on each missed request the problem has no budget, and for one type its value is convex in the number of
workers::

    h_t(n) = price * n + m * max(0, demand_t - capacity * n) + V_{t+1}(n)          convex, as a sum of convex terms
    V_t(k) = min_n  h_t(n) + start * max(0, n - k)

so the best answer to k workers is to clip k into [low_t, high_t], the minimisers of h_t(n) + start * n and of h_t(n).
One sweep back finds all clips, one forward the plan: O(T N). The value minus m * budget is a lower bound for every m;
bisecting m makes it the best of its kind. What is left is a gap of a worker or two, closed exactly by a forward
dynamic programme over (workers, cost, missed) that drops each label whose bound, with that m, is above the best plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from warmfleet_contracts.traces import FloatArray, IntArray

from warmfleet_simulation.optimum.closing import close_gap
from warmfleet_simulation.optimum.problem import Answer, Problem

_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class _Sweep:
    """The plan at one price of a missed request."""

    price: float
    workers: IntArray
    cost: float
    missed: float
    value: float


class _Priced:
    """The problem with misses priced instead of bounded."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        need = int(np.ceil(problem.demand.max(initial=0.0) / problem.capacity[0] - _TOLERANCE))
        self.count = np.arange(min(need, int(problem.limit[0])) + 1)
        self.running = np.where(problem.counts, problem.price[0], 0.0)
        self.start = float(problem.start[0])

    def short(self, t: int) -> FloatArray:
        """Requests missed in a step by number of workers, shape (N+1,)."""
        problem = self.problem
        return np.asarray(np.maximum(problem.demand[t] - problem.capacity[0] * self.count, 0.0), dtype=np.float64)

    def _back(self, price: float, *, keep: bool) -> tuple[IntArray, IntArray, list[FloatArray]]:
        steps = len(self.problem.demand)
        low, high = np.zeros(steps, dtype=np.int64), np.zeros(steps, dtype=np.int64)
        value = np.zeros(len(self.count))
        kept = [value] if keep else []
        ramp = self.start * self.count
        for t in range(steps - 1, -1, -1):
            here = value + self.running[t] * self.count + price * self.short(t)
            a, b = int(np.argmin(here + ramp)), int(np.argmin(here))
            b = max(a, b)
            low[t], high[t] = a, b
            value = here.copy()
            value[b + 1 :] = here[b]
            value[:a] = here[a] + self.start * (a - self.count[:a])
            if keep:
                kept.append(value)
        kept.reverse()
        return low, high, kept

    def togo(self, price: float) -> list[FloatArray]:
        """Value from each step on, by the workers of the step before; T+1 arrays."""
        return self._back(price, keep=True)[2]

    def sweep(self, price: float) -> _Sweep:
        """The best plan at a price; its first step starts free of charge."""
        problem = self.problem
        low, high, _ = self._back(price, keep=False)
        workers = np.empty(len(low), dtype=np.int64)
        now = int(high[0])
        for t in range(len(low)):
            now = min(max(now, int(low[t])), int(high[t]))
            workers[t] = now
        plan = workers[:, None]
        cost, missed = problem.cost(plan), problem.missed(plan)
        return _Sweep(price, workers, cost, missed, cost + price * missed)


def solve_single(problem: Problem, *, close: bool = True) -> Answer:
    """The optimum for one type.

    Args:
        problem: With one type.
        close: Whether to close the last gap by the exact programme over labels.

    Raises:
        ValueError: More than one type, or the budget cannot be kept within the limit.
    """
    if len(problem.capacity) != 1:
        raise ValueError(f"one type is needed, not {len(problem.capacity)}")
    priced = _Priced(problem)
    safe = priced.sweep(_dear(problem))
    if safe.missed > problem.budget * (1 + 1e-12) + 1e-6:
        raise ValueError(f"limit {problem.limit[0]} misses {safe.missed:.0f} requests, budget {problem.budget:.0f}")
    cheap = priced.sweep(0.0)
    if cheap.missed <= problem.budget:
        return Answer(cheap.cost, cheap.cost, cheap.workers[:, None], cheap.missed, "dynamic programme")
    lower = max(cheap.value, safe.value - safe.price * problem.budget)
    lower_price = 0.0
    for _ in range(60):
        price = _next_price(safe, cheap)
        middle = priced.sweep(price)
        bound = middle.value - price * problem.budget
        if bound > lower:
            lower, lower_price = bound, price
        if middle.value >= safe.cost + price * safe.missed - 1e-9 * max(1.0, middle.value):
            break  # the two plans are both best at this price: the bound is as high as it gets
        if middle.missed <= problem.budget:
            safe = middle
        else:
            cheap = middle
    plan = _mixed(problem, safe.workers, cheap.workers)[:, None]
    best = problem.cost(plan)
    if best <= lower * (1 + _TOLERANCE) or not close:
        return Answer(min(lower, best), best, plan, problem.missed(plan), "dynamic programme")
    states = priced.count[:, None]
    closed = close_gap(problem, states, priced.togo(lower_price), priced.short, lower_price, best)
    if not closed.finished:
        return Answer(lower, best, plan, problem.missed(plan), "dynamic programme, gap certified")
    plan = plan if closed.workers is None else closed.workers
    best = problem.cost(plan)
    return Answer(best, best, plan, problem.missed(plan), "dynamic programme, gap closed")


def _dear(problem: Problem) -> float:
    """A price of misses at which nothing that can be served is missed."""
    return 10.0 * float(problem.price[0] + problem.start[0]) / min(1.0, float(problem.capacity[0])) + 1.0


def _next_price(safe: _Sweep, cheap: _Sweep) -> float:
    """Where the lines of the two plans meet."""
    return max(0.0, (safe.cost - cheap.cost) / max(cheap.missed - safe.missed, 1e-12))


def _mixed(problem: Problem, safe: IntArray, cheap: IntArray) -> IntArray:
    """The safe plan with stretches of the cheap one, between steps at which they agree, while the budget lasts."""
    plan = safe.copy()
    same = np.flatnonzero(safe == cheap)
    borders = np.concatenate([[-1], same, [len(safe)]])
    left = problem.budget - problem.missed(safe[:, None])
    gains = []
    for a, b in pairwise(borders):
        if b - a < 2:
            continue
        part = slice(int(a) + 1, int(b))
        trial = safe.copy()
        trial[part] = cheap[part]
        extra = problem.missed(trial[:, None]) - problem.missed(safe[:, None])
        gains.append((problem.cost(safe[:, None]) - problem.cost(trial[:, None]), extra, part))
    for gain, extra, part in sorted(gains, key=lambda g: -g[0]):
        if gain > 0 and extra <= left:
            plan[part] = cheap[part]
            left -= extra
    return plan
