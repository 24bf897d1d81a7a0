"""The API itself, without HTTP: every verb as a synchronous, atomic method.

Each verb runs to its end without awaiting, so callers on one event loop never interleave inside a write. What the real
cluster does in the background (garbage collection, namespace cascade) is queued and done on the next turn of the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from warmfleet_runtime.clock import Clock, SystemClock

from warmfleet_localcluster.api import crds, errors, patches
from warmfleet_localcluster.api.apply import AppliedSets
from warmfleet_localcluster.api.background import Background
from warmfleet_localcluster.api.builtin import BUILTIN
from warmfleet_localcluster.api.errors import bad_request
from warmfleet_localcluster.api.events import from_events_group
from warmfleet_localcluster.api.faults import Faults
from warmfleet_localcluster.api.metadata import carry_over, check_metadata, check_types, has_generation, stamp_new
from warmfleet_localcluster.api.objects import Object, clone, is_deleting, timestamp
from warmfleet_localcluster.api.requestcounts import RequestCounts
from warmfleet_localcluster.api.resources import Registry, Resource
from warmfleet_localcluster.api.store import ObjectStore
from warmfleet_localcluster.api.strategies import Strategies

_NO_BLIND_UPDATE = {"leases", "poddisruptionbudgets", "customresourcedefinitions"}
_INITIAL_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_INITIAL_PRIORITIES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


@dataclass(slots=True)
class WriteOptions:
    """How a write is to be done.

    Attributes:
        dry_run: Check and answer, but keep nothing.
        field_validation: Strict, Warn or Ignore, for unknown fields of custom resources.
        manager: Field manager, for server-side apply.
        warnings: Filled by the verb; what the client should be told.
    """

    dry_run: bool = False
    field_validation: str = "Ignore"
    manager: str = "unknown"
    warnings: list[str] = field(default_factory=list)


class EmbeddedApi:
    """An in-memory Kubernetes API.

    Objects handed out are the stored ones: read them, never change them.

    Args:
        clock: Source of all timestamps.
        window: How many changes per kind are remembered for watches that resume.
        service_prefix: First two octets of the cluster IPs handed to services.
    """

    def __init__(self, *, clock: Clock | None = None, window: int = 10_000, service_prefix: str = "10.96") -> None:
        self.clock: Clock = clock or SystemClock()
        self.registry = Registry(BUILTIN)
        self.store = ObjectStore(window=window)
        self.applied = AppliedSets()
        self.faults = Faults()
        self.requests = RequestCounts()
        self.strategies = Strategies(self.store, service_prefix=service_prefix)
        self.custom = crds.CustomValidation()
        self.background = Background(self)
        for name in _INITIAL_NAMESPACES:
            self.create(self.registry.named("namespaces"), None, {"metadata": {"name": name}})
        for name, value in _INITIAL_PRIORITIES.items():
            resource = self.registry.named("priorityclasses", "scheduling.k8s.io")
            self.create(resource, None, {"metadata": {"name": name}, "value": value})

    def now(self) -> str:
        """Return the current logical time as a timestamp."""
        return timestamp(self.clock.wall())

    def settle(self) -> None:
        """Do all queued background work now (for callers without a running event loop)."""
        self.background.settle()

    # verbs

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """Return one object.

        Raises:
            ApiError: 404.
        """
        found = self.store.get(resource.storage, (namespace if resource.namespaced else None, name))
        if found is None:
            raise errors.not_found(resource, name)
        return found

    def objects(self, resource: Resource, namespace: str | None = None) -> list[Object]:
        """Return all objects of a kind, in a namespace or in all, in key order."""
        return self.store.objects(resource.storage, namespace if resource.namespaced else None)

    def create(
        self, resource: Resource, namespace: str | None, body: Any, options: WriteOptions | None = None
    ) -> Object:
        """Create an object.

        Args:
            resource: What to create.
            namespace: Where; None for cluster-wide kinds.
            body: The object as sent; not modified.
            options: Dry run and validation.

        Returns:
            The object as stored.

        Raises:
            ApiError: 400, 403, 404 (no such namespace), 409 or 422.
        """
        options = options or WriteOptions()
        item = self._decode(resource, body)
        self._check_namespace(resource, namespace, item)
        stamp_new(resource, item, namespace if resource.namespaced else None, self.now())
        if resource.group == "events.k8s.io":
            item["apiVersion"] = "v1"  # stored in the core form
        name = item["metadata"]["name"]
        if self.store.get(resource.storage, (item["metadata"].get("namespace"), name)) is not None:
            raise errors.already_exists(resource, name)
        if resource.crd is None:
            self.strategies.on_create(resource, item)
        elif resource.has("status"):
            item.pop("status", None)
        self._admit(resource, item, None, options)
        return item if options.dry_run else self.store.commit(resource.storage, item, "ADDED")

    def replace(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        body: Any,
        *,
        subresource: str = "",
        options: WriteOptions | None = None,
    ) -> Object:
        """Replace an object (PUT).

        Raises:
            ApiError: 400, 404, 409 (stale resourceVersion or other uid) or 422.
        """
        old = self.get(resource, namespace, name)
        item = self._decode(resource, body)
        blind = not item["metadata"].get("resourceVersion")
        if blind and (resource.crd or resource.plural in _NO_BLIND_UPDATE):
            why = errors.Cause(
                "metadata.resourceVersion", "FieldValueInvalid", "Invalid value: 0: must be specified for an update"
            )
            raise errors.invalid(resource, name, [why])
        return self.update(resource, old, item, subresource=subresource, options=options or WriteOptions())

    def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Any,
        content_type: str,
        *,
        subresource: str = "",
        options: WriteOptions | None = None,
    ) -> tuple[Object, bool]:
        """Patch an object; server-side apply creates it when it is absent.

        Args:
            resource: What to patch.
            namespace: Where; None for cluster-wide kinds.
            name: Which one.
            patch: The decoded patch.
            content_type: Media type that says which kind of patch it is.
            subresource: `status`, or empty for the object itself.
            options: Dry run, validation and (for apply) the manager.

        Returns:
            The object after the patch, and whether it was created.

        Raises:
            ApiError: 400, 404, 409, 415 or 422.
        """
        options = options or WriteOptions()
        applying = content_type in patches.APPLY_PATCHES
        key = (namespace if resource.namespaced else None, name)
        if applying and self.store.get(resource.storage, key) is None and not subresource:
            config = self._applied_config(patch, name)
            item = self.create(resource, namespace, config, options)
            if not options.dry_run:
                self._remember(item, patch, subresource, options)
            return item, True
        old = self.get(resource, namespace, name)
        item = self._patched(resource, old, patch, content_type, subresource, options)
        updated = self.update(resource, old, item, subresource=subresource, options=options)
        if applying and not options.dry_run:
            self._remember(updated, patch, subresource, options)
        return updated, False

    def update(
        self, resource: Resource, old: Object, item: Object, *, subresource: str, options: WriteOptions
    ) -> Object:
        """Bring a stored object into a new state, checking all that an update must obey.

        Args:
            resource: Kind of the object.
            old: The stored object.
            item: The wanted state; owned by this method.
            subresource: `status` changes only the status, empty everything else.
            options: Dry run and validation.

        Raises:
            ApiError: 400, 409 or 422.
        """
        check_types(item)
        self._check_preconditions(resource, old, item)
        if subresource == "status":
            item = _with_status(old, item)
        elif resource.has("status") or resource.storage == crds.CRDS:
            item = _with_status(item, old)
        item["apiVersion"], item["kind"] = old["apiVersion"], old["kind"]
        carry_over(old, item)
        if resource.crd is None and not subresource:
            self.strategies.on_update(resource, item, old)
        self._admit(resource, item, old, options)
        if item == old:
            return old  # a write that changes nothing leaves the resource version alone
        if has_generation(resource) and _spec_of(resource, item) != _spec_of(resource, old):
            item["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
        if options.dry_run:
            return item
        return self.store.commit(resource.storage, item, "DELETED" if _is_finished(item) else "MODIFIED")

    # parts

    def _decode(self, resource: Resource, body: Any) -> Object:
        if not isinstance(body, dict):
            raise bad_request("the body must be an object")
        kind, version = body.get("kind"), body.get("apiVersion")
        if kind not in (None, "", resource.kind) or version not in (None, "", resource.group_version):
            raise bad_request(
                f"the object provided is {version}, Kind={kind}: "
                f"expected {resource.group_version}, Kind={resource.kind}"
            )
        item: Object = clone(body)
        if item.get("metadata") is None:
            item["metadata"] = {}
        check_types(item)
        return from_events_group(item) if resource.group == "events.k8s.io" else item

    def _check_namespace(self, resource: Resource, namespace: str | None, item: Object) -> None:
        if not resource.namespaced:
            return
        if item["metadata"].get("namespace") not in (None, "", namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        home = self.store.get(("", "namespaces"), (None, namespace or ""))
        if home is None:
            raise errors.not_found(self.registry.named("namespaces"), namespace or "")
        if is_deleting(home):
            name = item["metadata"].get("name") or item["metadata"].get("generateName") or ""
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise errors.forbidden(resource, name, why)

    def _check_preconditions(self, resource: Resource, old: Object, item: Object) -> None:
        meta, before = item["metadata"], old["metadata"]
        if meta.get("resourceVersion") not in (None, "", before["resourceVersion"]):
            raise errors.conflict(resource, before["name"])
        if meta.get("uid") not in (None, "", before["uid"]):
            why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {before['uid']}"
            raise errors.conflict(resource, before["name"], why)
        if meta.get("name") not in (None, "", before["name"]):
            raise bad_request(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({before['name']})"
            )

    def _admit(self, resource: Resource, item: Object, old: Object | None, options: WriteOptions) -> None:
        causes = check_metadata(resource, item, old)
        if causes:
            raise errors.invalid(resource, item["metadata"]["name"], causes)
        if resource.storage == crds.CRDS:
            crds.check_definition(resource, item)
            if not is_deleting(item):
                crds.complete_definition(item, self.now())
        elif resource.crd is not None:
            unknown = self.custom.admit(resource, item, old)
            crds.report_unknown(unknown, options.field_validation, options.warnings)

    def _patched(
        self,
        resource: Resource,
        old: Object,
        patch: Any,
        content_type: str,
        subresource: str,
        options: WriteOptions,
    ) -> Object:
        if content_type == patches.JSON_PATCH:
            result = patches.json_patch(old, patch)
        elif not isinstance(patch, dict):
            raise bad_request("the patch must be an object")
        elif content_type == patches.MERGE_PATCH:
            result = patches.merge_patch(old, patch)
        elif content_type == patches.STRATEGIC_PATCH and resource.crd is None:
            result = patches.strategic_patch(old, patch)
        elif content_type in patches.APPLY_PATCHES:
            config = self._applied_config(patch, old["metadata"]["name"])
            result = self.applied.merge(
                old, config, manager=options.manager, subresource=subresource, schema=resource.schema
            )
        else:
            raise errors.unsupported_media(
                "the body of the request was in an unknown format - accepted media types include: "
                f"{patches.JSON_PATCH}, {patches.MERGE_PATCH}, application/apply-patch+yaml"
            )
        item: Object = clone(result)
        return item

    def _applied_config(self, patch: Any, name: str) -> Object:
        if not isinstance(patch, dict) or not patch.get("apiVersion") or not patch.get("kind"):
            raise bad_request("an applied configuration must have apiVersion and kind")
        config: Object = clone(patch)
        if config.get("metadata") is None:
            config["metadata"] = {}
        config["metadata"].setdefault("name", name)
        return config

    def _remember(self, item: Object, patch: Object, subresource: str, options: WriteOptions) -> None:
        uid = item["metadata"]["uid"]
        self.applied.remember(uid, patch, manager=options.manager, subresource=subresource)


def _with_status(item: Object, source: Object) -> Object:
    """Return `item` with the status of `source`."""
    result: Object = {key: value for key, value in clone(item).items() if key != "status"}
    if source.get("status") is not None:
        result["status"] = clone(source["status"])
    return result


def _spec_of(resource: Resource, item: Object) -> Object:
    hidden = {"apiVersion", "kind", "metadata"} | ({"status"} if resource.has("status") else set())
    return {key: value for key, value in item.items() if key not in hidden}


def _is_finished(item: Object) -> bool:
    """Return whether an update was the last thing a deleted object waited for."""
    meta = item["metadata"]
    waits = (
        meta.get("finalizers") or meta.get("deletionGracePeriodSeconds") or (item.get("spec") or {}).get("finalizers")
    )
    return is_deleting(item) and not waits
