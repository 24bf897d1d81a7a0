"""A served embedded API and an HTTP client for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from warmfleet_localcluster.api import EmbeddedApi, serve, server_url

JSON = dict[str, Any]
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
PODS = "/api/v1/namespaces/default/pods"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
WIDGETS = "/apis/example.dev/v1/namespaces/default/widgets"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Client:
    """Sends JSON requests and asserts nothing: every answer is (code, body)."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def call(self, method: str, path: str, body: Any = None, media: str = "application/json") -> tuple[int, JSON]:
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": media}
        async with self.session.request(method, self.url + path, data=data, headers=headers) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> tuple[int, JSON]:
        return await self.call("GET", path)

    async def post(self, path: str, body: Any) -> tuple[int, JSON]:
        return await self.call("POST", path, body)

    async def put(self, path: str, body: Any) -> tuple[int, JSON]:
        return await self.call("PUT", path, body)

    async def patch(self, path: str, body: Any, media: str = MERGE) -> tuple[int, JSON]:
        return await self.call("PATCH", path, body, media)

    async def delete(self, path: str, body: Any = None) -> tuple[int, JSON]:
        return await self.call("DELETE", path, body)

    async def made(self, path: str, body: Any) -> JSON:
        code, item = await self.post(path, body)
        assert code == 201, item
        return item

    async def gone(self, path: str) -> bool:
        """Whether the object disappears within a second (background work runs on the next turns of the loop)."""
        for _ in range(50):
            if (await self.get(path))[0] == 404:
                return True
            await asyncio.sleep(0.02)
        return False

    @asynccontextmanager
    async def watching(self, path: str) -> AsyncIterator[Callable[[], Any]]:
        """Open a watch and yield a coroutine function that returns the next event."""
        async with self.session.get(self.url + path) as response:
            assert response.status == 200, await response.text()

            async def following() -> JSON | None:
                line = await asyncio.wait_for(response.content.readline(), 3)
                return json.loads(line) if line else None

            yield following


@pytest.fixture
def api() -> EmbeddedApi:
    return EmbeddedApi()


@pytest.fixture
async def client(api: EmbeddedApi) -> AsyncIterator[Client]:
    runner = await serve(api)
    async with aiohttp.ClientSession(headers={"User-Agent": "tests/1"}) as session:
        yield Client(session, server_url(runner))
    await runner.cleanup()


@pytest.fixture
def pod() -> Callable[..., JSON]:
    def build(name: str, *, node: str | None = None, **meta: Any) -> JSON:
        spec: JSON = {"containers": [{"name": "main", "image": "engine:1"}]}
        if node:
            spec["nodeName"] = node
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **meta}, "spec": spec}

    return build


@pytest.fixture
def config_map() -> Callable[..., JSON]:
    def build(name: str, data: dict[str, str] | None = None, **meta: Any) -> JSON:
        meta = {**({"name": name} if name else {}), **meta}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data or {}}

    return build


def widget_schema() -> JSON:
    rule = "x-kubernetes-validations"
    scaling = {
        "type": "object",
        "properties": {"min": {"type": "integer", "default": 1}, "max": {"type": "integer"}},
        rule: [{"rule": "self.min <= self.max", "message": "min must not exceed max"}],
    }
    part = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "weight": {"type": "integer"}, "note": {"type": "string"}},
    }
    keyed = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    spec = {
        "type": "object",
        "description": "What is wanted.",
        "required": ["size"],
        rule: [
            {
                "rule": "!(has(self.replicas) && has(self.scaling))",
                "message": "replicas and scaling exclude each other",
            },
            {"rule": "self.size == oldSelf.size", "message": "size is immutable"},
        ],
        "properties": {
            "size": {"type": "string", "enum": ["small", "large"]},
            "replicas": {"type": "integer", "minimum": 0},
            "colour": {"type": "string", "default": "red"},
            "memory": {
                "type": "string",
                rule: [{"rule": "quantity(self).isGreaterThan(quantity('1Gi'))", "message": "needs over 1Gi"}],
            },
            "scaling": scaling,
            "parts": {"type": "array", "maxItems": 3, "items": part, **keyed},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            "port": {"x-kubernetes-int-or-string": True},
        },
    }
    status = {
        "type": "object",
        "default": {"observedGeneration": -1},
        "properties": {"observedGeneration": {"type": "integer"}, "phase": {"type": "string"}},
    }
    return {"type": "object", "required": ["metadata", "spec"], "properties": {"spec": spec, "status": status}}


def widget_crd(schema: JSON | None = None) -> JSON:
    columns = [
        {"name": "Size", "type": "string", "jsonPath": ".spec.size"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}, "scale": scale},
        "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": schema or widget_schema()},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.dev"},
        "spec": {
            "group": "example.dev",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [version],
        },
    }


def widget(name: str, **spec: Any) -> JSON:
    return {
        "apiVersion": "example.dev/v1",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"size": "small", **spec},
    }


@pytest.fixture
def make_widget() -> Callable[..., JSON]:
    return widget


@pytest.fixture
def make_crd() -> Callable[..., JSON]:
    return widget_crd


@pytest.fixture
async def widgets(client: Client) -> Client:
    """The client, with the Widget kind being served."""
    await client.made(CRDS, widget_crd())
    return client
