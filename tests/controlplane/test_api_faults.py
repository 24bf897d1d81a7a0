"""A real API server at its worst, and a real etcd that is killed, with an observer on a connection of its own.

The same proxy and the same promises as in tests/faults, on pods that run: the real agent, the simulated engine, the
real router, and streams of which none may be lost.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from cluster import ControlPlane
from faultproxy import LISTS, WRITES, Fault, FaultKind, proxied
from observer import Observer
from traffic import Streams
from warmfleet_contracts import labels
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import LLM_DEPLOYMENTS, PODS
from world import World, deployment, eventually, instance_type

SEED = 7
PATIENT = {
    "WARMFLEET_LEASE_DURATION_SECONDS": "20",
    "WARMFLEET_LEASE_RETRY_SECONDS": "1",
    "WARMFLEET_AUDIT_SECONDS": "60",
    "WARMFLEET_STALE_SECONDS": "400",
}
LIVENESS_FAILURES = 3
STORM = (
    Fault(FaultKind.STALE, 0.4, LISTS),
    Fault(FaultKind.GONE, 0.3),
    Fault(FaultKind.REFUSE, 0.15, WRITES, status=409),
    Fault(FaultKind.REFUSE, 0.1, status=429),
    Fault(FaultKind.REFUSE, 0.1, status=500),
    Fault(FaultKind.LOSE, 0.2, WRITES),
    Fault(FaultKind.DROP, 0.1),
    Fault(FaultKind.DELAY, 0.5, seconds=0.5),
)


@asynccontextmanager
async def observed(world: World) -> AsyncIterator[Observer]:
    """An observer whose watches are its own."""
    observer = Observer(world.clock)

    async def pods(kube: KubeClient) -> None:
        selector = f"{labels.COMPONENT}={labels.COMPONENT_WORKER}"
        async for event in kube.follow(PODS, "default", labelSelector=selector):
            if event.type != "SYNCED":
                observer.saw_pod(event.object, deleted=event.type == "DELETED")

    async def fleets(kube: KubeClient) -> None:
        async for event in kube.follow(LLM_DEPLOYMENTS, "default"):
            if event.type != "SYNCED":
                observer.saw_fleet(event.object, deleted=event.type == "DELETED")

    async with await KubeClient.from_kubeconfig(world.kubeconfig) as kube:
        tasks = [asyncio.create_task(work) for work in (pods(kube), fleets(kube), observer.beat())]
        try:
            yield observer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def patient() -> dict[str, str]:
    """Settings of one operator after the other, which serve their probes on the same port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return PATIENT | {"WARMFLEET_LISTEN_PORT": str(taken.getsockname()[1])}


async def keep_running(world: World, env: dict[str, str]) -> None:
    """Starts the operator again when it ends or says that it is not healthy, as a kubelet would."""
    url = f"http://127.0.0.1:{env['WARMFLEET_LISTEN_PORT']}/healthz"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
        refused = 0
        while True:
            await asyncio.sleep(0.5)
            refused = refused + 1 if await unhealthy(session, url) else 0
            if refused >= LIVENESS_FAILURES:
                await world.operators[-1].stop(grace=2)
                refused = 0
            if world.operators[-1].exit_code() is not None:
                await world.start_operator(**env)


async def unhealthy(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether the process says so; one that does not answer is starting, or busy."""
    try:
        async with session.get(url) as answer:
            return answer.status != 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def settled(world: World, count: int) -> None:
    """Exactly ``count`` workers, all ready."""

    async def check() -> bool:
        pods = await world.workers()
        return len(pods) == count and len(await world.ready_workers()) == count

    await eventually(check, f"{count} workers and no other", seconds=120)


@pytest.mark.timeout(600)
async def test_no_promise_is_broken_in_front_of_an_api_server_at_its_worst(world: World, tmp_path: Path) -> None:
    async with proxied(world.kubeconfig, tmp_path, SEED) as (proxy, kubeconfig), observed(world) as observer:
        env = patient() | {"KUBECONFIG": str(kubeconfig)}
        await world.start_operator(**env)
        keeper = asyncio.create_task(keep_running(world, env))
        try:
            await world.apply(instance_type(), deployment(replicas=2))
            await world.until_ready(2, seconds=90)
            streams = Streams(await world.until_endpoint(seconds=90))
            streams.send(6, tokens=4000)
            proxy.faults = list(STORM)
            for replicas in (3, 2, 4):
                await world.kubectl("scale", "llmd", "chat", f"--replicas={replicas}")
                for _ in range(3):
                    await asyncio.sleep(1.5)
                    proxy.cut_watches()
            proxy.faults = []
            await settled(world, 4)
            await world.kubectl("scale", "llmd", "chat", "--replicas=2")
            await settled(world, 2)
            await streams.finish(120)
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        assert observer.violations == []
        observer.deleted_twice(proxy.deleted)
        assert observer.violations == []
        assert proxy.counts.total() > 20, proxy.counts
        for child in world.operators:
            await child.stop(grace=6)  # while the proxy is there


@pytest.mark.timeout(600)
async def test_etcd_is_killed_in_the_middle_of_a_change_of_size(world: World, controlplane: ControlPlane) -> None:
    async with observed(world) as observer:
        env = patient()
        await world.start_operator(**env)
        keeper = asyncio.create_task(keep_running(world, env))
        try:
            await world.apply(instance_type(), deployment(replicas=2))
            before = {pod["metadata"]["uid"] for pod in await world.until_ready(2, seconds=90)}
            streams = Streams(await world.until_endpoint(seconds=90))
            streams.send(6, tokens=4000)
            await world.kubectl("scale", "llmd", "chat", "--replicas=3")
            await asyncio.to_thread(controlplane.restart_etcd)
            await settled(world, 3)
            await streams.finish(120)
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        assert before < {pod["metadata"]["uid"] for pod in await world.workers()}
        assert observer.violations == []
