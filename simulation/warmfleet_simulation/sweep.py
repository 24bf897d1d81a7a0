"""All policies over the same grid of their knobs, tuned on the first days, scored on the others.

For each policy three points are published:

- *untuned*: the documented default of the knob;
- *tuned*: the value that was cheapest on the tuning days among those that reached the objective there (the safest one
  when none did), with what it then scored;
- *at equal attainment*: cost of the swept curve where it crosses the objective on the scored days. This one looks at
  what is scored, for all policies alike: it compares the policies, it promises nothing. Between two knobs that differ
  much a curve may do anything (a fleet that is just too small for a plateau misses it whole), so where it crosses is
  looked at again with knobs in between, before the last bit is interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from warmfleet_contracts.traces import FloatArray

from warmfleet_simulation.engine import simulate
from warmfleet_simulation.fleet import Disturbance, Fleet, Load
from warmfleet_simulation.optimum import Answer, from_load, solve
from warmfleet_simulation.outcome import Lane
from warmfleet_simulation.policy import GRID, Policy

_BETWEEN = 3
"""Knobs that are looked at between the two where a curve crosses the objective."""
_CLOSE = 0.02
"""Two neighbours whose costs differ by less than this share are close enough."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One policy over its knob.

    Attributes:
        policy: Name.
        knob: What its knob is.
        lanes: One per value of the grid, from cheap to safe.
        between: More of them, where the grid crosses the objective; nothing is tuned on them.
        untuned: The default.
        tuned: The value chosen on the tuning days.
        cost_at_objective: Cost where the curve crosses the objective on the scored days; None when it never does.
    """

    policy: str
    knob: str
    lanes: tuple[Lane, ...]
    untuned: Lane
    tuned: Lane
    cost_at_objective: float | None
    between: tuple[Lane, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """All policies on one scenario.

    Attributes:
        scenario: Name.
        objective: Share of requests that must be in time.
        optimum: Dollars of the clairvoyant: a lower bound, summed over services.
        optimum_plan_cost: Dollars of its plan; equal to ``optimum`` when proved.
        answers: The clairvoyant's plan by service.
        curves: One per policy.
    """

    scenario: str
    objective: float
    optimum: float
    optimum_plan_cost: float
    answers: tuple[Answer, ...]
    curves: tuple[Curve, ...]


def sweep(  # noqa: PLR0913 - keyword arguments
    scenario: str,
    fleet: Fleet,
    load: Load,
    policies: Sequence[Policy],
    *,
    seed: int,
    grid: tuple[float, ...] = GRID,
    grids: Mapping[str, tuple[float, ...]] | None = None,
    disturbance: Disturbance | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Runs all policies over the grid and finds the optimum.

    Args:
        scenario: Name of the result.
        fleet: What is scaled.
        load: Traffic.
        policies: To be compared.
        seed: Of the start-up times.
        grid: Multiples of each knob's default.
        grids: By policy name, where it is another one.
        disturbance: What goes wrong.
        progress: Called with steps done and all steps.
    """
    objective = max(service.attainment for service in fleet.services)
    answers = optima(fleet, load)  # first: what has no answer is said before hours of simulation
    runs = [(policy, policy.knob.values((grids or {}).get(policy.name, grid))) for policy in policies]
    lanes = simulate(fleet, load, runs, seed=seed, disturbance=disturbance, keep_actions=True, progress=progress)
    swept = _by_policy(runs, lanes)
    closer = [(policy, crossing(own, objective)) for (policy, _), own in zip(runs, swept, strict=True)]
    asked = [(policy, knobs) for policy, knobs in closer if len(knobs)]
    again = simulate(fleet, load, asked, seed=seed, disturbance=disturbance) if asked else []
    found = dict(zip((policy.name for policy, _ in asked), _by_policy(asked, again), strict=True))
    curves = []
    for (policy, _), own in zip(runs, swept, strict=True):
        default = min(own, key=lambda lane, k=policy.knob.default: abs(np.log(lane.knob / k)))  # type: ignore[misc]
        between = found.get(policy.name, ())
        cost = cost_at((*own, *between), objective)
        curves.append(Curve(policy.name, policy.knob.name, own, default, tuned(own, objective), cost, between))
    return Result(
        scenario=scenario,
        objective=objective,
        optimum=sum(a.lower for a in answers),
        optimum_plan_cost=sum(a.cost for a in answers),
        answers=answers,
        curves=tuple(curves),
    )


def _by_policy(runs: Sequence[tuple[Policy, FloatArray]], lanes: Sequence[Lane]) -> list[tuple[Lane, ...]]:
    out, at = [], 0
    for _, knobs in runs:
        out.append(tuple(lanes[at : at + len(knobs)]))
        at += len(knobs)
    return out


def crossing(lanes: Sequence[Lane], objective: float) -> FloatArray:
    """Knobs between the two of a grid where the curve reaches the objective; none where the two cost about the same.

    Args:
        lanes: In order of the knob.
        objective: Share of requests that must be in time.
    """
    cost = cost_at(lanes, objective)
    if cost is None:
        return np.empty(0)
    above = [lane for lane in lanes if lane.score.attainment >= objective]
    top = min(above, key=lambda lane: lane.score.cost)
    at = next(i for i, lane in enumerate(lanes) if lane is top)
    beside = (*lanes[max(0, at - 1) : at], *lanes[at + 1 : at + 2])
    below = [lane for lane in beside if lane.score.attainment < objective]
    if not below:
        return np.empty(0)
    foot = max(below, key=lambda lane: lane.score.attainment)
    if abs(top.score.cost - foot.score.cost) <= _CLOSE * top.score.cost:
        return np.empty(0)
    inner: FloatArray = np.geomspace(foot.knob, top.knob, _BETWEEN + 2)[1:-1]
    return inner


def optima(fleet: Fleet, load: Load) -> tuple[Answer, ...]:
    """The clairvoyant by service, each alone: where types are shared, the sum errs on the low side."""
    return tuple(solve(from_load(fleet, load, d)) for d in range(len(fleet.services)))


def tuned(lanes: Sequence[Lane], objective: float) -> Lane:
    """The lane that the tuning days recommend."""
    good = [lane for lane in lanes if lane.tune.attainment >= objective]
    if good:
        return min(good, key=lambda lane: lane.tune.cost)
    return max(lanes, key=lambda lane: lane.tune.attainment)


def cost_at(lanes: Sequence[Lane], objective: float) -> float | None:
    """Cost at which the lower envelope of (cost, attainment) reaches the objective; None when it never does.

    Between two neighbours on the envelope the share of misses is interpolated on a logarithmic scale.
    """
    points = sorted((lane.score.cost, lane.score.attainment) for lane in lanes)
    front: list[tuple[float, float]] = []
    for cost, attainment in points:
        if not front or attainment > front[-1][1]:
            front.append((cost, attainment))
    above = next((i for i, (_, attainment) in enumerate(front) if attainment >= objective), None)
    if above is None:
        return None
    if above == 0:
        return front[0][0]
    (c0, a0), (c1, a1) = front[above - 1], front[above]
    floor = 1e-6
    m0, m1, m = (np.log(max(1.0 - a, floor)) for a in (a0, a1, objective))
    share = (m0 - m) / (m0 - m1) if m0 > m1 else 1.0
    return float(c0 + (c1 - c0) * min(1.0, max(0.0, share)))


def rows(result: Result) -> list[dict[str, object]]:
    """The result as flat rows, one per policy, the tuned point: the keys of ``--json``."""
    out: list[dict[str, object]] = []
    for curve in result.curves:
        lane = curve.tuned
        out.append(
            {
                "policy": curve.policy,
                "cost": round(lane.score.cost, 2),
                "optimum": round(result.optimum, 2),
                "over_provisioning": _ratio(lane.score.cost, result.optimum),
                "slo_attainment": round(lane.score.attainment, 6),
                "lost_requests": round(lane.score.lost, 1),
                "scale_actions": lane.scale_actions,
                "knob": curve.knob,
                "knob_value": round(lane.knob, 4),
                "untuned": {
                    "knob_value": round(curve.untuned.knob, 4),
                    "cost": round(curve.untuned.score.cost, 2),
                    "over_provisioning": _ratio(curve.untuned.score.cost, result.optimum),
                    "slo_attainment": round(curve.untuned.score.attainment, 6),
                },
                "cost_at_objective": None if curve.cost_at_objective is None else round(curve.cost_at_objective, 2),
                "over_provisioning_at_objective": (
                    None if curve.cost_at_objective is None else _ratio(curve.cost_at_objective, result.optimum)
                ),
            }
        )
    return out


def _ratio(cost: float, optimum: float) -> float | None:
    return round(cost / optimum, 4) if optimum > 0 else None
