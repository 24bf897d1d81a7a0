"""``warmfleet-simulated-engine``: start, serve, and end as vLLM does.

On SIGTERM with ``--shutdown-timeout 0`` the port closes and the engine is killed: open streams get neither a token
nor an end, and the process stays until their clients have given up. With a timeout the port stays open, /health
stays 200, new requests get HTTP 500, what runs is finished; the process exits when idle, or at the timeout.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from aiohttp import web
from warmfleet_runtime.clock import Clock, clock_from_env, sleep_or
from warmfleet_runtime.logs import configure

from warmfleet_worker.engines.simulated.config import ConfigError, EngineConfig, parse_config
from warmfleet_worker.engines.simulated.engine import Engine
from warmfleet_worker.engines.simulated.server import Server

TEARDOWN_SECONDS = 5.0
"""Logical seconds from idle to exit in a graceful shutdown."""
HANG_SECONDS = 120.0
"""Real seconds that a killed engine's process stays for clients that do not give up."""
_STAGES = (("loading-weights", 0.6), ("compiling", 0.3), ("capturing-graphs", 0.1))

_LOG = logging.getLogger("warmfleet_worker.engines.simulated")


async def serve(config: EngineConfig, clock: Clock) -> None:
    """Run one engine until it is told to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)  # as vLLM: a second one changes nothing
    if not await _start_up(config, clock, stop):
        return
    engine = Engine(config, clock)
    await engine.start()
    server = Server(engine)
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, config.host, config.port, backlog=512)
    await site.start()
    _LOG.info("ready", extra={"port": config.port, "model": config.served_names[0], "profile": config.profile.name})
    try:
        await stop.wait()
        if config.shutdown_timeout > 0:
            await _finish(engine, config.shutdown_timeout)
        else:
            await site.stop()
            server.close_idle(runner)
            await engine.halt()
            await engine.until(lambda: not engine.streams, HANG_SECONDS)
    finally:
        await engine.halt()
        await runner.cleanup()
    _LOG.info("stopped")


async def _start_up(config: EngineConfig, clock: Clock, stop: asyncio.Event) -> bool:
    """Take the time a real engine takes; False when told to stop meanwhile."""
    for stage, share in _STAGES if config.startup_seconds else ():
        _LOG.info("starting", extra={"stage": stage})
        await sleep_or(clock, config.startup_seconds * share, stop)
        if stop.is_set():
            return False
    return True


async def _finish(engine: Engine, seconds: float) -> None:
    engine.accepting = False
    clock = engine.clock
    began = clock.now()
    idle = await engine.until(lambda: not engine.at_work, clock.real(seconds))
    left = seconds - (clock.now() - began)
    if idle:
        await clock.sleep(max(0.0, min(TEARDOWN_SECONDS, left)))
    else:
        _LOG.warning("shutdown timeout: requests are cut off", extra={"requests": len(engine.streams)})


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    try:
        clock = clock_from_env()
        configure("engine", clock=clock)
        config = parse_config(sys.argv[1:] if argv is None else argv, os.environ)
    except (ConfigError, ValueError) as error:
        sys.stderr.write(f"warmfleet-simulated-engine: error: {error}\n")
        return 2
    asyncio.run(serve(config, clock))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
