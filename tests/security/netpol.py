"""What NetworkPolicies allow, by the rules of ``networking.k8s.io/v1``; for ingress over TCP.

A pod that no policy selects takes everything. One that is selected takes what any rule of any policy that selects it
allows. The namespace of a policy bounds a ``podSelector`` without ``namespaceSelector``; both together must match the
same peer. A pod reaches itself, and its node reaches it, whatever the policies say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A pod with the labels of its namespace."""

    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int]

    @property
    def namespace_labels(self) -> Mapping[str, str]:
        """The label that every namespace has."""
        return {"kubernetes.io/metadata.name": self.namespace}


def peer(pod: Json) -> Peer:
    """The peer of a pod; its ports by name, of sidecars too."""
    containers = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())]
    ports = {p["name"]: p["containerPort"] for c in containers for p in c.get("ports", ())}
    return Peer(pod["metadata"]["namespace"], pod["metadata"]["labels"], ports)


def allowed(policies: Sequence[Json], source: Peer, target: Peer, port: int) -> bool:
    """Whether a connection from one pod to a port of another is let in."""
    selecting = [p for p in policies if _selects(p, target) and "Ingress" in p["spec"]["policyTypes"]]
    if not selecting:
        return True
    return any(_lets(p, rule, source, target, port) for p in selecting for rule in p["spec"].get("ingress") or ())


def _selects(policy: Json, target: Peer) -> bool:
    return policy["metadata"]["namespace"] == target.namespace and _matches(
        policy["spec"]["podSelector"], target.labels
    )


def _lets(policy: Json, rule: Json, source: Peer, target: Peer, port: int) -> bool:
    ports = [target.ports.get(p["port"], p["port"]) for p in rule.get("ports") or ()]
    peers = rule.get("from")
    own = policy["metadata"]["namespace"]
    return (not ports or port in ports) and (not peers or any(_is(peer, own, source) for peer in peers))


def _is(wanted: Json, own: str, source: Peer) -> bool:
    if set(wanted) - {"podSelector", "namespaceSelector"}:
        raise AssertionError(f"this evaluator does not know {wanted}")
    spaces = wanted.get("namespaceSelector")
    at_home = source.namespace == own if spaces is None else _matches(spaces, source.namespace_labels)
    return at_home and _matches(wanted.get("podSelector") or {}, source.labels)


def _matches(selector: Json, found: Mapping[str, str]) -> bool:
    if set(selector) - {"matchLabels"}:
        raise AssertionError(f"this evaluator does not know {selector}")
    return all(found.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
