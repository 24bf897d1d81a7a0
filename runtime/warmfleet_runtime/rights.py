"""What a component may do in a cluster, verb by verb, with the reason for each; and the RBAC rules made from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Scope(StrEnum):
    """Where a right holds."""

    CLUSTER = "cluster"
    """Objects without namespace: always a ClusterRole."""
    FLEET = "fleet"
    """Namespaces with LLMDeployments: a ClusterRole, or a Role when the component watches one namespace."""
    OWN = "own"
    """The component's own namespace: always a Role."""


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one resource.

    Attributes:
        group: API group; empty for the core group.
        resource: Plural, with ``/subresource`` where it is one.
        verb: RBAC verb.
        why: What the component does with it.
        scope: Where it holds.
        named: Only the object of the component's own name (its Lease). ``create`` cannot be limited so.
        name: Only objects of this name; empty: of any.
    """

    group: str
    resource: str
    verb: str
    why: str
    scope: Scope
    named: bool = False
    name: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{'.' + self.group if self.group else ''}"


def granted(
    group: str, resource: str, scope: Scope, *, named: bool = False, name: str = "", **why: str
) -> tuple[Right, ...]:
    """Rights on one resource: verbs as keywords, each with its reason."""
    return tuple(Right(group, resource, verb, text, scope, named, name) for verb, text in why.items())


def rules(rights: Iterable[Right]) -> list[dict[str, Any]]:
    """RBAC policy rules, one per resource; rules with ``named`` are to be limited to the component's own name."""
    verbs: dict[tuple[str, str, bool, str], list[str]] = {}
    for right in rights:
        verbs.setdefault((right.group, right.resource, right.named, right.name), []).append(right.verb)
    return [
        {
            "apiGroups": [group],
            "resources": [resource],
            **({"resourceNames": [name]} if name else {}),
            "verbs": found,
            **({"named": True} if named else {}),
        }
        for (group, resource, named, name), found in verbs.items()
    ]
