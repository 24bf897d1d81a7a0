"""How fast an engine is: the time of one step, and what a worker sustains within its latency objectives.

One engine step runs B decodes and n_i new prefill tokens of request i, P_i of whose tokens are cached already::

    N = B + sum(n_i)                     tokens in the step
    K = sum of the B contexts            KV tokens read
    A = sum(n_i * (P_i + n_i/2))         prefill attention work
    cov(N) = 1 - (1 - moe_r)^N           share of the experts touched, 0 for a dense model
    step_ms = h + max(a0 + a1*N + moe_e*cov(N),  p0 + p1*N) + c*K + p2*A

In steady state, with I tokens in and O out, t is the step of B decodes with context I + O/2, and m what one
request's prefill adds to it. Each request's prefill delays all others, so::

    TPOT = t + (B-1)/O * m      req/s = B / (O*TPOT + m + t)      B * (I+O) <= kv_tokens
    TTFT = rest of the running step + steps of its prefill chunks + ttft_overhead      (nothing queued)

The error against measured TPOT is 5 % (70B fp8 on H100 and H200), 3.5-7 % (gpt-oss-120b) and 15 % (Qwen3-32B on an
old engine); TTFT is good to 20-30 %. Coefficients of B200 are corrected by a measured factor when they are read.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import NamedTuple

MAX_NUM_BATCHED_TOKENS = 8192
"""Tokens of one engine step when nothing else is configured."""

_CORRECTION = {"B200-SXM": 0.86}
"""Measured over modelled step time, where the fit is off by a constant."""
_NO_MULTI_GPU = {"L40S", "RTX-PRO-6000"}
"""Without NVLink: rows with four GPUs and more are not to be believed."""
_TIMES = ("h_ms", "a0_ms", "a1_ms", "moe_e_ms", "p0_ms", "p1_ms", "c_ms", "p2_ms")
_COLUMNS = dict(
    zip(
        _TIMES,
        ("h_ms", "a0_ms", "a1_ms_per_tok", "moe_e_ms", "p0_ms", "p1_ms_per_tok", "c_ms_per_kvtok", "p2_ms_per_tok2"),
        strict=True,
    )
)


class Trust(StrEnum):
    """How far to believe a profile."""

    HIGH = "high"
    """Fitted, and checked against measurements."""
    MEDIUM = "medium"
    """Fitted."""
    LOW = "low"
    """Scaled from another accelerator, or known to be off."""


class Limit(StrEnum):
    """What keeps the batch of a worker from being larger."""

    TPOT = "tpot"
    """The next larger batch would miss the time per output token."""
    TTFT = "ttft"
    """The next larger batch would miss the time to first token."""
    KV_TOKENS = "kv_tokens"
    """The next larger batch does not fit the KV cache."""
    MAX_NUM_SEQS = "max_num_seqs"
    """The engine is configured for no larger batch."""


@dataclass(frozen=True, slots=True)
class PerfProfile:
    """Coefficients of a model in a data type on a group of accelerators.

    Attributes:
        model: Name of the model's family and size, such as llama-3.1-8b.
        dtype: Data type of the weights: bf16, fp8 or mxfp4.
        accelerator: Such as H100-SXM.
        tensor_parallel: Accelerators the model is split over.
        h_ms: Host time of a step.
        a0_ms: Memory-bound step: constant part.
        a1_ms: Memory-bound step: per token.
        moe_e_ms: Reading all experts once.
        moe_r: Share of the experts one token touches; 0 for a dense model.
        p0_ms: Compute-bound step: constant part.
        p1_ms: Compute-bound step: per token.
        c_ms: Per KV token read.
        p2_ms: Per unit of prefill attention work (tokens squared).
        ttft_overhead_ms: Request handling outside the steps.
        weight_bytes: Size of the weights, all accelerators together.
        kv_bytes_per_token: Size of one token's KV cache, all accelerators together.
        kv_tokens: Tokens the KV cache holds.
        trust: How far to believe it.
    """

    model: str
    dtype: str
    accelerator: str
    tensor_parallel: int
    h_ms: float
    a0_ms: float
    a1_ms: float
    moe_e_ms: float
    moe_r: float
    p0_ms: float
    p1_ms: float
    c_ms: float
    p2_ms: float
    ttft_overhead_ms: float
    weight_bytes: int
    kv_bytes_per_token: int
    kv_tokens: int
    trust: Trust

    @property
    def name(self) -> str:
        """The row in one word, such as llama-3.1-8b/bf16/H100-SXM/tp1."""
        return f"{self.model}/{self.dtype}/{self.accelerator}/tp{self.tensor_parallel}"


class Workload(NamedTuple):
    """What requests look like on average.

    Attributes:
        input_tokens: Prompt tokens, cached ones included.
        output_tokens: Generated tokens, at least 1.
        hit_ratio: Share of the prompt found in the prefix cache, 0..1.
    """

    input_tokens: float
    output_tokens: float
    hit_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one worker sustains in steady state.

    Attributes:
        requests_per_second: 0 when not even a batch of one meets the objectives.
        batch: Requests running at a time.
        tpot_ms: Time per output token at that batch.
        ttft_ms: Time to first token at that batch, without a queue.
        limited_by: What keeps the batch from being larger.
    """

    requests_per_second: float
    batch: int
    tpot_ms: float
    ttft_ms: float
    limited_by: Limit


def step_ms(
    profile: PerfProfile,
    decodes: int,
    context_tokens_total: float,
    prefill: Sequence[tuple[float, float]] = (),
) -> float:
    """Time of one engine step in ms.

    Args:
        profile: Coefficients.
        decodes: Requests that generate one token each.
        context_tokens_total: Sum of their context lengths.
        prefill: For each request with prefill in this step: new tokens, and tokens before them in the cache.
    """
    tokens: float = decodes
    attention = 0.0
    for new, cached in prefill:
        tokens += new
        attention += new * (cached + new / 2)
    memory = profile.a0_ms + profile.a1_ms * tokens
    if profile.moe_r:
        memory += profile.moe_e_ms * (1.0 - (1.0 - profile.moe_r) ** tokens)
    compute = profile.p0_ms + profile.p1_ms * tokens
    return profile.h_ms + max(memory, compute) + profile.c_ms * context_tokens_total + profile.p2_ms * attention


def prefill_tokens_per_second(profile: PerfProfile, prompt_tokens: int = 8192) -> float:
    """Prompt tokens that a worker computes per second when it does nothing else, for one prompt in one step."""
    return prompt_tokens / step_ms(profile, 0, 0, [(prompt_tokens, 0)]) * 1000.0


def capacity(
    profile: PerfProfile,
    workload: Workload,
    *,
    ttft_s: float,
    tpot_s: float,
    max_num_seqs: int = 256,
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS,
) -> Capacity:
    """The largest rate within the objectives, without any headroom for bursts.

    Args:
        profile: Coefficients.
        workload: Mean request.
        ttft_s: Objective for the time to first token, seconds.
        tpot_s: Objective for the time per output token, seconds.
        max_num_seqs: Largest batch the engine is configured for.
        max_num_batched_tokens: Largest number of tokens in a step.

    Raises:
        ValueError: The workload or a limit is out of range.
    """
    _check(workload, max_num_seqs, max_num_batched_tokens)
    fits = int(profile.kv_tokens // (workload.input_tokens + workload.output_tokens))
    top, limit = (fits, Limit.KV_TOKENS) if fits < max_num_seqs else (max_num_seqs, Limit.MAX_NUM_SEQS)
    low, high = 0, top  # both latencies grow with the batch: bisect on "meets the objectives"
    while low < high:
        middle = (low + high + 1) // 2
        miss = _missed(_operate(profile, workload, middle, max_num_batched_tokens), ttft_s, tpot_s)
        low, high, limit = (middle, high, limit) if miss is None else (low, middle - 1, miss)
    rate, tpot, ttft = _operate(profile, workload, max(low, 1), max_num_batched_tokens)
    return Capacity(rate if low else 0.0, low, tpot, ttft, limit)


def operating_point(
    profile: PerfProfile,
    workload: Workload,
    batch: int,
    *,
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS,
) -> Capacity:
    """Rate and latencies of a worker that runs ``batch`` requests at a time, whatever the objectives.

    Raises:
        ValueError: The workload or the batch is out of range.
    """
    _check(workload, batch, max_num_batched_tokens)
    rate, tpot, ttft = _operate(profile, workload, batch, max_num_batched_tokens)
    return Capacity(rate, batch, tpot, ttft, Limit.MAX_NUM_SEQS)


def _check(workload: Workload, batch: int, max_num_batched_tokens: int) -> None:
    if not (workload.input_tokens >= 1 and workload.output_tokens >= 1):
        raise ValueError(f"workload: input_tokens and output_tokens must be at least 1, not {workload}")
    if not 0.0 <= workload.hit_ratio <= 1.0:
        raise ValueError(f"workload: hit_ratio must be between 0 and 1, not {workload.hit_ratio}")
    if batch < 1 or max_num_batched_tokens < 1:
        raise ValueError(
            f"batch and max_num_batched_tokens must be at least 1, not {batch} and {max_num_batched_tokens}"
        )


def _missed(point: tuple[float, float, float], ttft_s: float, tpot_s: float) -> Limit | None:
    _, tpot, ttft = point
    if tpot > tpot_s * 1000.0:
        return Limit.TPOT
    return Limit.TTFT if ttft > ttft_s * 1000.0 else None


def _operate(profile: PerfProfile, workload: Workload, batch: int, chunk: int) -> tuple[float, float, float]:
    """Requests per second, TPOT and TTFT in ms at a batch size."""
    cached = workload.hit_ratio * workload.input_tokens
    fresh = max(1.0, workload.input_tokens - cached)
    context = batch * (workload.input_tokens + workload.output_tokens / 2)
    decode = step_ms(profile, batch, context)
    prefill = step_ms(profile, batch, context, [(fresh, cached)]) - decode
    tpot = decode + (batch - 1) / workload.output_tokens * prefill
    rate = 1000.0 * batch / (workload.output_tokens * tpot + prefill + decode)
    ttft = profile.ttft_overhead_ms + tpot / 2  # a request arrives, on average, in the middle of a step
    room = max(1, chunk - batch)
    done = 0.0
    while done < fresh:
        new = min(room, fresh - done)
        ttft += step_ms(profile, batch, context, [(new, cached + done)])
        done += new
    return rate, tpot, ttft


@cache
def profiles() -> Mapping[tuple[str, str, str, int], PerfProfile]:
    """All profiles by (model, dtype, accelerator, tensor_parallel)."""
    text = files("warmfleet_contracts").joinpath("data/perf_model.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    parsed = [_profile(row) for row in rows]
    return {(p.model, p.dtype, p.accelerator, p.tensor_parallel): p for p in parsed}


def _profile(row: Mapping[str, str]) -> PerfProfile:
    accelerator, ranks = row["gpu"], int(row["tp"])
    factor = _CORRECTION.get(accelerator, 1.0)
    doubtful = accelerator in _NO_MULTI_GPU and ranks >= 4
    return PerfProfile(
        model=row["model"],
        dtype=row["dtype"],
        accelerator=accelerator,
        tensor_parallel=ranks,
        **{name: float(row[_COLUMNS[name]]) * factor for name in _TIMES},
        moe_r=float(row["moe_r"]),
        ttft_overhead_ms=float(row["ttft_ovh_ms"]),
        weight_bytes=int(row["weight_bytes_total"]),
        kv_bytes_per_token=int(row["kv_bytes_per_token"]),
        kv_tokens=int(row["kv_tokens"]),
        trust=Trust.LOW if doubtful else Trust(row["trust"]),
    )


def lookup(model: str, dtype: str, accelerator: str, tensor_parallel: int) -> PerfProfile | None:
    """The profile of exactly this row; None when there is none.

    Args:
        model: Profile name, or a model name that :func:`resolve_profile_name` knows.
        dtype: bf16, fp8 or mxfp4.
        accelerator: Such as H100-SXM.
        tensor_parallel: 1, 2, 4 or 8.
    """
    name = resolve_profile_name(model)
    return None if name is None else profiles().get((name, dtype, accelerator, tensor_parallel))


_SAME_SHAPE = (
    (r"llama-?3(\.[0-3])?-8b", "llama-3.1-8b"),
    (r"llama-?3(\.[0-3])?-70b", "llama-3.1-70b"),
    (r"qwen3-32b", "qwen3-32b"),
    (r"qwen3-(coder-)?30b-a3b", "qwen3-30b-a3b"),
    (r"qwen3-235b-a22b", "qwen3-235b-a22b"),
    (r"gpt-oss-120b", "gpt-oss-120b"),
)
"""Model names of the same architecture and size share a profile: step times do not depend on the training."""
_FAMILY = [(re.compile(rf"(^|[-_]){pattern}($|[-_])"), name) for pattern, name in _SAME_SHAPE]


def resolve_profile_name(model_name: str) -> str | None:
    """The profile of a model's name or path; None when no profile has its shape.

    ``meta-llama/Llama-3.1-8B-Instruct`` is ``llama-3.1-8b``.
    """
    base = model_name.rstrip("/").rsplit("/", 1)[-1].lower().replace("meta-llama", "llama")
    return next((name for pattern, name in _FAMILY if pattern.search(base)), None)
