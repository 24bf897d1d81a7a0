"""How long the simulator and the optimum take on this machine."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from warmfleet_simulation.engine import simulate
from warmfleet_simulation.fleet import Fleet, Service, WorkerType, make_load, standard_fleet
from warmfleet_simulation.optimum import from_load, solve
from warmfleet_simulation.ours import Ours
from warmfleet_simulation.policy import Policy
from warmfleet_simulation.rivals import RIVALS
from warmfleet_simulation.scaling import window_of
from warmfleet_simulation.scenarios import rate_trace

_SERVICES = 10


class _Watch:
    """Wall time, and CPU time, which other work on the machine hardly changes."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Seconds since it was made."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}


def measure(folder: Path) -> dict[str, Any]:
    """Seconds of the three cases that have a target, and the load of the machine beside them."""
    before = os.getloadavg()[0]
    out: dict[str, Any] = {"week": _week(folder), "large": _large(folder), "optimum": _optimum(folder)}
    out["machine"] = f"{platform.machine()}, {os.cpu_count()} CPUs, load average {before:.1f} at the start"
    return out


def _week(folder: Path) -> dict[str, Any]:
    """Seven days, eight policies: seven rivals and the shipped planner, each at its default."""
    trace = rate_trace(folder, "azure2024_code_digitised", 1)
    fleet = standard_fleet(trace)
    load = make_load((trace,), fleet, seed=1)
    policies: list[Policy] = [p for p in RIVALS.values() if p.name != "static-peak"]
    watch = _Watch()
    simulate(fleet, load, [(p, np.array([p.knob.default])) for p in [*policies, Ours()]], seed=1)
    return {**watch.read(), "steps": load.steps, "policies": len(policies) + 1}


def _large(folder: Path) -> dict[str, Any]:
    """One day of ten services, all policies, one decision a minute.

    At peak demand 7,200 workers of one GPU each are needed, so that the planner, with its margin, holds about 10,000.
    """
    trace = window_of(rate_trace(folder, "servegen_m_small_8d", 1), 0, 1440)
    base = standard_fleet(trace, peak_workers=720.0)
    services = tuple(replace(base.services[0], name=f"model-{i}") for i in range(_SERVICES))
    fleet = Fleet(base.types, services)
    load = make_load((trace,) * _SERVICES, fleet, seed=1, step_s=60.0, tune_days=0.5)
    policies: list[Policy] = [*RIVALS.values(), Ours()]
    watch = _Watch()
    lanes = simulate(fleet, load, [(p, np.array([p.knob.default])) for p in policies], seed=1)
    return {**watch.read(), "most_gpus": int(max(float(lane.paid.max()) for lane in lanes)), "steps": load.steps}


def _optimum(folder: Path) -> dict[str, Any]:
    """Three types, seven days at one minute."""
    trace = rate_trace(folder, "servegen_m_small_8d", 1)
    unit = standard_fleet(trace).services[0].capacity[0]
    fleet = Fleet(
        (
            WorkerType("h100", price=6.88),
            WorkerType("a100", price=3.43, limit=60),
            WorkerType("l40s", price=1.86, startup_s=180.0, limit=40),
        ),
        (Service("chat", (unit, 0.45 * unit, 0.22 * unit)),),
    )
    load = make_load((trace,), fleet, seed=1, tune_days=0.0)
    watch = _Watch()
    answer = solve(from_load(fleet, load))
    return {
        **watch.read(),
        "gap": answer.gap,
        "steps": len(answer.workers),
        "method": answer.method,
    }
