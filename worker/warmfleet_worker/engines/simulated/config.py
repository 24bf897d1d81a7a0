"""Configuration of the simulated engine: vLLM's flags, and its own environment variables.

======================================  =========================================================================
``WARMFLEET_SIM_ACCELERATOR``           Modelled accelerator (H100-SXM).
``WARMFLEET_SIM_PROFILE``               Profile of the performance model; found by the model's name, or the served one,
                                        when unset.
``WARMFLEET_SIM_DTYPE``                 bf16, fp8 or mxfp4; from --dtype and --quantization when unset.
``WARMFLEET_SIM_STARTUP_SECONDS``       Logical seconds until the port opens (0).
``WARMFLEET_SIM_KV_TOKENS``             Tokens of the KV cache; the profile's when unset.
``WARMFLEET_SIM_STORE_BYTES_PER_SECOND``  Bandwidth to the shared KV tier (2e9), per logical second.
``WARMFLEET_SIM_LINK_BYTES_PER_SECOND``   Bandwidth to other engines (2.8e9), per logical second.
``VLLM_NIXL_SIDE_CHANNEL_HOST``, ``_PORT``  vLLM's own: where engines that pull find this one (localhost, 5600).
``VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES``  vLLM's own: 0 writes hashes into KV events as bytes.
``WARMFLEET_SIM_STREAM_INTERVAL_SECONDS``  Logical seconds between two chunks of a stream (0); never less than 20 ms
                                        of real time.
======================================  =========================================================================
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmfleet_contracts.perfmodel import PerfProfile, lookup, profiles, resolve_profile_name

from warmfleet_worker.engines.simulated.nixl import NixlConfig
from warmfleet_worker.engines.simulated.tier import BYTES_PER_SECOND, TierConfig

LINK_BYTES_PER_SECOND = 2.8e9
"""Default bandwidth between two engines: 25 GbE."""
DEFAULT_MAX_MODEL_LEN = 131_072
_DTYPES = {"bf16": "bf16", "bfloat16": "bf16", "float16": "bf16", "half": "bf16", "fp8": "fp8", "mxfp4": "mxfp4"}
_WITHOUT_EFFECT = (
    "--revision",
    "--load-format",
    "--download-dir",
    "--pipeline-parallel-size",
    "--tokenizer",
    "--scheduling-policy",
    "--max-num-queued-tokens",
)
"""Flags of vLLM that are taken, since deployments pass them, and change nothing here: weights and stages do not exist,
and the scheduler serves in order of arrival."""
_PREFERENCE = ("bf16", "mxfp4", "fp8")


class ConfigError(ValueError):
    """A flag or variable cannot be used; the message names it and the fix."""


@dataclass(frozen=True, slots=True)
class KvEventsConfig:
    """``--kv-events-config``.

    Attributes:
        endpoint: ZMQ endpoint of the publisher; bound when it has ``*`` or ``::`` or is ipc, else connected.
        replay_endpoint: ZMQ endpoint that answers for missed batches; None for none.
        topic: First frame of every message.
        buffer_steps: Batches kept for replay.
        hwm: Messages queued for a slow subscriber.
        whole_hashes: Hashes are bytes, not integers.
    """

    endpoint: str
    replay_endpoint: str | None
    topic: str
    buffer_steps: int
    hwm: int
    whole_hashes: bool = False


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the engine runs with. Times in logical seconds."""

    model: str
    served_names: tuple[str, ...]
    host: str
    port: int
    profile: PerfProfile
    max_model_len: int
    block_size: int
    blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_num_queued_reqs: int | None
    prefix_caching: bool
    shutdown_timeout: float
    cache_dtype: str
    kv_events: KvEventsConfig | None
    tier: TierConfig | None
    nixl: NixlConfig | None
    startup_seconds: float
    stream_interval: float
    scale_out: bool = False


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="warmfleet-simulated-engine", allow_abbrev=False)
    parser.add_argument("positional", nargs="*", metavar="[serve] MODEL")
    parser.add_argument("--model")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-model-len", type=_positive)
    parser.add_argument("--block-size", type=_positive, default=16)
    parser.add_argument("--max-num-seqs", type=_positive, default=256)
    parser.add_argument("--max-num-batched-tokens", type=_positive, default=8192)
    parser.add_argument("--max-num-queued-reqs", type=int)
    parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--enable-chunked-prefill", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--enable-prompt-tokens-details", action="store_true")  # they are always given
    parser.add_argument("--enable-scale-out", action="store_true")
    parser.add_argument("--shutdown-timeout", type=float, default=0.0)
    parser.add_argument("--kv-events-config", type=json.loads)
    parser.add_argument("--kv-transfer-config", type=json.loads)
    parser.add_argument("--tensor-parallel-size", "-tp", type=_positive, default=1)
    parser.add_argument("--kv-cache-dtype", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantization", "-q")
    for flag in _WITHOUT_EFFECT:
        parser.add_argument(flag)
    return parser


def parse_config(argv: Sequence[str], environ: Mapping[str, str]) -> EngineConfig:
    """Read flags and environment.

    Raises:
        ConfigError: A value cannot be used.
        SystemExit: A flag is unknown or malformed (argparse has printed why).
    """
    args = _parser().parse_args(list(argv))
    words = [w for w in args.positional if w != "serve"] if args.positional[:1] == ["serve"] else args.positional
    if len(words) > 1:
        raise ConfigError(f"one model is served, got {words}")
    model = args.model or (words[0] if words else None)
    if model is None:
        raise ConfigError("no model: give it as `serve MODEL` or --model")
    profile = _profile(model, args, environ)
    tokens = int(_number(environ, "WARMFLEET_SIM_KV_TOKENS", default=float(_kv_tokens(profile, args.kv_cache_dtype))))
    blocks = tokens // args.block_size
    fits = blocks * args.block_size
    length = args.max_model_len or min(DEFAULT_MAX_MODEL_LEN, fits)
    if length > fits or fits == 0:
        raise ConfigError(
            f"--max-model-len {length}: the KV cache holds only {fits} tokens; lower it or raise tensor parallelism"
        )
    connectors = _connectors(args.kv_transfer_config)
    return EngineConfig(
        model=model,
        served_names=tuple(args.served_model_name or (model,)),
        host=args.host,
        port=args.port,
        profile=profile,
        max_model_len=length,
        block_size=args.block_size,
        blocks=blocks,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        max_num_queued_reqs=args.max_num_queued_reqs,
        prefix_caching=args.enable_prefix_caching,
        shutdown_timeout=max(0.0, args.shutdown_timeout),
        cache_dtype=args.kv_cache_dtype,
        kv_events=_kv_events(args.kv_events_config, environ),
        tier=_tier(connectors.get("OffloadingConnector"), environ),
        nixl=_nixl(connectors.get("NixlConnector"), environ),
        startup_seconds=_number(environ, "WARMFLEET_SIM_STARTUP_SECONDS", default=0.0),
        stream_interval=_number(environ, "WARMFLEET_SIM_STREAM_INTERVAL_SECONDS", default=0.0),
        scale_out=args.enable_scale_out,
    )


def _number(environ: Mapping[str, str], name: str, *, default: float) -> float:
    text = environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1e12:
        raise ConfigError(f"{name}={text!r}: write a number that is not negative")
    return value


def _profile(model: str, args: argparse.Namespace, environ: Mapping[str, str]) -> PerfProfile:
    named = environ.get("WARMFLEET_SIM_PROFILE") or model
    if "WARMFLEET_SIM_PROFILE" not in environ and resolve_profile_name(named) is None:
        served = args.served_model_name or ()
        named = next((n for n in served if resolve_profile_name(n) is not None), named)  # the model may be a path
    name = resolve_profile_name(named)
    accelerator = environ.get("WARMFLEET_SIM_ACCELERATOR") or "H100-SXM"
    wanted = environ.get("WARMFLEET_SIM_DTYPE") or args.quantization or args.dtype
    dtypes = _PREFERENCE if wanted == "auto" else (_DTYPES.get(wanted, wanted),)
    for dtype in dtypes if name else ():
        profile = lookup(named, dtype, accelerator, args.tensor_parallel_size)
        if profile is not None:
            return profile
    known = sorted(p.name for p in profiles().values() if p.model == name or p.accelerator == accelerator)
    some = ", ".join(known[:12]) or ", ".join(sorted({p.accelerator for p in profiles().values()}))
    raise ConfigError(
        f"no performance profile for {named!r} as {wanted} on {args.tensor_parallel_size} x {accelerator}; set "
        f"WARMFLEET_SIM_PROFILE, WARMFLEET_SIM_DTYPE and WARMFLEET_SIM_ACCELERATOR to one of: {some} ..."
    )


def _kv_tokens(profile: PerfProfile, cache_dtype: str) -> int:
    """Tokens of the KV cache: one-byte types hold twice as many as the profile's two-byte one."""
    return profile.kv_tokens * (2 if cache_dtype.startswith(("fp8", "int8")) else 1)


def _connectors(raw: object) -> dict[str, Mapping[str, object]]:
    """Connectors by name, those of a MultiConnector one by one."""
    flag = "--kv-transfer-config"
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{flag}: write a JSON object")
    several = raw.get("kv_connector") == "MultiConnector"
    listed = (raw.get("kv_connector_extra_config") or {}).get("connectors") if several else [raw]
    found: dict[str, Mapping[str, object]] = {
        str(c.get("kv_connector")): c for c in listed or () if isinstance(c, dict)
    }
    if not found or set(found) - {"OffloadingConnector", "NixlConnector"}:
        raise ConfigError(f"{flag}: the simulated engine has the OffloadingConnector and the NixlConnector only")
    return found


def _nixl(raw: Mapping[str, object] | None, environ: Mapping[str, str]) -> NixlConfig | None:
    """The NixlConnector."""
    if raw is None:
        return None
    extra = raw.get("kv_connector_extra_config") or {}
    lease = extra.get("kv_lease_duration", 30) if isinstance(extra, dict) else None
    if not isinstance(lease, int | float) or lease <= 0:
        raise ConfigError("--kv-transfer-config: kv_lease_duration: write a positive number of seconds")
    host = environ.get("VLLM_NIXL_SIDE_CHANNEL_HOST") or "localhost"
    port = _number(environ, "VLLM_NIXL_SIDE_CHANNEL_PORT", default=5600.0)
    speed = _number(environ, "WARMFLEET_SIM_LINK_BYTES_PER_SECOND", default=LINK_BYTES_PER_SECOND)
    return NixlConfig(host, int(port), float(lease), max(1.0, speed))


def _tier(raw: Mapping[str, object] | None, environ: Mapping[str, str]) -> TierConfig | None:
    """The OffloadingConnector, with host memory and at most one fs tier below it."""
    if raw is None:
        return None
    flag = "--kv-transfer-config"
    extra = raw.get("kv_connector_extra_config")
    if not isinstance(extra, dict) or not extra.get("cpu_bytes_to_use"):
        raise ConfigError(f"{flag}: cpu_bytes_to_use must be specified in kv_connector_extra_config")
    below = extra.get("secondary_tiers", [])
    if not isinstance(below, list) or len(below) > 1 or any(t.get("type") != "fs" for t in below):
        raise ConfigError(f"{flag}: secondary_tiers: the simulated engine has at most one, of type fs")
    root = Path(str(below[0]["root_dir"])) if below else None
    speed = _number(environ, "WARMFLEET_SIM_STORE_BYTES_PER_SECOND", default=BYTES_PER_SECOND)
    return TierConfig(root, max(1.0, speed))


def _kv_events(raw: object, environ: Mapping[str, str]) -> KvEventsConfig | None:
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise ConfigError("--kv-events-config: write a JSON object")
    known = {"enable_kv_cache_events", "publisher", "endpoint", "replay_endpoint", "topic", "buffer_steps", "hwm"}
    unknown = set(raw) - known - {"max_queue_size"}
    if unknown:
        raise ConfigError(f"--kv-events-config: unknown {sorted(unknown)}")
    publisher = raw.get("publisher", "zmq")
    if not raw.get("enable_kv_cache_events", False) or publisher == "null":
        return None
    if publisher != "zmq":
        raise ConfigError(f"--kv-events-config: publisher {publisher!r} is not zmq or null")
    return KvEventsConfig(
        endpoint=str(raw.get("endpoint", "tcp://*:5557")),
        replay_endpoint=None if raw.get("replay_endpoint") is None else str(raw["replay_endpoint"]),
        topic=str(raw.get("topic", "")),
        buffer_steps=int(raw.get("buffer_steps", 10_000)),
        hwm=int(raw.get("hwm", 100_000)),
        whole_hashes=environ.get("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES") == "0",
    )
