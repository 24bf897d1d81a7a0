"""Objects in memory, the resource version, the bounded event log and the indexes the rest is built on."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from warmfleet_localcluster.api import errors
from warmfleet_localcluster.api.objects import Object
from warmfleet_localcluster.api.resources import StorageKey

ObjectKey = tuple[str | None, str]
"""Namespace (None for cluster-wide objects) and name."""

ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One committed write.

    Attributes:
        rv: Resource version the write produced.
        storage: Which kind was written.
        type: ADDED, MODIFIED or DELETED.
        new: The object after the write (for DELETED: its last state, with the new resource version).
        old: The object before the write, None for ADDED.
    """

    rv: int
    storage: StorageKey
    type: ChangeType
    new: Object
    old: Object | None


class Subscription:
    """The stream of changes of one kind, from the moment it was opened. `None` in the queue means: cut."""

    def __init__(self, storage: StorageKey) -> None:
        self.storage = storage
        self.queue: asyncio.Queue[Change | None] = asyncio.Queue()


@dataclass(slots=True)
class _Log:
    """Recent changes of one kind; everything after `floor` is present."""

    changes: deque[Change]
    floor: int = 0


class ObjectStore:
    """All objects of all kinds.

    Args:
        window: How many changes per kind are remembered for watches that resume.
    """

    def __init__(self, *, window: int = 10_000) -> None:
        self.rv = 1
        self.listeners: list[Callable[[Change], None]] = []
        self.population: Counter[str] = Counter()
        self._window = window
        self._objects: dict[StorageKey, dict[ObjectKey, Object]] = defaultdict(dict)
        self._logs: dict[StorageKey, _Log] = {}
        self._subscriptions: set[Subscription] = set()
        self._by_uid: dict[str, tuple[StorageKey, ObjectKey]] = {}
        self._dependents: dict[str, set[tuple[StorageKey, ObjectKey]]] = defaultdict(set)

    # reading

    def get(self, storage: StorageKey, key: ObjectKey) -> Object | None:
        """Return the live object, None when absent."""
        return self._objects[storage].get(key)

    def objects(self, storage: StorageKey, namespace: str | None = None) -> list[Object]:
        """Return the objects of a kind, of one namespace or all, in key order."""
        found = self._objects[storage].items()
        if namespace is not None:
            found = {k: o for k, o in found if k[0] == namespace}.items()
        return [item for _, item in sorted(found, key=lambda pair: (pair[0][0] or "", pair[0][1]))]

    def in_namespace(self, namespace: str) -> Iterable[tuple[StorageKey, Object]]:
        """Return every object of every kind in a namespace."""
        return [(s, o) for s, objs in self._objects.items() for k, o in objs.items() if k[0] == namespace]

    def by_uid(self, uid: str) -> tuple[StorageKey, Object] | None:
        """Return the live object with this uid and its kind."""
        where = self._by_uid.get(uid)
        if where is None:
            return None
        storage, key = where
        return storage, self._objects[storage][key]

    def dependents(self, uid: str) -> list[tuple[StorageKey, Object]]:
        """Return the live objects that name this uid among their owners."""
        return [(s, self._objects[s][k]) for s, k in sorted(self._dependents.get(uid, ()), key=str)]

    # writing

    def commit(self, storage: StorageKey, item: Object, change: ChangeType) -> Object:
        """Write one object and tell everybody; the caller checked everything before.

        Args:
            storage: Kind of the object.
            item: The new state (for DELETED: the last state); owned by the store from here on.
            change: What the write is.

        Returns:
            The object, with its new resource version.
        """
        self.rv += 1
        meta = item["metadata"]
        meta["resourceVersion"] = str(self.rv)
        key: ObjectKey = (meta.get("namespace"), meta["name"])
        old = self._objects[storage].get(key)
        if change == "DELETED":
            self._objects[storage].pop(key, None)
        else:
            self._objects[storage][key] = item
        self._reindex(storage, key, old, None if change == "DELETED" else item)
        self._publish(Change(self.rv, storage, change, item, old))
        return item

    def _reindex(self, storage: StorageKey, key: ObjectKey, old: Object | None, new: Object | None) -> None:
        if old is not None:
            self._by_uid.pop(old["metadata"]["uid"], None)
            for owner in old["metadata"].get("ownerReferences") or ():
                self._dependents[owner["uid"]].discard((storage, key))
        if new is not None:
            self._by_uid[new["metadata"]["uid"]] = (storage, key)
            for owner in new["metadata"].get("ownerReferences") or ():
                self._dependents[owner["uid"]].add((storage, key))
        if key[0] is not None:
            self.population[key[0]] += (new is not None) - (old is not None)

    def _publish(self, change: Change) -> None:
        log = self._logs.get(change.storage)
        if log is None:
            log = self._logs[change.storage] = _Log(deque(maxlen=self._window))
        if len(log.changes) == self._window:
            log.floor = log.changes[0].rv
        log.changes.append(change)
        for subscription in self._subscriptions:
            if subscription.storage == change.storage:
                subscription.queue.put_nowait(change)
        for listener in self.listeners:
            listener(change)

    # watching

    def since(self, storage: StorageKey, rv: int) -> list[Change]:
        """Return the changes of a kind after a resource version.

        Raises:
            ApiError: 410, when that version is no longer (or, after a restart, not yet) known.
        """
        log = self._logs.get(storage)
        floor = log.floor if log else 0
        if rv < floor or rv > self.rv:
            raise errors.expired(f"too old resource version: {rv} ({max(floor, 1)})")
        return [c for c in log.changes if c.rv > rv] if log else []

    def known_since(self, storage: StorageKey, rv: int) -> bool:
        """Return whether every change of a kind after this resource version is still remembered."""
        log = self._logs.get(storage)
        return rv >= (log.floor if log else 0)

    def subscribe(self, storage: StorageKey) -> Subscription:
        """Open a stream of the changes to come."""
        subscription = Subscription(storage)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Close a stream."""
        self._subscriptions.discard(subscription)

    def cut_watches(self, storage: StorageKey | None = None) -> int:
        """End the open streams, of one kind or of all, and return how many there were."""
        cut = [s for s in self._subscriptions if storage in {None, s.storage}]
        for subscription in cut:
            subscription.queue.put_nowait(None)
        return len(cut)

    def forget_events(self) -> None:
        """Drop the event log: any watch that resumes from an older version gets 410 Gone."""
        self.rv += 1
        for log in self._logs.values():
            log.changes.clear()
            log.floor = self.rv
