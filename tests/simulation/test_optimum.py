"""The clairvoyant against brute force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warmfleet_simulation.fleet import Fleet, make_load
from warmfleet_simulation.optimum import Answer, Problem, from_load, solve_several, solve_single
from warmfleet_simulation.optimum.several import _relaxed, _tops
from warmfleet_simulation.scenarios import classes, synthetic

from .conftest import constant


def brute_force(problem: Problem) -> float:
    """The cheapest of all plans; infinite when none keeps the budget."""
    steps, types = len(problem.demand), len(problem.capacity)
    best = np.inf
    choices = [range(int(n) + 1) for n in problem.limit] * steps
    for flat in product(*choices):
        plan = np.array(flat, dtype=np.int64).reshape(steps, types)
        if problem.missed(plan) <= problem.budget + 1e-9:
            best = min(best, problem.cost(plan))
    return best


def problems(types: int, steps: int, limit: int) -> st.SearchStrategy[Problem]:
    def build(args: tuple[list[tuple[float, bool]], list[tuple[float, float, float]], float]) -> Problem:
        rows, kinds, budget = args
        counts = np.array([kept for _, kept in rows])
        return Problem(
            demand=np.where(counts, [d for d, _ in rows], 0.0),
            capacity=np.array([k[0] for k in kinds]),
            price=np.array([k[1] for k in kinds]),
            start=np.array([k[2] for k in kinds]),
            counts=counts,
            budget=budget,
            limit=np.full(types, limit, dtype=np.int64),
        )

    kind = st.tuples(
        st.sampled_from([1.0, 2.5, 3.0, 4.0]), st.sampled_from([0.3, 0.7, 1.0]), st.sampled_from([0, 0.5, 2, 5])
    )
    row = st.tuples(st.floats(0, 12).map(lambda x: round(x, 1)), st.booleans().map(lambda b: b or True))
    gap = st.tuples(st.just(0.0), st.just(False))
    return st.tuples(
        st.lists(st.one_of(row, row, row, gap), min_size=1, max_size=steps),
        st.lists(kind, min_size=types, max_size=types),
        st.sampled_from([0.0, 1.0, 2.5, 5.0, 8.0]),
    ).map(build)


def exact(problem: Problem, solve: Callable[[Problem], Answer]) -> Answer | None:
    """The answer, as good as that of trying everything; None where both say that the attainment is missed."""
    best = brute_force(problem)
    if best == np.inf:
        with pytest.raises(ValueError, match="miss"):
            solve(problem)
        return None
    answer = solve(problem)
    assert answer.exact
    assert answer.cost == pytest.approx(best)
    return answer


@settings(max_examples=120, deadline=None)
@given(problem=problems(types=1, steps=6, limit=3))
def test_one_type_is_exact(problem: Problem) -> None:
    answer = exact(problem, solve_single)
    if answer is None:
        return
    assert problem.cost(answer.workers) == pytest.approx(answer.cost)
    assert problem.missed(answer.workers) <= problem.budget + 1e-6
    rough = solve_single(problem, close=False)
    assert rough.lower <= answer.cost + 1e-9 <= rough.cost + 2e-9


@settings(max_examples=60, deadline=None)
@given(problem=problems(types=2, steps=4, limit=2))
def test_two_types_are_exact_and_the_bounds_hold(problem: Problem) -> None:
    answer = exact(problem, solve_several)
    if answer is not None and problem.demand.any():
        interval = _relaxed(problem, _tops(problem))
        assert interval.lower <= answer.cost + 1e-6
        assert interval.cost >= answer.cost - 1e-6
        assert problem.missed(interval.workers) <= problem.budget + 1e-6


def test_a_short_dip_is_bridged_and_a_long_one_is_not() -> None:
    def plan(dip: int) -> list[int]:
        demand = np.array([2.0] * 3 + [1.0] * dip + [2.0] * 3)
        problem = Problem(
            demand=demand,
            capacity=np.array([1.0]),
            price=np.array([1.0]),
            start=np.array([4.5]),
            counts=np.ones(len(demand), dtype=np.bool_),
            budget=0.0,
            limit=np.array([9]),
        )
        return [int(n) for n in solve_single(problem).workers[3 : 3 + dip, 0]]

    assert plan(4) == [2] * 4  # four idle steps are cheaper than a start of 4.5
    assert plan(5) == [1] * 5


def test_where_the_largest_fleet_is_too_small_the_optimum_misses_what_it_must(one_type: Fleet) -> None:
    rate = np.where(np.arange(600) % 100 < 20, 30.0, 8.0)
    short = replace(one_type, services=(replace(one_type.services[0], max_workers=12),))
    load = make_load((synthetic("plateaus", rate),), short, seed=1, tune_days=0.1)
    problem = from_load(short, load)
    least = problem.missed(np.full((len(problem.demand), 1), 12))
    assert least > 0.01 * problem.demand.sum()
    answer = solve_single(problem)
    assert answer.missed == pytest.approx(least)
    assert answer.workers[problem.demand > 12 * 60.0].min() == 12
    assert answer.workers.min() < 12  # what it need not have, it has not
    # and a fleet that is large enough has the budget of its objective
    wide = from_load(one_type, load)
    assert wide.budget == pytest.approx(0.01 * wide.demand.sum())


@pytest.mark.parametrize("level", [0.7, 1.2])
def test_the_classes_on_a_fleet_short_of_the_peak_pose_a_problem_with_an_answer(data_dir: Path, level: float) -> None:
    case = classes(data_dir / "traces", level, 1)
    assert [c.name for c in case.fleet.services[0].classes] == ["interactive", "standard", "batch"]
    assert case.load.arrivals.sum(axis=(0, 1)) / case.load.arrivals.sum() == pytest.approx([0.5, 0.3, 0.2], abs=0.01)
    problem = from_load(case.fleet, case.load)
    assert problem.limit[0] == round(60.0 / level)
    answer = solve_single(problem, close=False)
    assert answer.lower <= answer.cost
    assert answer.missed <= problem.budget * (1 + 1e-9)


def test_constant_demand_costs_what_the_workers_cost(one_type: Fleet) -> None:
    load = make_load((constant(600, 9.5),), one_type, seed=1, tune_days=0.1)
    problem = from_load(one_type, load, attainment=0.0)
    assert solve_single(problem).cost == 0.0
    strict = solve_single(from_load(one_type, load, attainment=0.99))
    hours = problem.counts.sum() / 60.0
    assert 9.0 * 3.6 * hours * 0.98 < strict.lower <= strict.cost < 12.0 * 3.6 * hours
    assert strict.gap < 1e-3
