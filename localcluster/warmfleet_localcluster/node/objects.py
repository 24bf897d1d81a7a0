"""The objects a process node registers: Node, Lease, and the condition of a node that went away."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from warmfleet_localcluster.node.settings import NodeShape
from warmfleet_localcluster.node.status import timestamp

LEASE_NAMESPACE = "kube-node-lease"
_LEASE_SECONDS = 40
_HEALTHY = {
    "MemoryPressure": ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    "DiskPressure": ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    "PIDPressure": ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    "Ready": ("True", "KubeletReady", "kubelet is posting ready status"),
}


def node_object(name: str, shape: NodeShape, *, host_ip: str, now: datetime) -> dict[str, Any]:
    """A Ready Node of the given shape."""
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "amd64"),
        "warmfleet.dev/process-node": "true",
    }
    spec: dict[str, Any] = {"providerID": f"process://{name}"}
    if shape.taints:
        spec["taints"] = [dict(taint) for taint in shape.taints]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels | dict(shape.labels)},
        "spec": spec,
        "status": node_status(name, shape, host_ip=host_ip, now=now),
    }


def node_status(name: str, shape: NodeShape, *, host_ip: str, now: datetime) -> dict[str, Any]:
    """Status of a healthy node with a fresh heartbeat."""
    resources = {"cpu": "64", "memory": "256Gi", "pods": "110"} | dict(shape.allocatable)
    return {
        "capacity": resources,
        "allocatable": resources,
        "addresses": [{"type": "InternalIP", "address": host_ip}, {"type": "Hostname", "address": name}],
        "conditions": node_conditions(_HEALTHY, now),
        "nodeInfo": {
            "architecture": "amd64",
            "bootID": "",
            "containerRuntimeVersion": "process://1",
            "kernelVersion": platform.release(),
            "kubeProxyVersion": "",
            "kubeletVersion": "v1.34.0-process",
            "machineID": name,
            "operatingSystem": "linux",
            "osImage": platform.system(),
            "systemUUID": name,
        },
    }


def node_conditions(values: Mapping[str, tuple[str, str, str]], now: datetime) -> list[dict[str, Any]]:
    """Node conditions from (status, reason, message) by type."""
    return [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": timestamp(now),
            "lastTransitionTime": timestamp(now),
        }
        for kind, (status, reason, message) in values.items()
    ]


def lease_object(name: str, now: datetime, owner_uid: str) -> dict[str, Any]:
    """The node's heartbeat Lease."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": owner_uid}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]},
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": _LEASE_SECONDS,
            "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }
