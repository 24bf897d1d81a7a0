"""A namespace that enforces the restricted Pod Security Standard takes every pod that we make."""

from __future__ import annotations

import copy
import json

import pytest
from built import KINDS, Json, pod_of, record, rendered, router, worker
from cluster import ControlPlane


def admitted(controlplane: ControlPlane, pod: Json, namespace: str) -> str:
    """What the server says against a pod; empty when it takes it."""
    body = copy.deepcopy(pod)
    body["metadata"]["namespace"] = namespace
    body["metadata"].pop("ownerReferences", None)
    body["spec"].pop("serviceAccountName", None)  # its own admission asks for the account; not of interest here
    done = controlplane.run(
        [controlplane.kubectl_path, "create", "--dry-run=server", "-f", "-"], input=json.dumps(body), check=False
    )
    return "" if done.returncode == 0 else done.stderr


def test_operator_forecaster_and_router_are_taken(controlplane: ControlPlane, restricted: str) -> None:
    pods = [pod_of(b) for b in rendered() if b["kind"] in {"Deployment", "StatefulSet"}]
    assert len(pods) == 2
    for pod in [*pods, router(record())]:
        assert admitted(controlplane, pod, restricted) == "", pod["metadata"]["name"]


@pytest.mark.parametrize("kind", KINDS)
def test_workers_are_taken(controlplane: ControlPlane, restricted: str, kind: str) -> None:
    for accelerator in ("nvidia.com/gpu", "warmfleet.dev/cpu-slot"):
        assert admitted(controlplane, worker(record(**KINDS[kind]), accelerator), restricted) == ""


@pytest.mark.parametrize("loosen", ["root", "privileged", "capabilities", "hostPath", "seccomp"])
def test_the_server_does_refuse_what_is_looser(controlplane: ControlPlane, restricted: str, loosen: str) -> None:
    pod = worker(record())
    engine = pod["spec"]["containers"][0]
    match loosen:
        case "root":
            engine["securityContext"] |= {"runAsUser": 0}
        case "privileged":
            engine["securityContext"] |= {"privileged": True, "allowPrivilegeEscalation": True}
        case "capabilities":
            engine["securityContext"]["capabilities"] = {"add": ["SYS_ADMIN"]}
        case "hostPath":
            pod["spec"]["volumes"].append({"name": "h", "hostPath": {"path": "/"}})
        case "seccomp":
            engine["securityContext"]["seccompProfile"] = {"type": "Unconfined"}
    assert "violates PodSecurity" in admitted(controlplane, pod, restricted)
