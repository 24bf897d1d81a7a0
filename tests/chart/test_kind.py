"""The kind quickstart, run as it is written, where there is neither kind nor a container engine.

Programs of their names take their places: they note what they are asked for, and "building" an image means that its
Dockerfile's entry point is found among the installed programs. Helm and kubectl are real. The cluster is the embedded
one, whose only node runs what the script has built, and no other image; it knows no StatefulSets, so the forecaster is
only said to run.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import world as scenario
from clients import helm_path, kubectl_path
from releases import CHART
from warmfleet_localcluster.api import EmbeddedApi, serve, server_url, write_kubeconfig
from warmfleet_localcluster.controllers import Controllers
from warmfleet_localcluster.node import ImageEntry, ImageMap, NodeShape, ProcessNode
from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import LLM_DEPLOYMENTS, NODES, STATEFUL_SETS

ROOT = CHART.parents[1]
SCRIPT = ROOT / "examples" / "kind" / "quickstart.sh"
PROGRAMS = Path(sys.executable).parent
IMAGES = ("operator", "forecaster", "agent", "router")
NODE = "warmfleet-control-plane"
RECORDER = """#!/bin/sh
echo "$(basename "$0") $*" >>"$RECORD"
"""


def image(*command: str) -> ImageEntry:
    """An image as the Dockerfiles make it: its programs are on the path."""
    environment = {
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
        "WARMFLEET_LISTEN_ADDRESS": "$(WARMFLEET_POD_IP)",  # pods share this machine's ports
    }
    return ImageEntry(list(command), env=environment)


class Machine:
    """A laptop with kind, as far as the script can tell."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        self.record = folder / "record"
        self.record.touch()
        programs = folder / "bin"
        programs.mkdir()
        for name in ("docker", "kind"):
            (programs / name).write_text(RECORDER)
            (programs / name).chmod(0o755)
        (programs / "helm").symlink_to(helm_path())
        (programs / "kubectl").symlink_to(kubectl_path())
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "RECORD": str(self.record), "KUBECONFIG": str(kubeconfig)}
        self.environment.pop("CLUSTER", None)

    async def run(self, *command: str, seconds: float) -> str:
        """Output of a command; the test fails when the command does."""
        process = await asyncio.create_subprocess_exec(
            *command, env=self.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), seconds)
        assert process.returncode == 0, output.decode()
        return output.decode()


async def forecaster_is_said_to_run(kube: KubeClient) -> None:
    """Writes what the controller of StatefulSets would have written, for ever."""
    while True:
        await asyncio.sleep(1.0)
        for body in (await kube.list(STATEFUL_SETS))["items"]:
            meta, count = body["metadata"], body["spec"]["replicas"]
            counted = dict.fromkeys(("replicas", "readyReplicas", "availableReplicas", "updatedReplicas"), count)
            status = {
                "observedGeneration": meta["generation"],
                "currentRevision": "1",
                "updateRevision": "1",
                **counted,
            }
            if body.get("status") != status:
                where = meta["namespace"]
                await kube.patch(STATEFUL_SETS, meta["name"], {"status": status}, where, subresource="status")


async def name_the_node(kube: KubeClient) -> None:
    """A Node by the name that kind gives, for the script to change; the pods run on another, which says the same."""
    body = {"metadata": {"name": NODE}, "spec": {"unschedulable": True}}
    await kube.create(NODES, body)
    await kube.patch(NODES, NODE, {"status": {"capacity": {"cpu": "8"}}}, subresource="status")


@pytest.fixture
async def machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helm: str, kubectl: str
) -> AsyncIterator[tuple[Machine, KubeClient]]:
    clock = ScaledClock(1.0)
    monkeypatch.setenv(CLOCK_ENV, clock.to_env())
    shape = NodeShape("kind", allocatable={"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "4"})
    entries = {name: image(f"warmfleet-{name}") for name in IMAGES} | {"router": image("vllm-router")}
    table = ImageMap({f"ghcr.io/warmfleet/{name}:dev": entry for name, entry in entries.items()})
    api = EmbeddedApi(clock=clock)
    runner = await serve(api, "127.0.0.1", 0)
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server_url(runner))
    async with KubeClient.for_server(server_url(runner)) as kube:
        work = (Controllers(kube, clock).run(), forecaster_is_said_to_run(kube))
        tasks = [asyncio.create_task(each) for each in work]
        async with ProcessNode(kube, clock, [shape], table, settings=scenario.PATIENT):
            await name_the_node(kube)
            yield Machine(tmp_path, kubeconfig), kube
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await runner.cleanup()


@pytest.mark.timeout(600)
async def test_the_script_ends_with_a_fleet_that_serves(machine: tuple[Machine, KubeClient]) -> None:
    person, kube = machine
    said = await person.run("bash", str(SCRIPT), seconds=420)
    assert "It serves." in said
    done = person.record.read_text().splitlines()
    assert done[0].startswith("kind create cluster --name warmfleet ")
    built = [line.split() for line in done if line.startswith("docker build ")]
    assert [words[words.index("--tag") + 1] for words in built] == [f"ghcr.io/warmfleet/{name}:dev" for name in IMAGES]
    for words in built:
        assert (ROOT / words[words.index("--file") + 1]).is_file()
        loaded = f"kind load docker-image {words[words.index('--tag') + 1]} --name warmfleet"
        assert done.index(loaded) > done.index(" ".join(words))
    node = await kube.get(NODES, NODE)
    assert node["status"]["capacity"]["nvidia.com/gpu"] == "4"
    fleet = await kube.get(LLM_DEPLOYMENTS, "chat", "default")
    assert fleet["status"]["readyReplicas"] == 1
    await person.run("kubectl", "delete", "llmdeployments", "--all", "--timeout=100s", seconds=120)
