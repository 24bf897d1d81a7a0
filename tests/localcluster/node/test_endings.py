"""How pods leave a process node: hooks, order, grace, force, and what a dead node leaves behind."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from warmfleet_runtime.resources import LEASES, NODES, PODS
from warmfleet_runtime.rest import ApiError

from .conftest import Cluster, condition, container, eventually, is_ready, python, sleeper

STUBBORN = (
    "import signal,time\nsignal.signal(signal.SIGTERM, lambda *_: print('ignored', flush=True))\n"
    "print('up', flush=True)\nwhile True: time.sleep(9)"
)


class Gate:
    """A server whose answers a test can hold back."""

    def __init__(self) -> None:
        self.asked, self.open, self.healthy = asyncio.Event(), asyncio.Event(), True
        self.port = 0

    async def hold(self, _: web.Request) -> web.Response:
        self.asked.set()
        await self.open.wait()
        return web.Response()

    async def ready(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    gate, app = Gate(), web.Application()
    app.add_routes([web.get("/hold", gate.hold), web.get("/ready", gate.ready)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gate.port = runner.addresses[0][1]
    yield gate
    gate.open.set()
    await runner.cleanup()


def http(gate: Gate, path: str) -> dict:
    return {"httpGet": {"host": "127.0.0.1", "port": gate.port, "path": path}}


def when(output: str, mark: str) -> float:
    return next(float(line.split()[-1]) for line in output.splitlines() if line.startswith(mark))


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie nobody has reaped yet has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def all_gone(*pids: int) -> None:
    await eventually(lambda: all(gone(pid) for pid in pids))


async def test_prestop_holds_sigterm_back_as_long_as_its_server_does(cluster: Cluster, gate: Gate) -> None:
    await cluster.run("p", sleeper(lifecycle={"preStop": http(gate, "/hold")}), terminationGracePeriodSeconds=300)
    await cluster.said("p", "main", "up")
    await cluster.delete("p")
    await asyncio.wait_for(gate.asked.wait(), 5)
    await asyncio.sleep(0.5)
    assert "term" not in cluster.output("p")
    assert await cluster.pod("p") is not None
    opened = time.monotonic()
    gate.open.set()
    await cluster.gone("p")
    assert when(cluster.output("p"), "main term") >= opened


async def test_prestop_counts_against_the_grace_period(cluster: Cluster, gate: Gate) -> None:
    await cluster.run("p", sleeper(lifecycle={"preStop": http(gate, "/hold")}), terminationGracePeriodSeconds=10)
    await cluster.said("p", "main", "up")
    began = time.monotonic()
    await cluster.delete("p")
    await cluster.gone("p")
    assert 0.9 < when(cluster.output("p"), "main term") - began < 2.5


async def test_sigkill_follows_the_grace_period_and_takes_the_group(cluster: Cluster) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '99']).pid, flush=True)\n" + STUBBORN
    await cluster.run("k", python(code), terminationGracePeriodSeconds=10)
    child = int((await cluster.said("k", "main", "up")).split()[0])
    assert not gone(child)
    began = time.monotonic()
    seen = []

    async def follow() -> None:
        async for event in cluster.client.follow(PODS):
            if event.object:
                seen.append(event)
            if event.type == "DELETED":
                return

    following = asyncio.create_task(follow())
    await asyncio.sleep(0.1)
    await cluster.delete("k")
    await asyncio.wait_for(following, 8)
    assert 0.9 < time.monotonic() - began < 3
    assert "ignored" in cluster.output("k")
    last = seen[-1].object
    assert container(last)["state"]["terminated"]["exitCode"] == 137
    assert last["status"]["phase"] == "Failed"
    assert condition(last, "Ready") == "False"
    await all_gone(child)


async def test_a_second_deletion_shortens_the_grace(cluster: Cluster) -> None:
    await cluster.run("k", python(STUBBORN), terminationGracePeriodSeconds=3000)
    await cluster.said("k", "main", "up")
    await cluster.delete("k")
    await cluster.said("k", "main", "ignored")
    await cluster.delete("k", grace_seconds=0)
    await cluster.gone("k", 3)
    await eventually(lambda: not cluster.node.processes())


async def test_forced_deletion_kills_at_once(cluster: Cluster) -> None:
    await cluster.run("f", python(STUBBORN))
    await cluster.said("f", "main", "up")
    pids = cluster.node.processes()
    await cluster.delete("f", grace_seconds=0)
    await all_gone(*pids)
    assert "ignored" not in cluster.output("f")


async def test_sidecars_end_after_the_main_container_the_last_first(cluster: Cluster, gate: Gate) -> None:
    inits = [sleeper("one", restartPolicy="Always"), sleeper("two", restartPolicy="Always")]
    main = sleeper(lifecycle={"preStop": http(gate, "/hold")})
    await cluster.run("s", main, initContainers=inits, terminationGracePeriodSeconds=300)
    for name in ("one", "two", "main"):
        await cluster.said("s", name, "up")
    await cluster.delete("s")
    await asyncio.wait_for(gate.asked.wait(), 5)
    await asyncio.sleep(0.3)
    assert not any("term" in cluster.output("s", name) for name in ("one", "two", "main"))
    gate.open.set()
    await cluster.gone("s")
    ends = [when(cluster.output("s", name), f"{name} term") for name in ("main", "two", "one")]
    assert ends == sorted(ends)


async def test_readiness_is_still_reported_while_a_pod_terminates(cluster: Cluster, gate: Gate) -> None:
    readiness = {**http(gate, "/ready"), "periodSeconds": 1, "failureThreshold": 1}
    main = sleeper(readinessProbe=readiness, lifecycle={"preStop": http(gate, "/hold")})
    await cluster.run("t", main, terminationGracePeriodSeconds=300)
    await cluster.until("t", is_ready)
    await cluster.delete("t")
    await asyncio.wait_for(gate.asked.wait(), 5)
    pod = await cluster.until("t", lambda p: "deletionTimestamp" in p["metadata"])
    assert is_ready(pod)
    gate.healthy = False
    pod = await cluster.until("t", lambda p: not is_ready(p))
    assert "deletionTimestamp" in pod["metadata"]
    assert "term" not in cluster.output("t")
    gate.open.set()
    await cluster.gone("t")


async def test_a_pod_deleted_while_it_cannot_start_goes_away(cluster: Cluster) -> None:
    await cluster.run(
        "w", {"name": "main", "image": "nowhere:1"}, initContainers=[sleeper("a", restartPolicy="Always")]
    )
    await cluster.until("w", lambda p: container(p)["state"].get("waiting", {}).get("reason") == "ImagePullBackOff")
    await cluster.delete("w")
    await cluster.gone("w")


async def test_a_finished_pod_ends_its_sidecars(cluster: Cluster) -> None:
    agent = sleeper("agent", restartPolicy="Always")
    await cluster.run("j", python("pass"), initContainers=[agent], restartPolicy="Never")
    pod = await cluster.until("j", lambda p: p["status"].get("phase") == "Succeeded")
    assert "terminated" in container(pod, "agent")["state"], "the phase is final only when nothing runs any more"
    assert cluster.node.processes() == []
    await cluster.delete("j")
    await cluster.gone("j")


async def test_pods_of_a_removed_node_go_with_it(cluster: Cluster) -> None:
    await cluster.run("a", sleeper())
    await cluster.until("a", is_ready)
    pids = cluster.node.processes()
    await cluster.client.delete(NODES, "gpu-0")
    await cluster.gone("a")
    await all_gone(*pids)


async def test_cordon_and_taint(cluster: Cluster) -> None:
    name = "gpu-0"
    await cluster.node.cordon(name)
    await cluster.node.taint(name, "spot", "going")
    await cluster.node.taint(name, "spot", "gone")
    node = await cluster.client.get(NODES, name)
    assert node["spec"]["unschedulable"] is True
    assert node["spec"]["taints"] == [{"key": "spot", "value": "gone", "effect": "NoSchedule"}]
    lease = await cluster.client.get(LEASES, name, "kube-node-lease")
    assert lease["spec"]["holderIdentity"] == name
    await cluster.node.cordon(name, unschedulable=False)
    assert "unschedulable" not in (await cluster.client.get(NODES, name))["spec"]


NODE = """
import asyncio, sys
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_localcluster.node import *
from warmfleet_runtime.clock import SystemClock
async def main():
    images = ImageMap({"python:*": ImageEntry([sys.executable, "-S", "-c"])})
    async with KubeClient.for_server(sys.argv[1]) as client:
        async with ProcessNode(client, SystemClock(), [NodeShape("doomed")], images):
            print("up", flush=True)
            await asyncio.sleep(60)
asyncio.run(main())
"""


def start_doomed_node(url: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", NODE, url], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    return child


def words(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


async def test_a_node_that_dies_leaves_no_process_and_no_file(cluster: Cluster, tmp_path: Path) -> None:
    child = await asyncio.to_thread(start_doomed_node, cluster.client.configuration.host)
    try:
        out = tmp_path / "out"
        code = (
            "import os,subprocess\nprint(os.getpid(), subprocess.Popen(['sleep', '99']).pid, "
            f"os.environ['WARMFLEET_MOUNT_M'], os.environ['TMPDIR'], file=open({str(out)!r}, 'w', 1))\n"
        )
        script = python(code + STUBBORN, volumeMounts=[{"name": "m", "mountPath": "/m"}])
        memory_volume = {"name": "m", "emptyDir": {"medium": "Memory"}}
        await cluster.run("d", script, nodeName="doomed-0", volumes=[memory_volume])
        await eventually(lambda: len(words(out)) == 4)
        leader, grandchild, memory, disk = words(out)
        folders = [Path(memory).parents[1], Path(disk).parents[1]]
        assert all(map(os.path.isdir, folders))
        assert not gone(int(leader))
    finally:
        child.kill()
        child.communicate()
    await all_gone(int(leader), int(grandchild))
    await eventually(lambda: not any(map(os.path.exists, folders)))


async def test_a_stopped_node_removes_everything(cluster: Cluster) -> None:
    await cluster.run("a", python(STUBBORN))
    await cluster.said("a", "main", "up")
    pids = cluster.node.processes()
    began = time.monotonic()
    await cluster.node.stop()
    assert time.monotonic() - began < 2
    await all_gone(*pids)
    assert await cluster.pod("a") is None
    with pytest.raises(ApiError, match="404"):
        await cluster.client.get(NODES, "gpu-0")
