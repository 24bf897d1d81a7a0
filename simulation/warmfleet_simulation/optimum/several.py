"""Several types: exact over the product of counts where that is small, else a certified interval.

Small: the dynamic programme of one type over all combinations of counts. Transitions cost the same along each axis
whatever the others do, so one running minimum per axis and direction finds the best step: O(T * S * V). The budget is
priced and the gap closed as for one type.

Large: the lower bound is the linear relaxation (whole numbers dropped), solved by HiGHS, an interior-point method with
the dual value checked. The plan comes from a dynamic programme over a corridor around the relaxation's solution, a
few counts wide per type, re-centred on its own result until it no longer improves.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array
from warmfleet_contracts.traces import FloatArray, IntArray

from warmfleet_simulation.optimum.closing import close_gap
from warmfleet_simulation.optimum.problem import Answer, Problem

_MOST_CELLS = 20_000_000
_ROUNDS = 3
_BISECTIONS = 14
_TOLERANCE = 1e-9


def solve_several(problem: Problem) -> Answer:
    """The optimum for several types, exact or as an interval.

    Raises:
        ValueError: The budget cannot be kept within the limits.
    """
    top = _tops(problem)
    if not problem.demand.any():
        idle = np.zeros((len(problem.demand), len(problem.capacity)), dtype=np.int64)
        return Answer(0.0, 0.0, idle, 0.0, "nothing to serve")
    cells = int(np.prod(top + 1.0)) * len(problem.demand)
    return _product(problem, top) if cells <= _MOST_CELLS else _relaxed(problem, top)


def _tops(problem: Problem) -> IntArray:
    """Most workers of each type that can be of use."""
    need = np.ceil(problem.demand.max(initial=0.0) / problem.capacity - _TOLERANCE).astype(np.int64)
    return np.asarray(np.minimum(need, problem.limit), dtype=np.int64)


def _dear(problem: Problem) -> float:
    return 10.0 * float((problem.price + problem.start).max()) / min(1.0, float(problem.capacity.min())) + 1.0


@dataclass(frozen=True, slots=True)
class _Plan:
    price: float
    workers: IntArray
    cost: float
    missed: float

    @property
    def value(self) -> float:
        return self.cost + self.price * self.missed


def _product(problem: Problem, top: IntArray) -> Answer:
    """Exact over all combinations of counts."""
    grid = _Grid(problem, top)
    safe = grid.plan(_dear(problem))
    _check(problem, safe)
    cheap = grid.plan(0.0)
    if cheap.missed <= problem.budget + _TOLERANCE:
        return Answer(cheap.cost, cheap.cost, cheap.workers, cheap.missed, "dynamic programme")
    lower, lower_price = max(0.0, safe.value - safe.price * problem.budget), safe.price
    for _ in range(60):
        price = max(0.0, (safe.cost - cheap.cost) / max(cheap.missed - safe.missed, 1e-12))
        middle = grid.plan(price)
        if middle.value - price * problem.budget > lower:
            lower, lower_price = middle.value - price * problem.budget, price
        if middle.value >= safe.cost + price * safe.missed - 1e-9 * max(1.0, middle.value):
            break
        safe, cheap = (middle, cheap) if middle.missed <= problem.budget else (safe, middle)
    if safe.cost <= lower * (1 + _TOLERANCE):
        return Answer(min(lower, safe.cost), safe.cost, safe.workers, safe.missed, "dynamic programme")
    closed = close_gap(problem, grid.states, grid.togo(lower_price), grid.short, lower_price, safe.cost)
    if not closed.finished:
        return Answer(lower, safe.cost, safe.workers, safe.missed, "dynamic programme, gap certified")
    plan = safe.workers if closed.workers is None else closed.workers
    best = problem.cost(plan)
    return Answer(best, best, plan, problem.missed(plan), "dynamic programme, gap closed")


def _check(problem: Problem, safe: _Plan) -> None:
    if safe.missed > problem.budget * (1 + 1e-12) + 1e-6:
        raise ValueError(
            f"limits {problem.limit.tolist()} miss {safe.missed:.0f} requests, budget {problem.budget:.0f}; "
            "raise a limit or lower the attainment"
        )


class _Grid:
    """All combinations of counts, shape top + 1."""

    def __init__(self, problem: Problem, top: IntArray) -> None:
        self.problem = problem
        self.shape = tuple(int(n) + 1 for n in top)
        self.states = np.array(list(product(*(range(n) for n in self.shape))), dtype=np.int64)
        self.running = self.states @ problem.price
        self.served = self.states @ problem.capacity

    def short(self, t: int) -> FloatArray:
        """Requests missed in a step, by state."""
        return np.asarray(np.maximum(self.problem.demand[t] - self.served, 0.0), dtype=np.float64)

    def togo(self, price: float) -> list[FloatArray]:
        """Value from each step on by the state of the step before; T+1 arrays."""
        value = np.zeros(len(self.states))
        kept = [value]
        for t in range(len(self.problem.demand) - 1, -1, -1):
            value = self._step(self._here(t, price, value))
            kept.append(value)
        kept.reverse()
        return kept

    def _here(self, t: int, price: float, value: FloatArray) -> FloatArray:
        return value + self.running * float(self.problem.counts[t]) + price * self.short(t)

    def _step(self, here: FloatArray) -> FloatArray:
        """Min over n of here(n) + start * max(0, n - k), by k."""
        best = here.reshape(self.shape)
        for axis, start in enumerate(self.problem.start):
            shape = [1] * len(self.shape)
            shape[axis] = self.shape[axis]
            ramp = (start * np.arange(self.shape[axis])).reshape(shape)
            down = np.minimum.accumulate(best, axis=axis)
            up = np.flip(np.minimum.accumulate(np.flip(best + ramp, axis), axis=axis), axis) - ramp
            best = np.minimum(down, up)
        return np.asarray(best.ravel(), dtype=np.float64)

    def plan(self, price: float) -> _Plan:
        """The best plan with misses at a price; the first step is free of start-up."""
        togo = self.togo(price)
        steps = len(self.problem.demand)
        workers = np.empty((steps, len(self.shape)), dtype=np.int64)
        now: IntArray | None = None
        for t in range(steps):
            here = self._here(t, price, togo[t + 1])
            if now is not None:
                here = here + np.maximum(self.states - now, 0) @ self.problem.start
            now = self.states[int(np.argmin(here))]
            workers[t] = now
        return _Plan(price, workers, self.problem.cost(workers), self.problem.missed(workers))


def _relaxed(problem: Problem, top: IntArray) -> Answer:
    """Lower bound by the linear relaxation, plan by corridors around it."""
    lower, centre, price = relaxation(problem, top)
    best: _Plan | None = None
    for _ in range(_ROUNDS):
        found = _corridor(problem, top, centre, price, best)
        if best is not None and found.cost >= best.cost - 1e-9:
            break
        best, centre = found, found.workers.astype(np.float64)
    if best is None:
        raise ValueError("no plan was looked for")
    _check(problem, best)
    return Answer(min(lower, best.cost), best.cost, best.workers, best.missed, "linear relaxation and corridor")


def relaxation(problem: Problem, top: IntArray) -> tuple[float, FloatArray, float]:
    """Lower bound, fractional workers of shape (T, V), and the price of a missed request.

    The bound is the dual objective, so it holds to the solver's dual feasibility even when it stopped early.

    Raises:
        ValueError: HiGHS found no solution.
    """
    keep = np.flatnonzero(problem.counts)
    t, v = len(keep), len(problem.capacity)
    size = t * v
    # Columns: n[t,v], up[t,v], missed[t]; the up of the first step is free.
    cost = np.concatenate([np.tile(problem.price, t), np.tile(problem.start, t), np.zeros(t)])
    cost[size : size + v] = 0.0
    rows, columns, values = [], [], []
    step = np.arange(size)
    rows.append(np.repeat(np.arange(t), v))  # demand - capacity * n - missed <= 0
    columns.append(step)
    values.append(np.tile(-problem.capacity, t))
    rows.append(np.arange(t))
    columns.append(2 * size + np.arange(t))
    values.append(-np.ones(t))
    later = step[v:]
    for column, value in ((later, 1.0), (later - v, -1.0), (size + later, -1.0)):  # n[t] - n[t-1] - up[t] <= 0
        rows.append(t + later - v)
        columns.append(column)
        values.append(np.full(len(later), value))
    rows.append(np.full(t, t + size - v))
    columns.append(2 * size + np.arange(t))
    values.append(np.ones(t))
    matrix = coo_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(t + size - v + 1, 2 * size + t),
    ).tocsr()
    right = np.concatenate([-problem.demand[keep], np.zeros(size - v), [problem.budget]])
    upper = np.concatenate([np.tile(top, t), np.tile(top, t), problem.demand[keep]])
    bounds = np.column_stack([np.zeros(len(cost)), upper])
    solved = linprog(cost, A_ub=matrix, b_ub=right, bounds=bounds, method="highs")
    if solved.x is None:
        raise ValueError(f"no plan keeps the budget within the limits {problem.limit.tolist()}: {solved.message}")
    marginals = np.minimum(np.asarray(solved.ineqlin.marginals), 0.0)
    reduced = cost - matrix.T @ marginals
    dual = float(right @ marginals + np.minimum(reduced, 0.0) @ upper)
    centre = np.zeros((len(problem.demand), v))
    centre[keep] = solved.x[:size].reshape(t, v)
    for gap in np.flatnonzero(~problem.counts):
        centre[gap] = centre[gap - 1] if gap else centre[keep[0]]
    return dual, centre, float(-marginals[-1])


def _corridor(problem: Problem, top: IntArray, centre: FloatArray, price: float, known: _Plan | None) -> _Plan:
    """The cheapest plan found near ``centre`` that keeps the budget; the price of a miss is bisected for it."""
    low, high = price, _dear(problem)
    sets = _sets(problem, top, centre)
    best = known if known is not None else _through(problem, sets, high)
    _check(problem, best)
    trial = price
    for _ in range(_BISECTIONS):
        plan = _through(problem, sets, trial)
        if plan.missed <= problem.budget + 1e-9:
            high = trial
            if plan.cost < best.cost:
                best = plan
        else:
            low = trial
        trial = min(2.0 * low, high) if high > 2.0 * low else (low + high) / 2.0
        if high / max(low, 1e-12) < 1.0 + 1e-4:
            break
    return best


def _sets(problem: Problem, top: IntArray, centre: FloatArray) -> IntArray:
    """Counts that are looked at in each step, shape (T, S, V)."""
    width = 4 if len(problem.capacity) <= 3 else 3
    offsets = np.array(list(product(range(width), repeat=len(problem.capacity))), dtype=np.int64)
    base = np.floor(centre + 1e-6).astype(np.int64) - 1
    return np.asarray(np.clip(base[:, None, :] + offsets[None, :, :], 0, top), dtype=np.int64)


def _through(problem: Problem, sets: IntArray, price: float) -> _Plan:
    """The cheapest plan through the corridor with misses at a price."""
    steps, size, _ = sets.shape
    running = (sets @ problem.price) * problem.counts[:, None]
    short = np.maximum(problem.demand[:, None] - sets @ problem.capacity, 0.0)
    own = running + price * short
    choice = np.empty((steps, size), dtype=np.int64)
    value = own[-1]
    index = np.arange(size)
    for t in range(steps - 2, -1, -1):
        total = np.maximum(sets[t + 1][None, :, :] - sets[t][:, None, :], 0) @ problem.start + value
        choice[t] = total.argmin(axis=1)
        value = own[t] + total[index, choice[t]]
    at = int(np.argmin(value))
    workers = np.empty((steps, sets.shape[2]), dtype=np.int64)
    for t in range(steps):
        workers[t] = sets[t, at]
        at = int(choice[t, at]) if t < steps - 1 else at
    return _Plan(price, workers, problem.cost(workers), problem.missed(workers))
