"""The operator's view of whole fleets, asked from a real Prometheus; promtool writes blocks up to two minutes ahead."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_programs import PrometheusPrograms, serving
from warmfleet_operator.adapters.prometheus import PrometheusSource
from warmfleet_operator.state.records import Key

STEP = 5


def exposition(start: int, end: int) -> str:
    """Two workers of ``chat`` at 2 requests/s each, one with a queue, and one of ``idle`` without requests."""
    counters = {"request_success": 1.0, "prefix_cache_queries": 1000.0, "prefix_cache_hits": 250.0}
    sums = {"request_prompt_tokens": 1000.0, "request_generation_tokens": 200.0}
    lines: list[str] = []
    workers = (("chat", "a", 2.0, 0), ("chat", "b", 2.0, 6), ("idle", "c", 0.0, 0))

    def write(name: str, kind: str, suffix: str, factor: float) -> None:
        for fleet, pod, rate, _ in workers:
            labels = f'namespace="prod",deployment="{fleet}",pod="{pod}"'
            values = ((at, rate * factor * (at - start)) for at in range(start, end, STEP))
            lines.extend(f"vllm:{name}{suffix}{{{labels}}} {value} {at}" for at, value in values)

    for name, factor in counters.items():
        lines.append(f"# TYPE vllm:{name} counter")
        write(name, "counter", "_total", factor)
    for name, factor in sums.items():
        lines.append(f"# TYPE vllm:{name} summary")
        write(name, "summary", "_sum", factor)
        write(name, "summary", "_count", 1.0)
    for name, value in (("num_requests_running", 3), ("num_requests_waiting", None)):
        lines.append(f"# TYPE vllm:{name} gauge")
        for fleet, pod, _, waiting in workers:
            labels = f'namespace="prod",deployment="{fleet}",pod="{pod}"'
            shown = waiting if value is None else value
            lines.extend(f"vllm:{name}{{{labels}}} {shown} {at}" for at in range(start, end, STEP))
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture
def url(tmp_path: Path, programs: PrometheusPrograms) -> Iterator[str]:
    now = int(time.time())
    (tmp_path / "metrics.txt").write_text(exposition(now - 900, now + 120))
    command = [
        programs.promtool,
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        tmp_path / "metrics.txt",
        tmp_path / "data",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    (tmp_path / "prometheus.yml").write_text("global: {scrape_interval: 5s}\n")
    with serving(tmp_path / "prometheus.yml", tmp_path / "data") as found:
        yield found


async def test_fleets_are_summed_over_their_workers(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        found = await PrometheusSource(url, session, rate_window=60, mean_window=300, timeout_seconds=60).read(0.0)
    chat = found[Key("prod", "chat")]
    assert chat.arrivals == pytest.approx(4.0, rel=0.01)
    assert chat.input_tokens == pytest.approx(1000.0)
    assert chat.output_tokens == pytest.approx(200.0)
    assert chat.hit_ratio == pytest.approx(0.25)
    assert chat.queue == 6
    assert chat.reporting == 2
    assert chat.rejects is None  # the engines have no such series: not known, not zero
    idle = found[Key("prod", "idle")]
    assert idle.arrivals == pytest.approx(0.0)
    assert idle.input_tokens is None
    assert idle.reporting == 1
