"""OpenAPI documents, as far as `kubectl apply` and `kubectl explain` read them.

Custom resources carry their schema; built-in kinds are opaque objects, so explain shows no fields for them.
"""

from __future__ import annotations

import hashlib
from typing import Any

from warmfleet_localcluster.api.objects import Object
from warmfleet_localcluster.api.resources import Registry, Resource

_QUERY = ("dryRun", "fieldManager", "fieldValidation")
_GVK = "x-kubernetes-group-version-kind"
_ENVELOPE = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}


def index(registry: Registry) -> Object:
    """Return the answer to `/openapi/v3`: one document per group version."""
    paths: dict[str, Object] = {}
    for group, versions in registry.groups().items():
        for version in versions:
            path = f"apis/{group}/{version}" if group else f"api/{version}"
            digest = hashlib.sha256(repr(document(registry, group, version)).encode()).hexdigest()
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest[:16]}"}
    return {"paths": paths}


def document(registry: Registry, group: str, version: str) -> Object:
    """Return the OpenAPI v3 document of a group version."""
    paths: Object = {}
    schemas: Object = {}
    for resource in registry.in_group_version(group, version):
        paths |= _paths(resource)
        schemas[_name(resource)] = {**_schema(resource), _GVK: [_gvk(resource)]}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def swagger(registry: Registry) -> Object:
    """Return the OpenAPI v2 document of everything."""
    definitions = {
        _name(resource): {**_without_nullable(_schema(resource)), _GVK: [_gvk(resource)]} for resource in registry
    }
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": {},
        "definitions": definitions,
    }


def _gvk(resource: Resource) -> Object:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


def _name(resource: Resource) -> str:
    reverse = ".".join(reversed((resource.group or "core.api.k8s.io").split(".")))
    return f"{reverse}.{resource.version}.{resource.kind}"


def _schema(resource: Resource) -> Object:
    schema = resource.schema
    if schema is None:
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {**schema, "properties": {**_ENVELOPE, **(schema.get("properties") or {})}}


def _paths(resource: Resource) -> Object:
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    base = f"{root}/namespaces/{{namespace}}/{resource.plural}" if resource.namespaced else f"{root}/{resource.plural}"
    gvk = _gvk(resource)
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in _QUERY]

    def operation(action: str) -> Object:
        return {
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": action,
            _GVK: gvk,
        }

    return {
        base: {"get": operation("list"), "post": operation("post")},
        f"{base}/{{name}}": {method: operation(method) for method in ("get", "put", "patch", "delete")},
    }


def _without_nullable(schema: Any) -> Any:
    """Swagger 2 has no `nullable`."""
    if isinstance(schema, dict):
        return {key: _without_nullable(value) for key, value in schema.items() if key != "nullable"}
    if isinstance(schema, list):
        return [_without_nullable(entry) for entry in schema]
    return schema
