"""The performance model as the planner asks it: which row holds for a spec, and what it says; everything is cached."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.perfmodel import (
    MAX_NUM_BATCHED_TOKENS,
    Capacity,
    PerfProfile,
    Workload,
    lookup,
    operating_point,
    profiles,
    resolve_profile_name,
)
from warmfleet_contracts.perfmodel import capacity as sustained
from warmfleet_contracts.quantized import DERIVED, derived, weight_bytes

DEFAULT_SEQUENCES = 256
_FP8_CACHE = 2
"""An fp8 cache holds twice the tokens of a 16-bit one."""


def profile_name(spec: LLMDeploymentSpec) -> str | None:
    """Name of the model's profile, from model.profile, else its name or repository; None when there is none."""
    if spec.model.profile:
        return resolve(spec.model.profile)
    repository = spec.model.source.hf.repo if spec.model.source.hf is not None else ""
    return resolve(spec.model.name) or resolve(repository)


class Limits(NamedTuple):
    """What the engine's flags bound.

    Attributes:
        sequences: Requests that run at a time.
        step_tokens: Tokens of one step.
    """

    sequences: int = DEFAULT_SEQUENCES
    step_tokens: int = MAX_NUM_BATCHED_TOKENS


_WHOLE_PROMPT = 16_777_216
"""Tokens of a step that holds any prompt: without chunked prefill."""


def dtype(spec: LLMDeploymentSpec, model: str | None) -> str:
    """Data type of the weights as the profiles name it; empty when the spec does not tell."""
    quantization, sparse = spec.model.quantization, "-2:4" if spec.model.sparsity else ""
    if quantization == "none":
        return "mxfp4" if model is not None and model.startswith("gpt-oss") else "bf16"
    if quantization in ("awq", "gptq"):
        return spec.model.scheme or "w4a16"
    if quantization == "compressed-tensors":
        if spec.model.scheme == "w8a8-fp8" and not sparse:
            return "fp8"
        return f"{spec.model.scheme}{sparse}" if spec.model.scheme else ""
    return quantization


def cache_factor(spec: LLMDeploymentSpec) -> int:
    """By how much more tokens the cache holds than in 16 bit."""
    return _FP8_CACHE if spec.kv_cache.dtype.startswith("fp8") else 1


def limits(spec: LLMDeploymentSpec) -> Limits:
    """What the fields of spec.engine, else its args, bound."""
    engine = spec.engine
    sequences = engine.max_num_seqs or _number(engine.args, "--max-num-seqs", DEFAULT_SEQUENCES)
    chunk = engine.max_num_batched_tokens or _number(engine.args, "--max-num-batched-tokens", MAX_NUM_BATCHED_TOKENS)
    return Limits(sequences, _WHOLE_PROMPT if engine.chunked_prefill is False else chunk)


@lru_cache(maxsize=4096)
def _number(args: tuple[str, ...], flag: str, default: int) -> int:
    """A number among the engine's flags, between 1 and 2^24; the last one holds."""
    found = default
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name == flag:
            text = value if equals else (args[i + 1] if i + 1 < len(args) else "")
            if text.isascii() and text.isdigit() and 0 < int(text) <= _WHOLE_PROMPT:
                found = int(text)
    return found


def served(spec: LLMDeploymentSpec, workload: Workload) -> Workload:
    """The mean request as the engine meets it: without prefix caching every prompt is new."""
    return workload._replace(hit_ratio=0.0) if spec.engine.prefix_caching is False else workload


@lru_cache(maxsize=4096)
def resolve(name: str) -> str | None:
    """See :func:`resolve_profile_name`."""
    return resolve_profile_name(name)


@lru_cache(maxsize=4096)
def find_profile(model: str, dtype: str, accelerator: str, tensor_parallel: int) -> PerfProfile | None:
    """The row of the performance model, else one derived from its 16-bit row; None without either."""
    found = lookup(model, dtype, accelerator, tensor_parallel)
    if found is not None:
        return found
    base = lookup(model, "bf16", accelerator, tensor_parallel)
    kind = "w8a8-fp8" if dtype == "fp8" else dtype
    return derived(base, kind) if base is not None and kind in DERIVED else None


@lru_cache(maxsize=256)
def weights(model: str, dtype: str) -> int | None:
    """Bytes of the weights, whatever they run on; None without any row."""
    known = min((p.weight_bytes for p in profiles().values() if (p.model, p.dtype) == (model, dtype)), default=None)
    if known is not None or dtype not in DERIVED:
        return known
    base = weights(model, "bf16")
    small = None if base is None else weight_bytes(model, dtype, base)
    return None if small is None else round(small)


@lru_cache(maxsize=256)
def cache_bytes_per_token(model: str) -> int | None:
    """Bytes of one token's cache in 16 bit, all accelerators together; None without any row."""
    return next((p.kv_bytes_per_token for p in profiles().values() if p.model == model), None)


@lru_cache(maxsize=256)
def usable_bytes(accelerator: str) -> float | None:
    """Bytes of one accelerator for weights and cache, from the smallest row on it; None without any row."""
    rows = [p for p in profiles().values() if p.accelerator == accelerator]
    return min(((p.weight_bytes + p.kv_tokens * p.kv_bytes_per_token) / p.tensor_parallel for p in rows), default=None)


@lru_cache(maxsize=4096)
def with_cache(profile: PerfProfile | None, factor: int) -> PerfProfile | None:
    """The profile with the tokens that the cache's data type holds."""
    return None if profile is None else replace(profile, kv_tokens=profile.kv_tokens * factor)


@lru_cache(maxsize=65_536)
def at_batch(profile: PerfProfile, workload: Workload, batch: int) -> float:
    """Requests per second of a worker that runs ``batch`` requests at a time."""
    return operating_point(profile, workload, batch).requests_per_second


@lru_cache(maxsize=65_536)
def within_slo(
    profile: PerfProfile,
    cache_factor: int,
    workload: Workload,
    ttft: float,
    tpot: float,
    limits: Limits,
) -> tuple[Capacity, bool]:
    """The largest rate within the SLO, and whether it is met; else what one request at a time gives."""
    profile = replace(profile, kv_tokens=profile.kv_tokens * cache_factor)
    found = sustained(
        profile,
        workload,
        ttft_s=ttft,
        tpot_s=tpot,
        max_num_seqs=limits.sequences,
        max_num_batched_tokens=limits.step_tokens,
    )
    if found.requests_per_second > 0:
        return found, True
    return operating_point(profile, workload, 1, max_num_batched_tokens=limits.step_tokens), False
