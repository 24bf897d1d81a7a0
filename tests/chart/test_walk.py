"""The documentation's commands, run as they are written, in the order in which a newcomer meets them.

A cluster without anything, on which the chart's own Deployment runs the operator; the page quickstart.md first, then
what every other page does to a fleet that serves, then the steps of the runbooks. Each line has to end with 0. What
needs something that no test has (a registry's signatures, a container engine, one's own traffic) is named in NOT_HERE,
and only parsed, by tests/docs.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import world as scenario
from aiohttp import web
from clients import helm_path, kubectl_path
from foreign_crds import crd_file
from releases import SYSTEM
from test_chart_live import FAST
from test_docs import DOCS, PAGES, ROOT, RUNBOOKS, commands, fences, steps
from warmfleet_localcluster.api import EmbeddedApi, serve, server_url, write_kubeconfig
from warmfleet_localcluster.controllers import Controllers
from warmfleet_localcluster.node import ImageEntry, NodeShape, ProcessNode
from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import DEPLOYMENTS

NOT_HERE = ("make", "cosign", "docker", "warmfleet forecast", "warmfleet simulate", "kubectl port-forward", "curl -s")
"""Beginnings of commands that are not run. The node's network needs no port-forward: its pods are at hand. `curl -s`
asks one's own Prometheus."""
FORECASTER = "sts/warmfleet-forecaster"
"""Has no pod here: this cluster makes none for StatefulSets. Helm's templates have it by that name."""
FIRST = DOCS / "quickstart.md"
SECONDS = 150.0


class Walk:
    """A person at a terminal, in a checkout."""

    def __init__(self, world: scenario.World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.done: list[str] = []
        for name in ("charts", "examples", "deploy"):
            (folder / name).symlink_to(ROOT / name)

    async def run(self, words: list[str], *, seconds: float = SECONDS) -> str:
        """Output of a command; the test fails when the command does."""
        programs = {
            "helm": [helm_path()],
            "kubectl": [kubectl_path()],
            "warmfleet": [sys.executable, "-m", "warmfleet_cli"],
        }
        self.done.append(shlex.join(words))
        process = await asyncio.create_subprocess_exec(
            *programs.get(words[0], [words[0]]),
            *words[1:],
            cwd=self.folder,
            env={**os.environ, "KUBECONFIG": str(self.world.kubeconfig), "COLUMNS": "200", "NO_PROXY": "*"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), seconds)
        text = output.decode()
        assert process.returncode == 0, f"{shlex.join(words)} ended with {process.returncode}:\n{text}"
        return text

    async def written(self, words: list[str]) -> str:
        """Run a command of the documentation as it is meant."""
        return await self.run(await self.filled(words))

    async def filled(self, words: list[str]) -> list[str]:
        """A command with what the documentation leaves to the reader."""
        (worker, *_) = [w["metadata"]["name"] for w in await self.world.ready_workers()] or [""]
        endpoint = await self.world.endpoint()
        filled = {"prod": "default", "NAMESPACE": "default", "NAME": "chat", "chat-h100-0a1b2": worker}
        words = [filled.get(word, word).replace("http://127.0.0.1:8080", endpoint) for word in words]
        words = [word.replace("=NAME", "=chat") for word in words]
        if words[-1] == "-w":  # it never ends by itself
            words = [*words[:-1], "--watch", "--request-timeout=2s"]
        if words[:2] == ["helm", "install"]:
            words.append(f"--set-json=config={json.dumps(FAST)}")
        return words


@pytest.fixture
async def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helm: str, kubectl: str) -> AsyncIterator[Walk]:
    """An empty cluster with the machines of the quickstart."""
    clock = ScaledClock(scenario.SCALE)
    monkeypatch.setenv(CLOCK_ENV, clock.to_env())
    gpu = {"cpu": "64", "memory": "512Gi"}
    shapes = [
        NodeShape("cpu", allocatable=gpu),
        NodeShape(
            "h100",
            labels={"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
            allocatable={**gpu, "nvidia.com/gpu": "8"},
        ),
        NodeShape("l40s", labels={"nvidia.com/gpu.product": "NVIDIA-L40S"}, allocatable={**gpu, "nvidia.com/gpu": "4"}),
    ]
    table = scenario.images()
    table["ghcr.io/warmfleet/operator:*"] = ImageEntry(
        [sys.executable, "-m", "warmfleet_operator"],
        env={"WARMFLEET_LISTEN_ADDRESS": "$(WARMFLEET_POD_IP)"},  # pods share this machine's ports
        entry_only=True,
    )
    nodes: list[ProcessNode] = []

    async def log(namespace: str, pod: str, request: web.Request) -> web.Response:
        try:
            return web.Response(text=nodes[0].logs(namespace, pod, request.query["container"]))
        except KeyError:  # of an image that this node cannot run
            return web.Response()

    api = EmbeddedApi(clock=clock)
    runner = await serve(api, "127.0.0.1", 0, log_reader=log)
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server_url(runner))
    probes = scenario.ProbeClock(clock, scenario.PROBE_SCALE)
    async with KubeClient.for_server(server_url(runner)) as kube:
        controllers = asyncio.create_task(Controllers(kube, clock).run())
        async with ProcessNode(kube, probes, shapes, table, settings=scenario.PATIENT) as node:
            nodes.append(node)
            yield Walk(scenario.World(kube, node, table, clock, kubeconfig, tmp_path, api), tmp_path)
        controllers.cancel()
        await asyncio.gather(controllers, return_exceptions=True)
    await runner.cleanup()


def needs_no_cluster(words: list[str]) -> bool:
    """Those that tests/docs runs, or that nothing here can run."""
    line = " ".join(words)
    return line.startswith(NOT_HERE) or "--help" in words


@pytest.mark.timeout(900)
async def test_every_command_works_as_it_is_written(walk: Walk) -> None:
    await quickstart(walk)
    await preparations(walk)
    for page in PAGES:
        for words in commands(page) if page != FIRST else ():
            if not needs_no_cluster(words):
                await walk.written(words)
    for page in RUNBOOKS:
        for words in steps(page):
            filled = await walk.filled(words)
            if words[-1] == FORECASTER or shlex.join(filled) in walk.done:
                continue
            said = await walk.run(filled)
            assert words[:2] != ["kubectl", "logs"] or "warmfleet_operator" in said
    with tarfile.open(walk.folder / "bundle.tgz") as bundle:
        assert [name for name in bundle.getnames() if "logs/warmfleet-system_warmfleet-operator" in name]
    assert len(walk.done) > 50
    # As quickstart.md ends.
    await walk.run(["kubectl", "delete", "llmdeployments", "--all", "-A", "--timeout=100s"])
    await walk.run(["helm", "uninstall", "warmfleet", f"--namespace={SYSTEM}"])


async def quickstart(walk: Walk) -> None:
    """What the first page says, with a look at what it has led to."""
    for words in commands(FIRST):
        if needs_no_cluster(words):
            continue
        said = await walk.written(words)
        if words[:2] == ["helm", "install"]:
            assert "kubectl delete llmdeployments --all" in said
            await scenario.eventually(lambda: available(walk), "the operator", SECONDS)
        if words[:2] == ["kubectl", "apply"]:
            await walk.world.until_ready(1, seconds=SECONDS)
            await walk.world.until_endpoint(seconds=SECONDS)
            await walk.world.until_condition("Ready", "True", seconds=SECONDS)
        if words[0] == "curl":
            assert "meta-llama/Llama-3.1-8B-Instruct" in said


async def available(walk: Walk) -> bool:
    """Whether the operator is up; `kubectl rollout status` gives up early: the Deployment's clock runs fast here."""
    body = await walk.world.kube.get(DEPLOYMENTS, "warmfleet-operator", SYSTEM)
    return bool((body.get("status") or {}).get("availableReplicas"))


async def preparations(walk: Walk) -> None:
    """What the other pages take to be there."""
    (walk.folder / "fleet.yaml").write_text((ROOT / "examples/quickstart.yaml").read_text(encoding="utf-8"))
    (forecast,) = fences(DOCS / "how-to/external-forecaster.md", "json")
    (walk.folder / "forecast.json").write_text(forecast)
    target = next(t for t in fences(DOCS / "how-to/external-forecaster.md", "yaml") if "TrafficForecast" in t)
    (walk.folder / "tfc.yaml").write_text(target)
    await walk.run(["kubectl", "apply", "-f", "tfc.yaml"])
    for name in ("podmonitors", "prometheusrules"):
        await walk.run(["kubectl", "apply", "--server-side", "-f", str(crd_file(f"{name}.monitoring.coreos.com"))])
