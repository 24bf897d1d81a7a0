"""Deleting: preconditions, graceful deletion of pods, finalizers, propagation, whole collections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from warmfleet_localcluster.api import errors
from warmfleet_localcluster.api.embedded import EmbeddedApi
from warmfleet_localcluster.api.errors import bad_request
from warmfleet_localcluster.api.objects import Object, clone, dig, is_deleting, timestamp
from warmfleet_localcluster.api.resources import Resource
from warmfleet_localcluster.api.strategies import undeletable

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
_PROPAGATION_FINALIZERS = {"Orphan": ORPHAN, "Foreground": FOREGROUND}


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """How to delete.

    Attributes:
        grace_seconds: Seconds the object gets to end; None for its own default.
        propagation: Background, Foreground or Orphan.
        uid: Only delete this very object; None for any.
        resource_version: Only delete this very version; None for any.
        dry_run: Check and answer, but keep the object.
    """

    grace_seconds: int | None = None
    propagation: str = "Background"
    uid: str | None = None
    resource_version: str | None = None
    dry_run: bool = False

    @classmethod
    def from_request(cls, body: Any, query: Mapping[str, str]) -> Self:
        """Return the options of a request; the body wins over the query.

        Raises:
            ApiError: 400, an option has no sense.
        """
        options = dict(body) if isinstance(body, Mapping) else {}
        grace = options.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
        propagation = options.get("propagationPolicy") or query.get("propagationPolicy")
        if options.get("orphanDependents") or query.get("orphanDependents") == "true":
            propagation = "Orphan"
        if propagation not in {None, "Background", "Foreground", "Orphan"}:
            raise bad_request(f"propagationPolicy must be Background, Foreground or Orphan, not {propagation!r}")
        try:
            seconds = None if grace is None else int(grace)
        except (TypeError, ValueError) as error:
            raise bad_request(f"gracePeriodSeconds must be an integer, not {grace!r}") from error
        conditions = options.get("preconditions") or {}
        return cls(
            grace_seconds=seconds,
            propagation=propagation or "Background",
            uid=conditions.get("uid"),
            resource_version=conditions.get("resourceVersion"),
            dry_run="All" in (options.get("dryRun") or ()) or query.get("dryRun") == "All",
        )


def delete(
    api: EmbeddedApi, resource: Resource, namespace: str | None, name: str, options: DeleteOptions
) -> tuple[Object, bool]:
    """Delete an object or start its deletion.

    Returns:
        The object in its last state, and whether it is gone already.

    Raises:
        ApiError: 403, 404, or 409 when a precondition fails.
    """
    item = api.get(resource, namespace, name)
    _check(resource, item, options)
    if undeletable(resource, name):
        raise errors.forbidden(resource, name, "this namespace may not be deleted")
    if options.dry_run:
        return item, False
    meta = item["metadata"]
    grace = _grace(resource, item, options)
    finalizers = list(meta.get("finalizers") or ())
    added = _PROPAGATION_FINALIZERS.get(options.propagation)
    if added and added not in finalizers and not is_deleting(item):
        finalizers.append(added)
    waits = finalizers or grace > 0 or (resource.storage == ("", "namespaces") and dig(item, "spec", "finalizers"))
    if not waits:
        return api.store.commit(resource.storage, clone(item), "DELETED"), True
    if is_deleting(item) and grace >= meta.get("deletionGracePeriodSeconds", 0):
        return item, False  # already on its way, and not to go any sooner
    return _begin(api, resource, item, grace, finalizers), False


def _check(resource: Resource, item: Object, options: DeleteOptions) -> None:
    meta = item["metadata"]
    for label, wanted, actual in (
        ("UID", options.uid, meta["uid"]),
        ("ResourceVersion", options.resource_version, meta["resourceVersion"]),
    ):
        if wanted is not None and wanted != actual:
            why = f"Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {actual}"
            raise errors.conflict(resource, meta["name"], why)


def _grace(resource: Resource, item: Object, options: DeleteOptions) -> int:
    """Return the seconds to wait: only pods bound to a node end gracefully."""
    if resource.storage != ("", "pods") or not dig(item, "spec", "nodeName"):
        return 0
    if dig(item, "status", "phase") in {"Succeeded", "Failed"}:
        return 0
    if options.grace_seconds is not None:
        return max(0, options.grace_seconds)
    default = dig(item, "spec", "terminationGracePeriodSeconds")
    return 30 if default is None else int(default)


def _begin(api: EmbeddedApi, resource: Resource, item: Object, grace: int, finalizers: list[str]) -> Object:
    changed = clone(item)
    meta = changed["metadata"]
    if not is_deleting(item) and "generation" in meta:
        meta["generation"] += 1
    meta["deletionTimestamp"] = timestamp(api.clock.wall() + timedelta(seconds=math.ceil(grace)))
    meta["deletionGracePeriodSeconds"] = grace
    if finalizers:
        meta["finalizers"] = finalizers
    if resource.storage == ("", "namespaces"):
        changed["status"] = {**(changed.get("status") or {}), "phase": "Terminating"}
    return api.store.commit(resource.storage, changed, "MODIFIED")


def delete_all(api: EmbeddedApi, resource: Resource, items: list[Object], options: DeleteOptions) -> list[Object]:
    """Delete several objects of a kind, each on its own terms.

    Returns:
        The objects as they were or are.
    """
    result = []
    for item in items:
        meta = item["metadata"]
        result.append(delete(api, resource, meta.get("namespace"), meta["name"], options)[0])
    return result
