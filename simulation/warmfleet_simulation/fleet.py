"""What is simulated: types of workers, services with their objectives, and traffic cut into steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from warmfleet_contracts.perfmodel import PerfProfile, Workload, operating_point
from warmfleet_contracts.traces import BoolArray, FloatArray, IntArray, RateTrace, TraceError

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WorkerType:
    """A kind of worker.

    Attributes:
        name: Name of the type.
        price: Dollars per hour of one worker.
        startup_s: Mean start-up time, s; paid for.
        startup_sigma: Spread of the start-up time (standard deviation of its logarithm).
        limit: Most workers of this type over all services; None for no limit.
        spot: Whether interruptions hit it.
    """

    name: str
    price: float = 1.0
    startup_s: float = 300.0
    startup_sigma: float = 0.2
    limit: int | None = None
    spot: bool = False


@dataclass(frozen=True, slots=True)
class SloClass:
    """A class of requests; classes are served in order.

    Attributes:
        name: Such as interactive or batch.
        share: Share of the service's requests, 0..1.
        objective_s: Longest wait in the queue that counts as served within the objective, s.
        patience_s: Wait after which a request is lost, s; above the objective.
    """

    name: str = "interactive"
    share: float = 1.0
    objective_s: float = 10.0
    patience_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Service:
    """One model that is served.

    Attributes:
        name: Name of the service.
        capacity: What a worker of each type sustains within the SLO at reference lengths, requests/s; 0: cannot run.
        classes: Request classes, most urgent first.
        min_workers: Fewest workers.
        max_workers: Most workers.
        attainment: Share of requests that must be served within the objective.
        priority: Value of its PriorityClass; 0 for none. Only policies that know priorities look at it.
    """

    name: str
    capacity: tuple[float, ...]
    classes: tuple[SloClass, ...] = (SloClass(),)
    min_workers: int = 1
    max_workers: int = 10_000
    attainment: float = 0.99
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything that is scaled.

    Attributes:
        types: Types of workers.
        services: Services, most important first: the first is served first when a type is short.
        kv_at_capacity: KV use of a worker that runs at its capacity, 0..1. This default and the next are those of
            Llama 3.1 8B on A100-40GB with 1,020 + 210 tokens at 50 ms per token, from the performance model.
        batch_at_capacity: Requests that run in a worker at its capacity.
        drain_s: How long a leaving worker is paid for while it finishes its requests, s.
        profile: Row of the performance model behind the capacities; None when they were set by hand.
    """

    types: tuple[WorkerType, ...]
    services: tuple[Service, ...]
    kv_at_capacity: float = 0.77
    batch_at_capacity: float = 95.0
    drain_s: float = 30.0
    profile: PerfProfile | None = None

    def capacity(self) -> FloatArray:
        """Requests/s by service and type, shape (D, V)."""
        return np.array([service.capacity for service in self.services], dtype=np.float64)

    def prices(self) -> FloatArray:
        """Dollars per hour by type, shape (V,)."""
        return np.array([t.price for t in self.types], dtype=np.float64)

    def reference(self) -> IntArray:
        """Index of the type that is cheapest per request, by service, shape (D,)."""
        capacity = self.capacity()
        per_request = np.divide(self.prices(), capacity, out=np.full(capacity.shape, np.inf), where=capacity > 0)
        return np.asarray(per_request.argmin(axis=1), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Load:
    """Traffic in steps of equal length.

    Attributes:
        name: Where it comes from.
        step_s: Length of a step, s.
        arrivals: Requests per step, service and class, shape (T, D, C).
        work: Cost of a request over one of reference lengths, shape (T, D).
        input_tokens: Mean prompt tokens, shape (T, D).
        output_tokens: Mean generated tokens, shape (T, D).
        tune: Steps that knobs may be tuned on, shape (T,).
        score: Steps that count, shape (T,).
        unit: What is counted: requests or input tokens.
    """

    name: str
    step_s: float
    arrivals: FloatArray
    work: FloatArray
    input_tokens: FloatArray
    output_tokens: FloatArray
    tune: BoolArray
    score: BoolArray
    unit: str = "requests"

    @property
    def steps(self) -> int:
        """Number of steps."""
        return int(self.arrivals.shape[0])


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What goes wrong, by step and type.

    Attributes:
        stocked_out: No start is granted, shape (T, V).
        interrupted: Share of the ready workers that vanish, shape (T, V).
        limits: Most workers, shape (T, V); NaN for no limit.
    """

    stocked_out: BoolArray
    interrupted: FloatArray
    limits: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))


def calm(steps: int, fleet: Fleet) -> Disturbance:
    """Nothing goes wrong."""
    shape = (steps, len(fleet.types))
    limits = np.array([np.nan if t.limit is None else t.limit for t in fleet.types])
    return Disturbance(np.zeros(shape, dtype=np.bool_), np.zeros(shape), np.broadcast_to(limits, shape))


def disturbed(
    steps: int,
    step_s: float,
    fleet: Fleet,
    seed: int,
    *,
    stockouts_per_day: float = 0.0,
    stockout_s: float = 7200.0,
    interruptions_per_day: float = 0.0,
    interrupted_share: float = 0.2,
) -> Disturbance:
    """Stock-outs of every type, and interruptions that take a share of each spot type, at random moments."""
    rng = np.random.default_rng(seed)
    quiet = calm(steps, fleet)
    out, hit = quiet.stocked_out.copy(), quiet.interrupted.copy()
    days = steps * step_s / 86400.0
    for v, kind in enumerate(fleet.types):
        for begin in rng.integers(0, steps, rng.poisson(stockouts_per_day * days)):
            out[begin : begin + int(stockout_s / step_s), v] = True
        moments = rng.integers(0, steps, rng.poisson(interruptions_per_day * days))
        if kind.spot:
            hit[moments, v] = interrupted_share
    return Disturbance(out, hit, quiet.limits)


def make_load(
    traces: tuple[RateTrace, ...],
    fleet: Fleet,
    *,
    seed: int,
    step_s: float = 15.0,
    tune_days: float = 3.0,
    reference: Workload | None = None,
) -> Load:
    """Traffic in steps: minutes become Poisson arrivals, gaps are bridged by straight lines and count for nothing.

    Args:
        traces: One per service.
        fleet: What serves them.
        seed: Of the arrivals.
        step_s: Length of a step, s; a divisor of 60.
        tune_days: Days at the start that knobs may be tuned on; scoring begins after them.
        reference: Lengths the capacities hold for; None: the lengths never matter.

    Raises:
        TraceError: The traces do not fit the fleet, or the step is no divisor of a minute.
    """
    if len(traces) != len(fleet.services):
        raise TraceError(f"{len(fleet.services)} services need as many traces, not {len(traces)}")
    per_minute = round(60.0 / step_s)
    if per_minute < 1 or abs(per_minute * step_s - 60.0) > 1e-9:
        raise TraceError(f"a step of {step_s:g} s does not divide a minute; use 5, 10, 15, 20, 30 or 60 s")
    minutes = int(min(trace.minutes[-1] for trace in traces)) + 1
    rng = np.random.default_rng(seed)
    filled = [_minutes(trace, minutes) for trace in traces]
    good = np.repeat(np.all([f.known for f in filled], axis=0), per_minute)
    steps = minutes * per_minute
    classes = max(len(s.classes) for s in fleet.services)
    arrivals = np.zeros((steps, len(traces), classes))
    work, inputs, outputs = np.ones((3, steps, len(traces)))
    for d, (service, one) in enumerate(zip(fleet.services, filled, strict=True)):
        rate = np.repeat(one.rate / per_minute, per_minute)
        for c, kind in enumerate(service.classes):
            mean = rate * kind.share
            arrivals[:, d, c] = rng.poisson(mean) if one.discrete else mean
        inputs[:, d], outputs[:, d] = np.repeat(one.inputs, per_minute), np.repeat(one.outputs, per_minute)
        if reference is not None and fleet.profile is not None:
            work[:, d] = np.repeat(_work(fleet.profile, one, reference), per_minute)
    day = np.arange(steps) * step_s / 86400.0
    return Load(
        name="+".join(trace.name for trace in traces),
        step_s=step_s,
        arrivals=arrivals,
        work=work,
        input_tokens=inputs,
        output_tokens=outputs,
        tune=good & (day < tune_days),
        score=good & (day >= tune_days),
        unit="requests" if all(f.discrete for f in filled) else "input tokens",
    )


@dataclass(frozen=True, slots=True)
class _Minutes:
    rate: FloatArray
    inputs: FloatArray
    outputs: FloatArray
    known: BoolArray
    discrete: bool


def _minutes(trace: RateTrace, length: int) -> _Minutes:
    counted = trace.requests if trace.requests is not None else trace.input_tokens
    assert counted is not None  # noqa: S101  (RateTrace refuses a trace with neither)
    discrete = trace.requests is not None
    good = ~trace.missing & ~np.isnan(counted) & (trace.minutes < length)
    if not good.any():
        raise TraceError(f"{trace.name}: every minute is a gap")
    at = np.arange(length)
    known = np.zeros(length, dtype=np.bool_)
    known[trace.minutes[good]] = True
    rate = np.interp(at, trace.minutes[good], counted[good])

    def mean(values: FloatArray | None) -> FloatArray:
        if values is None or not discrete:
            return np.ones(length)
        usable = good & (counted > 0) & ~np.isnan(values)
        return np.maximum(1.0, np.interp(at, trace.minutes[usable], values[usable] / counted[usable]))

    return _Minutes(rate, mean(trace.input_tokens), mean(trace.output_tokens), known, discrete)


def _work(profile: PerfProfile, one: _Minutes, reference: Workload) -> FloatArray:
    """Engine time of a request of each minute over that of the reference, at its batch, shape (minutes,)."""
    batch = max(1, min(64, int(profile.kv_tokens // (reference.input_tokens + reference.output_tokens))))
    base = operating_point(profile, reference, batch).requests_per_second
    cache: dict[tuple[int, int], float] = {}
    work = np.empty(len(one.rate))
    for i, (inp, out) in enumerate(zip(one.inputs, one.outputs, strict=True)):
        key = (round(float(inp) / 8) * 8 or 8, round(float(out) / 4) * 4 or 4)
        if key not in cache:
            cache[key] = base / operating_point(profile, Workload(*key), batch).requests_per_second
        work[i] = cache[key]
    return work


def standard_fleet(
    trace: RateTrace,
    *,
    peak_workers: float = 60.0,
    startup_s: float = 300.0,
    price: float = 6.88,
    max_workers: int | None = None,
) -> Fleet:
    """One type whose worker is a ``peak_workers``-th of the p99.9 of the demand per minute; at most twice as many.

    The default price is that of one H100-SXM on demand ($/h, AWS list, August 2026); ratios do not depend on it.

    Raises:
        TraceError: There is no traffic in the trace.
    """
    one = _minutes(trace, int(trace.minutes[-1]) + 1)
    peak = float(np.quantile(one.rate[one.known], 0.999)) / 60.0
    if peak <= 0:
        raise TraceError(f"{trace.name}: nothing but zeros, so no fleet can be sized for it; use a time with traffic")
    service = Service(
        name="standard",
        capacity=(peak / peak_workers,),
        max_workers=max_workers or int(2 * peak_workers) + 2,
    )
    return Fleet((WorkerType("standard", price=price, startup_s=startup_s),), (service,))
