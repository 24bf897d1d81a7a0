"""A second control plane, for tests of rights and of the installation: stricter, with an audit log, CRDs if wanted.

``OwnerReferencesPermissionEnforcement`` is on, as on OpenShift: who makes an object that holds up the deletion of its
owner must be allowed to change the owner's finalizers. The audit log tells which verbs an account really used.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import shared_controlplane
from cluster import ControlPlane

_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A request of a ServiceAccount, from the audit log.

    Attributes:
        user: Full user name.
        verb: RBAC verb.
        resource: With ``/subresource``.
        group: API group, empty for the core group.
        namespace: Of the object, empty when it has none.
        allowed: Whether the authorizer let it through.
        code: HTTP status of the answer.
    """

    user: str
    verb: str
    resource: str
    group: str
    namespace: str
    allowed: bool
    code: int


@dataclasses.dataclass(frozen=True, slots=True)
class StrictControlPlane:
    """A control plane and its audit log."""

    servers: ControlPlane
    log: Path

    def requests(self, user: str) -> list[Request]:
        """What an account has asked of resources so far."""
        found = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if event["user"]["username"] == user and "objectRef" in event:
                found.append(_request(event))
        return found


def _request(event: dict[str, Any]) -> Request:
    ref = event["objectRef"]
    sub = ref.get("subresource")
    return Request(
        user=event["user"]["username"],
        verb=event["verb"],
        resource=ref.get("resource", "") + (f"/{sub}" if sub else ""),
        group=ref.get("apiGroup", ""),
        namespace=ref.get("namespace", ""),
        allowed=(event.get("annotations") or {}).get("authorization.k8s.io/decision") == "allow",
        code=(event.get("responseStatus") or {}).get("code", 0),
    )


@contextmanager
def strict_controlplane(folder: Path, *, crds: Path | None = None) -> Iterator[StrictControlPlane]:
    """Runs one. It skips and fails as the session's does.

    Args:
        folder: For policy and log.
        crds: Folder of CRDs to install at the start.
    """
    binaries = shared_controlplane.usable()
    policy, log = folder / "audit-policy.json", folder / "audit.log"
    policy.write_text(json.dumps(_POLICY))
    flags = [
        f"--audit-policy-file={policy}",
        f"--audit-log-path={log}",
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
    ]
    slot = 15 - int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    with ControlPlane(binaries, slot=slot, extra_flags={"kube-apiserver": flags}, crds=crds) as servers:
        yield StrictControlPlane(servers, log)
