from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warmfleet_cli.demo.cluster import ClusterError, EmbeddedCluster, wait_for
from warmfleet_cli.demo.conversations import Shape
from warmfleet_cli.demo.installation import default_crds
from warmfleet_cli.demo.processes import Child
from warmfleet_cli.demo.sizing import plan
from warmfleet_localcluster.__main__ import ProbeClock, image_entry, node_env, node_shape, with_env, with_taints
from warmfleet_runtime.clock import ScaledClock
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import NODES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are ended by Linux's means")
SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


async def test_a_child_ends_when_it_is_told_to(tmp_path: Path) -> None:
    child = Child("sleeper", SLEEP, env={}, folder=tmp_path)
    await wait_for("output", _says(child, "up"), [child], seconds=10)
    assert child.exit_code() is None
    await child.stop(grace=5)
    assert child.exit_code() == -signal.SIGTERM


async def test_a_stubborn_child_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    child = Child("stubborn", [sys.executable, "-c", code], env={}, folder=tmp_path)
    await wait_for("output", _says(child, "up"), [child], seconds=10)
    await child.stop(grace=0.2)
    assert child.exit_code() == -signal.SIGKILL


def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib\n"
        "from warmfleet_cli.demo.processes import Child\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        f"child = Child('c', sleep, env={{}}, folder=pathlib.Path({str(tmp_path)!r}))\n"
        "print(child._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    for _ in range(100):
        if not _alive(pid):
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} outlived its parent")


async def test_waiting_in_vain_shows_the_logs(tmp_path: Path) -> None:
    child = Child("broken", [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], env={}, folder=tmp_path)

    async def never() -> bool:
        return False

    with pytest.raises(ClusterError, match=r"broken ended with code 3\n  broken: the reason"):
        await wait_for("something", never, [child], seconds=10)

    async def refused() -> bool:
        raise ConnectionRefusedError

    with pytest.raises(ClusterError, match=r"something: not within 0.2 s \(ConnectionRefusedError"):
        await wait_for("something", refused, [], seconds=0.2)


@pytest.mark.parametrize("text", ["l4", "l4=8", "l4=8x", "=8x1", "l4=8x1,label", "L4=1x1"])
def test_a_wrong_node_shape_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="NAME=COUNTxACCELERATORS"):
        node_shape(text)


def test_node_shapes_and_images_are_read() -> None:
    shape = node_shape("l4=8x2,a.b/c=D,e=")
    assert (shape.name, shape.count, shape.labels) == ("l4", 8, {"a.b/c": "D", "e": ""})
    assert shape.allocatable["nvidia.com/gpu"] == "2"
    assert "nvidia.com/gpu" not in node_shape("cpu=1x0").allocatable
    pattern, entry = image_entry("vllm/*=env A=1 'some engine'")
    assert (pattern, list(entry.argv), entry.entry_only) == ("vllm/*", ["env", "A=1", "some engine"], True)
    with pytest.raises(argparse.ArgumentTypeError, match="PATTERN=COMMAND"):
        image_entry("vllm/*")


def test_nodes_have_the_environment_that_is_given_to_their_name() -> None:
    given = [node_env("l4=DEVICE=L4"), node_env("a100=DEVICE=A=100")]
    assert with_env(node_shape("a100=1x8"), given).env == {"DEVICE": "A=100"}
    assert with_env(node_shape("cpu=1x0"), given).env == {}
    tainted = with_taints(node_shape("a100=1x8"), ["nvidia.com/gpu"]).taints
    assert tainted == [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]
    assert not with_taints(node_shape("cpu=1x0"), ["nvidia.com/gpu"]).taints, "routers run somewhere"
    for text in ("l4", "l4=DEVICE", "=DEVICE=L4"):
        with pytest.raises(argparse.ArgumentTypeError, match="NAME=KEY=VALUE"):
            node_env(text)


async def test_the_embedded_cluster_starts_and_leaves_nothing(tmp_path: Path) -> None:
    sized = plan(Shape())
    cluster = EmbeddedCluster(sized, folder=tmp_path, env={})
    try:
        await cluster.start()
        async with await KubeClient.from_kubeconfig(cluster.kubeconfig) as kube:
            nodes = [node["metadata"]["name"] for node in (await kube.list(NODES))["items"]]
        machines = [
            f"{kind.instance_type.metadata.name}-{i}" for kind in sized.kinds for i in range(sized.machines(kind))
        ]
        assert sorted(nodes) == sorted(["cpu-0", *machines])
    finally:
        await cluster.stop()
    assert [child.exit_code() for child in cluster.children] == [0]


async def test_probes_get_more_real_time_and_nothing_else_does() -> None:
    clock = ScaledClock(60.0)
    patient = ProbeClock(clock, 3.0)
    assert (patient.real(60.0), clock.real(60.0), patient.scale) == (20.0, 1.0, 60.0)
    assert patient.now() == pytest.approx(clock.now(), abs=60.0)
    before = clock.now()
    await patient.sleep(6.0)
    assert clock.now() - before < 60.0


def test_the_crds_of_the_checkout_are_found() -> None:
    assert (default_crds() / "warmfleet.dev_llmdeployments.yaml").is_file()


def _says(child: Child, text: str):  # type: ignore[no-untyped-def]
    async def ready() -> bool:
        return text in child.tail()

    return ready


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"
