"""The situations that policies are compared in.

Standard case: the p99.9 of the demand is 60 workers, a worker starts in 300 s. Traffic is real where a trace exists for
the question and synthetic where the question is one shape (a step, a flash crowd, a length shift).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from warmfleet_contracts.perfmodel import Workload, capacity, lookup
from warmfleet_contracts.traces import FloatArray, RateTrace

from warmfleet_simulation.fleet import (
    Disturbance,
    Fleet,
    Load,
    Service,
    SloClass,
    WorkerType,
    disturbed,
    make_load,
    standard_fleet,
)
from warmfleet_simulation.ours import Ours
from warmfleet_simulation.policy import Policy
from warmfleet_simulation.rivals.sageserve import ForecastFault, SageServe
from warmfleet_simulation.scaling import load_clean, thin, window_of

WEEK = 7 * 1440
_STARTUPS = (10.0, 80.0, 300.0, 600.0)
_PEAKS = (3.0, 30.0, 300.0)
_LEVELS = (0.7, 0.85, 1.0, 1.2)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One situation.

    Attributes:
        name: Short name.
        note: What it asks, in a sentence.
        fleet: What is scaled.
        load: Traffic.
        disturbance: What goes wrong; None for nothing.
        instead: Policies that stand in for those of the same name.
    """

    name: str
    note: str
    fleet: Fleet
    load: Load
    disturbance: Disturbance | None = None
    instead: Mapping[str, Policy] | None = None


def rate_trace(folder: Path, name: str, seed: int, minutes: int = WEEK) -> RateTrace:
    """A trace of the data folder without its artefacts, at most ``minutes`` long."""
    return window_of(load_clean(folder / f"{name}.rate_1m.parquet", seed)[0], 0, minutes)


def diurnal(folder: Path, name: str, seed: int) -> Scenario:
    """The standard case on a week of a trace."""
    trace = rate_trace(folder, name, seed)
    fleet = standard_fleet(trace)
    return Scenario(
        f"week {name}", "a week of real traffic, standard case", fleet, make_load((trace,), fleet, seed=seed)
    )


def synthetic(
    name: str, rate: FloatArray, inputs: FloatArray | None = None, outputs: FloatArray | None = None
) -> RateTrace:
    """A trace from requests/s by minute, and mean lengths."""
    requests = rate * 60.0
    ones = np.ones(len(rate))
    return RateTrace(
        name=name,
        minutes=np.arange(len(rate), dtype=np.int64),
        requests=requests,
        input_tokens=requests * (ones if inputs is None else inputs),
        output_tokens=requests * (ones if outputs is None else outputs),
        missing=np.zeros(len(rate), dtype=np.bool_),
    )


def _short(name: str, note: str, trace: RateTrace, seed: int) -> Scenario:
    """Three days, the first for tuning."""
    built = standard_fleet(trace)
    return Scenario(name, note, built, make_load((trace,), built, seed=seed, tune_days=1.0))


def steps(factor: float, seed: int) -> Scenario:
    """A constant rate that jumps by a factor for an hour or two at random moments."""
    rng = np.random.default_rng(seed)
    rate = np.full(3 * 1440, 20.0)
    for day in range(3):
        for block in range(4):
            begin = day * 1440 + block * 360 + int(rng.integers(30, 180))
            rate[begin : begin + int(rng.integers(60, 150))] *= factor
    note = f"a constant rate that jumps by {factor:g} four times a day, without warning"
    return _short(f"steps x{factor:g}", note, synthetic(f"steps_x{factor:g}", rate), seed)


def flash_crowd(seed: int) -> Scenario:
    """Two crowds a day: five times the rate within three minutes, gone in half an hour."""
    rng = np.random.default_rng(seed)
    rate = np.full(3 * 1440, 12.0)
    for day in range(3):
        for half in range(2):
            begin = day * 1440 + half * 720 + int(rng.integers(60, 600))
            shape = np.concatenate([np.linspace(0, 1, 3), np.exp(-np.arange(60) / 12.0)])
            rate[begin : begin + len(shape)] += 48.0 * shape
    return _short("flash crowd", "five times the rate within 3 minutes, twice a day", synthetic("flash", rate), seed)


def noisy(workers: float, seed: int) -> Scenario:
    """Constant demand at 80 % of a fleet, +-20 % from minute to minute: nothing that is worth a scale action."""
    rng = np.random.default_rng(seed)
    unit = 2.0
    rate = workers * unit * 0.8 * (1.0 + 0.2 * rng.uniform(-1.0, 1.0, 2 * 1440))
    fleet = Fleet((WorkerType("standard", price=6.88),), (Service("noisy", (unit,), max_workers=4 * int(workers) + 4),))
    load = make_load((synthetic("noise", rate),), fleet, seed=seed, step_s=30.0, tune_days=1.0)
    note = f"constant demand for {workers:g} workers at 80 %, +-20 % noise by minute"
    return Scenario(f"noise {workers:g} workers", note, fleet, load)


def forecast_faults(folder: Path, seed: int) -> list[Scenario]:
    """The week of azure2024_code for policies whose forecast is absent, late or wrong by half."""
    base = diurnal(folder, "azure2024_code_digitised", seed)
    faults = {
        "absent": ForecastFault(absent=True),
        "shifted 2 h": ForecastFault(shift_s=7200.0),
        "+50 %": ForecastFault(factor=1.5),
        "-50 %": ForecastFault(factor=0.5),
    }
    return [
        replace(
            base,
            name=f"forecast {name}",
            note="for the policies that have one; the others stay as they are",
            instead={"hourly-ilp": SageServe(fault), "warmfleet": Ours(fault=fault)},
        )
        for name, fault in faults.items()
    ]


def length_shift(seed: int) -> Scenario:
    """A constant rate whose requests get longer for some hours of the day; Llama 3.1 8B on H100, real profile."""
    profile = lookup("llama-3.1-8b", "bf16", "H100-SXM", 1)
    if profile is None:
        raise ValueError("the performance model lacks llama-3.1-8b/bf16/H100-SXM/tp1")
    usual = Workload(1000, 200)
    worker = capacity(profile, usual, ttft_s=2.0, tpot_s=0.05)
    rng = np.random.default_rng(seed)
    rate = np.full(3 * 1440, 20.0 * worker.requests_per_second)
    inputs, outputs = np.full(len(rate), 1000.0), np.full(len(rate), 200.0)
    for day in range(3):
        begin = day * 1440 + int(rng.integers(300, 700))
        inputs[begin : begin + 300], outputs[begin : begin + 300] = 2000.0, 400.0
    trace = synthetic("length_shift", rate, inputs, outputs)
    fleet = Fleet(
        (WorkerType("h100", price=6.88),),
        (Service("llama", (worker.requests_per_second,), max_workers=600),),
        kv_at_capacity=min(1.0, worker.batch * 1100.0 / profile.kv_tokens),
        batch_at_capacity=float(worker.batch),
        profile=profile,
    )
    load = make_load((trace,), fleet, seed=seed, tune_days=1.0, reference=usual)
    return Scenario(
        "length shift", "twice the tokens per request for five hours a day, at a constant rate", fleet, load
    )


def classes(folder: Path, level: float, seed: int) -> Scenario:
    """Two interactive classes and batch on a fleet whose maximum is at, near or short of the peak."""
    trace = rate_trace(folder, "azure2024_code_digitised", seed)
    fleet = standard_fleet(trace, max_workers=round(60.0 / level))
    kinds = (
        SloClass("interactive", 0.5, 10.0, 60.0),
        SloClass("standard", 0.3, 60.0, 300.0),
        SloClass("batch", 0.2, 3600.0, 14_400.0),
    )
    fleet = replace(fleet, services=(replace(fleet.services[0], classes=kinds),))
    load = make_load((trace,), fleet, seed=seed, step_s=30.0)
    note = (
        f"two SLO classes and batch; the peak is {level:g} times what the largest fleet serves. Batch may wait for an "
        "hour, which the optimum does not use"
    )
    return Scenario(f"classes load {level:g}", note, fleet, load)


def heterogeneous(folder: Path, seed: int) -> Scenario:
    """Three types with limits, spot interruptions and stock-outs."""
    trace = rate_trace(folder, "servegen_m_small_8d", seed)
    unit = standard_fleet(trace).services[0].capacity[0]
    fleet = Fleet(
        (
            WorkerType("h100", price=6.88, startup_s=300.0),
            WorkerType("a100-spot", price=1.29, startup_s=240.0, limit=30, spot=True),
            WorkerType("l40s", price=1.861, startup_s=180.0, limit=80),
        ),
        (Service("chat", (unit, 0.45 * unit, 0.25 * unit), max_workers=400),),
    )
    load = make_load((trace,), fleet, seed=seed, step_s=30.0)
    wrong = disturbed(
        load.steps, load.step_s, fleet, seed, stockouts_per_day=0.5, interruptions_per_day=2.0, interrupted_share=0.3
    )
    note = "H100, spot A100 and L40S with limits; 2 interruptions and half a stock-out of 2 h a day"
    return Scenario("heterogeneous", note, fleet, load, wrong)


def three_models(folder: Path, seed: int) -> Scenario:
    """Three models share one pool of one type."""
    names = ("azure2024_code_digitised", "servegen_m_small_8d", "servegen_m_large")
    traces = tuple(rate_trace(folder, name, seed) for name in names)
    services = tuple(
        replace(standard_fleet(trace, peak_workers=30.0).services[0], name=name.split("_", 1)[0] + f"-{i}")
        for i, (trace, name) in enumerate(zip(traces, names, strict=True))
    )
    fleet = Fleet((WorkerType("h100", price=6.88, limit=80),), services)
    load = make_load(traces, fleet, seed=seed, step_s=30.0)
    return Scenario("three models", "three models, 30 workers each at peak, on one pool of 80", fleet, load)


def priorities(level: float, seed: int, *, ranked: bool = True, days: float = 2.0) -> Scenario:
    """Two services on one pool; the second one has the higher priority and a third of the traffic.

    Args:
        level: Demand of both at the daily peak over what the whole pool serves.
        seed: Of the noise.
        ranked: Whether the priority is set.
        days: Days, the first half for tuning.
    """
    rng = np.random.default_rng(seed)
    minutes = np.arange(round(days * 1440))
    pool, unit = 30, 2.0
    shape = 0.8 - 0.2 * np.cos(2 * np.pi * minutes / 720.0)
    traces = tuple(
        synthetic(name, level * pool * unit * share * shape * (1.0 + 0.1 * rng.uniform(-1.0, 1.0, len(minutes))))
        for name, share in (("usual", 2 / 3), ("urgent", 1 / 3))
    )
    fleet = Fleet(
        (WorkerType("h100", price=6.88, limit=pool),),
        tuple(
            Service(name, (unit,), max_workers=pool, priority=value)
            for name, value in (("usual", 0), ("urgent", 1000 if ranked else 0))
        ),
    )
    load = make_load(traces, fleet, seed=seed, step_s=30.0, tune_days=days / 2)
    note = f"two services on a pool of {pool}, at peak {level:g} times what it serves"
    return Scenario(f"priority load {level:g}", note, fleet, load)


def startups(folder: Path, startup_s: float, peak: float, seed: int) -> Scenario:
    """A start-up time and a peak in requests/s, thinned from real traffic; a worker serves 1.5 requests/s."""
    trace = rate_trace(folder, "servegen_m_small_8d" if peak > 60 else "azure2024_code_digitised", seed)
    if trace.requests is None:
        raise ValueError(f"{trace.name} has no requests to thin")
    top = float(np.nanquantile(trace.requests, 0.999)) / 60.0
    thinned = thin(trace, min(1.0, peak / top), seed)
    fleet = Fleet(
        (WorkerType("standard", price=6.88, startup_s=startup_s),), (Service("standard", (1.5,), max_workers=3000),)
    )
    load = make_load((thinned,), fleet, seed=seed, step_s=10.0 if startup_s < 60 else 30.0)
    note = f"start-up {startup_s:g} s, peak {peak:g} requests/s"
    return Scenario(f"start-up {startup_s:g} s, peak {peak:g}/s", note, fleet, load)


def suite(folder: Path, seed: int) -> Mapping[str, Callable[[], list[Scenario]]]:
    """All scenarios by family, built when asked for."""
    return {
        "weeks": lambda: [
            diurnal(folder, name, seed)
            for name in (
                "azure2024_code_digitised",
                "servegen_m_small_8d",
                "servegen_m_large",
                "sageserve_A",
                "sageserve_B",
                "sageserve_D",
            )
        ],
        "steps": lambda: [steps(2.0, seed), steps(4.0, seed), flash_crowd(seed)],
        "noise": lambda: [noisy(n, seed) for n in (2.0, 10.0, 100.0)],
        "forecast": lambda: forecast_faults(folder, seed),
        "lengths": lambda: [length_shift(seed)],
        "classes": lambda: [classes(folder, level, seed) for level in _LEVELS],
        "types": lambda: [heterogeneous(folder, seed)],
        "models": lambda: [three_models(folder, seed)],
        "startups": lambda: [startups(folder, s, p, seed) for s in _STARTUPS for p in _PEAKS],
    }
