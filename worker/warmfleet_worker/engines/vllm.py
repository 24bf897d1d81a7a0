"""vLLM beside the agent: health from /health and /v1/models, the rest from /metrics.

/health alone says too little: it stays 200 while a draining vLLM answers requests with 500, so readiness after the
start is the drain machine's business, not the engine's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import aiohttp
import msgspec
from warmfleet_contracts.agent import EngineCounters, LatencyState
from warmfleet_runtime.openmetrics import MetricsError, Samples, parse

from warmfleet_worker.engines.base import TAG, Health, Load, Observation, OffloadState

MAX_METRICS_BYTES = 4 * 1024 * 1024
MAX_MODELS_BYTES = 256 * 1024
TIMEOUT = 2.0
"""Real seconds for one answer."""
TOUCH_TIMEOUT = 30.0
"""Real seconds for a request that warms the cache."""
_MAX_COUNT = 2**53
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

TTFT = "vllm:time_to_first_token_seconds"
TPOT = "vllm:request_time_per_output_token_seconds"
WANTED = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "vllm:cache_config_info",
    "vllm:request_success_total",
    "vllm:admission_rejections_total",
    "vllm:request_prompt_tokens_sum",
    "vllm:request_generation_tokens_sum",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:external_prefix_cache_hits_total",
    "vllm:num_preemptions_total",
    "vllm:kv_offload_total_bytes_total",
    "vllm:kv_offload_store_bytes_total",
    "vllm:kv_offload_tiering_active_cascade_jobs",
    "vllm:kv_offload_tiering_write_bytes_total",
    "vllm:kv_offload_tiering_cascade_job_failures_total",
    "vllm:kv_offload_tiering_backpressure_blocks_dropped_total",
    TTFT,
    TPOT,
)


class _Lent(msgspec.Struct):
    kv_transfer_params: dict[str, object] | None = None


class VllmEngine:
    """Adapter of one vLLM server.

    Args:
        url: Base URL.
        slo_ttft: Objective for the time to first token, seconds.
        slo_tpot: Objective for the time per output token, seconds.
    """

    def __init__(self, url: str, *, slo_ttft: float, slo_tpot: float) -> None:
        self._url = url
        self._slo_ttft = slo_ttft
        self._slo_tpot = slo_tpot
        self._has_model = False
        self._model = ""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT))

    @property
    def model(self) -> str:
        """Name of the model it serves; empty while unknown."""
        return self._model

    async def observe(self) -> Observation:
        """Look at health, model list (until it once was good) and metrics."""
        try:
            await self._get("/health", 1024)
            if not self._has_model:
                self._model = _first_model(await self._get("/v1/models", MAX_MODELS_BYTES))
                self._has_model = True
        except ConnectionRefusedError as error:
            self._has_model = False
            return Observation(Health.REFUSED, problem=str(error))
        except (OSError, ValueError) as error:
            return Observation(Health.UNWELL, problem=str(error))
        try:
            text = (await self._get("/metrics", MAX_METRICS_BYTES)).decode("utf-8")
            load = read_load(text, slo_ttft=self._slo_ttft, slo_tpot=self._slo_tpot)
        except (OSError, ValueError) as error:
            return Observation(Health.READY, problem=str(error))
        return Observation(Health.READY, load)

    async def touch(self, tokens: Sequence[int]) -> bool:
        """Have one token generated after ``tokens``, so that their blocks are in the cache; whether it was."""
        body = {"model": self._model, "prompt": list(tokens), "max_tokens": 1, "temperature": 0}
        timeout = aiohttp.ClientTimeout(total=TOUCH_TIMEOUT)
        try:
            async with self._session.post(
                f"{self._url}/v1/completions", json=body, headers={TAG: "prewarm"}, timeout=timeout
            ) as response:
                await response.read()
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def lend(self, tokens: Sequence[int], within: float) -> Mapping[str, object] | None:
        """Keep the cached blocks of ``tokens`` for another engine to pull (NixlConnector).

        Args:
            tokens: Token ids.
            within: Real seconds.

        Returns:
            The ``kv_transfer_params`` for the one who pulls; None when the engine cannot.
        """
        lending = {"do_remote_decode": True, "do_remote_prefill": False}
        body = {"model": self._model, "prompt": list(tokens), "max_tokens": 1, "temperature": 0}
        timeout = aiohttp.ClientTimeout(total=within)
        try:
            async with self._session.post(
                f"{self._url}/v1/completions",
                json={**body, "kv_transfer_params": lending},
                headers={TAG: "handover"},
                timeout=timeout,
            ) as response:
                if response.status != 200:
                    return None
                return msgspec.json.decode(await response.content.read(MAX_MODELS_BYTES), type=_Lent).kv_transfer_params
        except (aiohttp.ClientError, TimeoutError, *_NO_JSON):
            return None

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _get(self, path: str, limit: int) -> bytes:
        """The body of a 200 answer.

        Raises:
            ConnectionRefusedError: Nothing listens.
            OSError: No answer in time, or a broken one.
            ValueError: Not 200, or larger than ``limit``.
        """
        try:
            async with self._session.get(self._url + path, allow_redirects=False) as response:
                body = bytearray()
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > limit:
                        raise ValueError(f"GET {path}: more than {limit} bytes")
                if response.status != 200:
                    raise ValueError(f"GET {path}: HTTP {response.status}")
                return bytes(body)
        except TimeoutError:
            raise OSError(f"GET {path}: no answer in {TIMEOUT:g} s") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, ConnectionRefusedError):
                raise ConnectionRefusedError(f"GET {path}: connection refused") from None
            raise OSError(f"GET {path}: {error}") from None
        except aiohttp.ClientError as error:
            raise OSError(f"GET {path}: {error or type(error).__name__}") from None


def _first_model(raw: bytes) -> str:
    try:
        body = msgspec.json.decode(raw)
    except _NO_JSON as error:
        raise ValueError(f"GET /v1/models: not JSON: {error}") from None
    if not isinstance(body, dict) or not isinstance(body.get("data"), list) or not body["data"]:
        raise ValueError("GET /v1/models: no model is listed")
    first = body["data"][0]
    return str(first.get("id", "")) if isinstance(first, dict) else ""


def read_load(text: str, *, slo_ttft: float, slo_tpot: float) -> Load:
    """What a vLLM exposition says, in either spelling of its names.

    Args:
        text: Prometheus text.
        slo_ttft: Objective for the time to first token, seconds.
        slo_tpot: Objective for the time per output token, seconds.

    Raises:
        MetricsError: It is no exposition, or a number in it is impossible, or nothing in it is vLLM's.
    """
    samples = parse(text, wanted=WANTED, max_bytes=MAX_METRICS_BYTES)
    if not samples.families:
        raise MetricsError("GET /metrics: none of vLLM's metrics is there")
    usage = samples.total("vllm:kv_cache_usage_perc")
    usage = samples.total("vllm:gpu_cache_usage_perc") if usage is None else usage
    return Load(
        running=_count(samples, "vllm:num_requests_running"),
        waiting=_count(samples, "vllm:num_requests_waiting"),
        kv_usage=None if usage is None else min(1.0, max(0.0, usage)),
        kv_capacity_tokens=_capacity(samples),
        counters=_counters(samples),
        latency=_latency(samples, slo_ttft, slo_tpot),
        offload=_offload(samples),
    )


def _count(samples: Samples, name: str, **labels: str) -> int | None:
    value = samples.total(name, **labels)
    if value is None:
        return None
    if not 0 <= value <= _MAX_COUNT:
        raise MetricsError(f"{name} is {value:g}, which no count can be")
    return int(value)


def _capacity(samples: Samples) -> int | None:
    """Tokens of the KV cache; summed over nothing: data parallel engines share one configuration."""
    exact = samples.label("vllm:cache_config_info", "kv_cache_size_tokens")
    blocks = samples.label("vllm:cache_config_info", "num_gpu_blocks")
    size = samples.label("vllm:cache_config_info", "block_size")
    if exact is not None and exact.isascii() and exact.isdigit():
        return min(int(exact), _MAX_COUNT) if len(exact) < 18 else None
    texts = (blocks or "", size or "")
    if all(t.isascii() and t.isdigit() and len(t) < 12 for t in texts):
        return min(int(texts[0]) * int(texts[1]), _MAX_COUNT)
    return None


def _counters(samples: Samples) -> EngineCounters:
    failed = [_count(samples, "vllm:request_success_total", finished_reason=r) or 0 for r in ("abort", "error")]
    local = _count(samples, "vllm:prefix_cache_hits_total") or 0
    external = _count(samples, "vllm:external_prefix_cache_hits_total") or 0
    return EngineCounters(
        requests=_count(samples, "vllm:request_success_total") or 0,
        failed_requests=sum(failed),
        rejected_requests=_count(samples, "vllm:admission_rejections_total") or 0,
        # Of finished requests, as `requests` is: their ratio is the mean request even while traffic rises.
        prompt_tokens=_count(samples, "vllm:request_prompt_tokens_sum") or 0,
        generation_tokens=_count(samples, "vllm:request_generation_tokens_sum") or 0,
        cache_query_tokens=_count(samples, "vllm:prefix_cache_queries_total") or 0,
        cache_hit_tokens=local + external,
        preemptions=_count(samples, "vllm:num_preemptions_total") or 0,
    )


def _offload(samples: Samples) -> OffloadState | None:
    """Tiers below accelerator memory; vLLM leaves out what it has not counted yet."""
    if _count(samples, "vllm:kv_offload_total_bytes_total") is None:
        return None
    tiering = "vllm:kv_offload_tiering_"
    return OffloadState(
        active_cascades=_count(samples, f"{tiering}active_cascade_jobs") or 0,
        stored_bytes=_count(samples, "vllm:kv_offload_store_bytes_total") or 0,
        written_bytes=_count(samples, f"{tiering}write_bytes_total") or 0,
        failed_cascades=_count(samples, f"{tiering}cascade_job_failures_total") or 0,
        dropped_blocks=_count(samples, f"{tiering}backpressure_blocks_dropped_total") or 0,
    )


def _latency(samples: Samples, slo_ttft: float, slo_tpot: float) -> LatencyState:
    ttft_count, ttft_within = count_within(samples.bucket_counts(TTFT), slo_ttft)
    tpot_count, tpot_within = count_within(samples.bucket_counts(TPOT), slo_tpot)
    return LatencyState(
        ttft_count=ttft_count, ttft_within_slo=ttft_within, tpot_count=tpot_count, tpot_within_slo=tpot_within
    )


def count_within(buckets: Sequence[tuple[float, float]] | None, bound: float) -> tuple[int, int]:
    """All observations of a histogram, and how many were at most ``bound``.

    Inside a bucket observations are taken as evenly spread, and the result is rounded down; what lies in the
    open last bucket counts as above the bound.

    Args:
        buckets: (upper bound, cumulative count), ascending, ending with infinity; None for no histogram.
        bound: The objective, in the histogram's unit.
    """
    if not buckets:
        return 0, 0
    low, below = 0.0, 0.0
    total = min(int(buckets[-1][1]), _MAX_COUNT)
    for high, count in buckets:
        if bound < high:
            share = 0.0 if math.isinf(high) else max(0.0, (bound - low) / (high - low))
            return total, min(total, math.floor(below + share * (count - below)))
        low, below = high, count
    return total, total
