"""A cluster whose machines can be broken: the embedded API, nodes, a scheduler, a kubelet, agents and routers.

Everything below the API is played in this process, so that a loss of a node costs nothing and happens at once; the
operator is a process of its own, behind the :mod:`faultproxy`. The world notes what it did itself (whom it killed, whom
it gave notice), because the observer must tell an injected loss from one that the operator caused.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from addresses import listen
from aiohttp import web
from faultproxy import FaultProxy, proxied
from kubelet import START_SECONDS, Kubelet
from parts import DRAIN_SECONDS, POOL, Agent, Json, Node, Router, is_ready, merged
from warmfleet_cli.demo.processes import Child
from warmfleet_contracts import labels
from warmfleet_localcluster.api import ApiError, EmbeddedApi, serve, server_url, write_kubeconfig
from warmfleet_localcluster.api.deletion import DeleteOptions, delete
from warmfleet_localcluster.api.patches import MERGE_PATCH
from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock

ROOT = Path(__file__).resolve().parents[2]
NOTICE = "aws-node-termination-handler/spot-itn"
UNREACHABLE = "node.kubernetes.io/unreachable"
EVICTED_AFTER = 40.0
"""From the loss of a node until its pods are removed from the API."""
NEW_NODE_AFTER = 60.0
_POLL = 0.1
_STILL = 0.5
"""Real seconds of standing still beyond which a notice was too short."""
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
    kubelet: Kubelet = field(init=False)
    _names: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.kubelet = Kubelet(self)

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
            self.kubelet.show(pod, ready=False)
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
        self.kubelet.show({"metadata": meta}, ready=True, ip=router.ip)

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
            self.kubelet.tend()
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
        await self.kubelet.end()
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
