"""The operator through a restarting API server, cut watches and the sudden death of the leader."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import yaml
from cluster import ControlPlane
from traffic import Streams
from warmfleet_cli.demo.processes import Child
from warmfleet_runtime.resources import LEASES
from world import World, deployment, eventually, instance_type

PATIENT = {"WARMFLEET_LEASE_DURATION_SECONDS": "20", "WARMFLEET_LEASE_RETRY_SECONDS": "1"}
"""Leases that outlive a restart of the API server, as the operator's own defaults nearly do."""


def uids(pods: list[dict[str, dict[str, str]]]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


async def leader(world: World) -> Child:
    """The operator that holds the Lease."""

    async def held() -> str:
        lease = await world.kube.get(LEASES, "warmfleet-operator", "default")
        return str(lease["spec"].get("holderIdentity") or "")

    name = await eventually(held, "holder of the lease")
    return next(child for child in world.operators if child.name == name)


async def test_the_api_server_restarts_in_the_middle_of_a_scale_up(world: World, controlplane: ControlPlane) -> None:
    await world.start_operator(**PATIENT)
    await world.apply(instance_type(), deployment(replicas=1))
    before = uids(await world.until_ready(1))
    streams = Streams(await world.until_endpoint())
    streams.send(6, tokens=4000)
    await world.kubectl("scale", "llmd", "chat", "--replicas=3")
    await asyncio.to_thread(controlplane.restart_apiserver, force=True)
    after = uids(await world.until_ready(3, seconds=60))
    assert before < after
    assert len(await world.workers()) == 3
    await streams.finish()
    assert world.operators[0].exit_code() is None


async def test_the_api_server_restarts_while_a_worker_drains(world: World, controlplane: ControlPlane) -> None:
    await world.start_operator(**PATIENT)
    await world.apply(instance_type(), deployment(replicas=2))
    await world.until_ready(2)
    streams = Streams(await world.until_endpoint())
    streams.send(12, tokens=2500)
    await world.kubectl("scale", "llmd", "chat", "--replicas=1")
    await asyncio.to_thread(controlplane.restart_apiserver, force=True)
    await world.until_ready(1, seconds=60)
    await streams.finish()

    async def one() -> bool:
        return len(await world.workers()) == 1

    await eventually(one, "end of the drained worker", seconds=40)


async def test_a_killed_leader_is_followed_by_the_other_without_a_worker_too_many(world: World) -> None:
    for _ in range(2):
        await world.start_operator()
    await world.apply(instance_type(), deployment(replicas=2))
    before = uids(await world.until_ready(2))
    streams = Streams(await world.until_endpoint())
    streams.send(6, tokens=4000)
    victim = await leader(world)
    await world.kubectl("scale", "llmd", "chat", "--replicas=3")
    os.kill(victim._process.pid, signal.SIGKILL)
    after = uids(await world.until_ready(3, seconds=40))
    assert before < after
    assert (await leader(world)).name != victim.name
    await world.clock.sleep(60)
    assert uids(await world.workers()) == after
    await streams.finish()


class Wire:
    """A TCP relay to the API server whose connections a test can cut or silence."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.accepted = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        self.accepted += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, far_writer}
        pumps = (self._pump(reader, far_writer), self._pump(far_reader, writer))
        for pump in pumps:
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
        self._writers.discard(writer)

    def cut(self) -> None:
        """Resets every connection; new ones are taken."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def silence(self, *, on: bool) -> None:
        """Holds everything back without closing a connection, or lets it pass again."""
        self._open.clear() if on else self._open.set()

    async def end(self) -> None:
        """Ends all connections."""
        self.silence(on=False)
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def wired(kubeconfig: Path, folder: Path) -> AsyncIterator[tuple[Wire, Path]]:
    """A relay, and a kubeconfig that goes through it."""
    config = yaml.safe_load(await asyncio.to_thread(kubeconfig.read_text, encoding="utf-8"))
    cluster = config["clusters"][0]["cluster"]
    wire = Wire(int(cluster["server"].rpartition(":")[2]))
    server = await asyncio.start_server(wire.accept, "127.0.0.1", 0)
    cluster["server"] = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    path = folder / "wired.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    try:
        yield wire, path
    finally:
        server.close()
        await wire.end()


async def test_watches_that_are_cut_again_and_again_lose_nothing(world: World, tmp_path: Path) -> None:
    async with wired(world.kubeconfig, tmp_path) as (wire, kubeconfig):
        await world.start_operator(KUBECONFIG=str(kubeconfig))
        await world.apply(instance_type(), deployment(replicas=1))
        before = uids(await world.until_ready(1))
        for replicas in (2, 3, 4):
            wire.cut()
            await world.kubectl("scale", "llmd", "chat", f"--replicas={replicas}")
            await asyncio.sleep(0.3)
            wire.cut()
            await world.until_ready(replicas)
        assert before < uids(await world.workers())
        assert len(await world.workers()) == 4
        assert world.operators[0].exit_code() is None
        await world.operators[0].stop(grace=6)


async def test_an_operator_that_hears_nothing_for_a_while_neither_acts_twice_nor_stays_deaf(
    world: World, tmp_path: Path
) -> None:
    """Longer than its lease: it may end, and a restarted one goes on, as in a Deployment."""
    async with wired(world.kubeconfig, tmp_path) as (wire, kubeconfig):
        await world.start_operator(KUBECONFIG=str(kubeconfig))
        await world.apply(instance_type(), deployment(replicas=2))
        before = uids(await world.until_ready(2))
        wire.silence(on=True)
        await world.kubectl("scale", "llmd", "chat", "--replicas=3")
        await asyncio.sleep(5)
        assert uids(await world.workers()) == before
        wire.silence(on=False)
        if world.operators[0].exit_code() is not None:
            await world.start_operator(KUBECONFIG=str(kubeconfig))
        try:
            after = uids(await world.until_ready(3, seconds=20))
        except BaseException:
            print("exit code", world.operators[0].exit_code())
            raise
        assert before < after
        for child in world.operators:
            await child.stop(grace=6)
