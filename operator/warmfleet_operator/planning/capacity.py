"""What one worker of a variant sustains.

::

    rate(variant)  = performance.requestsPerSecond                                if given
                   = capacity(model, dtype, accelerator, tensorParallel; tokens, hit ratio, SLO)   else
    times the ratio that workers have shown, within [0.5, 2]                     see learning
    price(variant) = price of the instance * tensorParallel * pipelineParallel / accelerators of the instance

No headroom is in it: that is the blend's. When no variant meets the SLO for the traffic as it is, serving late is
better than not serving: the rate of one request at a time is counted on, and it is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from warmfleet_contracts.api import LLMDeploymentSpec, Variant
from warmfleet_contracts.engineversion import engine_problems
from warmfleet_contracts.perfmodel import PerfProfile, Workload, profiles
from warmfleet_contracts.reasons import Reason

from warmfleet_operator.planning import fit, modelled
from warmfleet_operator.planning.startup import startup_lead
from warmfleet_operator.state.decisions import Problem
from warmfleet_operator.state.memory import DeploymentMemory
from warmfleet_operator.state.records import InstanceTypeRecord

RATIO_BELOW, MOST_RATIO = 0.5, 2.0
"""Bounds of the learned ratio."""
SPOT_LOSS = 0.3
"""Share of the spot capacity that may be reclaimed at once without harm, where scaling.maxSpotShare is not set."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A variant as it can be bought.

    Attributes:
        variant: Name.
        instance_type: InstanceType name.
        accelerators: Accelerators of one worker.
        minimum: Fewest workers.
        maximum: Most workers; None when unbounded.
        buy: Whether new workers of it may be created.
        rate: Requests per second of one worker; None while unknown.
        price: Dollars per hour of one worker; None while unknown.
        startup: 90th percentile of the start-up time, seconds.
        spot: Whether the provider may take the worker back.
        learned: Observed over modelled rate, contained in ``rate``.
        lost: Share of its rate that is not counted on when spot capacity is reclaimed, if it is spot.
    """

    variant: str
    instance_type: str
    accelerators: int
    minimum: int
    maximum: int | None
    buy: bool
    rate: float | None
    price: float | None
    startup: float
    spot: bool = False
    learned: float = 1.0
    lost: float = SPOT_LOSS


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What a worker of a variant is measured against.

    Attributes:
        rate: Requests/s within the SLO by the model, or as given in the spec; above 0.
        given: Whether it was given in the spec.
        profile: The model; None when there is none, or when the rate was given.
        workload: The mean request.
        ttft: Objective, seconds.
        tpot: Objective, seconds.
        limits: What the engine's flags bound.
    """

    rate: float
    given: bool
    profile: PerfProfile | None
    workload: Workload
    ttft: float
    tpot: float
    limits: modelled.Limits

    def at_batch(self, batch: float) -> float | None:
        """Modelled requests/s of a worker that runs ``batch`` requests on average."""
        if self.profile is None:
            return None
        if batch < 1.0:
            return batch * modelled.at_batch(self.profile, self.workload, 1)
        most = self.limits.sequences
        low = min(int(batch), most)
        below = modelled.at_batch(self.profile, self.workload, low)
        above = modelled.at_batch(self.profile, self.workload, low + 1)
        return below + (above - below) * (min(batch, most) - low)

    def at_speed(self, speed: float) -> float:
        """Requests/s within the SLO of a worker whose steps take 1/``speed`` as long as modelled."""
        if self.profile is None:
            return self.rate * speed
        grid = max(0.05, round(speed, 2))
        found, meets = modelled.within_slo(
            self.profile, 1, self.workload, self.ttft * grid, self.tpot * grid, self.limits
        )
        return found.requests_per_second * grid if meets else 0.0


@dataclass(frozen=True, slots=True)
class _Checked:
    problem: Problem | None
    runnable: bool
    meets_slo: bool
    rate: float | None


def survey(
    spec: LLMDeploymentSpec,
    types: Mapping[str, InstanceTypeRecord],
    workload: Workload,
    *,
    needs_rates: bool,
    memory: DeploymentMemory | None = None,
) -> tuple[tuple[Offer, ...], tuple[Problem, ...]]:
    """All variants in the order of the spec, and what is wrong with them.

    Args:
        spec: The deployment.
        types: InstanceTypes by name.
        workload: The mean request.
        needs_rates: False for a fixed number of workers, which can be bought without knowing what one sustains.
        memory: What the deployment has learned; None for nothing.

    Returns:
        Offers, and problems; these are stalled when nothing can be bought.
    """
    checked = [_check(spec, variant, types, workload) for variant in spec.variants]
    slo_met = any(c.meets_slo for c in checked)
    bounded = spec.scaling is not None and spec.scaling.max_spot_share is not None
    lost = 1.0 if bounded else SPOT_LOSS
    offers = []
    for variant, c in zip(spec.variants, checked, strict=True):
        buy = c.runnable and (not needs_rates or (c.rate is not None and (c.meets_slo or not slo_met)))
        offers.append(_offer(variant, types.get(variant.instance_type), c.rate, memory, buy=buy, lost=lost))
    stalled = not any(offer.buy for offer in offers)
    problems = tuple(
        replace(c.problem, stalled=stalled)
        for c in checked
        if c.problem is not None and (needs_rates or not c.runnable)
    )
    return tuple(offers), problems


def rates(
    spec: LLMDeploymentSpec,
    types: Mapping[str, InstanceTypeRecord],
    workload: Workload,
    memory: DeploymentMemory | None = None,
) -> dict[str, float]:
    """Requests per second of one worker by variant, as learned, 0 while unknown."""
    return {v.name: (_check(spec, v, types, workload).rate or 0.0) * _learned(v, memory) for v in spec.variants}


def learned_key(variant: Variant) -> str:
    """Under which name a variant's learned rate is remembered: on another type it is another one."""
    return f"{variant.name}@{variant.instance_type}"


def yardstick(
    spec: LLMDeploymentSpec, variant: Variant, types: Mapping[str, InstanceTypeRecord], workload: Workload
) -> Yardstick | None:
    """What workers of the variant are measured against; None when nobody knows a rate, or the SLO cannot be met."""
    found = _check(spec, variant, types, workload)
    if not found.rate or not found.meets_slo:
        return None
    given = variant.performance is not None and variant.performance.requests_per_second is not None
    record, model = types.get(variant.instance_type), modelled.profile_name(spec)
    profile = None
    if not given and model is not None and record is not None and record.spec is not None:
        name = record.spec.accelerator.name
        profile = modelled.with_cache(
            modelled.find_profile(model, modelled.dtype(spec, model), name, variant.tensor_parallel),
            modelled.cache_factor(spec),
        )
    work = modelled.served(spec, workload)
    return Yardstick(found.rate, given, profile, work, spec.slo.ttft, spec.slo.tpot, modelled.limits(spec))


def _learned(variant: Variant, memory: DeploymentMemory | None) -> float:
    known = memory.learned.get(learned_key(variant)) if memory is not None else None
    return 1.0 if known is None else min(MOST_RATIO, max(RATIO_BELOW, known.applied))


def _offer(
    variant: Variant,
    record: InstanceTypeRecord | None,
    rate: float | None,
    memory: DeploymentMemory | None,
    *,
    buy: bool,
    lost: float,
) -> Offer:
    learned = _learned(variant, memory)
    price = None
    if record is not None and record.spec is not None:
        price = record.spec.price_per_hour * variant.accelerators / record.spec.accelerator.count
    return Offer(
        variant=variant.name,
        instance_type=variant.instance_type,
        accelerators=variant.accelerators,
        minimum=variant.min,
        maximum=variant.max,
        buy=buy,
        rate=rate if rate is None else rate * learned,
        price=price,
        startup=startup_lead(record, memory),
        spot=record is not None and record.spec is not None and record.spec.spot,
        learned=learned,
        lost=lost,
    )


def _check(
    spec: LLMDeploymentSpec,
    variant: Variant,
    types: Mapping[str, InstanceTypeRecord],
    workload: Workload,
) -> _Checked:
    where = f"variants[{variant.name}]"
    record = types.get(variant.instance_type)
    override = variant.performance
    given = override.requests_per_second if override is not None else None
    if record is None or record.spec is None:
        return _Checked(_no_type(where, variant, record, types), runnable=False, meets_slo=False, rate=given)
    message = fit.refusal(spec, variant, record.name, record.spec)
    if message:
        hint = fit.would_fit(spec, types, workload)
        return _Checked(_cannot_fit(f"{where}: {message}{hint}"), runnable=False, meets_slo=False, rate=given)
    old = engine_problems(spec)
    if old:
        problem = Problem(Reason.ENGINE_UNSUITABLE, "; ".join(old)[:900])
        return _Checked(problem, runnable=False, meets_slo=False, rate=given)
    if given is not None:
        return _Checked(None, runnable=True, meets_slo=True, rate=given)
    accelerator = record.spec.accelerator.name
    row = fit.find(spec, variant, accelerator)
    if row.profile is None or variant.pipeline_parallel > 1:
        kind = row.dtype or f"{spec.model.quantization} without model.scheme"
        problem = _no_data(spec, variant, row.model, f"{kind} on {accelerator}")
        return _Checked(problem, runnable=True, meets_slo=False, rate=None)
    return _modelled(spec, where, row.profile, types, workload)


def _modelled(
    spec: LLMDeploymentSpec,
    where: str,
    profile: PerfProfile,
    types: Mapping[str, InstanceTypeRecord],
    workload: Workload,
) -> _Checked:
    factor, bounds = modelled.cache_factor(spec), modelled.limits(spec)
    work = modelled.served(spec, workload)
    found, meets = modelled.within_slo(profile, factor, work, spec.slo.ttft, spec.slo.tpot, bounds)
    rate = found.requests_per_second
    if meets:
        return _Checked(None, runnable=True, meets_slo=True, rate=rate)
    message = (
        f"{where}: on {profile.accelerator} not even one request at a time of {workload.input_tokens:.0f} prompt and "
        f"{workload.output_tokens:.0f} generated tokens meets slo.ttft {spec.slo.ttft:g} s and slo.tpot "
        f"{spec.slo.tpot * 1000:g} ms; loosen the SLO, raise tensorParallel or choose a faster type"
    ) + fit.would_fit(spec, types, workload)
    return _Checked(_cannot_fit(message), runnable=True, meets_slo=False, rate=rate)


def _cannot_fit(message: str) -> Problem:
    return Problem(Reason.VARIANT_CANNOT_FIT, message)


def _no_type(
    where: str,
    variant: Variant,
    record: InstanceTypeRecord | None,
    types: Mapping[str, InstanceTypeRecord],
) -> Problem:
    if record is not None:
        message = f"InstanceType {record.name} cannot be read: {record.spec_error or 'no spec'}; correct it"
    else:
        known = ", ".join(sorted(types)[:5])
        hint = f"create it or name one of: {known}" if known else "create it; there is none yet"
        message = f"there is no InstanceType {variant.instance_type}; {hint}"
    return Problem(Reason.UNKNOWN_INSTANCE_TYPE, f"{where}.instanceType: {message}")


def _no_data(spec: LLMDeploymentSpec, variant: Variant, model: str | None, what: str) -> Problem:
    where = f"variants[{variant.name}]"
    if model is None:
        named = f"model.profile {spec.model.profile}" if spec.model.profile else f"model.name {spec.model.name}"
        known = ", ".join(sorted({key[0] for key in profiles()}))
        message = f"no performance data for {named}; set {where}.performance, or model.profile to one of: {known}"
    elif variant.pipeline_parallel > 1:
        message = f"no performance data with pipelineParallel {variant.pipeline_parallel}; set {where}.performance"
    else:
        message = (
            f"no performance data for {model} in {what} with tensorParallel {variant.tensor_parallel}; "
            f"set {where}.performance or choose another tensorParallel or type"
        )
    return Problem(Reason.NO_PERFORMANCE_DATA, f"{where}: {message}")
