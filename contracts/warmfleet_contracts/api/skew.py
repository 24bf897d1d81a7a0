"""Compares the CRDs that a cluster has with those that this release was built with. Pure.

An operator on older CRDs would lose what it writes: the API server drops fields that it does not know. One on newer
CRDs would ignore what people wrote. Neither shows anywhere, so both are found by comparing the *paths* of the schemas,
such as ``spec.variants[].instanceType``; types, bounds and texts may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmfleet_contracts.api import GROUP, VERSION
from warmfleet_contracts.api.crd import KINDS, custom_resource_definition

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Skew:
    """How one installed CRD differs.

    Attributes:
        crd: Its name.
        lacking: Paths that this release knows and the CRD does not, sorted.
        unknown: Paths that the CRD knows and this release does not, sorted.
        served: Whether the CRD serves this release's version at all.
    """

    crd: str
    lacking: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    served: bool = True

    @property
    def differs(self) -> bool:
        """Whether there is any difference."""
        return bool(self.lacking or self.unknown or not self.served)

    def text(self, component: str) -> str:
        """What is wrong and what to do, for a person; ``component`` is who complains."""
        name = f"CustomResourceDefinition {self.crd}"
        upgrade = "upgrade the CRDs: helm upgrade with crds.enabled=true, or kubectl apply --server-side -f crds/"
        if not self.served:
            return f"{name} does not serve {VERSION}, which this {component} speaks; {upgrade} of the same release"
        if self.lacking:
            other = f" (and has {_some(self.unknown)}, which this {component} does not know)" if self.unknown else ""
            older = f"{name} is older than this {component}: it lacks {_some(self.lacking)}{other}"
            return f"{older}; what is written there would be lost; {upgrade} of the same release"
        newer = f"{name} is newer than this {component}: it has {_some(self.unknown)}, which would be ignored"
        return f"{newer}; upgrade the {component}, or apply the CRDs of its release"


def _some(paths: Sequence[str]) -> str:
    more = len(paths) - _SHOWN
    return ", ".join(paths[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def names() -> list[str]:
    """Names of the CRDs that this release needs."""
    return [f"{kind.crd['plural']}.{GROUP}" for kind in KINDS]  # type: ignore[attr-defined]


def compare(installed: Mapping[str, Any]) -> Skew:
    """How an installed CRD differs from the one of this release.

    Args:
        installed: The CRD as the API server returns it; one of :func:`names`.

    Raises:
        KeyError: It is none of this project's.
    """
    own = {body["metadata"]["name"]: body for body in map(custom_resource_definition, KINDS)}
    name = str(installed["metadata"]["name"])
    known = set(_paths(_schema(own[name])))
    schema = _schema(installed)
    if schema is None:
        return Skew(name, served=False)
    there = set(_paths(schema))
    return Skew(name, lacking=_roots(known - there), unknown=_roots(there - known))


def _schema(crd: Mapping[str, Any]) -> Any:
    """Schema of the version that this release speaks; None when it is not served."""
    for version in (crd.get("spec") or {}).get("versions") or []:
        if version.get("name") == VERSION and version.get("served"):
            return (version.get("schema") or {}).get("openAPIV3Schema") or {}
    return None


def _paths(schema: Any, path: str = "") -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    for name, child in (schema.get("properties") or {}).items():
        own = f"{path}.{name}" if path else str(name)
        yield own
        yield from _paths(child, own)
    yield from _paths(schema.get("items"), f"{path}[]")
    yield from _paths(schema.get("additionalProperties"), f"{path}{{}}")


def _roots(paths: set[str]) -> tuple[str, ...]:
    """The paths without those below another one of them."""
    kept: list[str] = []
    for path in sorted(paths):
        if not any(path.startswith(f"{root}{sign}") for root in kept for sign in ".[{"):
            kept.append(path)
    return tuple(kept)
