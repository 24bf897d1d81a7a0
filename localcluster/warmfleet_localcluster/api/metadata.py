"""Rules on `metadata` that hold for all kinds: names, labels, and what the server alone may write."""

from __future__ import annotations

import random
import re
import uuid

from warmfleet_localcluster.api import errors
from warmfleet_localcluster.api.builtin import NO_GENERATION
from warmfleet_localcluster.api.errors import Cause, bad_request, forbidden_value, invalid_value, required_value
from warmfleet_localcluster.api.objects import Object
from warmfleet_localcluster.api.resources import Resource

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"^{_LABEL}(\.{_LABEL})*$")
_QUALIFIED = re.compile(r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
_SERVER_OWNED = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "name",
    "namespace",
)
_SINGLE_LABEL = {"namespaces", "services"}
_DNS_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character"
)


def has_generation(resource: Resource) -> bool:
    """Return whether objects of this kind count their spec's generations."""
    return resource.crd is not None or resource.plural not in NO_GENERATION


def stamp_new(resource: Resource, item: Object, namespace: str | None, now: str) -> None:
    """Fill in the metadata of an object about to be created, in place.

    Raises:
        ApiError: 422, neither name nor generateName.
    """
    meta = item["metadata"]
    item["apiVersion"], item["kind"] = resource.group_version, resource.kind
    if not meta.get("name"):
        if not meta.get("generateName"):
            raise errors.invalid(resource, "", [required_value("metadata.name", "name or generateName is required")])
        meta["name"] = meta["generateName"][:58] + "".join(random.choices(_SUFFIX, k=5))
    meta.pop("namespace", None)
    if namespace is not None:
        meta["namespace"] = namespace
    for key in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink"):
        meta.pop(key, None)
    meta["uid"] = str(uuid.uuid4())
    meta["creationTimestamp"] = now
    meta.pop("generation", None)
    if has_generation(resource):
        meta["generation"] = 1
    _drop_empty(meta)


def carry_over(old: Object, new: Object) -> None:
    """Restore what a client may not change in an update, in place."""
    meta, before = new["metadata"], old["metadata"]
    for key in (*_SERVER_OWNED, "managedFields", "selfLink", "resourceVersion"):
        meta.pop(key, None)
    for key in (*_SERVER_OWNED, "generateName", "resourceVersion"):
        if key in before:
            meta[key] = before[key]
    _drop_empty(meta)


def _drop_empty(meta: Object) -> None:
    for key in ("labels", "annotations", "finalizers", "ownerReferences"):
        if key in meta and not meta[key]:
            del meta[key]


def check_types(item: Object) -> None:
    """Refuse metadata that no typed client could decode.

    Raises:
        ApiError: 400, a label or annotation is not a string, or a list is not a list.
    """
    meta = item.get("metadata")
    if not isinstance(meta, dict):
        raise bad_request("metadata must be an object")
    for field in ("labels", "annotations"):
        values = meta.get(field) or {}
        if not isinstance(values, dict):
            raise bad_request(f"metadata.{field} must be an object of strings")
        for key, value in values.items():
            if not isinstance(value, str):
                raise bad_request(f"metadata.{field}[{key}] must be a string, not {errors.shown(value)}")
    for field in ("finalizers", "ownerReferences"):
        if not isinstance(meta.get(field) or [], list):
            raise bad_request(f"metadata.{field} must be a list")


def check_metadata(resource: Resource, item: Object, old: Object | None) -> list[Cause]:
    """Return what is wrong with an object's metadata."""
    meta = item["metadata"]
    causes = [] if old else _check_name(resource, meta["name"])
    for key, value in (meta.get("labels") or {}).items():
        if not _QUALIFIED.match(key):
            causes.append(invalid_value("metadata.labels", key, "name part must consist of alphanumeric characters"))
        if len(value) > 63 or not _VALUE.match(value):
            why = (
                "must be no more than 63 bytes"
                if len(value) > 63
                else "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
                "and must start and end with an alphanumeric character"
            )
            causes.append(invalid_value("metadata.labels", value, why))
    for index, owner in enumerate(meta.get("ownerReferences") or ()):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                where = f"metadata.ownerReferences[{index}].{field}"
                causes.append(invalid_value(where, owner.get(field) or "", f"{field} must not be empty"))
    causes += _check_finalizers(meta, old)
    return causes


def _check_finalizers(meta: Object, old: Object | None) -> list[Cause]:
    if old is None or not old["metadata"].get("deletionTimestamp"):
        return []
    added = set(meta.get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ())
    if not added:
        return []
    why = f"no new finalizers can be added if the object is being deleted, found new finalizers {sorted(added)}"
    return [forbidden_value("metadata.finalizers", why)]


def _check_name(resource: Resource, name: str) -> list[Cause]:
    if resource.group == "rbac.authorization.k8s.io":
        bad = name in {".", ".."} or "/" in name or "%" in name
        return [invalid_value("metadata.name", name, "may not contain '/' or '%'")] if bad else []
    longest = 63 if resource.plural in _SINGLE_LABEL and not resource.crd else 253
    if len(name) > longest:
        return [invalid_value("metadata.name", name, f"must be no more than {longest} bytes")]
    if not _SUBDOMAIN.match(name) or (longest == 63 and "." in name):
        return [invalid_value("metadata.name", name, _DNS_MESSAGE)]
    return []
