"""The vLLM adapter: good answers, both spellings, and everything a broken engine can say."""

from __future__ import annotations

import asyncio
import math

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from warmfleet_runtime.openmetrics import MetricsError
from warmfleet_worker.engines import vllm
from warmfleet_worker.engines.base import Health
from warmfleet_worker.engines.vllm import VllmEngine, count_within, read_load

METRICS = """\
vllm:num_requests_running{engine="0",model_name="m"} 8.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 16.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:cache_config_info{block_size="32",num_gpu_blocks="1024",kv_cache_size_tokens="32768"} 1.0
vllm:request_success_total{finished_reason="stop"} 5.0
vllm:request_success_total{finished_reason="abort"} 2.0
vllm:prefix_cache_queries_total{engine="0"} 100.0
vllm:prefix_cache_hits_total{engine="0"} 40.0
vllm:external_prefix_cache_hits_total{engine="0"} 5.0
vllm:time_to_first_token_seconds_bucket{le="1.0"} 4.0
vllm:time_to_first_token_seconds_bucket{le="2.5"} 10.0
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 12.0
"""
MODELS = {"object": "list", "data": [{"id": "m"}]}


def read(text: str):
    return read_load(text, slo_ttft=2.0, slo_tpot=0.05)


@pytest.mark.parametrize("text", [METRICS, METRICS.replace("vllm:", "vllm_")])
def test_metrics_are_read(text: str) -> None:
    load = read(text)
    assert (load.running, load.waiting, load.kv_usage, load.kv_capacity_tokens) == (9, 16, 0.25, 32768)
    assert (load.counters.requests, load.counters.failed_requests) == (7, 2)
    assert (load.counters.cache_query_tokens, load.counters.cache_hit_tokens) == (100, 45)
    assert (load.latency.ttft_count, load.latency.ttft_within_slo) == (12, 8)
    assert (load.latency.tpot_count, load.latency.tpot_within_slo) == (0, 0)


def test_a_recorded_scrape_is_read(data_dir) -> None:
    sample = data_dir.parent / "reference" / "vllm_lab" / "metrics_sample.txt"
    if not sample.exists():
        pytest.skip("no recorded scrape beside the reference data")
    load = read(sample.read_text())
    assert (load.running, load.waiting, load.kv_capacity_tokens) == (8, 16, 32768)
    assert load.counters.requests == 77
    assert load.counters.cache_hit_tokens == 69664
    assert (load.latency.ttft_count, load.latency.tpot_within_slo) == (85, 77)


def test_what_is_absent_is_unknown() -> None:
    load = read('vllm:num_requests_running{engine="0"} 1\n')
    assert (load.running, load.waiting, load.kv_usage, load.kv_capacity_tokens) == (1, None, None, None)


@pytest.mark.parametrize(
    "text",
    [
        "<html>",
        "other 1\n",
        "",
        "vllm:num_requests_running -3\n",
        "vllm:num_requests_running +Inf\n",
        "vllm:prompt_tokens_total 1e300\n",
        'vllm:time_to_first_token_seconds_bucket{le="1"} 3\n',
    ],
)
def test_impossible_metrics_are_refused(text: str) -> None:
    with pytest.raises(MetricsError):
        read(text)


@given(
    st.lists(st.tuples(st.floats(0.001, 100), st.integers(0, 50)), min_size=1, max_size=8),
    st.integers(0, 9),
    st.floats(0, 200),
)
def test_within_counts_never_overstate(steps, tail, bound) -> None:
    bounds = sorted({b for b, _ in steps})
    counts, running = [], 0
    for high, (_, n) in zip(bounds, steps, strict=False):
        running += n
        counts.append((high, float(running)))
    buckets = [*counts, (math.inf, float(running + tail))]
    total, within = count_within(buckets, bound)
    assert total == running + tail
    certain = max((c for high, c in buckets if high <= bound), default=0)
    possible = next(c for high, c in buckets if high > bound)
    assert certain <= within <= possible
    if bound >= bounds[-1]:
        assert within == running


def test_no_histogram_counts_nothing() -> None:
    assert count_within(None, 1.0) == (0, 0)


async def observe(routes: dict[str, web.Response | float | None], looks: int = 1):
    async def handle(request: web.Request) -> web.StreamResponse:
        answer = routes.get(request.path)
        if isinstance(answer, float):
            await asyncio.sleep(answer)
        if callable(answer):
            return answer()
        return web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{tail:.*}", handle)
    server = TestServer(app)
    await server.start_server()
    engine = VllmEngine(str(server.make_url("")).rstrip("/"), slo_ttft=2.0, slo_tpot=0.05)
    try:
        return [await engine.observe() for _ in range(looks)][-1]
    finally:
        await engine.close()
        await server.close()


def answers(**changed):
    routes = {
        "/health": web.Response,
        "/v1/models": lambda: web.json_response(MODELS),
        "/metrics": lambda: web.Response(text=METRICS),
    }
    return routes | {f"/{k}".replace("_models", "/models"): v for k, v in changed.items()}


async def test_a_good_engine_is_ready() -> None:
    seen = await observe(answers())
    assert (seen.health, seen.problem) == (Health.READY, "")
    assert seen.load is not None


@pytest.mark.parametrize(
    ("routes", "words"),
    [
        (answers(health=lambda: web.Response(status=503)), "GET /health: HTTP 503"),
        (answers(health=lambda: web.Response(text="x" * 5000)), "more than 1024 bytes"),
        (answers(v1_models=lambda: web.Response(text="{")), "not JSON"),
        (answers(v1_models=lambda: web.Response(text="[" * 5000)), "not JSON"),
        (answers(v1_models=lambda: web.json_response({"data": []})), "no model"),
        (answers(v1_models=lambda: web.json_response([1])), "no model"),
        (answers(health=lambda: web.Response(status=302, headers={"Location": "/elsewhere"})), "HTTP 302"),
    ],
)
async def test_an_unwell_engine_is_not_ready(routes, words) -> None:
    seen = await observe(routes)
    assert seen.health is Health.UNWELL
    assert seen.load is None
    assert words in seen.problem


@pytest.mark.parametrize(
    "text", ["<html>busy</html>", "vllm:num_requests_running{", "\x00\xff", "vllm:num_requests_running -1\n"]
)
async def test_garbage_metrics_leave_the_load_unknown(text: str) -> None:
    seen = await observe(answers(metrics=lambda: web.Response(body=text.encode("latin-1"))))
    assert seen.health is Health.READY
    assert seen.load is None
    assert seen.problem


async def test_a_hanging_engine_is_unwell(monkeypatch) -> None:
    monkeypatch.setattr(vllm, "TIMEOUT", 0.2)
    seen = await observe(answers(health=1.0))
    assert seen.health is Health.UNWELL
    assert "no answer" in seen.problem


async def test_a_closed_port_is_refused(free_port) -> None:
    engine = VllmEngine(f"http://127.0.0.1:{free_port()}", slo_ttft=2.0, slo_tpot=0.05)
    assert (await engine.observe()).health is Health.REFUSED
    await engine.close()


async def test_a_server_that_speaks_no_http_is_unwell() -> None:
    async def talk(reader, writer) -> None:
        writer.write(b"\x16\x03garbage\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = VllmEngine(f"http://127.0.0.1:{port}", slo_ttft=2.0, slo_tpot=0.05)
    assert (await engine.observe()).health is Health.UNWELL
    await engine.close()
    server.close()
    await server.wait_closed()
