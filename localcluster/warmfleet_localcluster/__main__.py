"""A Kubernetes cluster in one process: python -m warmfleet_localcluster --kubeconfig FILE --nodes gpu=2x8.

The embedded API, the controllers that the demo needs, and nodes whose containers are local processes. It listens on
loopback only and ends, with all its processes, at SIGTERM or Ctrl-C. The clock is the one of WARMFLEET_CLOCK.
With --join FILE there are only the nodes, for the cluster that the kubeconfig names.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from warmfleet_runtime.clock import Clock, clock_from_env
from warmfleet_runtime.kubeclient import KubeClient

from warmfleet_localcluster.api import EmbeddedApi, serve, server_url, write_kubeconfig
from warmfleet_localcluster.controllers import Controllers
from warmfleet_localcluster.node import ImageEntry, ImageMap, NodeShape, ProcessNode, Settings

_LOG = logging.getLogger("warmfleet_localcluster")
_NODES = re.compile(r"(?P<name>[a-z0-9][-a-z0-9]*)=(?P<count>\d+)x(?P<accelerators>\d+)(?P<labels>(,[^,=]+=[^,=]*)*)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cluster until it is told to end; returns the exit code."""
    parser = argparse.ArgumentParser(prog="warmfleet-localcluster", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=0, metavar="N", help="port of the API on 127.0.0.1 (default 0: any free one)"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--kubeconfig", type=Path, metavar="FILE", help="file to write once the cluster is there")
    where.add_argument(
        "--join", type=Path, metavar="FILE", help="kubeconfig of a running cluster, which only gets the nodes"
    )
    parser.add_argument(
        "--pod-network",
        metavar="CIDR",
        help="network of the pods' addresses, which must be bindable here (default: part of 127.0.0.0/8)",
    )
    parser.add_argument(
        "--nodes",
        type=node_shape,
        action="append",
        default=[],
        metavar="NAME=COUNTxACCELERATORS[,LABEL=VALUE...]",
        help="nodes to register, such as h100=2x8,nvidia.com/gpu.product=NVIDIA-H100; may be repeated",
    )
    parser.add_argument(
        "--node-env",
        type=node_env,
        action="append",
        default=[],
        metavar="NAME=KEY=VALUE",
        help="environment of containers on the nodes of that name, as a device plugin adds it; may be repeated",
    )
    parser.add_argument(
        "--node-taint",
        action="append",
        default=[],
        metavar="KEY",
        help="taint with effect NoSchedule on every node with accelerators, such as nvidia.com/gpu; may be repeated",
    )
    parser.add_argument(
        "--image",
        type=image_entry,
        action="append",
        default=[],
        metavar="PATTERN=COMMAND",
        help="what runs for an image, such as 'vllm/*=env ACCELERATOR=L4 simulated-engine'; may be repeated",
    )
    parser.add_argument(
        "--probe-scale",
        type=float,
        metavar="SCALE",
        help="logical seconds of a probe's periods and timeouts per real second (default: the clock's scale)",
    )
    parser.add_argument(
        "--probe-timeout",
        type=float,
        default=Settings().min_probe_timeout,
        metavar="SECONDS",
        help="real seconds that a probe waits for an answer at least; more where the machine is busy "
        "(default %(default)s)",
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if arguments.probe_scale is not None and not 0 < arguments.probe_scale < float("inf"):
        parser.error(f"--probe-scale {arguments.probe_scale}: write a number above 0")
    clock = clock_from_env()
    patient = ProbeClock(clock, arguments.probe_scale or clock.scale)
    if not 0 < arguments.probe_timeout < float("inf"):
        parser.error(f"--probe-timeout {arguments.probe_timeout}: write a number above 0")
    settings = Settings(min_probe_timeout=arguments.probe_timeout)
    if arguments.pod_network:
        settings = replace(settings, addresses=arguments.pod_network)
    shapes = [with_env(shape, arguments.node_env) for shape in arguments.nodes or [NodeShape("node")]]
    shapes = [with_taints(shape, arguments.node_taint) for shape in shapes]
    nodes = Nodes(shapes, ImageMap(dict(arguments.image)), patient, settings)
    if arguments.join is not None:
        asyncio.run(join(arguments.join, nodes))
    else:
        asyncio.run(run(arguments.port, arguments.kubeconfig, nodes, clock))
    return 0


@dataclass(frozen=True, slots=True)
class Nodes:
    """What the process nodes are made of.

    Attributes:
        shapes: Nodes to register.
        images: What runs for an image.
        clock: Time of probes and pods.
        settings: Addresses and limits.
    """

    shapes: Sequence[NodeShape]
    images: ImageMap
    clock: Clock
    settings: Settings

    def on(self, kube: KubeClient) -> ProcessNode:
        """The nodes of one API."""
        return ProcessNode(kube, self.clock, self.shapes, self.images, settings=self.settings)


class ProbeClock:
    """The cluster's time, with more real time for probes than a fast clock leaves them.

    A process needs a second or two to start however fast the clock runs; a startup or liveness probe that is scaled
    like everything else would end it before. Only conversions to real time differ: `now`, `wall` and `sleep` do not.

    Args:
        clock: The cluster's clock.
        scale: Logical seconds of a probe's periods, timeouts and delays per real second.
    """

    def __init__(self, clock: Clock, scale: float) -> None:
        self._clock, self._probe_scale = clock, scale

    @property
    def scale(self) -> float:
        """The cluster's scale."""
        return self._clock.scale

    def now(self) -> float:
        """The cluster's logical time."""
        return self._clock.now()

    def wall(self) -> datetime:
        """The cluster's logical wall time."""
        return self._clock.wall()

    async def sleep(self, seconds: float) -> None:
        """Sleep as the cluster's clock does."""
        await self._clock.sleep(seconds)

    def real(self, seconds: float) -> float:
        """Real seconds that ``seconds`` logical seconds of a probe take."""
        return seconds / self._probe_scale


async def run(port: int, kubeconfig: Path, nodes: Nodes, clock: Clock) -> None:
    """Serves the API and runs controllers and nodes until SIGTERM or SIGINT."""
    ended = _ended()
    runner = await serve(EmbeddedApi(clock=clock), "127.0.0.1", port)
    try:
        async with KubeClient.for_server(server_url(runner)) as kube:
            controllers = asyncio.create_task(Controllers(kube, clock).run())
            controllers.add_done_callback(lambda _: ended.set())  # they run for ever; without them nothing works
            async with nodes.on(kube):
                write_kubeconfig(kubeconfig, server_url(runner))
                _LOG.info("serving on %s; kubeconfig in %s", server_url(runner), kubeconfig)
                await ended.wait()
            if controllers.done():
                await controllers
            controllers.cancel()
            await asyncio.gather(controllers, return_exceptions=True)
    finally:
        await runner.cleanup()


async def join(kubeconfig: Path, nodes: Nodes) -> None:
    """Runs nodes of another API until SIGTERM or SIGINT."""
    ended = _ended()
    async with await KubeClient.from_kubeconfig(kubeconfig) as kube, nodes.on(kube) as node:
        _LOG.info("nodes %s joined %s", ", ".join(node.names), kube.configuration.host)
        await ended.wait()


def _ended() -> asyncio.Event:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    return ended


def node_shape(text: str) -> NodeShape:
    """Reads ``NAME=COUNTxACCELERATORS[,LABEL=VALUE...]``.

    Raises:
        argparse.ArgumentTypeError: It reads differently.
    """
    match = _NODES.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COUNTxACCELERATORS[,LABEL=VALUE...], such as l4=8x1")
    labels = dict(pair.split("=", 1) for pair in match["labels"].split(",") if pair)
    allocatable = {"cpu": "64", "memory": "512Gi"}
    if int(match["accelerators"]):
        allocatable["nvidia.com/gpu"] = match["accelerators"]
    return NodeShape(match["name"], labels=labels, allocatable=allocatable, count=int(match["count"]))


def node_env(text: str) -> tuple[str, str, str]:
    """Reads ``NAME=KEY=VALUE``.

    Raises:
        argparse.ArgumentTypeError: It reads differently.
    """
    name, _, rest = text.partition("=")
    key, equals, value = rest.partition("=")
    if not (name and key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=KEY=VALUE, such as l4=DEVICE=L4")
    return name, key, value


def with_env(shape: NodeShape, given: Sequence[tuple[str, str, str]]) -> NodeShape:
    """The shape with what was given for nodes of its name."""
    return replace(shape, env={**shape.env, **{key: value for name, key, value in given if name == shape.name}})


def with_taints(shape: NodeShape, keys: Sequence[str]) -> NodeShape:
    """The shape with taints of these keys, if it has accelerators: what needs none is to run elsewhere."""
    if "nvidia.com/gpu" not in shape.allocatable:
        return shape
    return replace(shape, taints=[*shape.taints, *({"key": key, "effect": "NoSchedule"} for key in keys)])


def image_entry(text: str) -> tuple[str, ImageEntry]:
    """Reads ``PATTERN=COMMAND``: image glob and the command that stands for its entrypoint and command.

    Raises:
        argparse.ArgumentTypeError: It reads differently.
    """
    pattern, equals, command = text.partition("=")
    argv = shlex.split(command)
    if not (equals and pattern and argv):
        raise argparse.ArgumentTypeError(f"{text!r} is not PATTERN=COMMAND, such as 'vllm/*=simulated-engine'")
    return pattern, ImageEntry(argv, entry_only=True)


if __name__ == "__main__":
    raise SystemExit(main())
