"""The embedded API that nodes and controllers are tested on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from warmfleet_localcluster.api import EmbeddedApi, server_url
from warmfleet_localcluster.api.server import ApiServer


@pytest.fixture
async def api_url() -> AsyncIterator[str]:
    # like `serve`, but without its patience for open watches, which every test would pay for
    runner = web.AppRunner(ApiServer(EmbeddedApi()).application(), access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield server_url(runner)
    finally:
        await runner.cleanup()
