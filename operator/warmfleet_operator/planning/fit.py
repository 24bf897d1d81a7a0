"""Whether a model fits an instance type, and what a worker on it would give.

::

    fits       : tensorParallel * pipelineParallel <= accelerators of the instance
                 weights <= usable memory of these accelerators
                 kv_tokens >= model.maxModelLen                     one longest request must be servable
    cpu tier of kvCache < memory of these accelerators' share of the node
    kv_tokens  = performance.kvCacheTokens, else the profile's, times 2 with an fp8 cache,
                 else (usable memory - weights) / bytes per token
    $/1M       = price of the worker per hour / (3600 * requests/s * (input + output tokens)) * 1e6

The operator refuses a variant with these words, and names what would fit; ``warmfleet fit`` prints the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from warmfleet_contracts.api import InstanceTypeSpec, LLMDeploymentSpec, Variant
from warmfleet_contracts.perfmodel import Limit, PerfProfile, Workload

from warmfleet_operator.planning import modelled
from warmfleet_operator.state.records import InstanceTypeRecord

SPLITS = (1, 2, 4, 8)
"""Tensor parallelism that is tried where none is given: what the performance model has rows for."""
_UNITS = {
    "": 1.0,
    **{unit: 1000.0**power for power, unit in enumerate("KMGT", 1)},
    **{f"{unit}i": 1024.0**power for power, unit in enumerate("KMGT", 1)},
}
_NAMED = 3
"""Alternatives that a message names."""


@dataclass(frozen=True, slots=True)
class Fit:
    """One worker of a model on one instance type.

    Attributes:
        instance_type: InstanceType name.
        accelerator: Such as H100-SXM.
        tensor_parallel: Accelerators that share each layer.
        pipeline_parallel: Stages of layers.
        problem: Why it does not fit, with the fix; empty when it does, or nobody knows.
        weight_bytes: Size of the weights; None while unknown.
        usable_bytes: Memory of the worker's accelerators for weights and cache; None while unknown.
        kv_tokens: Tokens the cache holds; None while unknown, or when the weights do not fit.
        rate: Requests/s within the SLO, or of one request at a time when it cannot be met; None while unknown.
        meets_slo: Whether the SLO can be met; None while unknown.
        batch: Requests that run at a time at that rate.
        ttft_ms: Time to first token at that rate, without a queue.
        tpot_ms: Time per output token at that rate.
        limited_by: What keeps the batch from being larger.
        price: Dollars per hour of the worker.
        dollars_per_million: Per million tokens, prompt and answer alike, at that rate; None while unknown.
        trust: How far to believe the performance model: high, medium, low, or given for a performance override.
    """

    instance_type: str
    accelerator: str
    tensor_parallel: int
    pipeline_parallel: int
    problem: str
    weight_bytes: float | None
    usable_bytes: float | None
    kv_tokens: int | None
    rate: float | None
    meets_slo: bool | None
    batch: int | None
    ttft_ms: float | None
    tpot_ms: float | None
    limited_by: Limit | None
    price: float
    dollars_per_million: float | None
    trust: str

    @property
    def serves(self) -> bool:
        """Whether it fits, and meets the SLO as far as that is known."""
        return not self.problem and self.meets_slo is not False

    @property
    def known(self) -> bool:
        """Whether anything is known of the model on this type, so that ``problem`` being empty says something."""
        return bool(self.problem) or self.kv_tokens is not None or self.rate is not None

    @property
    def label(self) -> str:
        """Such as ``h100 (tensorParallel 2)``."""
        stages = f", pipelineParallel {self.pipeline_parallel}" if self.pipeline_parallel > 1 else ""
        return f"{self.instance_type} (tensorParallel {self.tensor_parallel}{stages})"


@dataclass(frozen=True, slots=True)
class _Row:
    """What is known of a model in a data type on a number of accelerators."""

    model: str | None
    dtype: str
    profile: PerfProfile | None


def find(spec: LLMDeploymentSpec, variant: Variant, accelerator: str) -> _Row:
    """The performance model's row for a variant, and under which names it was looked for."""
    model = modelled.profile_name(spec)
    dtype = modelled.dtype(spec, model)
    profile = None if model is None else modelled.find_profile(model, dtype, accelerator, variant.tensor_parallel)
    return _Row(model, dtype, profile)


def refusal(spec: LLMDeploymentSpec, variant: Variant, name: str, itype: InstanceTypeSpec) -> str:
    """Why a variant cannot run on an instance type, with the fix; empty when it can, or nobody knows.

    Args:
        spec: The deployment.
        variant: The variant.
        name: Name of the InstanceType.
        itype: The InstanceType.
    """
    accelerator = itype.accelerator
    if variant.accelerators > accelerator.count:
        return (
            f"tensorParallel x pipelineParallel = {variant.accelerators} is more than the {accelerator.count} "
            f"accelerators of InstanceType {name}; lower them or choose a larger type"
        )
    row = find(spec, variant, accelerator.name)
    weights, usable, tokens = _memory(spec, variant, accelerator.name, row)
    if row.profile is None and weights is not None and usable is not None and weights > usable:
        return (
            f"the weights of {row.model} in {row.dtype} ({weights / 1e9:.0f} GB) do not fit {variant.accelerators} x "
            f"{accelerator.name} ({usable / variant.accelerators / 1e9:.0f} GB each for weights and cache); raise "
            "tensorParallel, quantize or choose a larger type"
        )
    longest = spec.model.max_model_len
    if tokens is not None and longest is not None and longest > tokens:
        return (
            f"model.maxModelLen {longest} is more than the {tokens} tokens that the KV cache holds on "
            f"{variant.accelerators} x {accelerator.name}; lower it, raise tensorParallel or choose a larger type"
        )
    return _host(spec, variant, name, itype)


def _host(spec: LLMDeploymentSpec, variant: Variant, name: str, itype: InstanceTypeSpec) -> str:
    """The cpu tier lies in the pod's own memory."""
    tier = next((tier.size for tier in spec.kv_cache.tiers if tier.medium == "cpu"), None)
    each = itype.resources.memory
    if tier is None or each is None:
        return ""
    there = memory_bytes(each) * variant.accelerators
    if memory_bytes(tier) < there:
        return ""
    return (
        f"the cpu tier of kvCache ({tier}) does not fit into the {there / 2**30:.4g}Gi of memory that InstanceType "
        f"{name} gives {variant.accelerators} of its accelerators; make the tier smaller, or raise resources.memory"
    )


def memory_bytes(quantity: str) -> float:
    """Bytes of a Kubernetes quantity such as ``24Gi``, ``1.5T`` or ``1000``."""
    digits = quantity.rstrip("KMGTi")
    return float(digits) * _UNITS[quantity[len(digits) :]]


def _memory(
    spec: LLMDeploymentSpec, variant: Variant, accelerator: str, row: _Row
) -> tuple[float | None, float | None, int | None]:
    """(bytes of the weights, usable bytes of the worker, tokens of its cache); None for what is unknown."""
    factor, profile = modelled.cache_factor(spec), row.profile
    weights: float | None = modelled.weights(row.model, row.dtype) if row.model is not None else None
    each = modelled.usable_bytes(accelerator)
    usable = None if each is None else each * variant.accelerators
    given = variant.performance.kv_cache_tokens if variant.performance is not None else None
    if profile is not None:
        usable = float(profile.weight_bytes + profile.kv_tokens * profile.kv_bytes_per_token)
        weights = profile.weight_bytes
        return weights, usable, given if given is not None else profile.kv_tokens * factor
    per_token = modelled.cache_bytes_per_token(row.model) if row.model is not None else None
    tokens = given
    if tokens is None and weights is not None and usable is not None and per_token and weights <= usable:
        tokens = int((usable - weights) / per_token) * factor
    return weights, usable, tokens


def fit(spec: LLMDeploymentSpec, variant: Variant, name: str, itype: InstanceTypeSpec, workload: Workload) -> Fit:
    """What one worker of a variant on an instance type gives.

    Args:
        spec: The deployment.
        variant: The variant; its own instanceType is not looked at.
        name: Name of the InstanceType.
        itype: The InstanceType.
        workload: The mean request.
    """
    accelerator = itype.accelerator
    row = find(spec, variant, accelerator.name)
    weights, usable, tokens = _memory(spec, variant, accelerator.name, row)
    problem = refusal(spec, variant, name, itype)
    price = itype.price_per_hour * variant.accelerators / accelerator.count
    rate: float | None = variant.performance.requests_per_second if variant.performance is not None else None
    meets: bool | None = None if rate is None else True
    found, trust = None, "unknown" if rate is None else "given"
    if rate is None and not problem and row.profile is not None and variant.pipeline_parallel == 1:
        work = modelled.served(spec, workload)
        found, meets = modelled.within_slo(
            row.profile, modelled.cache_factor(spec), work, spec.slo.ttft, spec.slo.tpot, modelled.limits(spec)
        )
        rate, trust = found.requests_per_second, str(row.profile.trust)
    total = workload.input_tokens + workload.output_tokens
    cost = None if problem or not rate else price / (3600.0 * rate * total) * 1e6
    return Fit(
        instance_type=name,
        accelerator=accelerator.name,
        tensor_parallel=variant.tensor_parallel,
        pipeline_parallel=variant.pipeline_parallel,
        problem=problem,
        weight_bytes=weights,
        usable_bytes=usable,
        kv_tokens=tokens,
        rate=None if problem else rate,
        meets_slo=None if problem else meets,
        batch=None if found is None else found.batch,
        ttft_ms=None if found is None else found.ttft_ms,
        tpot_ms=None if found is None else found.tpot_ms,
        limited_by=None if found is None else found.limited_by,
        price=price,
        dollars_per_million=cost,
        trust=trust,
    )


def tried(spec: LLMDeploymentSpec, name: str, itype: InstanceTypeSpec, workload: Workload) -> tuple[Fit, ...]:
    """One instance type with each tensor parallelism that it has accelerators for."""
    splits = [n for n in SPLITS if n <= itype.accelerator.count]
    return tuple(fit(spec, split(name, n), name, itype, workload) for n in splits)


def split(name: str, tensor_parallel: int) -> Variant:
    """A variant that nobody declared: an instance type with a tensor parallelism."""
    return Variant(name="fit", instance_type=name, tensor_parallel=tensor_parallel)


def best(fits: Iterable[Fit]) -> Fit | None:
    """The one with the cheapest token among those that serve; else the smallest that fits; None when none does."""
    usable = [f for f in fits if not f.problem]
    return min(
        usable,
        key=lambda f: (not f.serves, f.dollars_per_million is None, f.dollars_per_million or 0.0, f.price),
        default=None,
    )


def would_fit(spec: LLMDeploymentSpec, types: Mapping[str, InstanceTypeRecord], workload: Workload) -> str:
    """The instance types on which the model would fit, cheapest token first, as the end of a message."""
    found = []
    for name, record in sorted(types.items()):
        one = best(tried(spec, name, record.spec, workload)) if record.spec is not None else None
        if one is not None and one.serves:
            found.append(one)
    if not found:
        return "; no InstanceType that there is would fit" if types else ""
    found.sort(key=lambda f: (f.dollars_per_million is None, f.dollars_per_million or 0.0, f.price))
    return "; what would fit: " + ", ".join(f.label for f in found[:_NAMED])
