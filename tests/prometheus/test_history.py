"""History from a real Prometheus: blocks written by promtool, asked through the API."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from prometheus_programs import PrometheusPrograms, serving
from warmfleet_forecasting.history import HistoryError, HistoryProblem, Key
from warmfleet_forecasting.history.prometheus import PrometheusHistory, PrometheusSettings

DAY = 86_400
END = int(datetime.now(UTC).timestamp()) // DAY * DAY - DAY
START = END - 10 * DAY
GAP = (END - 4 * 3600, END - 3 * 3600)
ZERO = (END - 2 * 3600, END - 3600)
RESTART = END - 6 * 3600
CHAT = Key("prod", "chat")


def rate(at: int) -> float:
    if ZERO[0] <= at < ZERO[1]:
        return 0.0
    return 50.0 + 40.0 * float(np.sin(2 * np.pi * at / DAY))


def exposition() -> str:
    """Ten days of the operator's gauge and of a counter that restarts, one sample a minute."""
    gauge = ["# TYPE warmfleet_operator_demand_requests_per_second gauge"]
    counter = ["# TYPE router_requests counter"]
    labels = '{namespace="prod",deployment="chat"}'
    counted = 0.0
    for at in range(START, END + 60, 60):
        if not GAP[0] <= at < GAP[1]:
            gauge.append(f"warmfleet_operator_demand_requests_per_second{labels} {rate(at)} {at}")
        counted = 0.0 if at == RESTART else counted + 60.0 * rate(at)
        counter.append(f"router_requests_total{labels} {counted} {at}")
    return "\n".join([*gauge, *counter, "# EOF", ""])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, programs: PrometheusPrograms) -> Path:
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "metrics.txt").write_text(exposition())
    length = "--max-block-duration=240h"
    command = [
        programs.promtool,
        "tsdb",
        "create-blocks-from",
        length,
        "openmetrics",
        folder / "metrics.txt",
        folder / "data",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    (folder / "prometheus.yml").write_text("global: {scrape_interval: 60s}\n")
    return folder


@pytest.fixture(scope="module")
def url(data: Path) -> Iterator[str]:
    flags = ("--storage.tsdb.retention.time=100d", "--query.max-samples=12000")
    with serving(data / "prometheus.yml", data / "data", *flags) as found:
        yield found


async def test_a_real_prometheus_agrees_with_what_was_written(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        series = await PrometheusHistory(PrometheusSettings(url), session).series(CHAT, START, END)
        times = series.times() + 60  # a cell's value is the one at its end
        gap = (times >= GAP[0] + 60) & (times < GAP[1])
        zero = (times >= ZERO[0] + 60) & (times < ZERO[1])
        assert len(series) == 14_400, "more than one request may bring"
        assert np.isnan(series.values[gap]).all()
        assert (series.values[zero] == 0.0).all()
        known = ~np.isnan(series.values)
        assert known.sum() >= 14_400 - 61
        expected = np.array([rate(int(at)) for at in times])
        # The range [t - 60 s, t] holds the samples at both of its ends.
        assert np.abs(series.values - expected)[known & ~zero & (np.abs(times - ZERO[1]) > 60)].max() < 26.0
        assert np.nanmedian(np.abs(series.values - expected)) < 0.2

        query = 'router_requests_total{namespace="prod"}'
        counted = await PrometheusHistory(PrometheusSettings(url, counter=True), session).query(query, START, END)
        away = np.abs(counted.times() - RESTART) > 120
        rates = np.array([rate(int(at) + 60) for at in counted.times()])
        assert np.nanmax(np.abs(counted.values - rates)[away]) < 0.5
        assert np.nanmin(counted.values) >= 0.0, "a restart is no negative demand"

        wrong = PrometheusHistory(PrometheusSettings(url, query="sum(rate(x["), session)
        with pytest.raises(HistoryError, match="parse error") as refused:
            await wrong.series(CHAT, START, END)
        assert refused.value.problem is HistoryProblem.REFUSED


async def test_what_a_real_prometheus_will_not_load_is_a_reason(url: str) -> None:
    query = "max_over_time(router_requests_total[9d])"
    async with aiohttp.ClientSession() as session:
        with pytest.raises(HistoryError) as raised:
            await PrometheusHistory(PrometheusSettings(url, attempts=1), session).query(query, START, END)
    assert raised.value.problem is HistoryProblem.TOO_LARGE
