"""Objects and steps that tests against the control plane share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from cluster import ControlPlane


def apply(controlplane: ControlPlane, *objects: dict[str, Any]) -> None:
    """Creates or changes objects, as administrator."""
    controlplane.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def get(controlplane: ControlPlane, *arguments: str) -> Any:
    """Returns what `kubectl get` finds, parsed."""
    return json.loads(controlplane.kubectl("get", *arguments, "-o", "json"))


def wait(controlplane: ControlPlane, condition: str, *arguments: str, seconds: int = 30) -> None:
    """Waits by `kubectl wait --for=condition`; AssertionError when it does not come."""
    controlplane.kubectl("wait", f"--for={condition}", f"--timeout={seconds}s", *arguments)


def eventually(check: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Waits until `check` says so; AssertionError when it does not."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.1)


def pod(name: str, namespace: str, *, gpus: int = 0, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """Returns a Pod of one container that nobody runs."""
    container: dict[str, Any] = {"name": "engine", "image": "example.invalid/engine:1"}
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "spec": {"containers": [container]},
    }


def config_map(name: str, namespace: str, *, owners: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Returns an empty ConfigMap."""
    metadata = {"name": name, "namespace": namespace, "ownerReferences": owners or []}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def report_ready(controlplane: ControlPlane, namespace: str, name: str, address: str) -> None:
    """Does what a kubelet does once the pod's container is ready."""
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": kind, "status": "True"} for kind in ("ContainersReady", "Ready")],
    }
    patch = json.dumps({"status": status})
    controlplane.kubectl("patch", "pod", name, f"-n={namespace}", "--subresource=status", "--type=merge", f"-p={patch}")


def deployment(namespace: str, *, replicas: int) -> dict[str, Any]:
    """Returns a Deployment called ``fleet``; its pods carry ``app: fleet``."""
    labels = {"app": "fleet"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "fleet", "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod("fleet", namespace)["spec"]},
        },
    }


def register_node(controlplane: ControlPlane, name: str, **labels: str) -> None:
    """Adds a ready Node with 8 GPUs that nobody runs: what is scheduled there waits for `report_ready`."""
    resources = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"}
    condition = {"type": "Ready", "status": "True", "reason": "Test", "message": "registered by a test"}
    status = {"capacity": resources, "allocatable": resources, "conditions": [condition]}
    metadata = {"name": name, "labels": labels}
    apply(controlplane, {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status})
