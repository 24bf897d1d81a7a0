"""What a broken cluster is made of: machines, agents, routers, and the objects of its users."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from addresses import listen
from aiohttp import web
from fleet import agent_state
from warmfleet_contracts import labels
from warmfleet_runtime.clock import Clock

Json = dict[str, Any]
POOL = "warmfleet.test/pool"
DRAIN_SECONDS = 8.0
"""How long an agent needs to drain."""
DRAIN_DEADLINE = 60.0


def merged(meta: Json, kind: str) -> dict[str, str]:
    """Labels or annotations of an object, never None."""
    return meta.get(kind) or {}


def is_ready(pod: Json) -> bool:
    """Whether the pod's Ready condition is True."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


class Agent:
    """The agent of one worker: answers as its mode says.

    Args:
        clock: Logical time.
        uid: Of its pod.

    Modes: good, hang, silent, garbage, huge, negative, nan, foreign (another pod's answer) and boast (10**12 running).
    """

    def __init__(self, clock: Clock, uid: str) -> None:
        self._clock, self.uid = clock, uid
        self.mode = "good"
        self.ip = ""
        self.finished = 0.0
        self.drain_at: float | None = None
        self.has_drained = False
        self._runner: web.AppRunner | None = None

    @property
    def drained(self) -> bool:
        """Whether its drain is over."""
        now = self._clock.now()
        return self.drain_at is not None and now - self.drain_at >= DRAIN_SECONDS

    def crash(self) -> None:
        """It is started again beside an engine that goes on, and knows nothing of what it was told."""
        self.has_drained = self.has_drained or self.drained
        self.drain_at = None

    def begin_drain(self) -> None:
        """Start to drain, or go on."""
        if self.drain_at is None:
            self.drain_at = self._clock.now()

    def state(self) -> Json:
        """A truthful answer."""
        count = int(self.finished)
        return agent_state(
            self.uid,
            drains=self.drain_at is not None,
            drained=self.drained,
            running=2,
            waiting=0,
            requests=count,
            promptTokens=count * 100,
            generationTokens=count * 10,
        )

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        if self.mode == "hang":
            await asyncio.sleep(3600)
        if (lie := self._lie()) is not None:
            return lie
        if request.method == "POST":
            self.begin_drain()
            return web.json_response(self.state(), status=202)
        if request.method == "DELETE":
            if self.drained:
                return web.json_response(self.state(), status=409)
            self.drain_at = None
        return web.json_response(self.state())

    def _lie(self) -> web.Response | None:
        state = self.state()
        lies: dict[str, Any] = {
            "silent": None,
            "garbage": b"\xff\xfe{]" * 100,
            "huge": b'{"phase":"' + b"x" * 3_000_000,
            "nan": b'{"phase":"Serving","engine":{"ready":true,"running":NaN,"kvUsage":Infinity}}',
            "negative": {**state, "engine": {"ready": True, "running": -5, "waiting": -1}},
            "boast": {**state, "engine": {"ready": True, "running": 10**12}},
            "foreign": {**state, "podUid": "00000000-aaaa", "phase": "Drained"},
        }
        if self.mode not in lies:
            return None
        body = lies[self.mode]
        if body is None:
            return web.Response(status=503)
        return web.Response(body=body) if isinstance(body, bytes) else web.json_response(body)

    async def start(self) -> None:
        """Listen, at a new address."""
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        self.ip = await listen(self._runner, labels.AGENT_PORT)

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()


@dataclass
class Node:
    """A machine with room for one worker."""

    name: str
    pool: str
    up: bool = True
    taints: list[str] = field(default_factory=list)
    cordoned: bool = False


@dataclass
class Router:
    """The router of one fleet: counts what arrives."""

    served: float = 0.0
    mode: str = "good"
    ip: str = ""
    runner: web.AppRunner | None = None

    async def metrics(self, _: web.Request) -> web.StreamResponse:
        """``GET /metrics``."""
        if self.mode == "hang":
            await asyncio.sleep(3600)
        if self.mode == "silent":
            return web.Response(status=503)
        if self.mode == "garbage":
            return web.Response(text="%% not metrics {{{")
        shown = {"negative": "-5", "nan": "NaN", "huge": "1e300"}.get(self.mode, str(int(self.served)))
        return web.Response(text=f'vllm_router_processed_requests_total{{worker="a"}} {shown}\n')


def instance_type(name: str, price: float, limit: int | None = None) -> Json:
    """An InstanceType of a pool of one-accelerator machines."""
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "InstanceType",
        "metadata": {"name": name},
        "spec": {
            "accelerator": {"name": "H100-SXM", "count": 1},
            "nodeSelector": {POOL: name},
            "price": {"onDemand": price},
            "startup": {"p50": "20s", "p90": "40s"},
            **({"limit": {"accelerators": limit}} if limit is not None else {}),
        },
    }


def fleet(namespace: str, name: str, types: list[str], **spec: Any) -> Json:
    """An LLMDeployment."""
    base: Json = {
        "model": {"name": "llama", "source": {"hf": {"repo": "meta-llama/Llama-3.1-8B-Instruct"}}},
        "engine": {"image": "vllm/vllm-openai:v1"},
        "variants": [{"name": t, "instanceType": t, "performance": {"requestsPerSecond": 10.0}} for t in types],
        "kvCache": {"drainDeadline": f"{DRAIN_DEADLINE:.0f}s"},
    }
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**base, **spec},
    }
