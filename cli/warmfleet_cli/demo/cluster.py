"""Brings up a cluster whose pods run the demo's images, and ends it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

import aiohttp
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import NODES
from warmfleet_runtime.rest import ApiError

from warmfleet_cli.demo.processes import Child
from warmfleet_cli.demo.sizing import Plan

_NOT_YET = (OSError, TimeoutError, aiohttp.ClientError, ApiError)
ENGINE_ENV = {
    "WARMFLEET_SIM_STARTUP_SECONDS": "150",
    # A chunk every 0.25 real seconds: one event per token would be a thousand a second per stream at this pace.
    "WARMFLEET_SIM_STREAM_INTERVAL_SECONDS": "10",
}

TAINT = "nvidia.com/gpu"
PROBE_SCALE = 3.0
"""Logical seconds of a probe per real second: a container that has a minute to start has twenty real seconds."""
PROBE_TIMEOUT = 5.0
"""Real seconds that a probe waits for an answer: a busy machine is no reason to restart what works."""


class ClusterError(Exception):
    """The cluster or something in it did not come up; the message ends with the logs' last lines."""


class Cluster(Protocol):
    """A Kubernetes cluster whose pods run the demo's images."""

    @property
    def kubeconfig(self) -> Path:
        """The file ``kubectl`` needs."""

    @property
    def children(self) -> list[Child]:
        """Its processes, for their logs."""

    async def start(self) -> None:
        """Returns when the API answers and the nodes are there.

        Raises:
            ClusterError: It does not come up.
        """

    async def stop(self) -> None:
        """Ends everything that runs in it, and itself."""


class EmbeddedCluster:
    """The cluster of ``warmfleet_localcluster`` in a process of its own.

    Args:
        plan: What will be installed: decides the nodes and the engines' speed.
        folder: For its logs and its kubeconfig.
        env: Environment that all of it shares: the clock.
    """

    def __init__(self, plan: Plan, *, folder: Path, env: Mapping[str, str]) -> None:
        self.kubeconfig = folder / "kubeconfig"
        self.children: list[Child] = []
        self._plan, self._folder, self._env = plan, folder, env

    async def start(self) -> None:
        """Returns when the API answers and the nodes are there."""
        self.kubeconfig.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "warmfleet_localcluster", "--kubeconfig", str(self.kubeconfig)]
        argv += node_arguments(self._plan)
        self.children.append(Child("cluster", argv, env=self._env, folder=self._folder))
        await wait_for("the cluster", self._there, self.children, seconds=60)

    async def stop(self) -> None:
        """Ends everything that runs in it, and itself."""
        for child in self.children:
            await child.stop(grace=10)

    async def _there(self) -> bool:
        return self.kubeconfig.exists() and await nodes_there(self.kubeconfig, self._plan)


def node_arguments(plan: Plan) -> list[str]:
    """Arguments of ``warmfleet-localcluster``: the nodes that ``plan`` fills and what runs for its images."""
    shapes, devices = ["cpu=1x0"], []
    for kind in plan.kinds:
        name, spec = kind.instance_type.metadata.name, kind.instance_type.spec
        selector = "".join(f",{key}={value}" for key, value in sorted(spec.node_selector.items()))
        shapes.append(f"{name}={plan.machines(kind)}x{spec.accelerator.count}{selector}")
        devices.append(f"{name}=WARMFLEET_SIM_ACCELERATOR={kind.accelerator}")
    engine = {"WARMFLEET_SIM_PROFILE": plan.kinds[0].profile.model, **ENGINE_ENV}
    settings = " ".join(f"{key}={value}" for key, value in engine.items())
    images = {
        "vllm/vllm-openai:*": f"env {settings} warmfleet-simulated-engine",
        "ghcr.io/warmfleet/agent:*": "warmfleet-agent",
        "ghcr.io/warmfleet/router:*": "vllm-router",
    }
    argv = ["--probe-scale", f"{PROBE_SCALE:g}", "--probe-timeout", f"{PROBE_TIMEOUT:g}"]
    for shape in shapes:
        argv += ["--nodes", shape]
    argv += ["--node-taint", TAINT]  # as GPU nodes have: a router that runs on one would go with its machine
    for device in devices:
        argv += ["--node-env", device]
    for pattern, command in images.items():
        argv += ["--image", f"{pattern}={command}"]
    return argv


async def nodes_there(kubeconfig: Path, plan: Plan) -> bool:
    """Whether all nodes of :func:`node_arguments` are registered."""
    async with await KubeClient.from_kubeconfig(kubeconfig) as kube:
        nodes = await kube.list(NODES)
    return len(nodes["items"]) == 1 + sum(plan.machines(kind) for kind in plan.kinds)


async def wait_for(what: str, ready: Callable[[], Awaitable[bool]], children: list[Child], *, seconds: float) -> None:
    """Asks until ``ready`` says yes.

    Args:
        what: For the message.
        ready: May raise what an API that is not there yet raises.
        children: Processes without which it never becomes ready; their logs end the message.
        seconds: Real seconds to wait.

    Raises:
        ClusterError: It took too long, or a process ended.
    """
    deadline, last = time.monotonic() + seconds, ""
    while True:
        try:
            if await ready():
                return
        except _NOT_YET as error:
            last = f" ({error!r})"
        ended = [child for child in children if child.exit_code() is not None]
        if ended or time.monotonic() > deadline:
            why = (
                f"{ended[0].name} ended with code {ended[0].exit_code()}"
                if ended
                else f"not within {seconds:g} s{last}"
            )
            tails = "\n".join(child.tail() for child in (ended or children))
            raise ClusterError(f"waiting for {what}: {why}\n{tails}")
        await asyncio.sleep(0.1)
