"""Deployment -> ReplicaSets: one per pod template, moved from the old to the new within surge and unavailability."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from warmfleet_runtime.clock import Clock
from warmfleet_runtime.kubeclient import Object

from warmfleet_localcluster.controllers.caches import Cache, deleting, owned, owner_reference, with_condition
from warmfleet_localcluster.node.status import timestamp

_REVISION = "deployment.kubernetes.io/revision"
_HASH_LABEL = "pod-template-hash"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


class Deployments:
    """The Deployment controller: RollingUpdate and Recreate, pause, history limit, progress deadline."""

    def __init__(self, clock: Clock, deployments: Cache, replica_sets: Cache) -> None:
        self._clock, self._deployments, self._sets = clock, deployments, replica_sets
        self._progress: dict[str, tuple[Sequence[Any], float]] = {}

    async def reconcile(self) -> None:
        """Move every Deployment one step on."""
        alive = {item["metadata"]["uid"] for item in self._deployments}
        self._progress = {uid: seen for uid, seen in self._progress.items() if uid in alive}
        for deployment in self._deployments:
            if not deleting(deployment):
                await self._roll(deployment)
                await self._report(deployment)

    async def _roll(self, deployment: Object) -> None:
        spec, sets = deployment["spec"], self._owned(deployment)
        suffix = template_hash(spec["template"])
        new = next((s for s in sets if s["metadata"]["labels"].get(_HASH_LABEL) == suffix), None)
        if new is None:
            if not spec.get("paused"):
                await self._sets.create(self._replica_set(deployment, suffix, sets))
            return
        old = [s for s in sets if s is not new]
        if spec.get("paused"):
            return
        if (spec.get("strategy") or {}).get("type") == "Recreate":
            wanted = recreate(spec.get("replicas", 1), new, old)
        else:
            wanted = rolling_update(spec, new, old)
        for replica_set, replicas in wanted:
            if replica_set["spec"].get("replicas") != replicas:
                await self._sets.patch(replica_set, {"spec": {"replicas": replicas}})
        await self._prune(spec, old)

    async def _prune(self, spec: Object, old: list[Object]) -> None:
        empty = [s for s in old if not s["spec"].get("replicas") and not (s.get("status") or {}).get("replicas")]
        limit = spec.get("revisionHistoryLimit", 10)
        for replica_set in sorted(empty, key=_revision)[: max(0, len(empty) - limit)]:
            await self._sets.delete(replica_set)

    def _owned(self, deployment: Object) -> list[Object]:
        return [s for s in owned(self._sets, deployment) if not deleting(s)]

    @staticmethod
    def _replica_set(deployment: Object, suffix: str, sets: list[Object]) -> Object:
        spec, metadata = deployment["spec"], deployment["metadata"]
        template = json.loads(json.dumps(spec["template"]))
        labels = template.setdefault("metadata", {}).setdefault("labels", {})
        labels[_HASH_LABEL] = suffix
        selector = spec["selector"]
        matched = {**(selector.get("matchLabels") or {}), _HASH_LABEL: suffix}
        revision = max((_revision(s) for s in sets), default=0) + 1
        return {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{metadata['name']}-{suffix}",
                "namespace": metadata["namespace"],
                "labels": dict(labels),
                "annotations": {_REVISION: str(revision)},
                "ownerReferences": [owner_reference(deployment)],
            },
            "spec": {
                "replicas": 0,
                "minReadySeconds": spec.get("minReadySeconds") or 0,
                "selector": {**selector, "matchLabels": matched},
                "template": template,
            },
        }

    async def _report(self, deployment: Object) -> None:
        spec, sets = deployment["spec"], self._owned(deployment)
        suffix, wanted = template_hash(spec["template"]), spec.get("replicas", 1)
        new = [s for s in sets if s["metadata"]["labels"].get(_HASH_LABEL) == suffix]
        counts = {
            "replicas": _total(sets, "replicas"),
            "updatedReplicas": _total(new, "replicas"),
            "readyReplicas": _total(sets, "readyReplicas"),
            "availableReplicas": _total(sets, "availableReplicas"),
        }
        counts["unavailableReplicas"] = max(0, wanted - counts["availableReplicas"])
        now = timestamp(self._clock.wall())
        reported: Object = deployment
        for condition in (self._available(spec, counts), self._progressing(deployment, counts, suffix)):
            merged = with_condition(reported, {**condition, "lastUpdateTime": ""}, now)
            for entry in merged:
                entry["lastUpdateTime"] = entry["lastTransitionTime"]
            reported = {**reported, "status": {**(reported.get("status") or {}), "conditions": merged}}
        generation = deployment["metadata"].get("generation", 1)
        conditions = sorted(reported["status"]["conditions"], key=lambda c: str(c["type"]))
        await self._deployments.patch_status(
            deployment, {**counts, "observedGeneration": generation, "conditions": conditions}
        )
        if new:
            await self._note_revision(deployment, new[0])

    async def _note_revision(self, deployment: Object, new: Object) -> None:
        revision = str(_revision(new))
        if (deployment["metadata"].get("annotations") or {}).get(_REVISION) != revision:
            fresh = self._deployments.get(deployment["metadata"]["name"], deployment["metadata"]["namespace"])
            await self._deployments.patch(fresh or deployment, {"metadata": {"annotations": {_REVISION: revision}}})

    @staticmethod
    def _available(spec: Object, counts: dict[str, int]) -> Object:
        wanted = spec.get("replicas", 1)
        enough = counts["availableReplicas"] >= wanted - bounds(spec)[1]
        return {
            "type": "Available",
            "status": "True" if enough else "False",
            "reason": "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
            "message": f"Deployment {'has' if enough else 'does not have'} minimum availability.",
        }

    def _progressing(self, deployment: Object, counts: dict[str, int], suffix: str) -> Object:
        spec, metadata = deployment["spec"], deployment["metadata"]
        wanted, uid, now = spec.get("replicas", 1), metadata["uid"], self._clock.now()
        name = f"{metadata['name']}-{suffix}"
        complete = counts["updatedReplicas"] == counts["replicas"] == counts["availableReplicas"] == wanted
        state = (suffix, *counts.values())
        seen = self._progress.get(uid)
        if seen is None or seen[0] != state:
            seen = self._progress[uid] = (state, now)
        answer = {"type": "Progressing", "status": "True"}
        if complete:
            text = f'ReplicaSet "{name}" has successfully progressed.'
            return {**answer, "reason": "NewReplicaSetAvailable", "message": text}
        if now - seen[1] > spec.get("progressDeadlineSeconds", 600):
            text = f'ReplicaSet "{name}" has timed out progressing.'
            return {**answer, "status": "False", "reason": "ProgressDeadlineExceeded", "message": text}
        return {**answer, "reason": "ReplicaSetUpdated", "message": f'ReplicaSet "{name}" is progressing.'}


def template_hash(template: Object) -> str:
    """A short name for a pod template, equal for equal templates."""
    number = int.from_bytes(hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()[:8])
    return "".join(_ALPHABET[number // len(_ALPHABET) ** i % len(_ALPHABET)] for i in range(10))


def bounds(spec: Object) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods: surge rounds up, unavailability down, and not both may be 0."""
    if (spec.get("strategy") or {}).get("type") == "Recreate":
        return 0, 0
    rolling, replicas = (spec.get("strategy") or {}).get("rollingUpdate") or {}, spec.get("replicas", 1)
    surge = _pods(rolling.get("maxSurge", "25%"), replicas, math.ceil)
    unavailable = _pods(rolling.get("maxUnavailable", "25%"), replicas, math.floor)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def rolling_update(spec: Object, new: Object, old: list[Object]) -> list[tuple[Object, int]]:
    """The sizes the ReplicaSets may have now.

    The new one grows while the total stays within replicas + surge; old ones shrink while what is available stays
    at replicas - maxUnavailable, pods that are not available first.
    """
    wanted = spec.get("replicas", 1)
    surge, unavailable = bounds(spec)
    sizes = {id(s): int(s["spec"].get("replicas", 0)) for s in [new, *old]}
    available = {id(s): min(sizes[id(s)], _count(s, "availableReplicas")) for s in [new, *old]}
    total, least = sum(sizes.values()), wanted - unavailable
    result = [(new, min(wanted, sizes[id(new)] + max(0, wanted + surge - total)))]
    spare = max(0, total - least - (sizes[id(new)] - available[id(new)]))
    healthy_spare = max(0, sum(available.values()) - least)
    for replica_set in sorted(old, key=_revision):
        size, working = sizes[id(replica_set)], available[id(replica_set)]
        broken = min(size - working, spare)
        healthy = min(working, healthy_spare, spare - broken)
        spare, healthy_spare = spare - broken - healthy, healthy_spare - healthy
        result.append((replica_set, size - broken - healthy))
    return result


def recreate(wanted: int, new: Object, old: list[Object]) -> list[tuple[Object, int]]:
    """All old pods go before the first new one comes."""
    result = [(replica_set, 0) for replica_set in old]
    if not any(_count(replica_set, "replicas") for replica_set in old):
        result.append((new, wanted))
    return result


def _pods(value: int | str, replicas: int, rounding: Any) -> int:
    if isinstance(value, str) and value.endswith("%"):
        return int(rounding(int(value[:-1]) * replicas / 100))
    return int(value)


def _count(replica_set: Object, field: str) -> int:
    return int((replica_set.get("status") or {}).get(field) or 0)


def _total(sets: list[Object], field: str) -> int:
    return sum(_count(replica_set, field) for replica_set in sets)


def _revision(replica_set: Object) -> int:
    return int((replica_set["metadata"].get("annotations") or {}).get(_REVISION, 0))
