"""Installs operator, forecaster and the demo's objects, and waits until the way from client to engine is open."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from warmfleet_contracts import labels
from warmfleet_contracts.api import LLMDeployment
from warmfleet_contracts.traces import FloatArray
from warmfleet_forecasting.history import Key
from warmfleet_forecasting.history.recorder import Recorder
from warmfleet_forecasting.series import Series
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import CUSTOM_RESOURCE_DEFINITIONS, INSTANCE_TYPES, LLM_DEPLOYMENTS, PODS

from warmfleet_cli.demo.cluster import Cluster, ClusterError, wait_for
from warmfleet_cli.demo.processes import Child
from warmfleet_cli.demo.sizing import Plan

_RESOURCES = {resource.kind: resource for resource in (INSTANCE_TYPES, LLM_DEPLOYMENTS)}
OPERATOR_ENV = {
    # Logical seconds: a decision every half of a real second, on what four real seconds have shown.
    "WARMFLEET_TICK_SECONDS": "20",
    "WARMFLEET_TELEMETRY_SECONDS": "15",
    "WARMFLEET_RATE_WINDOW_SECONDS": "180",
    "WARMFLEET_MEAN_WINDOW_SECONDS": "1800",
    "WARMFLEET_AGENT_POLL_SECONDS": "15",
    # What networks and this machine's processes need does not shrink with the clock: half a real second, and so on.
    "WARMFLEET_UNROUTE_SECONDS": "30",
    "WARMFLEET_ENGINE_SHUTDOWN_SECONDS": "240",
    "WARMFLEET_AUDIT_SECONDS": "1800",
    "WARMFLEET_CHECKPOINT_SECONDS": "3600",
    "WARMFLEET_STALE_SECONDS": "3600",
    "WARMFLEET_LISTEN_ADDRESS": "127.0.0.1",
    "WARMFLEET_LEASE_NAMESPACE": "default",
}
FORECASTER_ENV = {
    # A fit is a second of this machine's two cores: one for each fleet every quarter of a minute is enough.
    "WARMFLEET_REFIT_SECONDS": "1200",
    "WARMFLEET_VALID_SECONDS": "3600",
    "WARMFLEET_SCRAPE_SECONDS": "20",
    "WARMFLEET_STALE_SECONDS": "3600",
    "WARMFLEET_LISTEN_ADDRESS": "127.0.0.1",
    "WARMFLEET_LISTEN_PORT": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Installation:
    """The operator and the forecaster, as processes beside the cluster, and the demo's objects.

    Args:
        cluster: A cluster that has started.
        plan: The objects.
        folder: For logs and the forecaster's history.
        env: Environment: the clock.
        crds: Folder of the CustomResourceDefinitions.
    """

    def __init__(self, cluster: Cluster, plan: Plan, *, folder: Path, env: Mapping[str, str], crds: Path) -> None:
        self._cluster, self._plan, self._folder, self._env, self._crds = cluster, plan, folder, env, crds
        self._own: list[Child] = []
        self._metrics = ""
        self._history = folder / "history.sqlite"
        for file in folder.glob(f"{self._history.name}*"):
            file.unlink()

    async def start(self, kube: KubeClient, past: FloatArray, until: float) -> dict[str, str]:
        """Installs everything; returns the URL of each fleet's OpenAI endpoint, once one serves.

        Args:
            kube: The cluster's API.
            past: See :meth:`remember`.
            until: Likewise.

        Raises:
            ClusterError: Something does not come up.
        """
        for file in sorted(self._crds.glob("*.yaml")):
            body = yaml.safe_load(file.read_text(encoding="utf-8"))
            await kube.patch(
                CUSTOM_RESOURCE_DEFINITIONS,
                body["metadata"]["name"],
                body,
                how="apply",
                fieldManager="warmfleet-demo",
                force="true",
            )
        await self._until("the API to serve the resources", lambda: self._served(kube), seconds=15)
        for body in self._plan.manifests:
            await self._apply(kube, body)
        port = free_port()
        self._metrics = f"http://127.0.0.1:{port}/metrics"
        self._run("operator", "warmfleet_operator", {**OPERATOR_ENV, "WARMFLEET_LISTEN_PORT": str(port)})
        self.remember(past, until)
        known = {"WARMFLEET_DATABASE_PATH": str(self._history), "WARMFLEET_OPERATOR_URL": self._metrics}
        self._run("forecaster", "warmfleet_forecasting", {**FORECASTER_ENV, **known})
        await self._until("the first workers and the routers", lambda: self._ready(kube), seconds=90)
        return {d.metadata.name: await router_url(kube, d) for d in self._plan.deployments}

    def remember(self, past: FloatArray, until: float) -> None:
        """Gives the forecaster's recorder a past that both fleets share, whatever it has of these minutes.

        Args:
            past: Requests per second in each minute, the last one ending at ``until``, NaN where unknown, shape (n,).
            until: Logical seconds since the epoch, a whole minute.
        """
        recorder = Recorder(str(self._history), retention_s=35 * 86_400.0)
        series = Series(until - len(past) * 60.0, 60.0, past)
        for deployment in self._plan.deployments:
            key = Key(deployment.metadata.namespace, deployment.metadata.name)
            recorder.fill(key, series, replace=True)
        recorder.close()

    def _run(self, name: str, module: str, settings: Mapping[str, str]) -> None:
        env = {**self._env, **settings, "KUBECONFIG": str(self._cluster.kubeconfig)}
        self._own.append(Child(name, [sys.executable, "-m", module], env=env, folder=self._folder))

    async def stop(self) -> None:
        """Ends operator and forecaster."""
        await asyncio.gather(*(child.stop(grace=5) for child in self._own))

    @property
    def children(self) -> list[Child]:
        """All processes, for their logs."""
        return [*self._cluster.children, *self._own]

    async def _until(self, what: str, ready: Callable[[], Awaitable[bool]], *, seconds: float) -> None:
        await wait_for(what, ready, self.children, seconds=seconds)

    async def _served(self, kube: KubeClient) -> bool:
        for resource in _RESOURCES.values():
            await kube.list(resource)
        return True

    async def _apply(self, kube: KubeClient, body: dict[str, Any]) -> None:
        metadata = body["metadata"]
        await kube.patch(
            _RESOURCES[body["kind"]],
            metadata["name"],
            body,
            metadata.get("namespace"),
            how="apply",
            fieldManager="warmfleet-demo",
            force="true",
        )

    async def _ready(self, kube: KubeClient) -> bool:
        for deployment in self._plan.deployments:
            metadata = deployment.metadata
            found = await kube.get(LLM_DEPLOYMENTS, metadata.name, metadata.namespace)
            conditions = (found.get("status") or {}).get("conditions") or []
            if not any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                return False
            if not await router_url(kube, deployment):
                return False
        return True


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def router_url(kube: KubeClient, deployment: LLMDeployment) -> str:
    """URL of a ready router pod, which this machine can reach; empty while there is none."""
    metadata = deployment.metadata
    selector = f"{labels.DEPLOYMENT}={metadata.name},{labels.COMPONENT}={labels.COMPONENT_ROUTER}"
    for pod in (await kube.list(PODS, metadata.namespace, labelSelector=selector))["items"]:
        status = pod.get("status") or {}
        conditions = status.get("conditions") or []
        if status.get("podIP") and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
            return f"http://{status['podIP']}:{labels.ROUTER_PORT}"
    return ""


def default_crds() -> Path:
    """The folder of the CustomResourceDefinitions in a checkout.

    Raises:
        ClusterError: This is no checkout.
    """
    named = os.environ.get("WARMFLEET_CRDS")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "crds"
    if not any(folder.glob("*.yaml")):
        raise ClusterError(f"no CustomResourceDefinitions in {folder}; run from a checkout or set WARMFLEET_CRDS")
    return folder
