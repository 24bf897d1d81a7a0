"""How fast the planner decides, and how close its purchases are to the optimum; ``make bench-planner``.

Made-up fleets, one seed: deployments of about 20 workers, each with 4 to 8 of 12 InstanceTypes whose prices and rates
spread as list prices and accelerators do; the types that would be wanted most have limits that bind.

- *warm*: workers run, the demand has moved by up to a fifth, memory and caches are those of the last decision.
- *with forecasts*: warm, ``scaling.forecast`` is set everywhere, so every margin is rehearsed each half minute; twelve
  decisions 5 s apart, as the operator takes them.
- *cold*: nothing runs, no memory, empty caches: all 20 workers of each deployment are chosen at once.
- *exact gap*: dollars per hour of what is bought from nothing over the optimum of the joint integer programme (HiGHS).
- *LP gap*: the same over the bound of the relaxation in which workers may be divided.
- *greedy gap*: of the greedy answer that is always there: each deployment in turn, no shadow prices.
- *noise*: scale actions per hour at a constant demand with +-20 % noise by the minute, with the shipped learner, in the
  simulator; a fleet of 2, 10 and 100 workers, the second of two days.

Prints a table; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import highspy
import numpy as np
from made_up import (
    UP,
    deployment,
    instance_type,
    with_forecast,
)  # beside this file; before the packages that it makes importable
from rich.console import Console
from rich.table import Table
from warmfleet_operator.planning import capacity
from warmfleet_operator.planning.mix import Stock, share_out
from warmfleet_operator.planning.mix.growth import Growth, with_start
from warmfleet_operator.planning.mix.share import greedy
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state.decisions import FleetPlan
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import (
    Demand,
    DeploymentRecord,
    FleetSnapshot,
    Key,
    WorkerPhase,
    WorkerRecord,
)
from warmfleet_runtime import collector
from warmfleet_simulation.engine import simulate
from warmfleet_simulation.ours import Ours
from warmfleet_simulation.scenarios import noisy
from warmfleet_simulation.sweep import optima

NOW = 100_000.0
TYPES = 12
WORKERS = 20
SIZES = (10, 30, 100, 300, 1000, 3000)


@dataclass(frozen=True, slots=True)
class World:
    """Fleets of which nothing runs yet.

    Attributes:
        snapshot: Without workers.
        rates: Requests/s of one worker by deployment and type.
    """

    snapshot: FleetSnapshot
    rates: dict[Key, dict[str, float]]


def world(fleets: int, seed: int, *, share: float | None = 0.6) -> World:
    """Deployments, types and demand.

    Args:
        fleets: Deployments.
        seed: Of everything.
        share: What there is of the most wanted types over what would be wanted; None for no limits.
    """
    dice = random.Random(seed)
    power = {f"t{i:02d}": 1.0 + 5.0 * i / TYPES for i in range(TYPES)}
    prices = {name: 1.5 * p ** dice.uniform(0.9, 1.1) * dice.uniform(0.85, 1.2) for name, p in power.items()}
    records: dict[Key, DeploymentRecord] = {}
    demand: dict[Key, Demand] = {}
    rates: dict[Key, dict[str, float]] = {}
    for i in range(fleets):
        key = Key(f"ns-{i % 10}", f"fleet-{i:04d}")
        names = sorted(dice.sample(sorted(power), dice.randint(4, 8)))
        unit = dice.uniform(0.5, 2.0)
        rates[key] = {n: round(unit * power[n] * dice.uniform(0.8, 1.25), 3) for n in names}
        spec = deployment(rates[key], 400)
        records[key] = DeploymentRecord(key, f"uid-{i}", 1, "1", spec)
        arrivals = UP * WORKERS * unit * 3.5 * dice.uniform(0.7, 1.3)
        demand[key] = _demand(arrivals)
    free = {name: instance_type(name, price) for name, price in prices.items()}
    snapshot = FleetSnapshot(records, free, (), {}, {}, demand)
    if share is not None:
        wanted = _wanted(snapshot)
        most = sorted(wanted, key=lambda n: -wanted[n])[:4]
        limits = {name: instance_type(name, prices[name], int(share * wanted[name])) for name in most}
        snapshot = replace(snapshot, instance_types={**free, **limits})
    return World(snapshot, rates)


def _demand(arrivals: float) -> Demand:
    return Demand(NOW, arrivals, 1000.0, 200.0, 0.0, 0, sources=("router", "agents"))


def _wanted(snapshot: FleetSnapshot) -> dict[str, int]:
    """Workers by type that would be bought without limits."""
    made, _ = plan(snapshot, PlannerMemory(), NOW)
    out: dict[str, int] = {}
    for one in made.deployments.values():
        for variant in one.variants:
            out[variant.instance_type] = out.get(variant.instance_type, 0) + variant.create
    return out


def running(given: World, made: FleetPlan) -> FleetSnapshot:
    """The snapshot once everything of a plan serves."""
    people = []
    for key, one in made.deployments.items():
        for variant in one.variants:
            for i in range(variant.desired):
                name = f"{key.name}-{variant.name}-{i:03d}"
                people.append(
                    WorkerRecord(
                        Key(key.namespace, name), name, "1", key.name, variant.name, variant.instance_type, "r",
                        WorkerPhase.READY, 1, NOW - 5000, node=name, first_ready=NOW - 4500,
                    )
                )  # fmt: skip
    return replace(given.snapshot, workers=tuple(sorted(people, key=lambda w: w.key)))


def moved(snapshot: FleetSnapshot, seed: int) -> FleetSnapshot:
    """The demand moved by up to a fifth."""
    dice = random.Random(seed)
    demand = {k: replace(d, arrivals=(d.arrivals or 0.0) * dice.uniform(0.8, 1.2)) for k, d in snapshot.demand.items()}
    return replace(snapshot, demand=demand)


def clear() -> None:
    """Empty the planner's caches."""
    for value in vars(capacity).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


def timed(act: Callable[[], Any], repeats: int) -> list[float]:
    """CPU seconds of each call: other work on the machine hardly changes them."""
    out = []
    for _ in range(repeats):
        begin = time.process_time()
        act()
        out.append(time.process_time() - begin)
    return out


def speeds(sizes: Sequence[int]) -> dict[int, dict[str, list[float]]]:
    """Seconds of plan() by number of fleets."""
    found: dict[int, dict[str, list[float]]] = {}
    for fleets in sizes:
        given = world(fleets, 1)

        def cold(given: World = given) -> None:
            clear()
            plan(given.snapshot, PlannerMemory(), NOW)

        repeats = 5 if fleets <= 1000 else 3
        made, _ = plan(given.snapshot, PlannerMemory(), NOW)
        snapshot = running(given, made)
        _, memory = plan(snapshot, PlannerMemory(), NOW - 5.0)
        changes = iter([moved(snapshot, seed) for seed in range(repeats + 1)])

        def warm(memory: PlannerMemory = memory) -> None:
            plan(next(changes), memory, NOW)  # noqa: B023 - called within the round

        warm()
        found[fleets] = {"warm": timed(warm, repeats), "cold": timed(cold, repeats)}
        found[fleets]["workers"] = [float(len(snapshot.workers))]
    return found


def foreseeing(fleets: int) -> list[float]:
    """CPU seconds of twelve decisions 5 s apart on fleets with ``scaling.forecast``, after half a minute of them."""
    given = world(fleets, 1)
    records = {
        key: replace(record, spec=with_forecast(record.spec)) for key, record in given.snapshot.deployments.items()
    }
    given = replace(given, snapshot=replace(given.snapshot, deployments=records))
    made, _ = plan(given.snapshot, PlannerMemory(), NOW)
    snapshot = running(given, made)
    memory, out = PlannerMemory(), []
    for tick in range(18):
        now = NOW + 5.0 * tick
        change = moved(snapshot, tick // 6)
        change = replace(change, demand={key: replace(d, at=now) for key, d in change.demand.items()})
        begin = time.process_time()
        _, memory = plan(change, memory, now)
        out.append(time.process_time() - begin)
    return out[6:]


def growths(given: World) -> list[Growth]:
    """The purchases of all fleets, from nothing."""
    out = []
    for key in sorted(given.snapshot.deployments):
        spec = given.snapshot.deployments[key].spec
        if spec is None:
            raise ValueError(f"{key}: no spec")
        offers, _ = capacity.survey(
            spec, given.snapshot.instance_types, capacity.Workload(1000.0, 200.0, 0.0), needs_rates=True
        )
        need = (given.snapshot.demand[key].arrivals or 0.0) / UP
        out.append(Growth(key, offers, {o.variant: 0 for o in offers}, need, need, 1, 400, {}))
    return out


def dollars(bought: Sequence[Growth]) -> float:
    """What was bought costs, $/h with the start-up spread.

    Raises:
        ValueError: Somebody was not served.
    """
    if any(g.wanting for g in bought):
        raise ValueError("not everybody was served")
    return sum(with_start(o) * g.added.get(o.variant, 0) for g in bought for o in g.offers)


def programme(given: World, *, whole: bool, seconds: float = 20.0) -> float:
    """A lower bound of the joint programme by HiGHS, proved to 0.1 % when ``whole``."""
    solver = highspy.Highs()
    solver.silent()
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("mip_rel_gap", 1e-3)
    solver.setOptionValue("time_limit", seconds)
    fleets = growths(given)
    pairs = [(g, o) for g in fleets for o in g.offers]
    costs = np.array([with_start(o) for _, o in pairs])
    lp = highspy.HighsLp()
    limits = {n: r.spec.limit.accelerators for n, r in given.snapshot.instance_types.items() if r.spec is not None}
    bound = sorted(n for n, limit in limits.items() if limit is not None)
    row = {n: len(fleets) + i for i, n in enumerate(bound)}
    index = {g.key: i for i, g in enumerate(fleets)}
    starts, rows, values = [0], [], []
    for g, o in pairs:
        rows.append(index[g.key])
        values.append(o.rate or 0.0)
        if o.instance_type in row:
            rows.append(row[o.instance_type])
            values.append(float(o.accelerators))
        starts.append(len(rows))
    lp.num_col_, lp.num_row_ = len(pairs), len(fleets) + len(bound)
    lp.col_cost_, lp.col_lower_ = costs, np.zeros(len(pairs))
    lp.col_upper_ = np.full(len(pairs), 1e4)
    lp.row_lower_ = np.array([g.need for g in fleets] + [-highspy.kHighsInf] * len(bound))
    lp.row_upper_ = np.array([highspy.kHighsInf] * len(fleets) + [float(limits[n] or 0) for n in bound])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = np.array(starts), np.array(rows)
    lp.a_matrix_.value_ = np.array(values)
    if whole:
        lp.integrality_ = [highspy.HighsVarType.kInteger] * len(pairs)
    solver.passModel(lp)
    solver.run()
    info = solver.getInfo()
    return float(info.mip_dual_bound if whole else info.objective_function_value)


def gap(given: World, bound: float, share: Callable[[list[Growth], Stock], object]) -> float:
    """What is bought over a bound, minus 1."""
    bought = growths(given)
    share(bought, Stock(given.snapshot.instance_types, ()))
    return dollars(bought) / bound - 1.0


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Slope of log seconds over log fleets."""
    slope, _ = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return float(slope)


@dataclass(frozen=True, slots=True)
class Noise:
    """What a constant noisy demand came to: scale actions per hour, SLO attainment, cost over the optimum."""

    actions: float
    attainment: float
    cost: float


def noise(workers: float, seed: int = 1) -> Noise:
    """The shipped planner and learner at a constant demand for ``workers`` workers at 80 %, the second of two days."""
    case = noisy(workers, seed)
    (lane,) = simulate(case.fleet, case.load, [(Ours(), np.array([1.0]))], seed=seed)
    hours = float(case.load.score.sum()) * case.load.step_s / 3600.0
    optimum = sum(answer.lower for answer in optima(case.fleet, case.load))
    return Noise(lane.scale_actions / hours, lane.score.attainment, lane.score.cost / optimum)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 300 fleets, fewer instances")
    args = parser.parse_args()
    console = Console(width=110)
    sizes = SIZES[:4] if args.quick else SIZES
    load = os.getloadavg()[0]
    collector.settle()  # as the operator does
    found = speeds(sizes)
    table = Table(title="plan(), CPU seconds of one core, median (lowest to highest)")
    for name in ("fleets", "workers", "warm", "cold"):
        table.add_column(name, justify="right")
    for fleets, row in found.items():
        cells = [f"{statistics.median(row[k]):.3f} ({min(row[k]):.3f}-{max(row[k]):.3f})" for k in ("warm", "cold")]
        table.add_row(str(fleets), f"{row['workers'][0]:.0f}", *cells)
    console.print(table)
    ahead = {n: foreseeing(n) for n in sizes if n in (10, 300, 1000)}
    for n, seconds in ahead.items():
        console.print(f"{n} fleets with forecasts: {statistics.median(seconds):.3f} s, at most {max(seconds):.3f} s")
    warm = {n: statistics.median(row["warm"]) for n, row in found.items()}
    cold = {n: statistics.median(row["cold"]) for n, row in found.items()}
    exact, lazy = [], []
    for fleets in (5, 10, 20):
        for seed in range(1, 3 if args.quick else 5):
            given = world(fleets, 100 + seed)
            bound = programme(given, whole=True)
            exact.append(gap(given, bound, share_out))
            lazy.append(gap(given, bound, greedy))
    large = [world(sizes[-1] if args.quick else 1000, 200 + seed) for seed in range(3)]
    bounds = [programme(given, whole=False) for given in large]
    relaxed = [gap(g, b, share_out) for g, b in zip(large, bounds, strict=True)]
    lazy += [gap(g, b, greedy) for g, b in zip(large, bounds, strict=True)]
    table = Table(title="purchases over the optimum (5 to 20 fleets) and over the LP bound (1,000)")
    for name in ("", "median", "worst", "instances"):
        table.add_column(name, justify="right")
    for name, values in (("exact", exact), ("LP bound", relaxed), ("greedy", lazy)):
        table.add_row(name, f"{statistics.median(values):.3%}", f"{max(values):.3%}", str(len(values)))
    console.print(table)
    noisy_fleets = {n: noise(float(n)) for n in ((2, 10) if args.quick else (2, 10, 100))}
    for n, one in noisy_fleets.items():
        console.print(
            f"noise of +-20 % at {n} workers: {one.actions:.2f} actions/h, {one.attainment:.2%} in time, "
            f"{one.cost:.3f} times the optimum"
        )
    console.print(f"{platform.machine()}, {os.cpu_count()} CPUs, load average {load:.1f} at the start")
    answer = {
        "plan_10_s": round(warm[10], 4),
        "plan_1000_warm_s": round(warm[1000], 3) if 1000 in warm else None,
        "plan_1000_forecast_s": round(statistics.median(ahead[1000]), 3) if 1000 in ahead else None,
        "plan_1000_cold_s": round(cold[1000], 3) if 1000 in cold else None,
        "growth_exponent": round(exponent(list(warm), list(warm.values())), 3),
        "exact_gap": round(max(exact), 5),
        "lp_gap": round(max(relaxed), 5),
        "greedy_gap": round(max(lazy), 5),
        "noise_actions_per_h": round(max(one.actions for one in noisy_fleets.values()), 2),
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
