"""What all builders share: names, labels, owner references, hashes, security contexts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from warmfleet_contracts import labels
from warmfleet_contracts.api import API_VERSION

from warmfleet_operator.state.records import DeploymentRecord

Object = dict[str, Any]

SPEC_HASH = f"{labels.DOMAIN}/spec-hash"
"""Annotation on a child object: hash of what was applied, so that an equal child is not written again."""

POD_ADDRESS = "$(WARMFLEET_POD_IP)"
"""The pod's address in arguments and environment values; needs :data:`POD_ADDRESS_ENV` before it."""
POD_ADDRESS_ENV: Object = {"name": "WARMFLEET_POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}

RESTRICTED: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Container security context that the restricted Pod Security Standard asks for."""


def short_hash(value: object, length: int = 5) -> str:
    """Lower-case hexadecimal hash of any JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def common_labels(deployment: str, component: str) -> dict[str, str]:
    """Labels of every child."""
    return {
        labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
        "app.kubernetes.io/name": "warmfleet",
        "app.kubernetes.io/instance": deployment,
        labels.COMPONENT: component,
        labels.DEPLOYMENT: deployment,
    }


def owner_reference(record: DeploymentRecord) -> Object:
    """Makes an object go when its LLMDeployment goes."""
    return {
        "apiVersion": API_VERSION,
        "kind": "LLMDeployment",
        "name": record.key.name,
        "uid": record.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def metadata(
    record: DeploymentRecord, name: str, component: str, extra_labels: Mapping[str, str] | None = None
) -> Object:
    """Metadata of a child object."""
    return {
        "name": name,
        "namespace": record.key.namespace,
        "labels": {**common_labels(record.key.name, component), **(extra_labels or {})},
        "ownerReferences": [owner_reference(record)],
    }


def worker_selector(deployment: str, *, routed: bool) -> dict[str, str]:
    """Labels that select the workers of a deployment; ``routed``: only those that may receive requests."""
    selector = {
        labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
        labels.COMPONENT: labels.COMPONENT_WORKER,
        labels.DEPLOYMENT: deployment,
    }
    return {**selector, labels.ROUTE: labels.ROUTE_VALUE} if routed else selector


def selector_text(selector: Mapping[str, str]) -> str:
    """A label selector as text."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
