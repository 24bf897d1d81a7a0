"""Step times and memory of quantized weights for which there is no row: derived from the 16-bit row.

::

    weights(bits)  = E + (W16 - E) * bits / 16            E: embedding and output matrix, which stay at 16 bit
    bits           = 4.16 (w4a16: groups of 128 with a scale and a zero), 8.1 (one scale per channel);
                     2:4 sparse: bits / 2 + 1 (half of the weights, and a bit mask)
    a0(bits)       = a0 - (W16 - weights) / (tensorParallel * bandwidth)      moe_e(bits) = moe_e * weights / W16
    kv_tokens(bits)= kv_tokens + (W16 - weights) / kv_bytes_per_token

Weights are read once a step, so a smaller one saves their time in memory; the compute-bound part stays that of 16 bit,
which is right where weights are widened on the way (w4a16, w8a16) and careful where they are not. Checks: published AWQ
checkpoints have 5.7 GB (8B; 5.73 here) and 39.8 GB (70B; 39.8 here); between the 16-bit and 8-bit rows of the 70B on 2
and 4 H100 the saved time is that of 3.3 and 3.8 TB/s, and the data sheet says 3.35. No such engine was measured: trust
is low.
"""

from __future__ import annotations

from dataclasses import replace

from warmfleet_contracts.perfmodel import PerfProfile, Trust

_BITS = {"w4a16": 4.16, "w8a16": 8.1, "w8a8-int8": 8.1, "w8a8-fp8": 8.1}
DERIVED = tuple(f"{name}{suffix}" for name in _BITS for suffix in ("", "-2:4"))
"""Data types of weights that are derived, ``-2:4`` for sparse ones."""
_EMBEDDING_BYTES = {
    "llama-3.1-8b": 4 * 128_256 * 4096,
    "llama-3.1-70b": 4 * 128_256 * 8192,
    "qwen3-32b": 4 * 151_936 * 5120,
    "qwen3-30b-a3b": 4 * 151_936 * 2048,
}
"""Vocabulary x hidden size x 2 matrices x 2 bytes; from the models' configs."""
_BANDWIDTH = {
    "L4": 300e9,
    "A10G": 600e9,
    "L40S": 864e9,
    "A100-40GB": 1555e9,
    "A100-80GB": 2039e9,
    "H100-PCIe": 2000e9,
    "H100-SXM": 3350e9,
    "H200-SXM": 4800e9,
    "B200-SXM": 7700e9,
    "GB200": 8000e9,
    "RTX-PRO-6000": 1600e9,
    "MI300X": 5300e9,
}
"""Memory bandwidth, bytes/s; from the vendors' data sheets."""
_LEAST = 0.2
"""Share of the step's constant part that is left in any case: launches, small kernels, all-reduce."""


def weight_bytes(model: str, dtype: str, bytes16: float) -> float | None:
    """Bytes of the weights in a derived data type; None for a model whose embedding is not known.

    Args:
        model: Name of the profile.
        dtype: One of :data:`DERIVED`.
        bytes16: Bytes of the weights in 16 bit.
    """
    embedding = _EMBEDDING_BYTES.get(model)
    if embedding is None or dtype not in DERIVED:
        return None
    bits = _BITS[dtype.removesuffix("-2:4")]
    if dtype.endswith("-2:4"):
        bits = bits / 2 + 1
    return embedding + (bytes16 - embedding) * bits / 16


def derived(base: PerfProfile, dtype: str) -> PerfProfile | None:
    """The profile of the same model with weights of another data type; None when it cannot be derived.

    Args:
        base: The 16-bit profile.
        dtype: One of :data:`DERIVED`.
    """
    small = weight_bytes(base.model, dtype, base.weight_bytes)
    bandwidth = _BANDWIDTH.get(base.accelerator)
    if small is None or bandwidth is None:
        return None
    freed = base.weight_bytes - small
    if base.moe_r:  # most weights are experts, whose reading is a term of its own
        a0, moe = base.a0_ms, base.moe_e_ms * small / base.weight_bytes
    else:
        saved = 1000.0 * freed / (base.tensor_parallel * bandwidth)
        a0, moe = max(_LEAST * base.a0_ms, base.a0_ms - saved), base.moe_e_ms
    return replace(
        base,
        dtype=dtype,
        a0_ms=a0,
        moe_e_ms=moe,
        weight_bytes=round(small),
        kv_tokens=base.kv_tokens + int(freed / base.kv_bytes_per_token),
        trust=Trust.LOW,
    )
