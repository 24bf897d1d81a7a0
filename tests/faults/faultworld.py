"""A cluster whose machines can be broken: the embedded API, nodes, a scheduler, a kubelet, agents and routers.

Everything below the API is played in this process, so that a loss of a node costs nothing and happens at once; the
operator is a process of its own, behind the :mod:`faultproxy`. The world notes what it did itself (whom it killed, whom
it gave notice), because the observer must tell an injected loss from one that the operator caused.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from faultproxy import FaultProxy, proxied
from warmfleet_cli.demo.processes import Child
from warmfleet_contracts import labels
from warmfleet_localcluster.api import ApiError, EmbeddedApi, serve, server_url, write_kubeconfig
from warmfleet_localcluster.api.deletion import DeleteOptions, delete
from warmfleet_localcluster.api.patches import MERGE_PATCH
from warmfleet_localcluster.api.subresources import bind
from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
POOL = "warmfleet.test/pool"
NOTICE = "aws-node-termination-handler/spot-itn"
UNREACHABLE = "node.kubernetes.io/unreachable"
START_SECONDS = 20.0
"""From a node to a ready engine, logical seconds."""
DRAIN_SECONDS = 8.0
"""How long an agent needs to drain."""
DRAIN_DEADLINE = 60.0
EVICTED_AFTER = 40.0
"""From the loss of a node until its pods are removed from the API."""
NEW_NODE_AFTER = 60.0
_POLL = 0.1
_STILL = 0.5
"""Real seconds of standing still beyond which a notice was too short."""
_ENGINE_RESTARTED = "engine restarted"
_RESTART_SECONDS = 1.0
"""Real seconds until an operator that ended is started again, as a kubelet would."""

OPERATOR_ENV = {
    "WARMFLEET_TICK_SECONDS": "5",
    "WARMFLEET_TELEMETRY_SECONDS": "10",
    "WARMFLEET_RATE_WINDOW_SECONDS": "60",
    "WARMFLEET_MEAN_WINDOW_SECONDS": "200",
    "WARMFLEET_AUDIT_SECONDS": "60",
    "WARMFLEET_STALE_SECONDS": "3600",
    "WARMFLEET_UNROUTE_SECONDS": "5",
    "WARMFLEET_ENGINE_SHUTDOWN_SECONDS": "30",
    "WARMFLEET_LISTEN_ADDRESS": "127.0.0.1",
    "WARMFLEET_LISTEN_PORT": "0",
    "WARMFLEET_LEASE_NAMESPACE": "default",
    "WARMFLEET_LEASE_DURATION_SECONDS": "8",
    "WARMFLEET_LEASE_RETRY_SECONDS": "0.5",
    "WARMFLEET_CHECKPOINT_SECONDS": "60",
}

_ADDRESSES = (
    f"127.{130 + n // 60_000 % 50}.{n // 250 % 240}.{n % 250 + 1}" for n in itertools.count(os.getpid() * 53 % 900_000)
)


async def listen(runner: web.AppRunner, port: int) -> str:
    """Serve on the port of an address that nobody uses, and return the address."""
    for ip in itertools.islice(_ADDRESSES, 200):
        try:
            await web.TCPSite(runner, ip, port).start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return ip
    raise AssertionError(f"no free address for port {port}")


def merged(meta: Json, kind: str) -> dict[str, str]:
    """Labels or annotations of an object, never None."""
    return meta.get(kind) or {}


def is_ready(pod: Json) -> bool:
    """Whether the pod's Ready condition is True."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


class Agent:
    """The agent of one worker: answers as its mode says.

    Modes: good, hang, silent, garbage, huge, negative, nan, foreign (another pod's answer) and boast (10**12 running).
    """

    def __init__(self, world: FaultWorld, pod: Json) -> None:
        self._world, self.uid = world, pod["metadata"]["uid"]
        self.mode = "good"
        self.ip = ""
        self.finished = 0.0
        self.drain_at: float | None = None
        self.has_drained = False
        self._runner: web.AppRunner | None = None

    @property
    def drained(self) -> bool:
        """Whether its drain is over."""
        now = self._world.clock.now()
        return self.drain_at is not None and now - self.drain_at >= DRAIN_SECONDS

    def crash(self) -> None:
        """It is started again beside an engine that goes on, and knows nothing of what it was told."""
        self.has_drained = self.has_drained or self.drained
        self.drain_at = None

    def begin_drain(self) -> None:
        """Start to drain, or go on."""
        if self.drain_at is None:
            self.drain_at = self._world.clock.now()

    def state(self) -> Json:
        """A truthful answer."""
        phase = "Serving" if self.drain_at is None else "Drained" if self.drained else "Settling"
        count = int(self.finished)
        answer: Json = {
            "version": "v1",
            "podUid": self.uid,
            "phase": phase,
            "engine": {"ready": True, "running": 2, "waiting": 0},
            "counters": {"requests": count, "promptTokens": count * 100, "generationTokens": count * 10},
            "latency": {},
        }
        if self.drain_at is not None:
            report = {"keptTokens": 7, "message": "fine"} if self.drained else None
            answer["drain"] = {"reason": "x", "remainingSeconds": 1, "cancellable": not self.drained, "report": report}
        return answer

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


@dataclass
class FaultWorld:
    """Everything a fault can break.

    Attributes:
        api: The cluster.
        clock: Logical time, shared with the operator.
        folder: Logs.
        proxy: Between operator and API.
        kubeconfig: Through the proxy.
        lost: Why the world took a worker away or broke it, by pod UID.
        by_user: UIDs of pods that the world deleted as a person would.
        bad_images: Images that cannot be pulled.
        stocked_out: Pools that give no node.
        rates: Requests per logical second by fleet.
        modes: Mode of agents by namespace.
        router_modes: Mode of routers by fleet.
        restarts: How often an operator ended by itself and was started again.
        stood_still: Real seconds that this process or the operator stood still so far.
    """

    api: EmbeddedApi
    clock: ScaledClock
    folder: Path
    proxy: FaultProxy
    kubeconfig: Path
    nodes: dict[str, Node] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    by_user: set[str] = field(default_factory=set)
    agents: dict[str, Agent] = field(default_factory=dict)
    routers: dict[tuple[str, str], Router] = field(default_factory=dict)
    bad_images: set[str] = field(default_factory=set)
    stocked_out: set[str] = field(default_factory=set)
    rates: dict[tuple[str, str], float] = field(default_factory=dict)
    modes: dict[str, str] = field(default_factory=dict)
    router_modes: dict[tuple[str, str], str] = field(default_factory=dict)
    restarts: int = 0
    stood_still: float = 0.0
    operator: Child | None = None
    logs: list[Path] = field(default_factory=list)
    keep_running: bool = False
    _restarting: set[str] = field(default_factory=set)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _names: Iterator[int] = field(default_factory=itertools.count)

    # The API, as an administrator

    def objects(self, plural: str, group: str = "") -> list[Json]:
        """All objects of a kind."""
        return list(self.api.store.objects(self.api.registry.named(plural, group).storage))

    def patch(self, plural: str, namespace: str | None, name: str, body: Json, sub: str = "", group: str = "") -> None:
        """Merge-patches an object; one that is gone is left alone."""
        with contextlib.suppress(ApiError):
            resource = self.api.registry.named(plural, group)
            self.api.patch(resource, namespace, name, body, MERGE_PATCH, subresource=sub)

    def create(self, plural: str, body: Json, group: str = "") -> Json:
        """Creates an object."""
        resource = self.api.registry.named(plural, group)
        return self.api.create(resource, body["metadata"].get("namespace"), body)

    def delete(self, plural: str, namespace: str | None, name: str, *, group: str = "", now: bool = False) -> None:
        """Deletes an object, ``now`` without grace; one that is gone is left alone."""
        with contextlib.suppress(ApiError):
            options = DeleteOptions(grace_seconds=0 if now else None)
            delete(self.api, self.api.registry.named(plural, group), namespace, name, options)

    def fleet(self, namespace: str, name: str) -> Json | None:
        """An LLMDeployment."""
        found = self.api.registry.named("llmdeployments", "warmfleet.dev")
        body: Json | None = self.api.store.get(found.storage, (namespace, name))
        return body

    def workers(self, namespace: str = "", name: str = "") -> list[Json]:
        """Worker pods, of one fleet or all."""
        found = []
        for pod in self.objects("pods"):
            meta = pod["metadata"]
            mine = merged(meta, "labels")
            if mine.get(labels.COMPONENT) != labels.COMPONENT_WORKER:
                continue
            if not name or (meta["namespace"] == namespace and mine.get(labels.DEPLOYMENT) == name):
                found.append(pod)
        return found

    # Nodes

    def add_node(self, pool: str) -> Node:
        """A new machine of a pool."""
        node = Node(f"{pool}-{next(self._names)}", pool)
        self.nodes[node.name] = node
        self.create("nodes", {"metadata": {"name": node.name, "labels": {POOL: pool}}})
        self._show_node(node)
        return node

    def _show_node(self, node: Node) -> None:
        taints = [{"key": key, "effect": "NoSchedule"} for key in node.taints]
        self.patch("nodes", None, node.name, {"spec": {"taints": taints or None, "unschedulable": node.cordoned}})
        state = {"conditions": [{"type": "Ready", "status": "True" if node.up else "Unknown"}]}
        self.patch("nodes", None, node.name, {"status": state}, "status")

    def cordon(self, node: Node, *, on: bool) -> None:
        """``kubectl cordon`` and ``uncordon``."""
        node.cordoned = on
        self._show_node(node)

    def pods_on(self, node: Node) -> list[Json]:
        """Workers on a machine."""
        return [pod for pod in self.workers() if pod["spec"].get("nodeName") == node.name]

    async def lose_node(self, node: Node, why: str | None = "node lost") -> None:
        """The machine is gone at once; the API learns it, its pods are removed later, and another machine comes.

        Args:
            node: Which.
            why: Excuse for its workers; None when they should have left before.
        """
        if why is not None:
            for pod in self.pods_on(node):
                self.lost[pod["metadata"]["uid"]] = why
        node.up = False
        node.taints.append(UNREACHABLE)
        for pod in self.pods_on(node):
            agent = self.agents.get(pod["metadata"]["uid"])
            if agent is not None:
                await agent.stop()
            self._show(pod, ready=False)
        self._show_node(node)
        await self.clock.sleep(EVICTED_AFTER)
        for pod in self.pods_on(node):
            if why is not None:
                self.lost.setdefault(pod["metadata"]["uid"], why)
            self.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], now=True)
        self.nodes.pop(node.name, None)
        self.delete("nodes", None, node.name, now=True)
        await self.clock.sleep(NEW_NODE_AFTER - EVICTED_AFTER)
        self.add_node(node.pool)

    async def give_notice(self, node: Node, seconds: float) -> None:
        """A spot notice: a taint, and the machine goes ``seconds`` logical seconds later.

        Its workers must have been replaced by then if the notice is long enough for that, unless this process or the
        operator stood still meanwhile: then the time was not the operator's to use.
        """
        short = seconds < START_SECONDS + DRAIN_SECONDS + 30
        if short:
            for pod in self.pods_on(node):
                self.lost[pod["metadata"]["uid"]] = f"notice of {seconds:.0f} s"
        node.taints.append(NOTICE)
        self._show_node(node)
        still = self.stood_still
        await self.clock.sleep(seconds)
        excused = short or self.stood_still - still > _STILL
        await self.lose_node(node, f"its notice of {seconds:.0f} s was over" if excused else None)

    async def _feel(self) -> None:
        """Adds up how long this process, or an operator that renews its Lease twice a second, stood still.

        While nothing at all is answered no operator can do anything, however often it asks.
        """
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(0.1)
            now = loop.time()
            silent = now - self.proxy.lease_asked if self.proxy.lease_asked is not None else math.inf
            idle = silent > 1.2 or self.proxy.away
            self.stood_still += max(0.0, now - before - 0.3) + (now - before if idle else 0.0)
            before = now

    # Kubelet

    def tend(self) -> None:
        """Gives every new worker pod its life, and every router its pod."""
        for pod in self.workers():
            uid = pod["metadata"]["uid"]
            if uid not in self._tasks:
                self._tasks[uid] = asyncio.create_task(self._live(pod), name=f"pod {pod['metadata']['name']}")
        for task in self._tasks.values():
            if task.done() and not task.cancelled() and task.exception() is not None:
                task.result()

    def _find(self, uid: str) -> Json | None:
        found = self.api.store.by_uid(uid)
        return None if found is None else found[1]

    def _free(self, pod: Json) -> Node | None:
        pool = (pod["spec"].get("nodeSelector") or {}).get(POOL)
        if pool in self.stocked_out:
            return None
        taken = {p["spec"].get("nodeName") for p in self.workers()}
        return next(
            (
                n
                for n in self.nodes.values()
                if n.pool == pool and n.up and not n.taints and not n.cordoned and n.name not in taken
            ),
            None,
        )

    async def _live(self, pod: Json) -> None:
        meta = pod["metadata"]
        uid, namespace, name = meta["uid"], meta["namespace"], meta["name"]
        agent = self.agents[uid] = Agent(self, pod)
        try:
            node = await self._scheduled(uid)
            if node is None:
                return
            image = next(c["image"] for c in pod["spec"]["containers"] if c["name"] == labels.ENGINE_CONTAINER)
            if image in self.bad_images:
                waiting = {"reason": "ImagePullBackOff", "message": f"Back-off pulling image {image}"}
                state = [{"name": "engine", "started": False, "ready": False, "state": {"waiting": waiting}}]
                self.patch("pods", namespace, name, {"status": {"containerStatuses": state}}, "status")
                await self._until_deleted(uid)
                return
            await agent.start()
            self._show(pod, ready=False, ip=agent.ip)
            await self._serve(uid, agent, node)
        finally:
            await agent.stop()

    async def _until_deleted(self, uid: str) -> None:
        while True:
            live = self._find(uid)
            if live is None or live["metadata"].get("deletionTimestamp"):
                self._remove(uid)
                return
            await asyncio.sleep(_POLL)

    async def _scheduled(self, uid: str) -> Node | None:
        said = False
        while (live := self._find(uid)) is not None:
            meta = live["metadata"]
            if meta.get("deletionTimestamp"):
                self._remove(uid)
                return None
            node = self._free(live)
            if node is not None:
                target = {"target": {"kind": "Node", "name": node.name}}
                bind(self.api, self.api.registry.named("pods"), meta["namespace"], meta["name"], target)
                return node
            if not said:
                said = True
                wait = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]
                self.patch("pods", meta["namespace"], meta["name"], {"status": {"conditions": wait}}, "status")
            await asyncio.sleep(_POLL)
        return None

    async def _serve(self, uid: str, agent: Agent, node: Node) -> None:
        born, shown = self.clock.now(), False
        ending: float | None = None
        while (live := self._find(uid)) is not None:
            now, meta = self.clock.now(), live["metadata"]
            if not node.up:
                await asyncio.sleep(_POLL)
                continue
            agent.mode = self.modes.get(meta["namespace"], "good")
            if meta.get("deletionTimestamp"):
                agent.begin_drain()  # the engine's preStop
                ending = now if ending is None else ending
                if agent.drained or now - ending > (meta.get("deletionGracePeriodSeconds") or 30):
                    self._remove(uid)
                    return
            ready = now - born >= START_SECONDS and agent.drain_at is None and uid not in self._restarting
            if ready != shown:
                self._show(live, ready=ready, ip=agent.ip)
                shown = ready
                if ready and self.lost.get(uid) == _ENGINE_RESTARTED:
                    del self.lost[uid]  # it serves again, and may be asked about as any other
            await asyncio.sleep(_POLL)

    async def restart_engine(self, pod: Json, seconds: float) -> None:
        """The engine of a worker crashes and comes back."""
        uid = pod["metadata"]["uid"]
        self.lost[uid] = _ENGINE_RESTARTED
        self._restarting.add(uid)
        agent = self.agents.get(uid)
        if agent is not None:
            agent.finished = 0.0
        await self.clock.sleep(seconds)
        self._restarting.discard(uid)

    def _show(self, pod: Json, *, ready: bool, ip: str = "") -> None:
        meta = pod["metadata"]
        text = "True" if ready else "False"
        conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": text}]
        status: Json = {"phase": "Running", "conditions": conditions}
        if ip:
            status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
        if ready:
            status["containerStatuses"] = [{"name": "engine", "started": True, "ready": True}]
        self.patch("pods", meta["namespace"], meta["name"], {"status": status}, "status")

    def _remove(self, uid: str) -> None:
        live = self._find(uid)
        if live is not None:
            self.delete("pods", live["metadata"]["namespace"], live["metadata"]["name"], now=True)

    # Routers and traffic

    async def flow(self, seconds: float) -> None:
        """Traffic of ``seconds`` logical seconds reaches the routers and the workers that serve."""
        wanted = set()
        for item in self.objects("deployments", "apps"):
            meta = item["metadata"]
            name = merged(meta, "labels").get(labels.DEPLOYMENT)
            if name and not meta.get("deletionTimestamp"):
                wanted.add((meta["namespace"], name))
                await self._router(meta, (meta["namespace"], name))
        for key in [k for k in self.routers if k not in wanted]:
            router = self.routers.pop(key)
            self.delete("pods", key[0], f"{key[1]}-router-0", now=True)
            if router.runner is not None:
                await router.runner.cleanup()
        for key, router in self.routers.items():
            router.mode = self.router_modes.get(key, "good")
            arrived = self.rates.get(key, 0.0) * seconds
            router.served += arrived
            serving = [self.agents[p["metadata"]["uid"]] for p in self.workers(*key) if is_ready(p)]
            for agent in serving:
                agent.finished += arrived / len(serving)

    async def _router(self, owner: Json, key: tuple[str, str]) -> None:
        if key in self.routers:
            return
        router = self.routers[key] = Router()
        app = web.Application()
        app.router.add_get("/metrics", router.metrics)
        router.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await router.runner.setup()
        router.ip = await listen(router.runner, labels.ROUTER_METRICS_PORT)
        mine = {
            labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
            labels.COMPONENT: labels.COMPONENT_ROUTER,
            labels.DEPLOYMENT: key[1],
        }
        meta = {"name": f"{key[1]}-router-0", "namespace": key[0], "labels": mine}
        with contextlib.suppress(ApiError):  # the old one may still be on its way out: it is served again by its name
            self.create("pods", {"metadata": meta, "spec": {"containers": [{"name": "router", "image": "x"}]}})
        self._show({"metadata": meta}, ready=True, ip=router.ip)

    # The operator

    def start_operator(self) -> None:
        """Starts the operator; from now on it is started again whenever it ends."""
        name = f"operator-{len(self.logs)}"
        env = {
            **OPERATOR_ENV,
            "KUBECONFIG": str(self.kubeconfig),
            "WARMFLEET_IDENTITY": name,
            CLOCK_ENV: self.clock.to_env(),
        }
        self.operator = Child(name, [sys.executable, "-m", "warmfleet_operator"], env=env, folder=self.folder)
        self.logs.append(self.operator.log)
        self.keep_running = True

    def signal_operator(self, number: int) -> None:
        """SIGKILL, SIGTERM, SIGSTOP or SIGCONT."""
        if self.operator is not None and self.operator.exit_code() is None:
            os.kill(self.operator._process.pid, number)

    async def _keep_operator(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            if self.keep_running and self.operator is not None and self.operator.exit_code() is not None:
                self.restarts += 1
                await asyncio.sleep(_RESTART_SECONDS)
                self.start_operator()

    async def _turn(self) -> None:
        before = self.clock.now()
        while True:
            self.tend()
            now = self.clock.now()
            await self.flow(now - before)
            before = now
            await asyncio.sleep(_POLL)

    async def end(self) -> None:
        """Ends everything that was started."""
        self.keep_running = False
        if self.operator is not None:
            self.signal_operator(signal.SIGCONT)
            await self.operator.stop(grace=6)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for router in self.routers.values():
            if router.runner is not None:
                await router.runner.cleanup()


@asynccontextmanager
async def fault_world(folder: Path, seed: int, scale: float = 20.0) -> AsyncIterator[FaultWorld]:
    """A world without fleets and without an operator yet; ends what it started.

    Args:
        folder: For logs and kubeconfigs.
        seed: Of the proxy's choices.
        scale: Logical seconds per real second.
    """
    clock = ScaledClock(scale)
    api = EmbeddedApi(clock=clock)
    runner = await serve(api, "127.0.0.1", 0)
    try:
        kubeconfig = write_kubeconfig(folder / "kubeconfig", server_url(runner))
        async with proxied(kubeconfig, folder, seed) as (proxy, path):
            world = FaultWorld(api, clock, folder, proxy, path)
            for file in sorted((ROOT / "crds").glob("*.yaml")):
                world.create(
                    "customresourcedefinitions",
                    yaml.safe_load(file.read_text(encoding="utf-8")),
                    "apiextensions.k8s.io",
                )
            work = (world._turn(), world._keep_operator(), world._feel())
            tasks = [asyncio.create_task(part) for part in work]
            try:
                yield world
                for task in tasks:
                    if task.done():
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await world.end()
    finally:
        await runner.shutdown()
        await runner.cleanup()


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
