"""A cluster for commands that talk to one: the embedded API in a thread, with a kubeconfig."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from warmfleet_localcluster.api import EmbeddedApi, serve, server_url
from warmfleet_localcluster.api.kubeconfig import write_kubeconfig
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import CUSTOM_RESOURCE_DEFINITIONS, Resource

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Cluster:
    """The cluster, and what its containers have logged."""

    url: str
    kubeconfig: Path
    logs: dict[str, str]

    def arguments(self, *words: str) -> list[str]:
        return [*words, "--kubeconfig", str(self.kubeconfig)]

    def put(self, resource: Resource, body: dict[str, Any]) -> dict[str, Any]:
        status = body.get("status")

        async def work() -> dict[str, Any]:
            async with KubeClient.for_server(self.url) as client:
                made = await client.create(resource, body)
                if status is None:
                    return made
                meta = body["metadata"]
                patch = {"status": status}
                where = meta.get("namespace")
                return await client.patch(resource, meta["name"], patch, where, subresource="status")

        return asyncio.run(work())

    def get(self, resource: Resource, name: str, namespace: str | None = "default") -> dict[str, Any]:
        async def work() -> dict[str, Any]:
            async with KubeClient.for_server(self.url) as client:
                return await client.get(resource, name, namespace)

        return asyncio.run(work())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    logs: dict[str, str] = {}
    started, stop, found = threading.Event(), threading.Event(), []

    async def read_log(namespace: str, name: str, request: web.Request) -> web.Response:
        which = request.query.get("container", "") + ("-previous" if request.query.get("previous") else "")
        return web.Response(text=logs.get(which, ""))

    async def run() -> None:
        runner = await serve(EmbeddedApi(), log_reader=read_log)
        found.append(server_url(runner))
        started.set()
        await asyncio.to_thread(stop.wait)
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert started.wait(60)
    kubeconfig = write_kubeconfig(tmp_path_factory.mktemp("cluster") / "config", found[0])
    made = Cluster(found[0], kubeconfig, logs)
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        made.put(CUSTOM_RESOURCE_DEFINITIONS, yaml.safe_load(path.read_text(encoding="utf-8")))
    yield made
    stop.set()
    thread.join(60)
