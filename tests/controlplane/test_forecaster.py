"""The forecaster on a real API server: its rights are enough and each is needed; from demand to a decision."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import controlplane_world
import numpy as np
import pytest
import shared_controlplane
import yaml
from clients import helm_path
from cluster import ControlPlane
from fleet_scene import grant
from kubernetes.aio import client as kube_client
from shared_controlplane import ROOT
from traffic import Streams
from warmfleet_cli.demo.processes import Child
from warmfleet_forecasting.history import STEP_S, Key, grid
from warmfleet_forecasting.history.recorder import Recorder
from warmfleet_forecasting.rights import RIGHTS
from warmfleet_forecasting.series import Series
from warmfleet_forecasting.service.process import ForecasterProcess
from warmfleet_forecasting.settings import Settings
from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock
from warmfleet_runtime.kubeclient import KubeClient, load_configuration
from warmfleet_runtime.resources import LLM_DEPLOYMENTS, NAMESPACES, TRAFFIC_FORECASTS
from warmfleet_runtime.rest import ApiError
from warmfleet_runtime.rights import Right, Scope, rules
from world import SCALE, Json, World, deployment, embedded, eventually, instance_type

sys.path.insert(0, str(ROOT / "tests" / "forecasting"))  # the fitting process imports service_fits from there

pytestmark = pytest.mark.controlplane
DAY_S = 86_400.0
AT_ONCE = 5
"""Forecasters that run side by side."""


# Each right is needed: a forecaster per right, without it


class Steady:
    """A history of ten requests a second."""

    async def series(self, key: Key, start: float, end: float) -> Series:
        first, stop = grid(start, end)
        return Series(first * STEP_S, STEP_S, np.full(stop - first, 10.0))


@dataclass
class Trial:
    """A forecaster with all rights but one, in a namespace of its own; with all of them when none is missing."""

    missing: Right | None
    number: int
    made: bool = False
    issued: bool = False
    removed: bool = False

    @property
    def namespace(self) -> str:
        return f"forecaster-{self.number}"

    def refused(self, log: pytest.LogCaptureFixture) -> set[str]:
        """What the API server has refused it so far, in its own words."""
        user = f'"system:serviceaccount:{self.namespace}:operator" '
        told = [record.getMessage() for record in log.records if user in record.getMessage()]
        return {text.split(user)[1].split(" in the namespace")[0].split(" at the cluster")[0] for text in told}


async def try_without(kube: KubeClient, kubeconfig: Path, trial: Trial, log: pytest.LogCaptureFixture) -> None:
    """Plays the life of a forecast: asked for, made, issued, no longer asked for, removed."""
    granted = [right for right in RIGHTS if right is not trial.missing]
    scopes = {"cluster": Scope.CLUSTER, "namespace": Scope.FLEET}
    token = await grant(
        kube, trial.namespace, {name: rules([r for r in granted if r.scope is scope]) for name, scope in scopes.items()}
    )

    async def configure() -> kube_client.Configuration:
        configuration = await load_configuration(str(kubeconfig))
        configuration.cert_file = configuration.key_file = None
        configuration.api_key["BearerToken"] = f"Bearer {token}"
        return configuration

    settings = Settings(
        namespace=trial.namespace,
        operator_url="http://127.0.0.1:1/metrics",
        listen_address="127.0.0.1",
        listen_port=0,
    )
    body = deployment(namespace=trial.namespace, scaling={"min": 1, "max": 4, "forecast": {}})
    await kube.create(LLM_DEPLOYMENTS, body)
    stop = asyncio.Event()
    process = ForecasterProcess(settings, ScaledClock(SCALE), configure, entry="service_fits:fit", history=Steady())
    running = asyncio.create_task(process.run(stop))

    async def status() -> Json | None:
        try:
            return dict((await kube.get(TRAFFIC_FORECASTS, "chat", trial.namespace)).get("status") or {})
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    async def until_issued() -> bool:
        found = await status()
        trial.made, trial.issued = trial.made or found is not None, "issuedAt" in (found or {})
        return trial.issued or bool(trial.refused(log))

    async def until_removed() -> bool:
        trial.removed = await status() is None
        return trial.removed or bool(trial.refused(log))

    try:
        await eventually(until_issued, "forecast, and nothing was refused", 60)
        if trial.issued:
            await kube.patch(
                LLM_DEPLOYMENTS, "chat", {"spec": {"scaling": {"forecast": None}}}, trial.namespace, how="merge"
            )
            await eventually(until_removed, "end of the forecast, and nothing was refused", 60)
        if trial.missing is not None:
            await asyncio.sleep(2.0)  # what is refused is tried again meanwhile
            await until_issued() if not trial.issued else await until_removed()
    finally:
        stop.set()
        assert await running == 0


def words(right: Right) -> str:
    """How the API server refuses a right."""
    return f'cannot {right.verb} resource "{right.resource}" in API group "{right.group}"'


async def test_each_right_of_the_forecaster_is_needed(
    controlplane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    control, *rest = trials = [Trial(right, number) for number, right in enumerate([None, *RIGHTS])]
    slots = asyncio.Semaphore(AT_ONCE)
    async with await KubeClient.from_kubeconfig(controlplane.kubeconfig) as kube:

        async def one(trial: Trial) -> None:
            async with slots:
                await try_without(kube, controlplane.kubeconfig, trial, caplog)

        await asyncio.gather(*map(one, trials))
        for trial in trials:
            await kube.delete(NAMESPACES, trial.namespace)
    assert (control.made, control.issued, control.removed) == (True, True, True)
    assert not control.refused(caplog)
    for trial in rest:
        right = trial.missing
        assert right is not None
        assert trial.refused(caplog) == {words(right)}, right
        reached = {
            "list": (False, False, False),
            "create": (False, False, False),
            "patch": (True, False, False),
            "delete": (True, True, False),
        }.get(right.verb)  # without a watch it lists, again and again
        assert reached in {None, (trial.made, trial.issued, trial.removed)}, right


# From the operator's metrics to its decision


@asynccontextmanager
async def world_on(cluster: str, folder: Path, clock: ScaledClock) -> AsyncIterator[World]:
    """A world, and for the forecaster the account that the chart gives it."""
    made = controlplane_world.controlplane if cluster == "controlplane" else embedded
    async with made(folder, clock) as world:
        yield world


async def account_of_the_chart(running: ControlPlane, namespace: str) -> Path:
    """Applies the access objects of the chart; a kubeconfig of the forecaster's ServiceAccount."""
    chart = [helm_path(), "template", "warmfleet", str(ROOT / "charts/warmfleet"), f"-n={namespace}"]
    access = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    rendered = (await asyncio.to_thread(running.run, chart)).stdout
    bodies = [body for body in yaml.safe_load_all(rendered) if body and body["kind"] in access]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": bodies})
    await asyncio.to_thread(running.kubectl, "apply", "-f", "-", stdin=listed)
    return running.kubeconfig_for_service_account(namespace, "warmfleet-forecaster")


def remembered(path: Path, now: float) -> None:
    """Three days of traffic in the recorder's file: a daily wave under noise, which persistence is bad at."""
    rng = np.random.default_rng(1)
    times = now - np.arange(3 * DAY_S, 60.0, -60.0)
    rates = 0.2 * np.exp(0.8 * np.sin(2 * np.pi * times / DAY_S) + 0.5 * rng.normal(size=times.size))
    recorder = Recorder(str(path), 35 * DAY_S)
    key = Key("default", "chat")
    recorder.record([(key, float(at), float(rate)) for at, rate in zip(times, rates, strict=True)])
    recorder.close()


@pytest.mark.parametrize("cluster", ["embedded", "controlplane"])
async def test_demand_becomes_history_a_forecast_and_a_decision(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if cluster == "controlplane":
        request.getfixturevalue("controlplane")
    clock = ScaledClock(SCALE)
    monkeypatch.setenv(CLOCK_ENV, clock.to_env())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    history = tmp_path / "history.sqlite"
    began = clock.wall().timestamp()
    remembered(history, began)
    async with world_on(cluster, tmp_path, clock) as world:
        kubeconfig = world.kubeconfig
        if cluster == "controlplane":
            kubeconfig = await account_of_the_chart(shared_controlplane.running(), "default")
        await world.start_operator(WARMFLEET_LISTEN_PORT=str(port))
        env = {
            "KUBECONFIG": str(kubeconfig),
            "WARMFLEET_OPERATOR_URL": f"http://127.0.0.1:{port}/metrics",
            "WARMFLEET_DATABASE_PATH": str(history),
            "WARMFLEET_LISTEN_ADDRESS": "127.0.0.1",
            "WARMFLEET_LISTEN_PORT": "0",
            "WARMFLEET_STALE_SECONDS": "3600",
        }
        forecaster = Child("forecaster", [sys.executable, "-m", "warmfleet_forecasting"], env=env, folder=tmp_path)
        world.operators.append(forecaster)  # the world ends it, and shows its log
        try:
            await world.apply(instance_type(), deployment(scaling={"min": 1, "max": 4, "forecast": {"history": "72h"}}))
            streams = Streams(await world.until_endpoint(seconds=60))
            await world.until_ready(1, seconds=60)
            sending = asyncio.create_task(streams.keep_sending(4.0, 360.0, tokens=20))
            await decided(world, history, began)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await streams.finish(120)
        except BaseException:
            for child in world.operators:
                print(child.tail())
            print(yaml.safe_dump(await world.status()))
            print(yaml.safe_dump(await world.kube.list(TRAFFIC_FORECASTS, "default")))
            raise
        assert "forbidden" not in forecaster.log.read_text().lower(), forecaster.tail()


async def decided(world: World, history: Path, began: float) -> None:
    """Waits until demand was recorded, forecast, and bought on."""

    async def recorded() -> bool:
        recorder = Recorder(str(history), 35 * DAY_S)
        try:
            found = recorder.series(Key("default", "chat"), began + 60.0, world.clock.wall().timestamp())
        finally:
            recorder.close()
        return bool((found.values > 0).any())

    async def forecast() -> Json | None:
        found = await world.kube.get(TRAFFIC_FORECASTS, "chat", "default")
        status: Json = found.get("status") or {}
        return status if status.get("trusted") and status.get("leadWindows") else None

    async def used() -> bool:
        trace = ((await world.status()).get("scaling") or {}).get("trace") or []
        return any("by the trusted forecast" in step["message"] for step in trace)

    await eventually(recorded, "reading of the operator's demand in the history", 60)
    assert (await eventually(forecast, "trusted forecast", 120))["reason"] == "Skilful"
    await eventually(used, "decision by the forecast", 90)
