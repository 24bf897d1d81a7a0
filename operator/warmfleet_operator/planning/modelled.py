"""The performance model as the planner asks it: which row holds for a spec, and what it says; everything is cached."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.perfmodel import (
    PerfProfile,
    Workload,
    lookup,
    operating_point,
    profiles,
    resolve_profile_name,
)
from warmfleet_contracts.perfmodel import capacity as sustained

DEFAULT_SEQUENCES = 256
_FP8_CACHE = 2
"""An fp8 cache holds twice the tokens of a 16-bit one."""


def profile_name(spec: LLMDeploymentSpec) -> str | None:
    """Name of the model's profile, from model.profile, else its name or repository; None when there is none."""
    if spec.model.profile:
        return resolve(spec.model.profile)
    repository = spec.model.source.hf.repo if spec.model.source.hf is not None else ""
    return resolve(spec.model.name) or resolve(repository)


def dtype(spec: LLMDeploymentSpec, model: str | None) -> str:
    """Data type of the weights as the profiles name it."""
    if spec.model.quantization != "none":
        return spec.model.quantization
    return "mxfp4" if model is not None and model.startswith("gpt-oss") else "bf16"


def cache_factor(spec: LLMDeploymentSpec) -> int:
    """By how much more tokens the cache holds than in 16 bit."""
    return _FP8_CACHE if spec.kv_cache.dtype.startswith("fp8") else 1


@lru_cache(maxsize=4096)
def sequences(args: tuple[str, ...]) -> int:
    """Largest batch that the engine's flags allow; the last flag holds."""
    found = DEFAULT_SEQUENCES
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if flag == "--max-num-seqs":
            text = value if equals else (args[i + 1] if i + 1 < len(args) else "")
            if text.isascii() and text.isdigit() and 0 < int(text) <= 65_536:
                found = int(text)
    return found


@lru_cache(maxsize=4096)
def resolve(name: str) -> str | None:
    """See :func:`resolve_profile_name`."""
    return resolve_profile_name(name)


@lru_cache(maxsize=4096)
def find_profile(model: str, dtype: str, accelerator: str, tensor_parallel: int) -> PerfProfile | None:
    """See :func:`lookup`."""
    return lookup(model, dtype, accelerator, tensor_parallel)


@lru_cache(maxsize=256)
def weights(model: str, dtype: str) -> int | None:
    """Bytes of the weights, whatever they run on; None without any row."""
    return min((p.weight_bytes for p in profiles().values() if (p.model, p.dtype) == (model, dtype)), default=None)


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
    sequences: int,
) -> tuple[float, bool]:
    """Requests per second, and whether the SLO is met at it."""
    profile = replace(profile, kv_tokens=profile.kv_tokens * cache_factor)
    found = sustained(profile, workload, ttft_s=ttft, tpot_s=tpot, max_num_seqs=sequences)
    if found.requests_per_second > 0:
        return found.requests_per_second, True
    return operating_point(profile, workload, 1).requests_per_second, False
