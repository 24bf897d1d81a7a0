"""The cost of a fleet that knew the future: exact where it can be, and a certified lower bound everywhere."""

from __future__ import annotations

from warmfleet_simulation.optimum.problem import Answer, Problem, from_load
from warmfleet_simulation.optimum.several import solve_several
from warmfleet_simulation.optimum.single import solve_single

_CLOSE_STEPS = 500

__all__ = ["Answer", "Problem", "from_load", "solve", "solve_several", "solve_single"]


def solve(problem: Problem) -> Answer:
    """The clairvoyant optimum of a problem, by the method that fits its size.

    The last gap of a long series, about 1e-5, is left open: closing it takes longer than everything else.
    """
    if len(problem.capacity) == 1:
        return solve_single(problem, close=len(problem.demand) <= _CLOSE_STEPS)
    return solve_several(problem)
