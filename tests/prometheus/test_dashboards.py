"""Every panel of every dashboard shows something: a real Prometheus scrapes a small fleet while it lives.

Operator, forecaster, agents, simulated engines and the real router run as processes on the embedded cluster. Two
workers serve prompts with a common head, one is drained and goes; then each query is asked over the whole time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [
    str(ROOT / "tests" / "scenarios"),
    str(ROOT / "tests" / "controlplane"),
]  # these folders are no packages

from prometheus_programs import PrometheusPrograms, serving  # noqa: E402
from warmfleet_cli.demo.processes import Child  # noqa: E402
from warmfleet_contracts import labels  # noqa: E402
from warmfleet_forecasting.history import Key  # noqa: E402
from warmfleet_forecasting.history.recorder import Recorder  # noqa: E402
from warmfleet_operator.settings import Settings  # noqa: E402
from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock  # noqa: E402
from warmfleet_runtime.resources import PODS  # noqa: E402
from world import SCALE, World, deployment, embedded, eventually, instance_type  # noqa: E402

CHART = ROOT / "charts" / "warmfleet"
PATIENCE = 150.0
DAY = 86_400
HEAD = "a long common head of all prompts " * 60


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def remember(path: Path, now: float) -> None:
    """Eight days of traffic with a daily pattern, as the forecaster's recorder would have kept them."""
    recorder = Recorder(str(path), 35.0 * DAY)
    minutes = range(0, 8 * DAY, 60)
    readings = [(now - s, 4 + 2 * math.sin(2 * math.pi * (now - s) / DAY) + 0.2 * math.sin(s)) for s in minutes]
    recorder.record([(Key("default", "chat"), at, rate) for at, rate in readings])
    recorder.close()


class Scraped:
    """A fleet and what scrapes it."""

    def __init__(self, world: World) -> None:
        self.world, self.folder = world, world.folder
        self.operator_port, self.forecaster_port = free_port(), free_port()
        self.forecaster: Child | None = None
        self.targets = self.folder / "targets.json"
        self.targets.write_text("[]")

    def config(self) -> Path:
        """``prometheus.yml``, with the chart's rules and the relabelling of its PodMonitors."""
        own = [("operator", self.operator_port), ("forecaster", self.forecaster_port)]
        jobs: list[dict[str, Any]] = [
            {
                "job_name": name,
                "honor_labels": True,
                "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "warmfleet-system"}}],
            }
            for name, port in own
        ]
        jobs.append(
            {"job_name": "fleet", "file_sd_configs": [{"files": [str(self.targets)], "refresh_interval": "1s"}]}
        )
        file = self.folder / "prometheus.yml"
        text = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "2s"},
            "rule_files": [str(CHART / "rules" / "*.yaml")],
            "scrape_configs": jobs,
        }
        file.write_text(yaml.safe_dump(text))
        return file

    async def start(self) -> None:
        """Starts operator and forecaster."""
        await self.world.start_operator(
            WARMFLEET_LISTEN_PORT=str(self.operator_port),
            WARMFLEET_LEASE_DURATION_SECONDS="120",  # longer than any standstill
        )
        database = self.folder / "history.sqlite"
        await asyncio.to_thread(remember, database, self.world.clock.wall().timestamp())
        env = {
            "KUBECONFIG": str(self.world.kubeconfig),
            "WARMFLEET_OPERATOR_URL": f"http://127.0.0.1:{self.operator_port}/metrics",
            "WARMFLEET_DATABASE_PATH": str(database),
            "WARMFLEET_LISTEN_ADDRESS": "127.0.0.1",
            "WARMFLEET_LISTEN_PORT": str(self.forecaster_port),
            "WARMFLEET_STALE_SECONDS": "6000",
        }
        command = [sys.executable, "-m", "warmfleet_forecasting"]
        self.forecaster = Child("forecaster", command, env=env, folder=self.folder)

    async def discover(self) -> None:
        """Writes the pods' addresses for Prometheus, for ever; what a PodMonitor would find."""
        while True:
            pods = (await self.world.kube.list(PODS, "default"))["items"]
            found = [t for pod in pods if pod.get("status", {}).get("podIP") for t in _targets(pod)]
            await asyncio.to_thread(self._write, json.dumps(found))
            await asyncio.sleep(1.0)

    def _write(self, text: str) -> None:
        new = self.targets.with_suffix(".new")
        new.write_text(text)
        new.replace(self.targets)

    async def ask(self) -> None:
        """Sends prompts through the router, for ever; a failed one is not of interest here."""
        async with aiohttp.ClientSession(trust_env=False, timeout=aiohttp.ClientTimeout(total=30)) as http:
            for number in range(10**9):
                await asyncio.sleep(0.3)
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    endpoint = await self.world.endpoint()
                    prompt = {"model": "meta-llama/Llama-3.1-8B-Instruct", "prompt": f"{HEAD}{number}", "max_tokens": 8}
                    if endpoint:
                        async with http.post(f"{endpoint}/v1/completions", json=prompt) as answer:
                            await answer.read()


def _targets(pod: dict[str, Any]) -> list[dict[str, Any]]:
    meta, ip = pod["metadata"], pod["status"]["podIP"]
    found = {"namespace": meta["namespace"], "deployment": meta["labels"].get(labels.DEPLOYMENT, "")}
    if meta["labels"].get(labels.COMPONENT) == labels.COMPONENT_ROUTER:
        return [{"targets": [f"{ip}:{labels.ROUTER_METRICS_PORT}"], "labels": found}]
    found["variant"] = meta["labels"].get(labels.VARIANT, "")
    return [{"targets": [f"{ip}:{port}"], "labels": found} for port in (labels.AGENT_PORT, labels.ENGINE_PORT)]


@pytest.fixture
async def scraped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scraped]:
    """A cluster with a fleet's surroundings; nothing runs yet."""
    clock = ScaledClock(SCALE)
    monkeypatch.setenv(CLOCK_ENV, clock.to_env())
    async with embedded(tmp_path, clock) as world:
        made = Scraped(world)
        tasks = [asyncio.create_task(work) for work in (made.discover(), made.ask())]
        yield made
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if made.forecaster is not None:
            await made.forecaster.stop(grace=10)


def asked(url: str, path: str, **query: str) -> Any:
    """The data of an answer of Prometheus' HTTP interface."""
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
        return json.load(answer)["data"]


def values(url: str, query: str, start: float) -> dict[str, list[tuple[float, float]]]:
    """What a panel would draw: points by legend, without those that are no numbers."""
    for name in ("namespace", "deployment"):
        query = query.replace(f"${name}", ".*")
    data = asked(url, "query_range", query=query, start=str(start), end=str(time.time()), step="2")["result"]
    drawn = {json.dumps(s["metric"]): [(t, float(v)) for t, v in s["values"] if v != "NaN"] for s in data}
    return {legend: points for legend, points in drawn.items() if points}


def panels() -> list[tuple[str, str, str]]:
    """Dashboard, panel and query."""
    boards = [json.loads(p.read_text(encoding="utf-8")) for p in sorted((CHART / "dashboards").glob("*.json"))]
    return [
        (b["title"], f"{p['title']} {t['refId']}", t["expr"]) for b in boards for p in b["panels"] for t in p["targets"]
    ]


async def seen(url: str, query: str, what: str) -> None:
    """Returns as soon as a query has a result."""

    async def check() -> bool:
        return bool((await asyncio.to_thread(asked, url, "query", query=query))["result"])

    await eventually(check, what, PATIENCE)


@pytest.mark.timeout(900)
async def test_every_query_of_every_dashboard_returns_data(scraped: Scraped, programs: PrometheusPrograms) -> None:
    world, start = scraped.world, time.time()
    assert programs.prometheus
    with serving(scraped.config(), scraped.folder / "blocks") as url:
        await world.apply(instance_type())
        await scraped.start()
        await world.apply(deployment(scaling={"min": 2, "max": 2, "forecast": {}}))
        await world.until_ready(2, seconds=PATIENCE)
        await seen(url, "warmfleet_operator_prefix_hit_ratio > 0.1", "hit ratio")
        await seen(url, "warmfleet_operator_slo_attainment_ratio", "attainment")
        await seen(url, "warmfleet_forecaster_pinball_gain_ratio", "forecast with skill")
        await asyncio.sleep(world.clock.real(2 * Settings().mean_window_seconds))  # else one event with the growth
        await world.apply(deployment(scaling={"min": 1, "max": 1, "forecast": {}}))
        await world.until_ready(1, seconds=PATIENCE)
        await seen(url, 'warmfleet_operator_scale_event_kept_ratio_count{direction="in"} > 0', "measured scale event")
        await seen(url, "increase(warmfleet_operator_drain_seconds_count[15m]) >= 0", "departure")
        await asyncio.sleep(5.0)  # a rate needs two samples
        drawn = {(board, panel): await asyncio.to_thread(values, url, query, start) for board, panel, query in panels()}
        rules = await asyncio.to_thread(asked, url, "rules")
    (scraped.folder / "panels.json").write_text(json.dumps([[*where, shown] for where, shown in drawn.items()]))
    assert len(drawn) > 60
    assert [where for where, shown in drawn.items() if not shown] == []
    health = {r["name"]: r["health"] for group in rules["groups"] for r in group["rules"]}
    assert len(health) > 15
    assert set(health.values()) == {"ok"}
