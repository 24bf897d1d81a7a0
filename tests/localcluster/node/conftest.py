"""A cluster of the embedded API and one process node, and short ways to ask it things."""

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from warmfleet_localcluster.node import ImageEntry, ImageMap, NodeShape, ProcessNode, Settings
from warmfleet_runtime.clock import ScaledClock
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import PODS
from warmfleet_runtime.rest import ApiError

Json = dict[str, Any]
FAST = Settings(min_stop_window=0.3, min_probe_period=0.05)


async def eventually(check: Callable[[], Any], seconds: float = 5.0) -> None:
    """Return as soon as `check` (plain or async) gives something true."""
    async with asyncio.timeout(seconds):
        while True:
            result = check()
            if await result if inspect.isawaitable(result) else result:
                return
            await asyncio.sleep(0.02)


class Cluster:
    """Pods go straight to node `gpu-0`; `python` runs the container's args as a script."""

    def __init__(self, client: KubeClient, node: ProcessNode, clock: ScaledClock, images: ImageMap) -> None:
        self.client, self.node, self.clock, self.images = client, node, clock, images

    async def run(self, name: str, *containers: Json, **spec: Any) -> Json:
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", **spec.pop("metadata", {})},
            "spec": {"nodeName": "gpu-0", "containers": list(containers), **spec},
        }
        return await self.client.create(PODS, body)

    async def pod(self, name: str) -> Json | None:
        try:
            return await self.client.get(PODS, name, "default")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def until(self, name: str, check: Callable[[Json], Any], seconds: float = 8.0) -> Json:
        """The pod as soon as `check` holds for it."""
        seen: list[Json | None] = [None]

        async def holds() -> bool:
            seen[0] = await self.pod(name)
            return seen[0] is not None and bool(check(seen[0]))

        try:
            await eventually(holds, seconds)
        except TimeoutError:
            pytest.fail(f"it never held; last seen: {seen[0] and seen[0]['status']}\n{self.output(name)}")
        assert seen[0] is not None
        return seen[0]

    async def gone(self, name: str, seconds: float = 8.0) -> None:
        async def absent() -> bool:
            return await self.pod(name) is None

        await eventually(absent, seconds)

    async def said(self, name: str, container: str, text: str, seconds: float = 8.0) -> str:
        """A container's output as soon as `text` is in it."""
        await eventually(lambda: text in self.output(name, container), seconds)
        return self.output(name, container)

    def output(self, name: str, container: str = "main") -> str:
        """A container's output, empty before the node knows it."""
        try:
            return self.node.logs("default", name, container)
        except KeyError:
            return ""

    async def delete(self, name: str, **options: Any) -> None:
        await self.client.delete(PODS, name, "default", **options)


def python(code: str, *, name: str = "main", **more: Any) -> Json:
    """A container that runs a Python script."""
    return {"name": name, "image": "python:3", "args": [code], **more}


def sleeper(name: str = "main", **more: Any) -> Json:
    """A container that runs until SIGTERM and says both."""
    code = (
        "import signal,sys,time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (print('{name} term', time.monotonic(), flush=True), sys.exit(0)))\n"
        f"print('{name} up', time.monotonic(), flush=True)\n"
        "while True: signal.pause()"
    )
    return python(code, name=name, **more)


def condition(pod: Json, kind: str) -> str | None:
    """Status of one of the pod's conditions."""
    return next((c["status"] for c in pod["status"].get("conditions") or [] if c["type"] == kind), None)


def is_ready(pod: Json) -> bool:
    return condition(pod, "Ready") == "True"


def container(pod: Json, name: str = "main") -> Json:
    """Status of one container."""
    statuses = pod["status"].get("containerStatuses", []) + pod["status"].get("initContainerStatuses", [])
    return next((s for s in statuses if s["name"] == name), {"state": {}, "lastState": {}})


@pytest.fixture
async def cluster(api_url: str) -> AsyncIterator[Cluster]:
    clock = ScaledClock(10)
    images = ImageMap({"python:*": ImageEntry([sys.executable, "-S", "-c"])})
    async with KubeClient.for_server(api_url) as client:
        shape = NodeShape(
            "gpu", labels={"gpu": "l4"}, allocatable={"nvidia.com/gpu": "1"}, env={"DEVICE": "L4", "HOSTNAME": "no"}
        )
        async with ProcessNode(client, clock, [shape], images, settings=FAST) as node:
            yield Cluster(client, node, clock, images)
