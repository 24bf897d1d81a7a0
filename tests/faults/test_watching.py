"""A watch that ends for good ends the process at once, whatever the rest of kopf is busy with."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from faultproxy import LISTS, WATCHES, Call, Fault, FaultKind, FaultProxy
from faultworld import fault_world
from warmfleet_operator.state.snapshot import FleetStore
from warmfleet_operator.watching import Watcher
from warmfleet_runtime.kubeclient import load_configuration

AT_ONCE = 3.0
"""Real seconds; kopf waits for five on its way out before it cancels what is left."""


class StatusCodes(random.Random):
    """Every fault happens, and 410 comes as a status code."""

    def random(self) -> float:
        return 0.0


async def until(check: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not check() and time.monotonic() < end:  # noqa: ASYNC110 - it comes true in another thread
        await asyncio.sleep(0.02)
    return check()


def breaks(proxy: FaultProxy, gone: str, busy: str) -> None:
    """The watch of one resource is gone for good, and another one is between two attempts to list its own."""

    def drawn(call: Call) -> Fault | None:
        if call.resource == gone and call.verb in WATCHES:
            return Fault(FaultKind.GONE)
        if call.resource == busy and call.verb in LISTS:
            return Fault(FaultKind.REFUSE)
        return None

    proxy.random = StatusCodes()
    proxy._drawn = drawn  # type: ignore[method-assign]


@pytest.mark.parametrize("gone", ["instancetypes", "customresourcedefinitions"])
async def test_a_watch_that_ends_at_the_start_is_told_at_once(gone: str, tmp_path: Path) -> None:
    async with fault_world(tmp_path, seed=1) as world:
        breaks(world.proxy, gone, "priorityclasses")
        told: list[str] = []
        store = FleetStore(world.clock, lambda: None)
        configure = partial(load_configuration, str(world.kubeconfig))
        watcher = Watcher(store, configure, namespace="", on_end=told.append)
        watcher.start()
        try:
            assert await until(lambda: world.proxy.counts[FaultKind.GONE] > 0, 30)
            assert await until(lambda: bool(told), AT_ONCE)
            assert "Expired" in told[0]
        finally:
            await asyncio.to_thread(watcher.stop, 0.5)
