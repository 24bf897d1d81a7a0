"""What happens after a write without a request: garbage collection, namespace cascade, definitions coming and going.

Every change may queue work; the queue is emptied on the next turn of the event loop, in order. Owners that do not exist
count as gone, as in the real garbage collector, so dependents of an owner that never was are deleted too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from warmfleet_localcluster.api import crds
from warmfleet_localcluster.api.errors import ApiError
from warmfleet_localcluster.api.objects import Object, clone, dig, is_deleting
from warmfleet_localcluster.api.resources import StorageKey
from warmfleet_localcluster.api.store import Change

if TYPE_CHECKING:
    from warmfleet_localcluster.api.embedded import EmbeddedApi

_LOG = logging.getLogger(__name__)
_NAMESPACES: StorageKey = ("", "namespaces")
_ORPHAN = "orphan"
_FOREGROUND = "foregroundDeletion"


class Background:
    """Queues and does the API's own follow-up work.

    Args:
        api: The API to work on; its changes are listened to from now on.
    """

    def __init__(self, api: EmbeddedApi) -> None:
        self._api = api
        self._work: deque[Callable[[], None]] = deque()
        self._scheduled = False
        api.store.listeners.append(self._on_change)

    def settle(self) -> None:
        """Do everything that is queued, and what it leads to."""
        self._scheduled = False
        while self._work:
            work = self._work.popleft()
            try:
                work()
            except ApiError as error:
                _LOG.warning("background work refused: %s", error.message)

    def _on_change(self, change: Change) -> None:
        meta = change.new["metadata"]
        if change.storage == crds.CRDS:
            self._definition_changed(change)
        if change.type == "DELETED":
            self._api.applied.forget(meta["uid"])
            self._queue(lambda: self._owner_gone(meta["uid"]))
            self._container_emptied(change)
            return
        if meta.get("ownerReferences") and not is_deleting(change.new):
            self._queue(lambda: self._check_owners(meta["uid"]))
        if is_deleting(change.new):
            self._deletion_started(change)

    def _deletion_started(self, change: Change) -> None:
        meta = change.new["metadata"]
        finalizers = meta.get("finalizers") or ()
        if _ORPHAN in finalizers:
            self._queue(lambda: self._orphan(change.storage, meta["uid"]))
        if _FOREGROUND in finalizers:
            self._queue(lambda: self._foreground(meta["uid"]))
        first = change.old is None or not is_deleting(change.old)
        if change.storage == _NAMESPACES and first:
            self._queue(lambda: self._empty_namespace(meta["name"]))
            self._queue(lambda: self._finish_namespace(meta["name"]))
        if change.storage == crds.CRDS and first:
            self._queue(lambda: self._empty_definition(meta["name"]))

    def _container_emptied(self, change: Change) -> None:
        """An object is gone: its namespace, its definition or a waiting owner may now be able to go as well."""
        meta = change.new["metadata"]
        namespace = meta.get("namespace")
        if namespace and not self._api.store.population[namespace]:
            self._queue(lambda: self._finish_namespace(namespace))
        resource = self._api.registry.stored_as(change.storage)
        if resource is not None and resource.crd:
            crd = resource.crd
            self._queue(lambda: self._finish_definition(crd))
        for owner in meta.get("ownerReferences") or ():
            self._queue(lambda uid=owner["uid"]: self._foreground(uid))  # type: ignore[misc]

    def _queue(self, work: Callable[[], None]) -> None:
        self._work.append(work)
        if self._scheduled:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # a synchronous caller runs `settle` itself
        self._scheduled = True
        loop.call_soon(self.settle)

    # garbage collection

    def _owner_gone(self, uid: str) -> None:
        for _, item in self._api.store.dependents(uid):
            self._check_owners(item["metadata"]["uid"])

    def _check_owners(self, uid: str) -> None:
        """Delete an object whose owners are all gone; drop the references to those that are."""
        found = self._api.store.by_uid(uid)
        if found is None or is_deleting(found[1]):
            return
        storage, item = found
        owners = item["metadata"].get("ownerReferences") or []
        alive = [owner for owner in owners if self._exists(owner, item)]
        if owners and not alive:
            self._delete(storage, item)
        elif len(alive) < len(owners):
            changed = clone(item)
            changed["metadata"]["ownerReferences"] = alive
            self._api.store.commit(storage, changed, "MODIFIED")

    def _exists(self, owner: Object, item: Object) -> bool:
        found = self._api.store.by_uid(owner["uid"])
        if found is None:
            return False
        home = found[1]["metadata"].get("namespace")
        return home is None or home == item["metadata"].get("namespace")

    def _orphan(self, storage: StorageKey, uid: str) -> None:
        for kind, item in self._api.store.dependents(uid):
            changed = clone(item)
            owners = [o for o in changed["metadata"]["ownerReferences"] if o["uid"] != uid]
            changed["metadata"].pop("ownerReferences")
            if owners:
                changed["metadata"]["ownerReferences"] = owners
            self._api.store.commit(kind, changed, "MODIFIED")
        self._remove_finalizer(storage, uid, _ORPHAN)

    def _foreground(self, uid: str) -> None:
        """Delete the dependents of an owner that waits for them, and let it go after the last blocking one."""
        found = self._api.store.by_uid(uid)
        if found is None or _FOREGROUND not in (found[1]["metadata"].get("finalizers") or ()):
            return
        dependents = self._api.store.dependents(uid)
        for kind, item in dependents:
            if not is_deleting(item):
                self._delete(kind, item, propagation="Foreground")
        blocking = [
            item
            for _, item in self._api.store.dependents(uid)
            if any(o["uid"] == uid and o.get("blockOwnerDeletion") for o in item["metadata"]["ownerReferences"])
        ]
        if not blocking:
            self._remove_finalizer(found[0], uid, _FOREGROUND)

    def _delete(self, storage: StorageKey, item: Object, propagation: str = "Background") -> None:
        from warmfleet_localcluster.api.deletion import DeleteOptions, delete  # noqa: PLC0415  (mutual use)

        resource = self._api.registry.stored_as(storage)
        if resource is not None:
            meta = item["metadata"]
            options = DeleteOptions(propagation=propagation, uid=meta["uid"])
            delete(self._api, resource, meta.get("namespace"), meta["name"], options)

    def _remove_finalizer(self, storage: StorageKey, uid: str, finalizer: str) -> None:
        found = self._api.store.by_uid(uid)
        if found is None:
            return
        changed = clone(found[1])
        meta = changed["metadata"]
        kept = [name for name in meta.get("finalizers") or () if name != finalizer]
        meta.pop("finalizers", None)
        if kept:
            meta["finalizers"] = kept
        gone = not kept and is_deleting(changed) and not meta.get("deletionGracePeriodSeconds")
        self._api.store.commit(storage, changed, "DELETED" if gone else "MODIFIED")

    # namespaces

    def _empty_namespace(self, name: str) -> None:
        for storage, item in list(self._api.store.in_namespace(name)):
            if not is_deleting(item):
                self._delete(storage, item)

    def _finish_namespace(self, name: str) -> None:
        namespace = self._api.store.get(_NAMESPACES, (None, name))
        if namespace is None or not is_deleting(namespace) or self._api.store.population[name]:
            return
        changed = clone(namespace)
        changed["spec"] = {}
        gone = not changed["metadata"].get("finalizers")
        if gone or dig(namespace, "spec", "finalizers"):
            self._api.store.commit(_NAMESPACES, changed, "DELETED" if gone else "MODIFIED")

    # definitions

    def _definition_changed(self, change: Change) -> None:
        if change.type == "DELETED":
            storage = (change.new["spec"]["group"], change.new["spec"]["names"]["plural"])
            self._api.registry.remove_crd(change.new["metadata"]["name"])
            self._api.store.cut_watches(storage)
        else:
            crds.serve_definition(self._api.registry, change.new)

    def _empty_definition(self, name: str) -> None:
        crd = self._api.store.get(crds.CRDS, (None, name))
        if crd is None:
            return
        storage = (crd["spec"]["group"], crd["spec"]["names"]["plural"])
        for item in self._api.store.objects(storage):
            if not is_deleting(item):
                self._delete(storage, item)
        self._finish_definition(name)

    def _finish_definition(self, name: str) -> None:
        crd = self._api.store.get(crds.CRDS, (None, name))
        if crd is None or not is_deleting(crd):
            return
        storage = (crd["spec"]["group"], crd["spec"]["names"]["plural"])
        if not self._api.store.objects(storage):
            self._remove_finalizer(crds.CRDS, crd["metadata"]["uid"], crds.CLEANUP_FINALIZER)
