"""``warmfleet-agent``: stands beside one engine until its pod goes.

As a native sidecar it is stopped after the engine, so SIGTERM means there is nothing left to do: it exits promptly,
and at once on a second one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from aiohttp import web
from warmfleet_runtime.clock import Clock, clock_from_env
from warmfleet_runtime.commandline import usage
from warmfleet_runtime.logs import configure

from warmfleet_worker.agent import Agent
from warmfleet_worker.engines.vllm import VllmEngine
from warmfleet_worker.guard import Guard
from warmfleet_worker.kv.cache import build
from warmfleet_worker.server import AgentServer
from warmfleet_worker.settings import Settings, settings_from_env

_LOG = logging.getLogger("warmfleet_worker")


async def run(settings: Settings, clock: Clock) -> None:
    """Run the agent until SIGTERM.

    Raises:
        OSError: The address cannot be bound.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _told, stop)
    engine = VllmEngine(settings.engine_url, slo_ttft=settings.slo_ttft, slo_tpot=settings.slo_tpot)
    cache = build(settings, engine, clock)
    agent = Agent(settings, engine, clock, cache)
    runner = web.AppRunner(
        AgentServer(agent, Guard.of(settings)).app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.5
    )
    await runner.setup()
    tasks: list[asyncio.Task[None]] = []
    try:
        await web.TCPSite(runner, settings.pod_ip, settings.port).start()
        _LOG.info("listening", extra={"address": settings.pod_ip, "port": settings.port})
        tasks = [asyncio.create_task(agent.run()), asyncio.create_task(cache.run())]
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in tasks:
            if task.done():
                task.result()  # neither ends by itself: this raises what broke it
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        cache.close()
        await engine.close()
        await runner.cleanup()
    _LOG.info("stopped")


def _told(stop: asyncio.Event) -> None:
    if stop.is_set():
        os._exit(0)
    stop.set()


def main() -> int:
    """Entry point; returns the exit code."""
    if (code := usage(sys.argv[1:], "warmfleet-agent")) is not None:
        return code
    try:
        clock = clock_from_env()
        configure("agent", clock=clock)
        settings = settings_from_env(os.environ)
    except ValueError as error:
        sys.stderr.write(f"warmfleet-agent: {error}\n")
        return 2
    try:
        asyncio.run(run(settings, clock))
    except OSError as error:
        _LOG.error("cannot listen on %s port %s: %s", settings.pod_ip, settings.port, error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
