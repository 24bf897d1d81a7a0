"""List requests: selection, paging and presentation."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping

from warmfleet_localcluster.api import errors
from warmfleet_localcluster.api.embedded import EmbeddedApi
from warmfleet_localcluster.api.errors import ApiError, bad_request
from warmfleet_localcluster.api.events import present
from warmfleet_localcluster.api.objects import Object
from warmfleet_localcluster.api.resources import Resource
from warmfleet_localcluster.api.selectors import Predicate, parse_fields, parse_labels
from warmfleet_localcluster.api.tables import View, as_table, partial

Query = Mapping[str, str]
"""The query of a request."""


def truthy(value: str | None) -> bool:
    """Return whether a query parameter is switched on."""
    return (value or "").lower() in {"1", "true"}


def selection(query: Query, resource: Resource, name: str | None = None) -> Predicate:
    """Return what a request selects by labels, fields and name.

    Raises:
        ApiError: 400, a selector does not parse.
    """
    tests: list[Predicate] = []
    if text := query.get("labelSelector"):
        tests.append(parse_labels(text))
    if text := query.get("fieldSelector"):
        tests.append(parse_fields(text, resource))
    if name is not None:
        tests.append(lambda item: item["metadata"]["name"] == name)
    return lambda item: all(test(item) for test in tests)


def select(api: EmbeddedApi, resource: Resource, namespace: str | None, query: Query) -> list[Object]:
    """Return the selected objects of a kind, in key order."""
    chosen = selection(query, resource)
    return [item for item in api.objects(resource, namespace) if chosen(item)]


def list_objects(api: EmbeddedApi, resource: Resource, namespace: str | None, query: Query, view: View) -> Object:
    """Return the answer to a list request.

    Raises:
        ApiError: 400, 410 (continue token too old) or 504 (resource version from the future).
    """
    rv = _number(query.get("resourceVersion"), "resourceVersion")
    if rv > api.store.rv:
        causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
        message = f"Too large resource version: {rv}, current: {api.store.rv}"
        raise ApiError(504, "Timeout", message, causes=causes, retryAfterSeconds=1)
    items = select(api, resource, namespace, query)
    meta: Object = {"resourceVersion": str(api.store.rv)}
    if token := query.get("continue"):
        start, version = _decode_token(token)
        if not api.store.known_since(resource.storage, version):
            raise errors.expired("The provided continue parameter is too old to display a consistent list result.")
        meta["resourceVersion"] = str(version)
        items = [item for item in items if _key(item) > start]
    limit = _number(query.get("limit"), "limit")
    if limit and len(items) > limit:
        meta["remainingItemCount"] = len(items) - limit
        items = items[:limit]
        meta["continue"] = _encode_token(_key(items[-1]), int(meta["resourceVersion"]))
    return _presented(api, resource, items, meta, query, view)


def _presented(
    api: EmbeddedApi, resource: Resource, items: list[Object], meta: Object, query: Query, view: View
) -> Object:
    if view.table:
        include = query.get("includeObject") or "Metadata"
        return as_table(resource, items, meta, now=api.clock.wall(), include_object=include)
    if view.partial:
        kind, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        return {"kind": kind, "apiVersion": version, "metadata": meta, "items": [partial(item) for item in items]}
    return {
        "kind": f"{resource.kind}List",
        "apiVersion": resource.group_version,
        "metadata": meta,
        "items": [present(resource, item) for item in items],
    }


def show(api: EmbeddedApi, resource: Resource, item: Object, query: Query, view: View) -> Object:
    """Return one object the way a client wants to see it."""
    if view.table:
        meta = {"resourceVersion": item["metadata"]["resourceVersion"]}
        include = query.get("includeObject") or "Metadata"
        return as_table(resource, [item], meta, now=api.clock.wall(), include_object=include)
    return partial(item) if view.partial else present(resource, item)


def _number(text: str | None, field: str) -> int:
    try:
        return int(text or 0)
    except ValueError as error:
        raise bad_request(f"{field} must be an integer, not {text!r}") from error


def _key(item: Object) -> tuple[str, str]:
    return item["metadata"].get("namespace") or "", item["metadata"]["name"]


def _encode_token(start: tuple[str, str], rv: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([*start, rv]).encode()).decode()


def _decode_token(token: str) -> tuple[tuple[str, str], int]:
    try:
        namespace, name, rv = json.loads(base64.urlsafe_b64decode(token))
        return (str(namespace), str(name)), int(rv)
    except (binascii.Error, ValueError, TypeError) as error:
        raise bad_request(f"continue key is not valid: {error}") from error
