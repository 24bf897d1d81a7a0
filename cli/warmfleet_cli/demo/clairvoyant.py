"""What the same demand would have cost somebody who knew it in advance: the simulator's optimum on the recorded run."""

from __future__ import annotations

import numpy as np
from warmfleet_contracts.traces import FloatArray
from warmfleet_simulation.optimum import Problem, solve

from warmfleet_cli.demo.timeline import Optimum, Timeline

STEP_S = 60.0
"""Step of the clairvoyant, seconds."""


def optimum(run: Timeline) -> Optimum | None:
    """The clairvoyant optimum of a run: the requests that arrived, at the rates that the planner counts on.

    It pays for start-ups as the fleet does, begins with any fleet it likes free of charge, and may miss as many
    requests as the objective allows. None without samples.
    """
    demand = demand_per_step(run)
    if not len(demand) or not demand.any():
        return None
    variants, setup = run.setup.variants, run.setup
    price = np.array([v.cost for v in variants])
    answer = solve(
        Problem(
            demand=demand,
            capacity=np.array([v.rate for v in variants]) * STEP_S,
            price=price * STEP_S / 3600.0,
            start=price * np.array([v.lead_s for v in variants]) / 3600.0,
            counts=np.ones(len(demand), dtype=np.bool_),
            budget=float((1.0 - setup.attainment) * demand.sum()),
            limit=np.array([v.limit for v in variants], dtype=np.int64),
        )
    )
    return Optimum(answer.cost, setup.attainment, tuple(float(c) for c in answer.workers @ price))


def demand_per_step(run: Timeline) -> FloatArray:
    """Requests that arrived in each step, as the samples counted them, shape (n,)."""
    steps = int(run.samples[-1].at // STEP_S) if run.samples else 0
    demand = np.zeros(steps)
    before = 0.0
    for sample in run.samples:
        step = int(max(0.0, sample.at - 1e-6) // STEP_S)
        if step < steps:
            demand[step] += sample.offered * (sample.at - before)
        before = sample.at
    return demand
