"""The kinds the API serves: one `Resource` per group, version and plural, and the registry that finds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from warmfleet_localcluster.api import errors

StorageKey = tuple[str, str]
"""Group and plural: all versions of a kind share their objects."""

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Resource:
    """One served kind in one version.

    Attributes:
        group: API group; empty for the core group.
        version: e.g. `v1`.
        plural: Lower-case plural as in the URL.
        kind: Camel-case kind.
        namespaced: Whether objects live in a namespace.
        short_names: Abbreviations for kubectl.
        subresources: e.g. `status`, `scale`.
        categories: kubectl groupings such as `all`.
        verbs: Verbs discovery announces.
        singular: Lower-case singular; the kind in lower case when empty.
        storage: Where the objects live; shared between versions (and between the two event kinds).
        crd: Name of the CustomResourceDefinition that defines it, None for built-in kinds.
        definition: The CRD's entry in `spec.versions`, empty for built-in kinds.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = VERBS
    singular: str = ""
    storage: StorageKey = ("", "")
    crd: str | None = None
    definition: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)

    def __post_init__(self) -> None:
        if not self.storage[1]:
            object.__setattr__(self, "storage", (self.group, self.plural))
        if not self.singular:
            object.__setattr__(self, "singular", self.kind.lower())

    @property
    def group_version(self) -> str:
        """The `apiVersion` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """Plural with group, as error messages name it: `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def schema(self) -> dict[str, Any] | None:
        """The OpenAPI v3 schema of a custom resource; None for built-in kinds."""
        schema: dict[str, Any] | None = (self.definition.get("schema") or {}).get("openAPIV3Schema")
        return schema

    def has(self, subresource: str) -> bool:
        """Return whether the subresource is served."""
        return subresource in self.subresources


class Registry:
    """All served resources, by group, version and plural."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._resources: dict[tuple[str, str, str], Resource] = {}
        for resource in resources:
            self.add(resource)

    def __iter__(self) -> Iterator[Resource]:
        return iter(list(self._resources.values()))

    def add(self, resource: Resource) -> None:
        """Serve a resource; an older definition of the same version is replaced."""
        self._resources[(resource.group, resource.version, resource.plural)] = resource

    def remove_crd(self, crd: str) -> None:
        """Stop serving every version a CustomResourceDefinition defined."""
        self._resources = {k: r for k, r in self._resources.items() if r.crd != crd}

    def find(self, group: str, version: str, plural: str) -> Resource:
        """Return the resource behind a URL.

        Raises:
            ApiError: 404, nothing is served there.
        """
        resource = self._resources.get((group, version, plural))
        if resource is None:
            raise errors.unknown_path()
        return resource

    def named(self, plural: str, group: str = "") -> Resource:
        """Return some version of a resource, for callers inside the process.

        Raises:
            KeyError: Nothing of that name is served.
        """
        for resource in self._resources.values():
            if (resource.group, resource.plural) == (group, plural):
                return resource
        raise KeyError(f"no resource {plural!r} in group {group!r}")

    def stored_as(self, storage: StorageKey) -> Resource | None:
        """Return one resource that reads this storage, None when none is served any more."""
        matching = (r for r in self._resources.values() if r.storage == storage)
        return next(matching, None)

    def in_group_version(self, group: str, version: str) -> list[Resource]:
        """Return what one group version serves."""
        return [r for r in self._resources.values() if (r.group, r.version) == (group, version)]

    def groups(self) -> dict[str, list[str]]:
        """Return the versions of every group, in the order they were added."""
        found: dict[str, list[str]] = {}
        for resource in self._resources.values():
            versions = found.setdefault(resource.group, [])
            if resource.version not in versions:
                versions.append(resource.version)
        return found
