"""The processes that `bench/scale.py` runs beside the cluster: the operator, and the stand-in for all agents."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from scale_cluster import Cluster, Usage, scrape, usage
from warmfleet_cli.demo.processes import Child

HERE = Path(__file__).resolve().parent
TICK = 5.0
CONTROL = 9700
_PORT = 18081
_DECIDED = 'warmfleet_operator_ticks_total{outcome="decided"}'


class Operator:
    """A running operator.

    Args:
        cluster: Where.
        folder: For its log.
        number: Which replica.
        environment: More settings.
    """

    def __init__(
        self, cluster: Cluster, folder: Path, number: int = 0, environment: dict[str, str] | None = None
    ) -> None:
        self._url = f"http://127.0.0.1:{_PORT + number}/metrics"
        self.began = time.monotonic()
        profile = os.environ.get("SCALE_PROFILE")
        tool = ["-m", "cProfile", "-o", f"{profile}.{cluster.fleets}"] if profile and not number else []
        self._child = Child(
            f"operator-{number}",
            [sys.executable, *tool, "-m", "warmfleet_operator"],
            env={
                "KUBECONFIG": str(cluster.kubeconfig),
                "WARMFLEET_IDENTITY": f"operator-{number}",
                "WARMFLEET_TICK_SECONDS": f"{TICK:g}",
                "WARMFLEET_LISTEN_ADDRESS": "127.0.0.1",
                "WARMFLEET_LISTEN_PORT": str(_PORT + number),
                "WARMFLEET_LEASE_NAMESPACE": "default",
                **(environment or {}),
            },
            folder=folder,
        )

    @property
    def pid(self) -> int:
        """Of its first process."""
        return self._child._process.pid  # noqa: SLF001 - the bench kills it

    async def read(self, *names: str) -> dict[str, float]:
        """Some of its metrics.

        Raises:
            RuntimeError: It has ended.
        """
        if self._child.exit_code() is not None:
            raise RuntimeError(f"the operator ended with {self._child.exit_code()}:\n{self._child.tail()}")
        return await asyncio.to_thread(scrape, self._url, names)

    async def decided(self) -> float:
        """How many decisions it has made."""
        return (await self.read("warmfleet_operator_ticks_total")).get(_DECIDED, 0.0)

    def usage(self) -> Usage:
        """What it uses."""
        return usage(self.pid)

    async def stop(self) -> None:
        """End it in good order."""
        await self._child.stop(grace=30)

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.pid, signal.SIGKILL)


async def until(check: Callable[[], Awaitable[bool]], seconds: float, what: str, period: float = 0.25) -> float:
    """Seconds until ``check`` says so.

    Raises:
        TimeoutError: It does not within ``seconds``.
    """
    began = time.monotonic()
    while not await check():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(period)
    return time.monotonic() - began


Fleets = list[tuple[str, str, int, float]]


async def set_rates(default: float, workers: dict[str, float] | None = None, fleets: Fleets | None = None) -> None:
    """The traffic of all workers, and of some; for Prometheus, of the fleets: (namespace, name, workers, rate)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", CONTROL)
    wanted = {"default": default, "workers": workers or {}} | ({"fleets": fleets} if fleets is not None else {})
    body = json.dumps(wanted).encode()
    writer.write(b"POST /rates HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    await reader.read()
    writer.close()


async def answers() -> int:
    """Answers that the stand-in for all agents has given so far."""
    reader, writer = await asyncio.open_connection("127.0.0.1", CONTROL)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await writer.drain()
    said = await reader.read()
    writer.close()
    return int(json.loads(said.partition(b"\r\n\r\n")[2])["answers"])


@asynccontextmanager
async def agents(folder: Path) -> AsyncIterator[None]:
    """The stand-in for all agents, as a process of its own."""
    script = [sys.executable, str(HERE / "scale_agents.py"), "--control-port", str(CONTROL)]
    child = Child("agents", script, env={}, folder=folder)
    try:

        async def ready() -> bool:
            if child.exit_code() is not None:
                raise RuntimeError(f"the agents' stand-in ended:\n{child.tail()}")
            return "ready" in child.tail()

        await until(ready, 30, "the agents' stand-in listens")
        yield
    finally:
        await child.stop(grace=2)
