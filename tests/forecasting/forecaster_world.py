"""A forecaster on the embedded API: a history made by hand, fits that obey, statuses to look at."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from aiohttp import web
from kubernetes.aio import client as kube
from warmfleet_forecasting.history import STEP_S, HistoryError, Key, grid
from warmfleet_forecasting.series import Series
from warmfleet_forecasting.service.process import ForecasterProcess
from warmfleet_forecasting.settings import Settings
from warmfleet_localcluster.api import EmbeddedApi, serve, server_url
from warmfleet_runtime.clock import ScaledClock
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import (
    CUSTOM_RESOURCE_DEFINITIONS,
    LLM_DEPLOYMENTS,
    NAMESPACES,
    Resource,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the fitting process imports service_fits from here

CRDS = Path(__file__).parents[2] / "crds"
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOUR = 3600.0
OBEDIENT = "service_fits:fit"


@cache
def fork_server() -> None:
    """The server that fits are forked from, started once and before a clock runs: it imports for seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warmfleet_forecasting.service.pool", "warmfleet_forecasting.service.status"])
    first = context.Process(target=int)
    first.start()
    first.join()


@dataclass
class HandMade:
    """A history: a daily wave, of which the newest rate can be set; or a problem."""

    last: float | None = None
    problem: HistoryError | None = None
    hours: float = 48.0
    asked: list[Key] = field(default_factory=list)

    async def series(self, key: Key, start: float, end: float) -> Series:
        self.asked.append(key)
        if self.problem is not None:
            raise self.problem
        first, stop = grid(max(start, end - self.hours * HOUR), end)
        times = np.arange(first, stop) * STEP_S
        values = 100.0 + 50.0 * np.sin(2 * np.pi * times / (24 * HOUR))
        if self.last is not None:
            values[-1] = self.last
        return Series(first * STEP_S, STEP_S, values)


class World:
    """Use it as an async context manager."""

    def __init__(self, scale: float = 200.0) -> None:
        fork_server()
        self.clock = ScaledClock(scale, start_wall=START)
        self.api = EmbeddedApi(clock=self.clock)
        self.history = HandMade()
        self._running: list[tuple[asyncio.Task[int], asyncio.Event]] = []
        self.processes: list[ForecasterProcess] = []

    async def __aenter__(self) -> World:
        self._runner: web.AppRunner = await serve(self.api, "127.0.0.1", 0)
        self.url = server_url(self._runner)
        self.kube = KubeClient.for_server(self.url)
        for file in sorted(CRDS.glob("*.yaml")):
            await self.kube.create(CUSTOM_RESOURCE_DEFINITIONS, yaml.safe_load(file.read_text()))
        await self.kube.create(NAMESPACES, {"metadata": {"name": "prod"}})
        return self

    async def __aexit__(self, *_: object) -> None:
        codes = [await self.stop(n) for n in range(len(self._running))]
        await self.kube.close()
        await self._runner.shutdown()
        await self._runner.cleanup()
        assert set(codes) <= {0}

    async def configure(self) -> kube.Configuration:
        configuration = kube.Configuration(host=self.url)
        configuration.client_session_kwargs = {"trust_env": False}
        return configuration

    def start(self, entry: str = OBEDIENT, *, watch_limit_s: float = 300.0, **overrides: Any) -> ForecasterProcess:
        values: dict[str, Any] = {
            "operator_url": "http://127.0.0.1:1/metrics",
            "listen_address": "127.0.0.1",
            "listen_port": 0,
            "fit_deadline_seconds": 20.0,
        }
        process = ForecasterProcess(
            Settings(**{**values, **overrides}),
            self.clock,
            self.configure,
            entry=entry,
            history=self.history,
            watch_limit_s=watch_limit_s,
        )
        stop = asyncio.Event()
        self.processes.append(process)
        self._running.append((asyncio.create_task(process.run(stop)), stop))
        return process

    async def stop(self, number: int = 0) -> int:
        task, stop = self._running[number]
        stop.set()
        return await asyncio.wait_for(task, 20)

    async def apply(self, body: dict[str, Any], resource: Resource = LLM_DEPLOYMENTS) -> None:
        meta = body["metadata"]
        await self.kube.patch(
            resource, meta["name"], body, meta.get("namespace"), how="apply", fieldManager="person", force="true"
        )

    def objects(self, plural: str) -> list[dict[str, Any]]:
        return self.api.store.objects(self.api.registry.named(plural, "warmfleet.dev").storage)

    def forecast(self, name: str = "chat") -> dict[str, Any]:
        return next((f for f in self.objects("trafficforecasts") if f["metadata"]["name"] == name), {})

    def status(self, name: str = "chat") -> dict[str, Any]:
        return dict(self.forecast(name).get("status") or {})

    def issued(self, name: str = "chat") -> bool:
        return "issuedAt" in self.status(name)

    async def until(self, condition: Callable[[], object], seconds: float = 60.0, what: str = "") -> None:
        """Wait for a condition, ``seconds`` real seconds at most."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not condition():
            for task, stop in self._running:
                if task.done() and not stop.is_set():
                    raise AssertionError(f"the forecaster ended: {task.result()}")
            if loop.time() > end:
                raise AssertionError(f"timed out: {what}; {self.status()}")
            await asyncio.sleep(0.02)


def deployment(name: str = "chat", *, forecast: dict[str, Any] | None, events: Any = ()) -> dict[str, Any]:
    scaling: dict[str, Any] = {"min": 1, "max": 8}
    if forecast is not None:
        scaling["forecast"] = forecast
    if events:
        scaling["events"] = list(events)
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": "prod"},
        "spec": {
            "model": {"name": "m", "profile": "llama-3.1-8b", "source": {"pvc": {"claimName": "w", "path": "m"}}},
            "engine": {"image": "vllm/vllm-openai:v0.32.0"},
            "variants": [{"name": "a", "instanceType": "h100"}],
            "scaling": scaling,
        },
    }


def traffic_forecast(name: str = "chat", forecaster: str = "External") -> dict[str, Any]:
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "TrafficForecast",
        "metadata": {"name": name, "namespace": "prod"},
        "spec": {"target": {"name": "chat"}, "forecaster": forecaster},
    }
