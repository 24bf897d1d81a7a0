"""ReplicaSet -> Pods: creates what is missing, deletes what is too many, reports counts."""

from __future__ import annotations

from warmfleet_runtime.clock import Clock
from warmfleet_runtime.kubeclient import Object

from warmfleet_localcluster.api.selectors import from_selector
from warmfleet_localcluster.controllers.caches import (
    Cache,
    deleting,
    owned,
    owner_reference,
    pod_active,
    pod_ready,
)


class ReplicaSets:
    """The ReplicaSet controller. A pod is available after `minReadySeconds` of readiness as seen by this clock."""

    def __init__(self, clock: Clock, replica_sets: Cache, pods: Cache) -> None:
        self._clock, self._sets, self._pods = clock, replica_sets, pods
        self._ready_since: dict[str, float] = {}

    async def reconcile(self) -> None:
        """Bring every ReplicaSet to its size."""
        now, before = self._clock.now(), self._ready_since
        self._ready_since = {
            pod["metadata"]["uid"]: before.get(pod["metadata"]["uid"], now) for pod in self._pods if pod_ready(pod)
        }
        for replica_set in self._sets:
            if not deleting(replica_set):
                await self._size(replica_set)
                await self._report(replica_set)

    async def _size(self, replica_set: Object) -> None:
        active = self._active(replica_set)
        missing = replica_set["spec"].get("replicas", 1) - len(active)
        for _ in range(missing):
            await self._pods.create(self._pod(replica_set))
        if missing < 0:
            for pod in sorted(active, key=_value)[:-missing]:
                await self._pods.delete(pod)

    def _active(self, replica_set: Object) -> list[Object]:
        return [pod for pod in owned(self._pods, replica_set) if pod_active(pod)]

    async def _report(self, replica_set: Object) -> None:
        active = self._active(replica_set)
        patience = replica_set["spec"].get("minReadySeconds") or 0
        ready = [pod for pod in active if pod_ready(pod)]
        now = self._clock.now()
        available = [p for p in ready if now - self._ready_since.get(p["metadata"]["uid"], now) >= patience]
        labelled = from_selector({"matchLabels": replica_set["spec"]["template"]["metadata"].get("labels") or {}})
        await self._sets.patch_status(
            replica_set,
            {
                "replicas": len(active),
                "fullyLabeledReplicas": sum(labelled(pod) for pod in active),
                "readyReplicas": len(ready),
                "availableReplicas": len(available),
                "observedGeneration": replica_set["metadata"].get("generation", 1),
            },
        )

    @staticmethod
    def _pod(replica_set: Object) -> Object:
        template, metadata = replica_set["spec"]["template"], replica_set["metadata"]
        kept = {key: template["metadata"][key] for key in ("labels", "annotations") if key in template["metadata"]}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **kept,
                "generateName": f"{metadata['name']}-",
                "namespace": metadata["namespace"],
                "ownerReferences": [owner_reference(replica_set)],
            },
            "spec": template["spec"],
        }


def _value(pod: Object) -> tuple[bool, bool, int]:
    """Order of deletion: unbound pods, then unready ones, then the youngest."""
    return bool(pod["spec"].get("nodeName")), pod_ready(pod), -int(pod["metadata"]["resourceVersion"])
