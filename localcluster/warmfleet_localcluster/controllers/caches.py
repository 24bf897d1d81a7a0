"""What all controllers read: local copies of the API's objects that also know the controllers' own writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from warmfleet_runtime.kubeclient import KubeClient, Object
from warmfleet_runtime.resources import Resource
from warmfleet_runtime.rest import ApiError

Key = tuple[str | None, str]


class Cache:
    """Objects of one resource. An object a controller has just written is seen at once, not when it is watched."""

    def __init__(self, client: KubeClient, resource: Resource, changed: Callable[[], None]) -> None:
        self._client, self._resource, self._changed = client, resource, changed
        self._items: dict[Key, Object] = {}
        self._gone: set[str] = set()
        self.synced = asyncio.Event()

    def __iter__(self) -> Iterator[Object]:
        return iter(list(self._items.values()))

    def get(self, name: str, namespace: str | None = None) -> Object | None:
        """An object, None if there is none."""
        return self._items.get((namespace, name))

    async def run(self) -> None:
        """Follow the API for ever."""
        async for event in self._client.follow(self._resource):
            if event.type == "SYNCED":
                self.synced.set()
            elif event.type == "DELETED":
                self._drop(event.object)
            else:
                self._put(event.object)
            self._changed()

    async def create(self, body: Object) -> None:
        """POST an object; one of that name being there already is left for the next pass."""
        try:
            self._put(await self._client.create(self._resource, body))
        except ApiError as error:
            if error.status != 409:
                raise

    async def patch(self, item: Object, body: Object, *, subresource: str | None = None) -> None:
        """Merge-patch an object if it is still the same one."""
        metadata = item["metadata"]
        guarded = {**body, "metadata": {**body.get("metadata", {}), "uid": metadata["uid"]}}
        try:
            answer = await self._client.patch(
                self._resource,
                metadata["name"],
                guarded,
                metadata.get("namespace"),
                subresource=subresource,
            )
        except ApiError as error:
            if error.status not in {404, 409}:
                raise
        else:
            self._put(answer)

    async def patch_status(self, item: Object, status: Object) -> None:
        """Merge-patch the status, unless it says all of that already."""
        current = item.get("status") or {}
        if any(current.get(key) != value for key, value in status.items()):
            await self.patch(item, {"status": status}, subresource="status")

    async def delete(self, item: Object) -> None:
        """Delete an object if it is still the same one."""
        metadata = item["metadata"]
        try:
            await self._client.delete(self._resource, metadata["name"], metadata.get("namespace"), uid=metadata["uid"])
        except ApiError as error:
            if error.status not in {404, 409}:
                raise
        deleting = {**metadata, "deletionTimestamp": metadata.get("deletionTimestamp") or "now"}
        if metadata["uid"] not in self._gone:
            self._items[_key(item)] = {**item, "metadata": deleting}

    def _put(self, item: Object) -> None:
        known = self._items.get(_key(item))
        if item["metadata"]["uid"] in self._gone:
            return
        if known is None or _version(item) >= _version(known):
            self._items[_key(item)] = item

    def _drop(self, item: Object) -> None:
        uid = item["metadata"]["uid"]
        self._gone.add(uid)
        known = self._items.get(_key(item))
        if known is not None and known["metadata"]["uid"] == uid:
            del self._items[_key(item)]


def _key(item: Object) -> Key:
    return item["metadata"].get("namespace"), item["metadata"]["name"]


def _version(item: Object) -> int:
    return int(item["metadata"]["resourceVersion"])


def controller_of(item: Object) -> Object | None:
    """The owner reference of the object's controller."""
    owners: Sequence[Any] = item["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), None)


def owned(cache: Cache, owner: Object) -> list[Object]:
    """Objects whose controller is `owner`."""
    uid = owner["metadata"]["uid"]
    return [item for item in cache if (ref := controller_of(item)) is not None and ref["uid"] == uid]


def owner_reference(owner: Object) -> Object:
    """A reference by which `owner` controls another object."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def deleting(item: Object) -> bool:
    """Whether the object's deletion has begun."""
    return bool(item["metadata"].get("deletionTimestamp"))


def condition(item: Object, kind: str) -> Object | None:
    """A condition of the object's status."""
    found: Sequence[Object] = (item.get("status") or {}).get("conditions") or []
    return next((c for c in found if c["type"] == kind), None)


def pod_ready(pod: Object) -> bool:
    """Whether the pod's Ready condition is True."""
    ready = condition(pod, "Ready")
    return ready is not None and ready["status"] == "True"


def pod_active(pod: Object) -> bool:
    """Whether the pod counts for its ReplicaSet: neither ended nor leaving."""
    return not deleting(pod) and (pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}


def with_condition(item: Object, fresh: Object, now: str) -> list[Object]:
    """The object's conditions with `fresh` in place of the one of its type; times move with the status only."""
    before = condition(item, fresh["type"])
    same = before is not None and before["status"] == fresh["status"]
    moment = before["lastTransitionTime"] if before and same else now
    others = [c for c in (item.get("status") or {}).get("conditions") or [] if c["type"] != fresh["type"]]
    return [*others, {**fresh, "lastTransitionTime": moment}]
