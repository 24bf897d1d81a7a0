"""Subresources other than status and eviction: scale, binding, token."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

from warmfleet_localcluster.api import errors, patches
from warmfleet_localcluster.api.embedded import EmbeddedApi, WriteOptions
from warmfleet_localcluster.api.errors import bad_request, invalid_value
from warmfleet_localcluster.api.objects import Object, clone, dig, timestamp
from warmfleet_localcluster.api.resources import Resource

_META = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


def scale_of(resource: Resource, item: Object) -> Object:
    """Return an object's `autoscaling/v1` Scale."""
    paths = (resource.definition.get("subresources") or {}).get("scale") or {}
    wanted = _at(item, paths.get("specReplicasPath", ".spec.replicas"))
    actual = _at(item, paths.get("statusReplicasPath", ".status.replicas"))
    status: Object = {"replicas": actual or 0}
    if "labelSelectorPath" in paths:
        status["selector"] = _at(item, paths["labelSelectorPath"]) or ""
    elif resource.crd is None:
        labels = dig(item, "spec", "selector", "matchLabels") or {}
        status["selector"] = ",".join(f"{key}={value}" for key, value in labels.items())
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: item["metadata"][key] for key in _META if key in item["metadata"]},
        "spec": {} if wanted is None else {"replicas": wanted},
        "status": status,
    }


def _at(item: Object, path: str) -> Any:
    return dig(item, *path.strip(".").split("."))


def put_scale(
    api: EmbeddedApi, resource: Resource, old: Object, scale: Any, options: WriteOptions | None = None
) -> Object:
    """Set the replica count of an object through its Scale.

    Returns:
        The Scale afterwards.

    Raises:
        ApiError: 400, 409 for a stale resourceVersion, 422 for a count that is not one.
    """
    replicas = dig(scale, "spec", "replicas")
    name = old["metadata"]["name"]
    if replicas is None:
        replicas = 0
    if not isinstance(replicas, int) or replicas < 0:
        cause = invalid_value("spec.replicas", replicas, "must be greater than or equal to 0")
        raise errors.invalid(resource, name, [cause])
    paths = (resource.definition.get("subresources") or {}).get("scale") or {}
    *parents, leaf = paths.get("specReplicasPath", ".spec.replicas").strip(".").split(".")
    changed = clone(old)
    target = changed
    for key in parents:
        target = target.setdefault(key, {})
    target[leaf] = replicas
    for key in ("resourceVersion", "uid"):
        if wanted := dig(scale, "metadata", key):
            changed["metadata"][key] = wanted
    updated = api.update(resource, old, changed, subresource="", options=options or WriteOptions())
    return scale_of(resource, updated)


def patch_scale(
    api: EmbeddedApi, resource: Resource, old: Object, patch: Any, content_type: str, options: WriteOptions
) -> Object:
    """Patch the Scale of an object; same results and errors as `put_scale`."""
    scale = scale_of(resource, old)
    if content_type == patches.JSON_PATCH:
        scale = patches.json_patch(scale, patch)
    elif isinstance(patch, dict):
        scale = patches.merge_patch(scale, patch)
    else:
        raise bad_request("the patch must be an object")
    return put_scale(api, resource, old, scale, options)


def bind(api: EmbeddedApi, resource: Resource, namespace: str | None, name: str, body: Any) -> None:
    """Assign a pod to a node.

    Raises:
        ApiError: 400 without a target, 404, 409 when the pod is bound already.
    """
    pod = api.get(resource, namespace, name)
    node = dig(body, "target", "name")
    if not node:
        raise bad_request("target.name must name a node")
    current = dig(pod, "spec", "nodeName")
    if current:
        raise errors.conflict(resource, name, f'pod {name} is already assigned to node "{current}"')
    changed = clone(pod)
    changed["spec"]["nodeName"] = node
    status = changed.setdefault("status", {})
    others = [c for c in status.get("conditions") or () if c["type"] != "PodScheduled"]
    scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": api.now()}
    status["conditions"] = [*others, scheduled]
    api.store.commit(resource.storage, changed, "MODIFIED")


def request_token(api: EmbeddedApi, resource: Resource, namespace: str | None, name: str, body: Any) -> Object:
    """Return a TokenRequest with a random token; nothing ever checks it.

    Raises:
        ApiError: 404, no such service account.
    """
    api.get(resource, namespace, name)
    spec = dict((body or {}).get("spec") or {})
    seconds = int(spec.get("expirationSeconds") or 3600)
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": api.now()},
        "spec": {
            "audiences": spec.get("audiences") or ["https://kubernetes.default.svc"],
            "expirationSeconds": seconds,
        },
        "status": {
            "token": secrets.token_urlsafe(48),
            "expirationTimestamp": timestamp(api.clock.wall() + timedelta(seconds=seconds)),
        },
    }
