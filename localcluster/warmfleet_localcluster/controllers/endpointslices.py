"""Service -> EndpointSlice, with ready, serving and terminating told apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warmfleet_runtime.kubeclient import Object

from warmfleet_localcluster.api.selectors import from_selector
from warmfleet_localcluster.controllers.caches import Cache, deleting, owner_reference, pod_ready

_SERVICE_LABEL = "kubernetes.io/service-name"
_MANAGER = {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}


class EndpointSlices:
    """The EndpointSlice controller: one slice per service with a selector."""

    def __init__(self, services: Cache, pods: Cache, slices: Cache) -> None:
        self._services, self._pods, self._slices = services, pods, slices

    async def reconcile(self) -> None:
        """Bring every service's slice up to date; the garbage collector removes those of deleted services."""
        for service in self._services:
            if service["spec"].get("selector") and not deleting(service):
                await self._update(service)

    async def _update(self, service: Object) -> None:
        metadata = service["metadata"]
        selected = from_selector({"matchLabels": service["spec"]["selector"]})
        pods = [
            pod
            for pod in self._pods
            if pod["metadata"]["namespace"] == metadata["namespace"]
            and selected(pod)
            and (pod.get("status") or {}).get("podIP")
            and pod["status"].get("phase") not in {"Succeeded", "Failed"}
        ]
        pods.sort(key=lambda pod: str(pod["metadata"]["name"]))
        always = bool(service["spec"].get("publishNotReadyAddresses"))
        content = {"endpoints": [endpoint(pod, always_ready=always) for pod in pods], "ports": ports(service, pods)}
        name = f"{metadata['name']}-{metadata['uid'][:5]}"
        existing = self._slices.get(name, metadata["namespace"])
        if existing is None:
            labels = {**(metadata.get("labels") or {}), _SERVICE_LABEL: metadata["name"], **_MANAGER}
            await self._slices.create(
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "name": name,
                        "namespace": metadata["namespace"],
                        "labels": labels,
                        "ownerReferences": [owner_reference(service)],
                    },
                    "addressType": "IPv4",
                    **content,
                }
            )
        elif any(existing.get(key) != value for key, value in content.items()):
            await self._slices.patch(existing, content)


def endpoint(pod: Object, *, always_ready: bool) -> Object:
    """A pod as endpoint: serving is readiness, ready is serving and not on the way out."""
    metadata, serving, terminating = pod["metadata"], pod_ready(pod), deleting(pod)
    result: Object = {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {
            "ready": always_ready or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": {"kind": "Pod", **{key: metadata[key] for key in ("name", "namespace", "uid")}},
    }
    if node := pod["spec"].get("nodeName"):
        result["nodeName"] = node
    return result


def ports(service: Object, pods: list[Object]) -> list[Object]:
    """The service's target ports; a named one is looked up in the first pod that has it, else left out."""
    result = []
    for port in service["spec"].get("ports") or []:
        target = port.get("targetPort", port["port"])
        number = target if isinstance(target, int) else _named(target, pods)
        if number is not None:
            entry = {"name": port.get("name") or "", "port": number, "protocol": port.get("protocol") or "TCP"}
            if protocol := port.get("appProtocol"):
                entry["appProtocol"] = protocol
            result.append(entry)
    return result


def _named(name: str, pods: list[Object]) -> int | None:
    if name.isdigit():
        return int(name)
    for pod in pods:
        containers: list[Mapping[str, Any]] = [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]
        for container in containers:
            for port in container.get("ports") or []:
                if port.get("name") == name:
                    return int(port["containerPort"])
    return None
