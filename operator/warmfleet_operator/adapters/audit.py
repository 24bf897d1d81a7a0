"""Compares what was watched with fresh lists: the proof that the watch is alive, and the cure when it missed something.

A watch that starts over (410 Gone) lists what exists and never says what vanished in between; a watch can also fall
silent without an error. Both show here: objects that a list no longer has are forgotten, and when an object of a list
is still missing from the store a whole period later, the watch is not keeping up and the process turns unhealthy. Only
metadata is listed, and nothing is decided from it. A list can itself be old (a cache of an API server that lost touch):
what the store has in a newer version than the list's is never forgotten for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from warmfleet_contracts import labels
from warmfleet_runtime import resources
from warmfleet_runtime.clock import Clock

from warmfleet_operator.adapters.kube import KubeApi, KubeError
from warmfleet_operator.state import parse
from warmfleet_operator.state.records import Key
from warmfleet_operator.state.snapshot import FleetStore, Kind

_LOG = logging.getLogger(__name__)
POD_SELECTOR = f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE}"
WATCHED: Mapping[Kind, resources.Resource] = {
    Kind.DEPLOYMENT: resources.LLM_DEPLOYMENTS,
    Kind.INSTANCE_TYPE: resources.INSTANCE_TYPES,
    Kind.FORECAST: resources.TRAFFIC_FORECASTS,
    Kind.POD: resources.PODS,
    Kind.NODE: resources.NODES,
    Kind.NAMESPACE: resources.NAMESPACES,
    Kind.PRIORITY_CLASS: resources.PRIORITY_CLASSES,
}
_POLL = 0.1
_RELIST_SECONDS = 10.0
"""Real seconds after which a start that waits for the watch lists again: what was listed may be gone by then."""


class Audit:
    """Lists every kind now and then.

    Args:
        api: Client.
        store: What was watched.
        clock: Schedule and timestamps.
        namespace: Only this namespace; empty: all.
        period: Logical seconds between audits.
    """

    def __init__(self, api: KubeApi, store: FleetStore, clock: Clock, *, namespace: str, period: float) -> None:
        self._api, self._store, self._clock = api, store, clock
        self._namespace, self._period = namespace or None, period
        self.agreed: dict[Kind, float] = {}
        """When store and list last agreed, logical seconds, by kind."""
        self._behind: dict[Kind, dict[Key, tuple[str, str]]] = {}

    async def wait_synced(self) -> None:
        """Return once everything that existed at the start has reached the store."""
        await asyncio.gather(*(self._sync(kind) for kind in WATCHED))

    async def _sync(self, kind: Kind) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                (listed, _), at = await self._list(kind), loop.time()
            except KubeError as error:
                _LOG.warning("waiting for the API server: %s", error)
                await asyncio.sleep(1.0)
                continue
            while loop.time() - at < _RELIST_SECONDS:
                listed = {key: listed[key] for key in self._store.behind(kind, listed)}
                if not listed:
                    self.agreed[kind] = self._clock.now()
                    return
                await asyncio.sleep(_POLL)

    async def run(self) -> None:
        """Audit for ever."""
        while True:
            await self._clock.sleep(self._period)
            for kind in WATCHED:
                try:
                    await self._check(kind)
                except KubeError as error:
                    _LOG.warning("audit of %s: %s", kind, error)

    async def _check(self, kind: Kind) -> None:
        """Compare one kind.

        Raises:
            KubeError: It could not be listed.
        """
        before = self._store.known(kind)
        listed, version = await self._list(kind)
        gone = {k: uid for k, uid in before.items() if k not in listed or listed[k][0] != uid}
        self._store.prune(kind, gone, version)
        # What was listed before and is still not in the store was not just late: the watch has had a whole period.
        late = self._store.behind(kind, self._behind.get(kind, listed))
        self._behind[kind] = {key: listed[key] for key in self._store.behind(kind, listed)}
        if not late:
            self.agreed[kind] = self._clock.now()
        elif kind in self.agreed:
            _LOG.warning("the watch of %s lags behind: %s", kind, ", ".join(map(str, sorted(late)[:5])))

    async def _list(self, kind: Kind) -> tuple[dict[Key, tuple[str, str]], str]:
        """UID and resourceVersion by key, and the version of the list."""
        resource = WATCHED[kind]
        items, version = await self._api.list_at(
            resource,
            self._namespace if resource.namespaced else None,
            label_selector=POD_SELECTOR if kind is Kind.POD else None,
            metadata_only=True,
        )
        found = (parse.identity(item) for item in items)
        return {key: (uid, seen) for key, uid, seen in (f for f in found if f is not None)}, version
