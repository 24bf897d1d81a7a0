"""Taking a URL apart, and decoding bodies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from aiohttp import web

from warmfleet_localcluster.api import errors, protobuf
from warmfleet_localcluster.api.embedded import WriteOptions
from warmfleet_localcluster.api.errors import bad_request
from warmfleet_localcluster.api.reading import truthy
from warmfleet_localcluster.api.resources import Registry, Resource

_WRITE_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL names.

    Attributes:
        resource: The kind.
        namespace: Namespace, None for cluster-wide kinds and for all namespaces.
        name: Object name, None for the collection.
        subresource: Empty for the object itself.
    """

    resource: Resource
    namespace: str | None
    name: str | None
    subresource: str


def parse_target(registry: Registry, parts: list[str]) -> Target:
    """Return what a path below `/api` or `/apis` names.

    Args:
        registry: The served resources.
        parts: Path segments, beginning with `api` or `apis`.

    Raises:
        ApiError: 404, nothing is served there.
    """
    group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
    namespace = None
    if rest[0] == "namespaces" and len(rest) >= 3 and rest[2] not in {"status", "finalize"}:
        namespace, rest = rest[1], rest[2:]
    resource = registry.find(group, version, rest[0])
    if len(rest) > 3 or (namespace is not None and not resource.namespaced):
        raise errors.unknown_path()
    subresource = rest[2] if len(rest) > 2 else ""
    if subresource and not resource.has(subresource):
        raise errors.unknown_path()
    return Target(resource, namespace, rest[1] if len(rest) > 1 else None, subresource)


def verb_of(method: str, target: Target, query: Mapping[str, str]) -> str:
    """Return the API verb of a request.

    Raises:
        ApiError: 405, the method means nothing here.
    """
    if method == "GET":
        if truthy(query.get("watch")):
            return "watch"
        return "list" if target.name is None else "get"
    if method == "DELETE":
        return "deletecollection" if target.name is None else "delete"
    if method not in _WRITE_VERBS or (method != "POST" and target.name is None):
        raise errors.method_not_allowed(method)
    return _WRITE_VERBS[method]


def _yaml(raw: bytes) -> Any:
    """JSON where it is JSON: PyYAML reads its 7e-05 as a text, which the real API server does not."""
    try:
        return json.loads(raw)
    except ValueError:
        return yaml.safe_load(raw)


async def read_body(request: web.Request) -> Any:
    """Return the decoded body, None when there is none.

    Raises:
        ApiError: 400 or 415, it cannot be decoded.
    """
    raw = await request.read()
    if not raw.strip():
        return None
    if raw.startswith(protobuf.MAGIC):
        # only the options of a delete may be ignored: without JSON they are the defaults
        return None if request.method == "DELETE" else protobuf.decode(raw)
    try:
        return _yaml(raw) if "yaml" in request.content_type else json.loads(raw)
    except (ValueError, yaml.YAMLError) as error:
        raise bad_request(f"the body does not parse: {error}") from error


def write_options(query: Mapping[str, str], user_agent: str) -> WriteOptions:
    """Return the options of a write.

    Raises:
        ApiError: 400, an option has no sense.
    """
    dry_run = query.get("dryRun", "")
    validation = query.get("fieldValidation") or "Warn"
    if dry_run not in {"", "All"}:
        raise bad_request(f'dryRun: Unsupported value: "{dry_run}": supported values: "All"')
    if validation not in {"Strict", "Warn", "Ignore"}:
        raise bad_request(f"fieldValidation must be Strict, Warn or Ignore, not {validation!r}")
    manager = query.get("fieldManager") or user_agent.partition("/")[0] or "unknown"
    return WriteOptions(dry_run=dry_run == "All", field_validation=validation, manager=manager)
