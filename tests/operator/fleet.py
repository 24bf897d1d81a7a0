"""A cluster for the operator's tests: the embedded API, a node that runs nothing, agents and a router made of aiohttp.

The fake kubelet gives each worker pod an address of its own, starts an agent there and plays the pod's life: scheduled,
started, ready; on deletion it lets the agent drain as the engine's preStop would, then removes the pod.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from addresses import close, listen
from aiohttp import web
from kubernetes.aio import client as kube
from warmfleet_contracts import bearer, labels
from warmfleet_localcluster.api import EmbeddedApi, serve, server_url
from warmfleet_operator.adapters.kube import KubeApi, KubeError
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.process import OperatorProcess
from warmfleet_operator.settings import Settings
from warmfleet_runtime import resources
from warmfleet_runtime.clock import ScaledClock
from warmfleet_runtime.resources import CUSTOM_RESOURCE_DEFINITIONS

CRDS = Path(__file__).parents[2] / "crds"
OPERATOR_AGENT = "warmfleet-operator"


def agent_state(
    uid: str, *, drains: bool, drained: bool, running: int, waiting: int, **counters: int
) -> dict[str, Any]:
    """A truthful answer of an agent."""
    answer: dict[str, Any] = {
        "version": "v1",
        "podUid": uid,
        "phase": "Serving" if not drains else "Drained" if drained else "Settling",
        "engine": {"ready": True, "running": running, "waiting": waiting},
        "counters": counters,
        "latency": {},
    }
    if drains:
        report = {"keptTokens": 7, "message": "fine"} if drained else None
        answer["drain"] = {"reason": "x", "remainingSeconds": 1, "cancellable": not drained, "report": report}
    return answer


@dataclass
class FakeAgent:
    """An agent that answers as told."""

    pod: dict[str, Any]
    clock: ScaledClock
    drain_seconds: float = 6.0
    mode: str = "good"
    ip: str = ""
    running: int = 0
    waiting: int = 0
    finished: int = 0
    drain: dict[str, Any] | None = None
    drain_at: float | None = None
    key: str = ""
    refused: int = 0
    requests: list[str] = field(default_factory=list)
    runner: web.AppRunner | None = None

    @property
    def drained(self) -> bool:
        return self.drain_at is not None and self.clock.now() - self.drain_at >= self.drain_seconds

    def state(self) -> dict[str, Any]:
        return agent_state(
            self.pod["metadata"]["uid"],
            drains=self.drain is not None,
            drained=self.drained,
            running=self.running,
            waiting=self.waiting,
            requests=self.finished,
            promptTokens=self.finished * 100,
            generationTokens=0,
        )

    async def handle(self, request: web.Request) -> web.StreamResponse:
        token = bearer.bearer(self.key, self.pod["metadata"]["uid"]) if self.key else ""
        if token and request.headers.get("Authorization") != f"Bearer {token}":
            self.refused += 1
            return web.Response(status=401)
        self.requests.append(f"{request.method} {request.path}")
        broken = {
            "garbage": lambda: web.Response(body=b"\xff\xfe{]" * 100),
            "huge": lambda: web.Response(body=b'{"phase":"' + b"x" * 1_000_000),
            "liar": lambda: web.json_response({**self.state(), "engine": {"ready": True, "running": 10**12}}),
            "silent": lambda: web.Response(status=503),
        }
        if self.mode in broken:
            return broken[self.mode]()
        if request.method == "POST":
            self.drain = await request.json()
            self.drain_at = self.drain_at if self.drain_at is not None else self.clock.now()
            return web.json_response(self.state(), status=202)
        if request.method == "DELETE":
            if self.drained:
                return web.json_response(self.state(), status=409)
            self.drain = self.drain_at = None
        return web.json_response(self.state())

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.handle)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        self.ip = await listen(self.runner, labels.AGENT_PORT)

    async def stop(self) -> None:
        if self.runner is not None:
            await close(self.runner)
            self.runner = None


class Fleet:
    """The cluster and one operator in it."""

    def __init__(self, scale: float = 60.0) -> None:
        self.clock = ScaledClock(scale)
        self.api = EmbeddedApi(clock=self.clock)
        self.agents: dict[str, FakeAgent] = {}
        self.start_seconds = 3.0
        self.agent_mode = "good"
        self.router_text = ""
        self._tasks: list[asyncio.Task[Any]] = []
        self._stop = asyncio.Event()
        self._web: list[web.AppRunner] = []
        self.process: OperatorProcess | None = None
        self.exit_code: int | None = None

    async def configure(self) -> kube.Configuration:
        configuration = kube.Configuration(host=self.url)
        configuration.client_session_kwargs = {"trust_env": False}
        configuration.retries = False
        return configuration

    async def __aenter__(self) -> Fleet:
        runner = await serve(self.api, "127.0.0.1", 0)
        self._web.append(runner)
        self.url = server_url(runner)
        self.kube = KubeApi(await self.configure(), rate=10_000, burst=10_000)
        for file in sorted(CRDS.glob("*.yaml")):
            await self.kube.create(CUSTOM_RESOURCE_DEFINITIONS, yaml.safe_load(file.read_text()))
        for name in ("prod", "warmfleet-system"):
            await self.kube.create(resources.NAMESPACES, {"metadata": {"name": name}})
        await self.kube.create(resources.NODES, {"metadata": {"name": "node-1"}})
        self._tasks.append(asyncio.create_task(self._kubelet()))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_operator()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for agent in self.agents.values():
            await agent.stop()
        await self.kube.close()
        for runner in self._web:
            await runner.shutdown()
            await close(runner)

    def operator_of(self, **overrides: Any) -> OperatorProcess:
        values: dict[str, Any] = {
            "listen_address": "127.0.0.1",
            "listen_port": 0,
            "lease_retry_seconds": 0.2,
            "lease_duration_seconds": 5.0,
            "identity": "test",
        }
        return OperatorProcess(Settings(**{**values, **overrides}), self.clock, plan, self.configure)

    def start_operator(self, **overrides: Any) -> None:
        self._stop = asyncio.Event()
        self.process = self.operator_of(**overrides)
        self._operator = asyncio.create_task(self.process.run(self._stop))

    async def stop_operator(self) -> None:
        if self.process is not None:
            self._stop.set()
            self.exit_code = await asyncio.wait_for(self._operator, 10)
            self.process = None

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0, what: str = "") -> None:
        """Wait for a condition, ``seconds`` real seconds at most."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not condition():
            if self.process is not None and self._operator.done():
                raise AssertionError(f"the operator ended: {self._operator.result()}")
            for task in self._tasks:
                if task.done() and not task.cancelled():
                    task.result()  # what broke in the fake kubelet is the cause, not the time that ran out
            if loop.time() > end:
                raise AssertionError(f"timed out: {what}")
            await asyncio.sleep(0.02)

    def objects(self, plural: str, group: str = "") -> list[dict[str, Any]]:
        resource = self.api.registry.named(plural, group)
        return self.api.store.objects(resource.storage)

    def workers(self, *, leaving: bool | None = None) -> list[dict[str, Any]]:
        found = [
            p for p in self.objects("pods") if p["metadata"]["labels"].get(labels.COMPONENT) == labels.COMPONENT_WORKER
        ]
        if leaving is None:
            return found
        return [p for p in found if (labels.DRAINING in p["metadata"].get("annotations", {})) == leaving]

    def ready(self) -> int:
        return sum(_is_ready(p) for p in self.workers())

    def deployment(self, name: str = "chat") -> dict[str, Any] | None:
        found = [d for d in self.objects("llmdeployments", "warmfleet.dev") if d["metadata"]["name"] == name]
        return found[0] if found else None

    def condition(self, kind: str, name: str = "chat") -> dict[str, Any]:
        body = self.deployment(name) or {}
        found = (body.get("status") or {}).get("conditions") or []
        return next((c for c in found if c["type"] == kind), {})

    def events(self) -> list[str]:
        return [e["reason"] for e in self.objects("events")]

    async def apply(self, body: dict[str, Any], resource: resources.Resource = resources.LLM_DEPLOYMENTS) -> None:
        namespace = body["metadata"].get("namespace") if resource.namespaced else None
        await self.kube.patch(resource, body["metadata"]["name"], body, namespace, how="apply", field_manager="person")

    async def instance_type(self, name: str = "h100") -> None:
        await self.apply(instance_type(name), resources.INSTANCE_TYPES)

    async def router(self) -> None:
        """A router pod whose metrics are :attr:`router_text`."""

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(text=self.router_text)

        app = web.Application()
        app.router.add_get("/metrics", metrics)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        ip = await listen(runner, labels.ROUTER_METRICS_PORT)
        self._web.append(runner)
        meta = {
            "name": "chat-router-0",
            "namespace": "prod",
            "labels": {
                labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
                labels.COMPONENT: labels.COMPONENT_ROUTER,
                labels.DEPLOYMENT: "chat",
            },
        }
        container = {"name": "router", "image": "x"}
        await self.kube.create(resources.PODS, {"metadata": meta, "spec": {"containers": [container]}}, "prod")
        await self._status("chat-router-0", "prod", ip, ready=True)

    async def _kubelet(self) -> None:
        lives: dict[str, asyncio.Task[None]] = {}
        while True:
            for pod in self.workers():
                uid = pod["metadata"]["uid"]
                if uid not in lives:
                    lives[uid] = asyncio.create_task(self._live(pod))
                    self._tasks.append(lives[uid])
            await asyncio.sleep(0.02)

    async def _live(self, pod: dict[str, Any]) -> None:
        name, namespace, uid = (pod["metadata"][k] for k in ("name", "namespace", "uid"))
        agent = FakeAgent(pod, self.clock, mode=self.agent_mode)
        self.agents[name] = agent
        await agent.start()
        try:
            binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": "node-1"}}
            await self.kube._request(
                "POST", resources.PODS, resources.PODS.path(namespace, name, "binding"), body=binding
            )
            await self._status(name, namespace, agent.ip, ready=False)
            await self.clock.sleep(self.start_seconds)
            was = None
            while True:
                live = next((p for p in self.workers() if p["metadata"]["uid"] == uid), None)
                if live is None:
                    return
                if live["metadata"].get("deletionTimestamp"):
                    break
                if (ready := agent.drain is None) != was:
                    await self._status(name, namespace, agent.ip, ready=ready)
                    was = ready
                await asyncio.sleep(0.02)
            await self.kube.delete(resources.PODS, name, namespace, uid=uid, grace_seconds=0)
        except KubeError as error:
            if error.status not in (404, 409):
                raise
        finally:
            await agent.stop()

    async def _status(self, name: str, namespace: str, ip: str, *, ready: bool) -> None:
        text = "True" if ready else "False"
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": text}],
        }
        if ready:
            status["containerStatuses"] = [{"name": "engine", "started": True, "ready": True}]
        await self.kube.patch(resources.PODS, name, {"status": status}, namespace, subresource="status")


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def instance_type(name: str = "h100") -> dict[str, Any]:
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "InstanceType",
        "metadata": {"name": name},
        "spec": {
            "accelerator": {"name": "H100-SXM", "count": 8},
            "price": {"onDemand": 32.0},
            "startup": {"p50": "10s", "p90": "20s"},
            "resources": {"cpu": "4", "memory": "32Gi"},
            "nodeSelector": {"gpu": "h100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
    }


def llm_deployment(name: str = "chat", **spec: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "model": {"name": "llama", "source": {"hf": {"repo": "meta-llama/Llama-3.1-8B-Instruct"}}},
        "engine": {"image": "vllm/vllm-openai:v0.32.0"},
        "variants": [{"name": "h100", "instanceType": "h100", "performance": {"requestsPerSecond": 10.0}}],
        "kvCache": {"drainDeadline": "60s"},
    }
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": "prod"},
        "spec": {**base, **spec},
    }
