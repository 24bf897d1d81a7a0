"""The controllers the embedded API needs beside it; a real cluster brings its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import aiohttp
from warmfleet_runtime.clock import Clock
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    ENDPOINT_SLICES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    REPLICA_SETS,
    SERVICES,
    Resource,
)
from warmfleet_runtime.rest import ApiError

from warmfleet_localcluster.controllers.caches import Cache
from warmfleet_localcluster.controllers.deployments import Deployments
from warmfleet_localcluster.controllers.disruption import Disruption
from warmfleet_localcluster.controllers.endpointslices import EndpointSlices
from warmfleet_localcluster.controllers.replicasets import ReplicaSets
from warmfleet_localcluster.controllers.scheduler import Scheduler

__all__ = ["Controllers"]

_LOG = logging.getLogger(__name__)
_DEBOUNCE = 0.01
_RESYNC = 1.0
"""Real seconds after which every controller looks again, for what only time changes."""


class Controllers:
    """Scheduler, Deployments, ReplicaSets, EndpointSlices and disruption budgets over shared caches.

    Each works level-based: after any change it looks at everything and writes only what differs.

    Args:
        client: Connection to the embedded API; stays open.
        clock: For minReadySeconds, progress deadlines and reported times.
    """

    def __init__(self, client: KubeClient, clock: Clock) -> None:
        self._wakers: list[asyncio.Event] = []

        def cache(resource: Resource) -> Cache:
            return Cache(client, resource, self._wake)

        pods, nodes, sets = cache(PODS), cache(NODES), cache(REPLICA_SETS)
        priorities, deployments = cache(PRIORITY_CLASSES), cache(DEPLOYMENTS)
        services, slices = cache(SERVICES), cache(ENDPOINT_SLICES)
        budgets = cache(DISRUPTION_BUDGETS)
        self._caches = [pods, nodes, sets, priorities, deployments, services, slices, budgets]
        self._reconcilers: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("scheduler", Scheduler(client, clock, pods, nodes, priorities).reconcile),
            ("deployment", Deployments(clock, deployments, sets).reconcile),
            ("replicaset", ReplicaSets(clock, sets, pods).reconcile),
            ("endpointslice", EndpointSlices(services, pods, slices).reconcile),
            ("disruption", Disruption(clock, budgets, pods, sets).reconcile),
        ]

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for cache in self._caches:
                group.create_task(cache.run())
            await asyncio.gather(*(cache.synced.wait() for cache in self._caches))
            for name, reconcile in self._reconcilers:
                waker = asyncio.Event()
                self._wakers.append(waker)
                group.create_task(_work(name, reconcile, waker))

    def _wake(self) -> None:
        for waker in self._wakers:
            waker.set()


async def _work(name: str, reconcile: Callable[[], Awaitable[None]], waker: asyncio.Event) -> None:
    while True:
        waker.clear()
        try:
            await reconcile()
        except (ApiError, OSError, aiohttp.ClientError) as error:
            _LOG.warning("controller %s: %r", name, error)
        except (KeyError, TypeError, ValueError):
            _LOG.exception("controller %s met an object it cannot work with", name)
        try:
            async with asyncio.timeout(_RESYNC):
                await waker.wait()
        except TimeoutError:
            continue
        await asyncio.sleep(_DEBOUNCE)
