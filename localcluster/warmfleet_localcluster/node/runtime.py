"""Services the pods of a process node share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from warmfleet_runtime.clock import Clock
from warmfleet_runtime.kubeclient import KubeClient, Object
from warmfleet_runtime.resources import ENDPOINT_SLICES, Resource
from warmfleet_runtime.rest import ApiError

from warmfleet_localcluster.node.access import ApiAccess
from warmfleet_localcluster.node.addresses import AddressPool
from warmfleet_localcluster.node.environment import Fetch
from warmfleet_localcluster.node.process import Reaper
from warmfleet_localcluster.node.settings import ImageEntry, ImageMap, Settings

_MIN_RETRY = 0.2


@dataclass(slots=True)
class Runtime:
    """What a container needs of its node.

    Attributes:
        disk: Folder of the node's files.
        memory: Folder for volumes in memory.
        env: What containers inherit.
    """

    client: KubeClient
    clock: Clock
    images: ImageMap
    settings: Settings
    access: ApiAccess
    addresses: AddressPool
    http: aiohttp.ClientSession
    reaper: Reaper
    disk: Path
    memory: Path
    env: Mapping[str, str]
    _pulls: dict[tuple[str, str], asyncio.Task[None]] = field(default_factory=dict)

    async def pause(self, seconds: float) -> None:
        """Wait before asking the API again: logical seconds, but never a tight loop of real ones."""
        await asyncio.gather(self.clock.sleep(seconds), asyncio.sleep(_MIN_RETRY))

    async def pull(self, node: str, image: str, entry: ImageEntry) -> None:
        """Take the time of an image pull, once per node and image; who comes later waits for the same pull."""
        if entry.pull_seconds > 0:
            key = (node, image)
            if key not in self._pulls:
                self._pulls[key] = asyncio.create_task(self.clock.sleep(entry.pull_seconds))
            await asyncio.shield(self._pulls[key])

    def close(self) -> None:
        """Forget pulls that are under way."""
        for pull in self._pulls.values():
            pull.cancel()

    async def slices(self, namespace: str, service: str) -> list[Object]:
        """EndpointSlices of a Service."""
        found = await self.client.list(
            ENDPOINT_SLICES, namespace, labelSelector=f"kubernetes.io/service-name={service}"
        )
        return list(found["items"])

    def fetcher(self, pod: Object) -> Fetch:
        """Reads objects of the pod's namespace."""
        namespace = pod["metadata"]["namespace"]

        async def fetch(resource: Resource, name: str) -> Object | None:
            try:
                return await self.client.get(resource, name, namespace)
            except ApiError as error:
                if error.status == 404:
                    return None
                raise

        return fetch
