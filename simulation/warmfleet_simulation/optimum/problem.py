"""The clairvoyant's problem.

Choose whole numbers of ready workers n[v,t] for every step t and type v::

    minimise  sum_t sum_v price[v,t] * n[v,t] + start[v,t] * max(0, n[v,t] - n[v,t-1])
    subject to  sum_t max(0, demand[t] - sum_v capacity[v] * n[v,t])  <=  budget,      0 <= n[v,t] <= limit[v]

``start`` is what a worker costs while it starts (price times start-up time); the workers of the first step are given,
as a fleet that was running before is. What is missed may be any requests whatever, and a missed request takes no
capacity from others: a queue is never inherited. No policy has these freedoms, so the optimum errs on the low side.
It serves the requests of a step within the step; a policy may carry requests over a border for as long as the queueing
objective, which is worth at most objective/step of one step's capacity around ramps. Where a class may wait for an hour
that is much: there a policy can cost less than this optimum.

Where not even the largest fleet keeps the budget, the budget is what that one misses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from warmfleet_contracts.traces import BoolArray, FloatArray, IntArray

from warmfleet_simulation.fleet import Fleet, Load

_ROUNDING = 1e-9
"""Of sums that are added up in another order."""


@dataclass(frozen=True, slots=True)
class Problem:
    """See the module.

    Attributes:
        demand: Work that arrives, in requests per step, shape (T,).
        capacity: Requests that a worker serves in a step, by type, shape (V,).
        price: Dollars of a worker for a step, shape (V,).
        start: Dollars of a start, shape (V,).
        counts: Steps that count: elsewhere there is neither demand nor cost, shape (T,).
        budget: Requests that may be missed.
        limit: Most workers by type, shape (V,).
    """

    demand: FloatArray
    capacity: FloatArray
    price: FloatArray
    start: FloatArray
    counts: BoolArray
    budget: float
    limit: IntArray

    def missed(self, workers: IntArray) -> float:
        """Requests missed with workers of shape (T, V)."""
        short = np.maximum(self.demand - workers @ self.capacity, 0.0)
        return float(short[self.counts].sum())

    def cost(self, workers: IntArray) -> float:
        """Dollars with workers of shape (T, V)."""
        running = float((workers[self.counts] @ self.price).sum())
        return running + float((np.maximum(np.diff(workers, axis=0), 0) @ self.start).sum())


@dataclass(frozen=True, slots=True)
class Answer:
    """An optimum, or the interval it lies in.

    Attributes:
        lower: No plan is cheaper, dollars.
        cost: Cost of the plan found, dollars.
        workers: The plan, shape (T, V).
        missed: Requests that the plan misses.
        method: How it was found.
    """

    lower: float
    cost: float
    workers: IntArray
    missed: float
    method: str

    @property
    def gap(self) -> float:
        """Cost over the lower bound, minus 1; 0 means proved."""
        return self.cost / self.lower - 1.0 if self.lower > 0 else 0.0

    @property
    def exact(self) -> bool:
        """Whether the plan is proved to be the cheapest."""
        return self.gap <= 1e-9


def from_load(
    fleet: Fleet, load: Load, service: int = 0, *, step_s: float = 60.0, attainment: float | None = None
) -> Problem:
    """The problem that the scored steps of a load pose, for one service alone.

    Args:
        fleet: Types and prices.
        load: Traffic as the policies got it, random draws included.
        service: Index of the service.
        step_s: Steps of the clairvoyant, s.
        attainment: Share that must be served; None for the service's own.
    """
    per = round(step_s / load.step_s)
    first = int(np.argmax(load.score)) if load.score.any() else 0
    stop = first + (load.steps - first) // per * per
    work = (load.arrivals[first:stop, service].sum(axis=1) * load.work[first:stop, service]).reshape(-1, per)
    counts: BoolArray = np.asarray(load.score[first:stop].reshape(-1, per).all(axis=1), dtype=np.bool_)
    demand = np.where(counts, work.sum(axis=1), 0.0)
    served = fleet.services[service]
    share = 1.0 - (served.attainment if attainment is None else attainment)
    usable = np.array(served.capacity) > 0
    price = fleet.prices()
    limit = [served.max_workers if t.limit is None else min(t.limit, served.max_workers) for t in fleet.types]
    problem = Problem(
        demand=demand,
        capacity=np.array(served.capacity)[usable] * step_s,
        price=price[usable] * step_s / 3600.0,
        start=(price * np.array([t.startup_s for t in fleet.types]) / 3600.0)[usable],
        counts=counts,
        budget=float(share * demand.sum()),
        limit=np.array(limit, dtype=np.int64)[usable],
    )
    least = problem.missed(np.broadcast_to(problem.limit, (len(demand), len(problem.limit))))
    return replace(problem, budget=max(problem.budget, least * (1.0 + _ROUNDING)))
