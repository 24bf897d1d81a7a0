"""Discovery documents: which groups, versions and resources there are, in the classic and the aggregated form."""

from __future__ import annotations

from warmfleet_localcluster.api.objects import Object
from warmfleet_localcluster.api.resources import Registry, Resource

VERSION: Object = {
    "major": "1",
    "minor": "33",
    "gitVersion": "v1.33.0+warmfleet-embedded",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2025-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "python",
    "platform": "linux/amd64",
}
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""Content type of aggregated discovery."""

_CREATED = {"eviction", "binding", "token"}
_SUB_KINDS = {
    "scale": ("autoscaling", "v1", "Scale"),
    "eviction": ("policy", "v1", "Eviction"),
    "binding": ("", "v1", "Binding"),
    "token": ("authentication.k8s.io", "v1", "TokenRequest"),
}


def core_versions() -> Object:
    """Return the answer to `/api`."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list(registry: Registry) -> Object:
    """Return the answer to `/apis`."""
    groups = [_group(name, versions) for name, versions in registry.groups().items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(registry: Registry, name: str) -> Object | None:
    """Return the answer to `/apis/GROUP`, None when there is no such group."""
    versions = registry.groups().get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)} if versions and name else None


def _group(name: str, versions: list[str]) -> Object:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def resource_list(registry: Registry, group_name: str, version: str) -> Object | None:
    """Return the resources of a group version, None when it is not served."""
    served = registry.in_group_version(group_name, version)
    if not served:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": served[0].group_version,
        "resources": [entry for resource in served for entry in _entries(resource)],
    }


def _entries(resource: Resource) -> list[Object]:
    main: Object = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        main["shortNames"] = list(resource.short_names)
    if resource.categories:
        main["categories"] = list(resource.categories)
    return [main, *(_sub_entry(resource, sub) for sub in resource.subresources)]


def _sub_entry(resource: Resource, sub: str) -> Object:
    group_name, version, kind = _SUB_KINDS.get(sub, ("", "", resource.kind))
    entry: Object = {
        "name": f"{resource.plural}/{sub}",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": kind,
        "verbs": _sub_verbs(sub),
    }
    if version:
        entry |= {"group": group_name, "version": version}
    return entry


def _sub_verbs(sub: str) -> list[str]:
    if sub == "log":
        return ["get"]
    return ["create"] if sub in _CREATED else ["get", "patch", "update"]


def aggregated(registry: Registry, *, core: bool) -> Object:
    """Return the aggregated answer to `/api` (core) or `/apis` (all other groups)."""
    items = [
        {
            "metadata": {"name": name, "creationTimestamp": None},
            "versions": [_version_discovery(registry, name, version) for version in versions],
        }
        for name, versions in registry.groups().items()
        if bool(name) != core
    ]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    }


def _version_discovery(registry: Registry, group_name: str, version: str) -> Object:
    served = registry.in_group_version(group_name, version)
    return {"version": version, "resources": [_discovery(resource) for resource in served], "freshness": "Current"}


def _discovery(resource: Resource) -> Object:
    return {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
        "shortNames": list(resource.short_names),
        "categories": list(resource.categories),
        "subresources": [_sub_discovery(resource, sub) for sub in resource.subresources],
    }


def _sub_discovery(resource: Resource, sub: str) -> Object:
    group_name, version, kind = _SUB_KINDS.get(sub, (resource.group, resource.version, resource.kind))
    return {
        "subresource": sub,
        "responseKind": {"group": group_name, "version": version, "kind": kind},
        "verbs": _sub_verbs(sub),
    }
