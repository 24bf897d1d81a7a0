"""A whole world for scenario tests: a cluster, a process node, the operator as a real process, clients.

The cluster is the embedded API or, with ``WARMFLEET_CLUSTER=controlplane``, a real control plane in the network
namespace that ``tests/controlplane/in_netns.py`` makes. The scenarios do not know which. Pods are local processes on
both: the real agent, the simulated engine and the real vllm-router.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from clients import kubectl_path
from warmfleet_cli.demo.processes import Child
from warmfleet_contracts import labels
from warmfleet_localcluster.__main__ import ProbeClock
from warmfleet_localcluster.api import EmbeddedApi, serve, server_url, write_kubeconfig
from warmfleet_localcluster.controllers import Controllers
from warmfleet_localcluster.node import ImageEntry, ImageMap, NodeShape, ProcessNode, Settings
from warmfleet_runtime.clock import ScaledClock
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import (
    CUSTOM_RESOURCE_DEFINITIONS,
    INSTANCE_TYPES,
    LLM_DEPLOYMENTS,
    NAMESPACES,
    PODS,
    TRAFFIC_FORECASTS,
)
from warmfleet_runtime.rest import ApiError

ROOT = Path(__file__).resolve().parents[2]
_APPLIED = (CUSTOM_RESOURCE_DEFINITIONS, LLM_DEPLOYMENTS, INSTANCE_TYPES, TRAFFIC_FORECASTS, NAMESPACES)
RESOURCES = {resource.kind: resource for resource in _APPLIED}
MANAGER = "scenario"
SCALE = 20.0
"""Logical seconds per real second."""
PROBE_SCALE = 4.0
"""The same for probes: a process needs its real second to start, on a busy machine three."""
PATIENT = Settings(min_probe_period=0.25, min_probe_timeout=2.0)
ENGINE_IMAGE = "vllm/vllm-openai:v0.32.0"
POOL = "warmfleet.test/pool"

Json = dict[str, Any]

OPERATOR_ENV = {
    "WARMFLEET_TICK_SECONDS": "5",
    "WARMFLEET_TELEMETRY_SECONDS": "5",
    "WARMFLEET_RATE_WINDOW_SECONDS": "40",
    "WARMFLEET_MEAN_WINDOW_SECONDS": "200",
    "WARMFLEET_AGENT_POLL_SECONDS": "4",
    "WARMFLEET_UNROUTE_SECONDS": "20",
    "WARMFLEET_ENGINE_SHUTDOWN_SECONDS": "120",
    "WARMFLEET_AUDIT_SECONDS": "200",
    "WARMFLEET_STALE_SECONDS": "1200",
    "WARMFLEET_LISTEN_ADDRESS": "127.0.0.1",
    "WARMFLEET_LISTEN_PORT": "0",
    "WARMFLEET_LEASE_NAMESPACE": "default",
    "WARMFLEET_LEASE_DURATION_SECONDS": "3",
    "WARMFLEET_LEASE_RETRY_SECONDS": "0.5",
}


T = TypeVar("T")


async def eventually(check: Callable[[], Awaitable[T]], what: str, seconds: float = 20.0) -> T:
    """What ``check`` returns as soon as it is truthy; fails the test with ``what`` after ``seconds`` real seconds."""
    last: object = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    last = await check()
                except ApiError as error:
                    last = error
                else:
                    if last:
                        return last
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"after {seconds:g} s there was still no {what}; last: {last}")


def instance_type(name: str = "h100", *, accelerator: str = "H100-SXM", count: int = 1, **spec: Any) -> Json:
    """An InstanceType whose nodes the world has (``count`` accelerators each)."""
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "InstanceType",
        "metadata": {"name": name},
        "spec": {
            "accelerator": {"name": accelerator, "count": count},
            "nodeSelector": {POOL: name},
            "price": {"onDemand": 6.88},
            "startup": {"p50": "30s", "p90": "60s"},
            **spec,
        },
    }


def deployment(name: str = "chat", *, namespace: str = "default", **spec: Any) -> Json:
    """An LLMDeployment of one variant on ``h100``; ``spec`` replaces whole blocks."""
    base: Json = {
        "model": {
            "name": "meta-llama/Llama-3.1-8B-Instruct",
            "source": {"hf": {"repo": "meta-llama/x"}},
            "maxModelLen": 16384,
        },
        "engine": {"image": ENGINE_IMAGE},
        "variants": [{"name": "a", "instanceType": "h100"}],
        "slo": {"ttft": "2s", "tpot": "50ms", "attainment": 0.99},
        "kvCache": {"drainDeadline": "2m"},
    }
    if "replicas" not in spec:
        base["scaling"] = {"min": 1, "max": 4}
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**base, **spec},
    }


@dataclass
class World:
    """Everything a scenario touches.

    Attributes:
        kube: Connection to the API as an administrator.
        node: Runs the pods.
        images: What runs for an image; scenarios may change it.
        clock: The clock that all processes share.
        kubeconfig: For kubectl and the operator.
        folder: Logs.
        api: The embedded API, for its counters and faults; None on a real control plane.
    """

    kube: KubeClient
    node: ProcessNode
    images: ImageMap
    clock: ScaledClock
    kubeconfig: Path
    folder: Path
    api: EmbeddedApi | None
    operators: list[Child] = field(default_factory=list)

    # What a user does

    async def apply(self, *bodies: Json) -> None:
        """Server-side apply, as ``kubectl apply --server-side``."""
        for body in bodies:
            meta = body["metadata"]
            await self.kube.patch(
                RESOURCES[body["kind"]],
                meta["name"],
                body,
                meta.get("namespace"),
                how="apply",
                fieldManager=MANAGER,
                force="true",
            )

    async def kubectl(self, *arguments: str, check: bool = True) -> str:
        """Output of the real kubectl."""
        process = await asyncio.create_subprocess_exec(
            kubectl_path(),
            *arguments,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 60)
        text = output.decode()
        if check and process.returncode:
            pytest.fail(f"kubectl {' '.join(arguments)}: {text}")
        return text

    async def start_operator(self, **env: str) -> Child:
        """The operator as a process; several may run."""
        name = f"operator-{len(self.operators)}"
        child = Child(
            name,
            [sys.executable, "-m", "warmfleet_operator"],
            env={
                **OPERATOR_ENV,
                "KUBECONFIG": str(self.kubeconfig),
                "WARMFLEET_IDENTITY": name,
                **env,
            },
            folder=self.folder,
        )
        self.operators.append(child)
        return child

    # What is there

    async def get(self, name: str = "chat", namespace: str = "default") -> Json:
        """The LLMDeployment."""
        return await self.kube.get(LLM_DEPLOYMENTS, name, namespace)

    async def status(self, name: str = "chat", namespace: str = "default") -> Json:
        """Its status."""
        return (await self.get(name, namespace)).get("status") or {}

    async def condition(self, kind: str, name: str = "chat", namespace: str = "default") -> Json:
        """One condition, ``{}`` when it is not there."""
        conditions = (await self.status(name, namespace)).get("conditions") or []
        return next((c for c in conditions if c["type"] == kind), {})

    async def workers(self, name: str = "chat", namespace: str = "default") -> list[Json]:
        """Its worker pods."""
        selector = f"{labels.DEPLOYMENT}={name},{labels.COMPONENT}={labels.COMPONENT_WORKER}"
        return list((await self.kube.list(PODS, namespace, labelSelector=selector))["items"])

    async def ready_workers(self, name: str = "chat", namespace: str = "default") -> list[Json]:
        """Its worker pods that are ready and stay."""
        pods = await self.workers(name, namespace)
        return [pod for pod in pods if is_ready(pod) and not pod["metadata"].get("deletionTimestamp")]

    async def endpoint(self, name: str = "chat", namespace: str = "default") -> str:
        """URL of a ready router pod, empty while there is none."""
        selector = f"{labels.DEPLOYMENT}={name},{labels.COMPONENT}={labels.COMPONENT_ROUTER}"
        pods = (await self.kube.list(PODS, namespace, labelSelector=selector))["items"]
        return next((f"http://{pod['status']['podIP']}:{labels.ROUTER_PORT}" for pod in pods if is_ready(pod)), "")

    # What one waits for

    async def until_condition(
        self,
        kind: str,
        status: str,
        reason: str | None = None,
        *,
        name: str = "chat",
        namespace: str = "default",
        seconds: float = 25.0,
    ) -> Json:
        """A condition as soon as it has the status (and reason)."""

        async def check() -> Json | None:
            found = await self.condition(kind, name, namespace)
            ok = found.get("status") == status and reason in (None, found.get("reason"))
            return found if ok else None

        try:
            return await eventually(check, f"{kind}={status} {reason or ''}", seconds)
        except BaseException:
            print(yaml.safe_dump(await self.status(name, namespace)))
            raise

    async def until_ready(
        self, count: int, *, name: str = "chat", namespace: str = "default", seconds: float = 40.0
    ) -> list[Json]:
        """The ready workers as soon as there are exactly ``count``, and the router."""

        async def check() -> list[Json] | None:
            pods = await self.ready_workers(name, namespace)
            return pods if len(pods) == count else None

        return await eventually(check, f"{count} ready workers", seconds)

    async def until_endpoint(self, *, name: str = "chat", namespace: str = "default", seconds: float = 40.0) -> str:
        """The router's URL as soon as it is ready."""

        async def check() -> str:
            return await self.endpoint(name, namespace)

        return await eventually(check, "ready router", seconds)

    async def until_gone(self, *, name: str = "chat", namespace: str = "default", seconds: float = 40.0) -> None:
        """Returns when neither the LLMDeployment nor any pod of it is left."""

        async def check() -> bool:
            try:
                await self.get(name, namespace)
            except ApiError as error:
                if error.status != 404:
                    raise
            else:
                return False
            return not (await self.kube.list(PODS, namespace, labelSelector=f"{labels.DEPLOYMENT}={name}"))["items"]

        await eventually(check, f"end of {namespace}/{name}", seconds)


def is_ready(pod: Json) -> bool:
    """Whether the pod's Ready condition is True."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def images() -> ImageMap:
    """The product's images as local programs."""
    engine = {
        "WARMFLEET_SIM_ACCELERATOR": "H100-SXM",
        "WARMFLEET_SIM_PROFILE": "llama-3.1-8b",
        "WARMFLEET_SIM_STARTUP_SECONDS": "5",
    }
    return ImageMap(
        {
            ENGINE_IMAGE: ImageEntry(
                [sys.executable, "-m", "warmfleet_worker.engines.simulated"], env=engine, entry_only=True
            ),
            "ghcr.io/warmfleet/agent:*": ImageEntry([sys.executable, "-m", "warmfleet_worker"], entry_only=True),
            "ghcr.io/warmfleet/router:*": ImageEntry(
                [str(Path(sys.executable).parent / "vllm-router")], entry_only=True
            ),
        }
    )


def shapes() -> list[NodeShape]:
    """Nodes: four with one accelerator in each of two pools, and one without."""
    gpu = {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "1"}
    return [
        NodeShape("cpu", allocatable={"cpu": "64", "memory": "512Gi"}),
        NodeShape("h100", labels={POOL: "h100"}, allocatable=gpu, count=4),
        NodeShape("l40s", labels={POOL: "l40s"}, allocatable=gpu, count=4),
    ]


async def install_crds(kube: KubeClient) -> None:
    """Applies the checked-in CRDs and waits until they are served."""
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
        await kube.patch(
            CUSTOM_RESOURCE_DEFINITIONS, body["metadata"]["name"], body, how="apply", fieldManager=MANAGER, force="true"
        )

    async def served() -> bool:
        for resource in (LLM_DEPLOYMENTS, INSTANCE_TYPES, TRAFFIC_FORECASTS):
            await kube.list(resource)
        return True

    await eventually(served, "served CRDs")


@asynccontextmanager
async def embedded(folder: Path, clock: ScaledClock) -> AsyncIterator[World]:
    """A world on the embedded API."""
    api = EmbeddedApi(clock=clock)
    runner = await serve(api, "127.0.0.1", 0)
    kubeconfig = write_kubeconfig(folder / "kubeconfig", server_url(runner))
    try:
        async with KubeClient.for_server(server_url(runner)) as kube:
            controllers = asyncio.create_task(Controllers(kube, clock).run())
            try:
                table = images()
                async with ProcessNode(kube, ProbeClock(clock, PROBE_SCALE), shapes(), table, settings=PATIENT) as node:
                    world = World(kube, node, table, clock, kubeconfig, folder, api)
                    await install_crds(kube)
                    yield world
                    await end(world)
            finally:
                controllers.cancel()
                await asyncio.gather(controllers, return_exceptions=True)
    finally:
        await runner.cleanup()


async def end(world: World) -> None:
    """Ends the operators."""
    for child in world.operators:
        with contextlib.suppress(ProcessLookupError):
            await child.stop(grace=6)
