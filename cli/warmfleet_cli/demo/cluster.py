"""Brings up the cluster and the operator, waits until the whole way from client to engine is open, and ends it all."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import yaml
from warmfleet_contracts import labels
from warmfleet_runtime.kubeclient import NODES, PODS, ApiError, KubeClient, Resource

from warmfleet_cli.demo.processes import Child
from warmfleet_cli.demo.sizing import Plan

_LOG = logging.getLogger(__name__)
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False)
_NOT_YET = (OSError, TimeoutError, aiohttp.ClientError, ApiError)
_RESOURCES = {
    "InstanceType": Resource("warmfleet.dev/v1alpha1", "instancetypes", namespaced=False),
    "LLMDeployment": Resource("warmfleet.dev/v1alpha1", "llmdeployments"),
}
OPERATOR_ENV = {
    # Logical seconds: a decision every quarter of a real second, on what three real seconds have shown.
    "WARMFLEET_TICK_SECONDS": "15",
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
    "WARMFLEET_LISTEN_PORT": "0",
    "WARMFLEET_LEASE_NAMESPACE": "default",
}

ENGINE_ENV = {
    "WARMFLEET_SIM_STARTUP_SECONDS": "60",
    # A chunk every 0.25 real seconds: one event per token would be a thousand a second per stream at this pace.
    "WARMFLEET_SIM_STREAM_INTERVAL_SECONDS": "15",
}

PROBE_SCALE = 3.0
"""Logical seconds of a probe per real second: a container that has a minute to start has twenty real seconds."""


class ClusterError(Exception):
    """The cluster or something in it did not come up; the message ends with the logs' last lines."""


class Cluster(Protocol):
    """A Kubernetes cluster whose pods run the demo's images."""

    @property
    def kubeconfig(self) -> Path:
        """The file ``kubectl`` needs."""

    @property
    def children(self) -> list[Child]:
        """Its processes, for their logs."""

    async def start(self) -> None:
        """Returns when the API answers and the nodes are there.

        Raises:
            ClusterError: It does not come up.
        """

    async def stop(self) -> None:
        """Ends everything that runs in it, and itself."""


class EmbeddedCluster:
    """The cluster of ``warmfleet_localcluster`` in a process of its own.

    Args:
        plan: What will be installed: decides the nodes and the engines' speed.
        folder: For its logs and its kubeconfig.
        env: Environment that all of it shares: the clock.
    """

    def __init__(self, plan: Plan, *, folder: Path, env: Mapping[str, str]) -> None:
        self.kubeconfig = folder / "kubeconfig"
        self.children: list[Child] = []
        self._plan, self._folder, self._env = plan, folder, env

    async def start(self) -> None:
        """Returns when the API answers and the nodes are there."""
        self.kubeconfig.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "warmfleet_localcluster", "--kubeconfig", str(self.kubeconfig)]
        argv += node_arguments(self._plan)
        self.children.append(Child("cluster", argv, env=self._env, folder=self._folder))
        await wait_for("the cluster", self._there, self.children, seconds=30)

    async def stop(self) -> None:
        """Ends everything that runs in it, and itself."""
        for child in self.children:
            await child.stop(grace=10)

    async def _there(self) -> bool:
        return self.kubeconfig.exists() and await nodes_there(self.kubeconfig, self._plan)


def node_arguments(plan: Plan) -> list[str]:
    """Arguments of ``warmfleet-localcluster``: the nodes that ``plan`` fills and what runs for its images."""
    spec = plan.instance_type.spec
    selector = "".join(f",{key}={value}" for key, value in sorted(spec.node_selector.items()))
    shapes = ["cpu=1x0", f"{plan.instance_type.metadata.name}={plan.max_workers}x{spec.accelerator.count}{selector}"]
    engine = {
        "WARMFLEET_SIM_ACCELERATOR": spec.accelerator.name,
        "WARMFLEET_SIM_PROFILE": plan.profile.model,
        **ENGINE_ENV,
    }
    settings = " ".join(f"{key}={value}" for key, value in engine.items())
    images = {
        "vllm/vllm-openai:*": f"env {settings} warmfleet-simulated-engine",
        "ghcr.io/warmfleet/agent:*": "warmfleet-agent",
        "ghcr.io/warmfleet/router:*": "vllm-router",
    }
    argv = ["--probe-scale", f"{PROBE_SCALE:g}"]
    for shape in shapes:
        argv += ["--nodes", shape]
    for pattern, command in images.items():
        argv += ["--image", f"{pattern}={command}"]
    return argv


async def nodes_there(kubeconfig: Path, plan: Plan) -> bool:
    """Whether all nodes of :func:`node_arguments` are registered."""
    async with await KubeClient.from_kubeconfig(kubeconfig) as kube:
        nodes = await kube.list(NODES)
    return len(nodes["items"]) == 1 + plan.max_workers


class Installation:
    """The operator, as a process beside the cluster, and the demo's objects.

    Args:
        cluster: A cluster that has started.
        plan: The objects.
        folder: For the operator's log.
        env: Environment: the clock.
        crds: Folder of the CustomResourceDefinitions.
    """

    def __init__(self, cluster: Cluster, plan: Plan, *, folder: Path, env: Mapping[str, str], crds: Path) -> None:
        self._cluster, self._plan, self._folder, self._env, self._crds = cluster, plan, folder, env, crds
        self._operator: Child | None = None

    async def start(self, kube: KubeClient) -> str:
        """Installs everything; returns the URL of the OpenAI endpoint once a worker serves behind it.

        Raises:
            ClusterError: Something does not come up.
        """
        for file in sorted(self._crds.glob("*.yaml")):
            body = yaml.safe_load(file.read_text(encoding="utf-8"))
            await kube.patch(
                CRDS, body["metadata"]["name"], body, how="apply", fieldManager="warmfleet-demo", force="true"
            )
        await self._until("the API to serve the resources", lambda: self._served(kube), seconds=15)
        for body in self._plan.manifests:
            await self._apply(kube, body)
        env = {**self._env, **OPERATOR_ENV, "KUBECONFIG": str(self._cluster.kubeconfig)}
        self._operator = Child("operator", [sys.executable, "-m", "warmfleet_operator"], env=env, folder=self._folder)
        await self._until("the first workers and the router", lambda: self._ready(kube), seconds=90)
        return await router_url(kube, self._plan)

    async def stop(self) -> None:
        """Ends the operator."""
        if self._operator is not None:
            await self._operator.stop(grace=5)

    @property
    def children(self) -> list[Child]:
        """All processes, for their logs."""
        return [*self._cluster.children, *([self._operator] if self._operator else [])]

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
        metadata = self._plan.deployment.metadata
        found = await kube.get(_RESOURCES["LLMDeployment"], metadata.name, metadata.namespace)
        conditions = (found.get("status") or {}).get("conditions") or []
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        return ready and bool(await router_url(kube, self._plan))


async def router_url(kube: KubeClient, plan: Plan) -> str:
    """URL of a ready router pod, which this machine can reach; empty while there is none."""
    metadata = plan.deployment.metadata
    selector = f"{labels.DEPLOYMENT}={metadata.name},{labels.COMPONENT}={labels.COMPONENT_ROUTER}"
    for pod in (await kube.list(PODS, metadata.namespace, labelSelector=selector))["items"]:
        status = pod.get("status") or {}
        conditions = status.get("conditions") or []
        if status.get("podIP") and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
            return f"http://{status['podIP']}:{labels.ROUTER_PORT}"
    return ""


async def wait_for(what: str, ready: Callable[[], Awaitable[bool]], children: list[Child], *, seconds: float) -> None:
    """Asks until ``ready`` says yes.

    Args:
        what: For the message.
        ready: May raise what an API that is not there yet raises.
        children: Processes without which it never becomes ready; their logs end the message.
        seconds: Real seconds to wait.

    Raises:
        ClusterError: It took too long, or a process ended.
    """
    deadline, last = time.monotonic() + seconds, ""
    while True:
        try:
            if await ready():
                return
        except _NOT_YET as error:
            last = f" ({error!r})"
        ended = [child for child in children if child.exit_code() is not None]
        if ended or time.monotonic() > deadline:
            why = (
                f"{ended[0].name} ended with code {ended[0].exit_code()}"
                if ended
                else f"not within {seconds:g} s{last}"
            )
            tails = "\n".join(child.tail() for child in (ended or children))
            raise ClusterError(f"waiting for {what}: {why}\n{tails}")
        await asyncio.sleep(0.1)


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
