"""The embedded API with controllers; tests play the kubelet, or start a process node."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from warmfleet_localcluster.controllers import Controllers
from warmfleet_runtime.clock import ScaledClock
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import NODES, PODS, Resource

Json = dict[str, Any]


async def eventually(check: Callable[[], Any], seconds: float = 5.0) -> Any:
    """The first true result of `check` (plain or async)."""
    async with asyncio.timeout(seconds):
        while True:
            result = check()
            result = await result if inspect.isawaitable(result) else result
            if result:
                return result
            await asyncio.sleep(0.02)


class Cluster:
    """Short ways to make objects and to say what a kubelet would."""

    def __init__(self, client: KubeClient, clock: ScaledClock) -> None:
        self.client, self.clock = client, clock

    async def node(
        self, name: str, *, spec: Json | None = None, labels: Json | None = None, **allocatable: str
    ) -> None:
        offered = {"cpu": "8", "pods": "110", **{k.replace("gpu", "nvidia.com/gpu"): v for k, v in allocatable.items()}}
        await self.client.create(
            NODES,
            {
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
                "spec": spec or {},
            },
        )
        status = {"allocatable": offered, "capacity": offered, "conditions": [{"type": "Ready", "status": "True"}]}
        await self.client.patch(NODES, name, {"status": status}, subresource="status")

    async def pod(self, name: str, *, labels: Json | None = None, gpu: int = 0, **spec: Any) -> Json:
        container = {"name": "main", "image": "x", "resources": {"limits": {"nvidia.com/gpu": str(gpu)}} if gpu else {}}
        metadata = {"name": name, "namespace": "default", "labels": labels or {}}
        return await self.client.create(PODS, {"metadata": metadata, "spec": {"containers": [container], **spec}})

    async def make(self, resource: Resource, name: str, spec: Json) -> Json:
        return await self.client.create(resource, {"metadata": {"name": name, "namespace": "default"}, "spec": spec})

    async def get(self, resource: Resource, name: str) -> Json:
        return await self.client.get(resource, name, "default" if resource.namespaced else None)

    async def pods(self, **labels: str) -> list[Json]:
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        listed = await self.client.list(PODS, "default", labelSelector=selector)
        return list(listed["items"])

    async def ready(self, name: str, ready: bool = True, ip: str = "127.9.0.1") -> None:
        conditions = [{"type": "Ready", "status": str(ready)}]
        status = {"phase": "Running", "podIP": ip, "conditions": conditions}
        await self.client.patch(PODS, name, {"status": status}, "default", subresource="status", how="strategic")

    async def bound(self, name: str) -> str:
        async def node() -> str | None:
            return (await self.get(PODS, name))["spec"].get("nodeName")

        return str(await eventually(node))

    async def refused(self, name: str) -> str:
        """Message of the pod's PodScheduled=False condition, when it is there."""

        async def message() -> str | None:
            conditions = (await self.get(PODS, name))["status"].get("conditions") or []
            return next((c["message"] for c in conditions if c.get("reason") == "Unschedulable"), None)

        return str(await eventually(message))


@pytest.fixture
async def cluster(api_url: str) -> AsyncIterator[Cluster]:
    clock = ScaledClock(10)
    async with KubeClient.for_server(api_url) as client:
        running = asyncio.create_task(Controllers(client, clock).run())
        yield Cluster(client, clock)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
