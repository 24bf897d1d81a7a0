"""The simulated engine's /metrics: vLLM's families, names, labels and types.

Left out on purpose (a test holds the list): what describes the process, HTTP byte sizes, estimated FLOPs and bytes
per GPU, the multi-modal cache, and the ``_created`` twins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from warmfleet_worker.engines.simulated.config import EngineConfig
from warmfleet_worker.engines.simulated.histograms import Histogram, Statistics
from warmfleet_worker.engines.simulated.scheduler import Scheduler
from warmfleet_worker.engines.simulated.tier import TierStatistics

_COUNTERS = (
    ("prefix_cache_queries", "Prefix cache queries, in tokens.", "query_tokens"),
    ("prefix_cache_hits", "Prefix cache hits, in tokens.", "hit_tokens"),
    ("num_preemptions", "Preemptions.", "preemptions"),
    ("prompt_tokens", "Prompt tokens processed.", "prompt_tokens"),
    ("prompt_tokens_cached", "Prompt tokens found in a cache.", "cached_tokens"),
    ("generation_tokens", "Tokens generated.", "generation_tokens"),
)
_HISTOGRAMS = (
    ("request_prompt_tokens", "Prompt tokens of a request.", "request_prompt"),
    ("request_generation_tokens", "Generated tokens of a request.", "request_generation"),
    ("iteration_tokens_total", "Tokens of an engine step.", "iteration_tokens"),
    ("request_max_num_generation_tokens", "Most tokens generated for a request.", "max_generation"),
    ("request_params_n", "Parameter n of a request.", "params_n"),
    ("request_params_max_tokens", "Parameter max_tokens of a request.", "params_max_tokens"),
    ("time_to_first_token_seconds", "Time to first token.", "ttft"),
    ("inter_token_latency_seconds", "Time between two tokens.", "inter_token"),
    ("request_time_per_output_token_seconds", "Time per output token of a request.", "per_output_token"),
    ("e2e_request_latency_seconds", "Time of a request from arrival to end.", "e2e"),
    ("request_queue_time_seconds", "Time a request waited.", "queue"),
    ("request_inference_time_seconds", "Time a request ran.", "inference"),
    ("request_prefill_time_seconds", "Time a request was in prefill.", "prefill"),
    ("request_decode_time_seconds", "Time a request was in decode.", "decode"),
    ("request_num_preemptions", "Preemptions of a request.", "request_preemptions"),
    ("request_prefill_kv_computed_tokens", "Tokens computed in prefill.", "request_computed"),
)


class HttpStatistics:
    """Counts HTTP requests as vLLM's instrumentation does."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, str], int] = {}
        self.durations: dict[tuple[str, str], Histogram] = {}

    def observe(self, handler: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (handler, method, f"{status // 100}xx")
        self.requests[key] = self.requests.get(key, 0) + 1
        self.durations.setdefault((handler, method), Histogram((0.1, 0.5, 1.0))).observe(seconds)


class EngineCollector(Collector):
    """Turns the engine's state into metric families at each scrape.

    Args:
        config: The engine's configuration.
        scheduler: The engine core.
        http: HTTP counts.
    """

    def __init__(self, config: EngineConfig, scheduler: Scheduler, http: HttpStatistics) -> None:
        self._config = config
        self._scheduler = scheduler
        self._http = http
        self._tier = scheduler.tier
        self._labels = {"engine": "0", "model_name": config.served_names[0]}

    def collect(self) -> Iterable[Metric]:
        """All families."""
        yield from self._gauges()
        statistics = self._scheduler.statistics
        for name, text, attribute in _COUNTERS:
            yield self._counter(name, text, [({}, getattr(statistics, attribute))])
        yield from self._tables(statistics)
        for name, text, attribute in _HISTOGRAMS:
            yield _histogram(f"vllm:{name}", text, self._labels, getattr(statistics, attribute))
        yield self._cache_config()
        yield from self._http_families()
        if self._tier is not None:
            yield from self._offload(self._tier.statistics)

    def _offload(self, done: TierStatistics) -> Iterable[Metric]:
        """Families of the OffloadingConnector; like vLLM, without samples until there is something to count."""
        directions = {"CPU_to_GPU": done.read_bytes, "GPU_to_CPU": done.stored_bytes}
        rows: list[tuple[Mapping[str, str], float]] = [({"transfer_type": k}, v) for k, v in directions.items()]
        yield self._counter("kv_offload_total_bytes", "Bytes copied by the connector.", rows)
        if not done.stored_bytes:
            return
        yield self._counter("kv_offload_store_bytes", "Bytes copied to host memory.", [({}, done.stored_bytes)])
        tier, name = {"tier": "1:fs"}, "kv_offload_tiering_"
        yield self._gauge(f"{name}active_cascade_jobs", "Writes under way.", [(tier, done.jobs)])
        for counter, text, value in (
            ("write_bytes", "Bytes written to a tier.", done.written_bytes),
            ("cascade_job_failures", "Writes that failed.", done.failures),
            ("backpressure_blocks_dropped", "Blocks left out because a tier was slow.", 0),
        ):
            empty = CounterMetricFamily(f"vllm:{name}{counter}", text, labels=["tier"])
            yield self._counter(f"{name}{counter}", text, [(tier, value)]) if value else empty

    def _gauges(self) -> Iterable[Metric]:
        scheduler = self._scheduler
        running, waiting = len(scheduler.running), len(scheduler.waiting)
        usage = scheduler.pool.held / scheduler.pool.total
        yield self._gauge("num_requests_running", "Requests in the batch.", [({}, running)])
        yield self._gauge("num_requests_waiting", "Requests waiting.", [({}, waiting)])
        reasons: list[tuple[Mapping[str, str], float]] = [
            ({"reason": "capacity"}, waiting),
            ({"reason": "deferred"}, 0),
        ]
        yield self._gauge("num_requests_waiting_by_reason", "Requests waiting, by reason.", reasons)
        states: list[tuple[Mapping[str, str], float]] = [
            ({"sleep_state": "awake"}, 1),
            ({"sleep_state": "weights_offloaded"}, 0),
            ({"sleep_state": "discard_all"}, 0),
        ]
        yield self._gauge("engine_sleep_state", "Sleep state.", states)
        yield self._gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.", [({}, usage)])

    def _tables(self, statistics: Statistics) -> Iterable[Metric]:
        hits, computed, external = statistics.hit_tokens, statistics.computed_tokens, statistics.external_hit_tokens
        text = "Prefix cache of a KV connector, in tokens."
        queries = statistics.external_query_tokens if self._tier is not None else 0
        yield self._counter("external_prefix_cache_queries", text, [({}, queries)])
        yield self._counter("external_prefix_cache_hits", text, [({}, external)])
        sources = {"local_compute": computed, "local_cache_hit": hits, "external_kv_transfer": external}
        rows = [({"source": source}, value) for source, value in sources.items()]
        yield self._counter("prompt_tokens_by_source", "Prompt tokens by source.", rows)
        cached = {"device": hits, "host": 0, "p2p": 0, "disk": external, "external_unspecified": 0}
        rows = [({"source": source}, value) for source, value in cached.items()]
        yield self._counter("prompt_tokens_cached_by_source", "Cached prompt tokens by tier.", rows)
        rows = [({"finished_reason": reason}, n) for reason, n in statistics.finished.items()]
        yield self._counter("request_success", "Requests finished.", rows)
        rejections = CounterMetricFamily(
            "vllm:admission_rejections", "Requests refused by a queue limit.", labels=["model_name", "reason"]
        )
        for reason, count in (("max_num_queued_reqs", statistics.rejections), ("max_num_queued_tokens", 0)):
            rejections.add_metric([self._labels["model_name"], reason], count)
        yield rejections

    def _cache_config(self) -> Metric:
        config, pool = self._config, self._scheduler.pool
        facts = {
            "block_size": str(pool.block_size),
            "cache_dtype": config.cache_dtype,
            "enable_prefix_caching": str(config.prefix_caching),
            "kv_cache_size_tokens": str(pool.total * pool.block_size),
            "num_gpu_blocks": str(pool.total),
            "prefix_caching_hash_algo": "sha256",
        }
        return self._gauge("cache_config_info", "KV cache configuration.", [(facts, 1)])

    def _http_families(self) -> Iterable[Metric]:
        requests = CounterMetricFamily("http_requests", "HTTP requests.", labels=["handler", "method", "status"])
        for key, count in self._http.requests.items():
            requests.add_metric(key, count)
        yield requests
        family = HistogramMetricFamily("http_request_duration_seconds", "HTTP latency.", labels=["handler", "method"])
        for labels, histogram in self._http.durations.items():
            family.add_metric(labels, histogram.buckets(), histogram.total)
        yield family

    def _gauge(self, name: str, text: str, rows: Iterable[tuple[Mapping[str, str], float]]) -> Metric:
        return self._fill(GaugeMetricFamily, name, text, list(rows))

    def _counter(self, name: str, text: str, rows: Iterable[tuple[Mapping[str, str], float]]) -> Metric:
        return self._fill(CounterMetricFamily, name, text, list(rows))

    def _fill(
        self,
        kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
        name: str,
        text: str,
        rows: list[tuple[Mapping[str, str], float]],
    ) -> Metric:
        names = sorted({**self._labels, **rows[0][0]})
        family = kind(f"vllm:{name}", text, labels=names)
        for labels, value in rows:
            merged = {**self._labels, **labels}
            family.add_metric([merged[key] for key in names], value)
        return family


def _histogram(name: str, text: str, labels: Mapping[str, str], histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), histogram.buckets(), histogram.total)
    return family


def make_registry(collector: EngineCollector) -> CollectorRegistry:
    """A registry with nothing but the engine's families."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """The exposition in Prometheus text format."""
    return generate_latest(registry)
