"""Addresses of this machine's loopback network for agents that all listen on the same port."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os

from aiohttp import web

# Where the next one listens: a /16 for each xdist worker, entered at a place that differs from run to run.
_ADDRESSES = (
    f"127.{70 + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:]) % 50}.{n // 250 % 250}.{n % 250 + 1}"
    for n in itertools.count(os.getpid() * 37 % 60_000)
)


async def listen(runner: web.AppRunner, port: int) -> str:
    """Serve on the port of an address that nobody uses, and return the address."""
    for ip in itertools.islice(_ADDRESSES, 200):
        try:
            await web.TCPSite(runner, ip, port).start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return ip
    raise AssertionError(f"no free address for port {port}")


async def close(runner: web.AppRunner) -> None:
    """End a server and every connection to it.

    A connection that the loop was accepting while aiohttp closed those it knew is made only after that, and nobody
    would ever close it.
    """
    server = runner.server
    await runner.cleanup()
    await asyncio.sleep(0.01)
    if server is not None:
        await server.shutdown(0.1)
