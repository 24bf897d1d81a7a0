"""Reading Prometheus text: good, both spellings, bad, too large; and JSON logs."""

from __future__ import annotations

import contextlib
import json
import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warmfleet_runtime.clock import ManualClock
from warmfleet_runtime.logs import JsonFormatter, configure
from warmfleet_runtime.openmetrics import MetricsError, parse

TEXT = """\
# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a"} 8.0
vllm:num_requests_running{engine="1",model_name="a"} 3.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="a"} 5.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="a"} 2.0
vllm:ttft_seconds_bucket{engine="0",le="0.1"} 1.0
vllm:ttft_seconds_bucket{engine="0",le="+Inf"} 4.0
vllm:ttft_seconds_bucket{engine="1",le="0.1"} 2.0
vllm:ttft_seconds_bucket{engine="1",le="+Inf"} 2.0
vllm:ttft_seconds_count{engine="0"} 4.0
vllm:cache_config_info{block_size="32",note="a \\"b\\" {c}, d"} 1.0
vllm:gone NaN
other{x="y"} 1
"""
WANTED = (
    "vllm:num_requests_running",
    "vllm:request_success_total",
    "vllm:ttft_seconds",
    "vllm:cache_config_info",
    "vllm:gone",
)


@pytest.mark.parametrize("text", [TEXT, TEXT.replace("vllm:", "vllm_")], ids=["colon", "underscore"])
@pytest.mark.parametrize("prefix", ["vllm:", "vllm_"])
def test_both_spellings_read_alike(text: str, prefix: str) -> None:
    samples = parse(text, wanted=WANTED)
    assert samples.total(f"{prefix}num_requests_running") == 11
    assert samples.value(f"{prefix}num_requests_running", engine="1") == 3
    assert samples.total(f"{prefix}request_success_total", finished_reason="abort") == 2
    assert samples.bucket_counts(f"{prefix}ttft_seconds") == ((0.1, 3.0), (float("inf"), 6.0))
    assert samples.label(f"{prefix}cache_config_info", "block_size") == "32"
    assert samples.label(f"{prefix}cache_config_info", "note") == 'a "b" {c}, d'


def test_absent_unwanted_and_nan_are_none() -> None:
    samples = parse(TEXT, wanted=WANTED)
    assert samples.value("other") is None
    assert samples.total("vllm:nothing") is None
    assert samples.value("vllm:gone") is None
    assert samples.total("vllm:gone") is None
    assert samples.bucket_counts("vllm:nothing") is None
    assert samples.label("vllm:nothing", "x") is None


def test_ambiguous_value_is_refused() -> None:
    with pytest.raises(MetricsError, match="2 samples"):
        parse(TEXT, wanted=WANTED).value("vllm:num_requests_running")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a 1\n<html>503</html>\n", 2),
        ("a 1\n\x00\x01\n", 2),
        ("a 1\na{x=\n", 2),
        ('a 1\nb 1\na{x="1"} nonsense\n', 3),
        ("a 1\na\n", 2),
        ("a 1\na " + "9" * 400 + "\n", 2),
    ],
)
def test_garbage_names_the_line(text: str, line: int) -> None:
    with pytest.raises(MetricsError, match=f"line {line} "):
        parse(text, wanted=["a"])


def test_too_large_is_refused() -> None:
    with pytest.raises(MetricsError, match="more than the 10 allowed"):
        parse(TEXT, wanted=WANTED, max_bytes=10)


@pytest.mark.parametrize(
    "buckets",
    [
        'h_bucket{le="1"} 5\nh_bucket{le="+Inf"} 4\n',
        'h_bucket{le="1"} 5\n',
        'h_bucket{le="x"} 5\n',
        'h_bucket{} 5\nh_bucket{le="+Inf"} 5\n',
        'h_bucket{le="1"} -1\nh_bucket{le="+Inf"} 5\n',
    ],
)
def test_impossible_histograms_are_refused(buckets: str) -> None:
    with pytest.raises(MetricsError, match="bucket"):
        parse(buckets, wanted=["h"]).bucket_counts("h")


@given(st.text(max_size=300))
def test_any_text_parses_or_is_refused(text: str) -> None:
    with contextlib.suppress(MetricsError):
        assert set(parse(text, wanted=["a", "b"]).families) <= {"a", "b"}


def test_an_engines_scrape_takes_milliseconds() -> None:
    lines = [f'vllm:family_{i % 60}_bucket{{engine="0",model_name="m",le="{i}"}} {i}' for i in range(600)]
    text = "\n".join(lines) + "\n"
    began = time.perf_counter()
    for _ in range(5):
        parse(text, wanted=["vllm:family_1", "vllm:family_2", "vllm:family_3"])
    assert (time.perf_counter() - began) / 5 < 0.020


def test_logs_are_json_with_extras() -> None:
    record = logging.getLogger("x").makeRecord(
        "x", logging.WARNING, "f", 1, "drain of %s", ("pod",), None, extra={"pod": "a-1", "n": 3}
    )
    line = json.loads(JsonFormatter("agent", ManualClock()).format(record))
    assert line == {
        "ts": "2026-01-01T00:00:00.000+00:00",
        "level": "warning",
        "component": "agent",
        "logger": "x",
        "msg": "drain of pod",
        "pod": "a-1",
        "n": 3,
    }


def test_unknown_log_level_is_refused() -> None:
    with pytest.raises(ValueError, match="WARMFLEET_LOG_LEVEL"):
        configure("agent", level="loud")
