"""Watches a cluster on a connection of its own and says when a promise is broken.

It sees every change of every worker pod in order (the store's own listener on the embedded API, a watch of its own on a
real control plane) and never goes through the proxy. The promises::

    min serving   workers that serve >= min (or replicas), once that was reached, less those the world itself took away
    drained       no worker that serves is deleted, unless its agent said Drained or its drain deadline is over
    limits        workers <= max + one for a rollout + those that serve no more; per InstanceType <= limit
    once          no worker is created beside one that was asked for already, none is deleted twice
    converged     after the fault the fleet is as its spec says, within a bound

Times are logical. What this process itself stood still, and so could not have seen or let others do, is measured by a
heartbeat and added to every bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from parts import is_ready
from warmfleet_contracts import labels
from warmfleet_runtime.clock import Clock

Json = dict[str, Any]
FleetKey = tuple[str, str]
PROMISES = ("min serving", "drained", "limits", "once", "converged")
FORGED = "warmfleet.test/forged"
"""Annotation on pods that a hostile tenant made to look like workers."""
_BEAT = 0.1
_STILL = 0.3
"""Real seconds without a beat that count as a standstill."""
_UNDER_WAY = 2.0
"""Real seconds, beside standstills, that a write may be under way: it was right when it was sent."""
_LAG = 60.0
"""Logical seconds for which a fleet's earlier bounds still excuse what was decided under them."""


def annotations(item: Json) -> Mapping[str, str]:
    """Its annotations."""
    return item["metadata"].get("annotations") or {}


def pod_labels(item: Json) -> Mapping[str, str]:
    """Its labels."""
    return item["metadata"].get("labels") or {}


def is_leaving(pod: Json) -> bool:
    """Whether it was told to drain or is being deleted."""
    return labels.DRAINING in annotations(pod) or bool(pod["metadata"].get("deletionTimestamp"))


def serves(pod: Json) -> bool:
    """Whether it takes new requests."""
    return is_ready(pod) and not is_leaving(pod)


def has_failed(pod: Json) -> bool:
    """Whether it ended or cannot start."""
    status = pod.get("status") or {}
    waiting = (
        ((c.get("state") or {}).get("waiting") or {}).get("reason") for c in status.get("containerStatuses") or ()
    )
    return status.get("phase") in ("Failed", "Succeeded") or any(waiting)


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise."""

    promise: str
    at: float
    text: str


@dataclass
class _Worker:
    """What was seen of a pod."""

    body: Json
    served: bool = False
    told: float | None = None
    going: bool = False
    fell: float | None = None
    """When it stopped serving, logical seconds; None while it serves."""
    spent: bool = False
    """Whether its loss has excused a shortfall already."""


@dataclass
class _Fleet:
    """What a fleet was asked for."""

    least: int = 0
    most: int = 0
    floor: int = 0
    deadline: float = 300.0
    deleting: bool = False
    earlier: list[tuple[float, float, int, int]] = field(default_factory=list)


def _never(_: str) -> str | None:
    return None


@dataclass
class Observer:
    """The observer.

    Attributes:
        clock: Logical time.
        excuse: Why the world itself took a pod away or broke it; None when it did not.
        drained: Whether a pod's agent has in truth drained; None when nobody can know.
        limits: Accelerator limit by InstanceType.
        room: Whether a machine is free for one more worker of a pool: without one, one worker may be missing while it
            is replaced.
        violations: What was broken.
        stood_still: Logical seconds that this process stood still so far.
        checks: How often each promise was looked at.
    """

    clock: Clock
    excuse: Callable[[str], str | None] = _never
    drained: Callable[[str], bool | None] = lambda _: None
    leaving_node: Callable[[Json], bool] = lambda _: False
    room: Callable[[str], bool] = lambda _: True
    limits: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    checks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PROMISES, 0))
    stood_still: float = 0.0
    _workers: dict[str, _Worker] = field(default_factory=dict)
    _fleets: dict[FleetKey, _Fleet] = field(default_factory=dict)

    async def beat(self) -> None:
        """Measures standstills, for ever."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(_BEAT)
            now = loop.time()
            if now - before > _STILL:
                self.stood_still += (now - before) * self.clock.scale
            before = now

    def broken(self, promise: str, text: str) -> None:
        """Notes a broken promise."""
        self.violations.append(Violation(promise, self.clock.now(), text))

    # What is seen

    def saw_fleet(self, body: Json, *, deleted: bool = False) -> None:
        """An LLMDeployment came, changed or went."""
        meta, spec = body["metadata"], body.get("spec") or {}
        known = self._fleets.setdefault((meta["namespace"], meta["name"]), _Fleet())
        known.deleting = deleted or bool(meta.get("deletionTimestamp"))
        scaling = spec.get("scaling") or {}
        least = spec.get("replicas", scaling.get("min", 0))
        most = spec.get("replicas", scaling.get("max", 0))
        if (least, most) != (known.least, known.most):
            known.earlier.append((self.clock.now(), self.stood_still, known.least, known.most))
        known.least, known.most = least, most
        known.floor = 0 if known.deleting else min(known.floor, least)
        deadline = (spec.get("kvCache") or {}).get("drainDeadline")
        if isinstance(deadline, str) and deadline.endswith("s") and deadline[:-1].isdigit():
            known.deadline = float(deadline[:-1])

    def saw_pod(self, pod: Json, *, deleted: bool = False) -> None:
        """A worker pod came, changed or went."""
        if pod_labels(pod).get(labels.COMPONENT) != labels.COMPONENT_WORKER or FORGED in annotations(pod):
            return
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if worker is None:
            worker = self._workers[uid] = _Worker(pod)
            self._created(pod)
        before, worker.body = worker.body, pod
        if (deleted or pod["metadata"].get("deletionTimestamp")) and not worker.going:
            worker.going = True
            self._going(worker, before, at_once=deleted)
        worker.served = worker.served or is_ready(pod)
        if serves(pod):
            worker.fell, worker.spent = None, False
        elif worker.fell is None:
            worker.fell = self.clock.now()
        if labels.DRAINING in annotations(pod) and worker.told is None:
            worker.told = self.clock.now()
        if deleted:
            del self._workers[uid]
        self._serving(pod)

    def _fleet_of(self, pod: Json) -> tuple[FleetKey, _Fleet]:
        key = pod["metadata"]["namespace"], pod_labels(pod).get(labels.DEPLOYMENT, "")
        return key, self._fleets.setdefault(key, _Fleet())

    def _of(self, key: FleetKey) -> list[Json]:
        found = (w.body for w in self._workers.values())
        return [p for p in found if (p["metadata"]["namespace"], pod_labels(p).get(labels.DEPLOYMENT, "")) == key]

    # Promises

    def _serving(self, pod: Json) -> None:
        """Min serving: the floor follows what was reached, and falls only with the spec or with an injected loss."""
        key, fleet = self._fleet_of(pod)
        if fleet.deleting:
            return
        self.checks["min serving"] += 1
        count = sum(serves(p) for p in self._of(key))
        if count >= fleet.floor:
            fleet.floor = max(fleet.floor, min(count, self._bounds(fleet)[0]))
            return
        why = self.excuse(pod["metadata"]["uid"])
        changed = self._workers.get(pod["metadata"]["uid"])
        if why is not None and changed is not None:
            changed.spent = True
        cramped = count == fleet.floor - 1 and not self.room(pod_labels(pod).get(labels.INSTANCE_TYPE, ""))
        missing = fleet.floor - count
        held_back = is_leaving(pod) and (self._just_lost(key, missing) or self._forced(pod, key, missing))
        if why is None and not cramped and not held_back:
            name = pod["metadata"]["name"]
            state = ", ".join(f"{p['metadata']['name']}={_word(p)}" for p in self._of(key))
            self.broken("min serving", f"{key}: {count} of {fleet.floor} serve after a change of {name}: {state}")
        fleet.floor = count

    def _just_lost(self, key: FleetKey, missing: int) -> bool:
        """Whether the world itself took so many of a fleet's workers that whoever sent a write could not know of it."""
        patience = _UNDER_WAY * self.clock.scale
        fallen = [w for w in self._workers.values() if w.fell is not None and self.clock.now() - w.fell <= patience]
        mine = {p["metadata"]["uid"] for p in self._of(key)}
        lost = [w for w in fallen if w.body["metadata"]["uid"] in mine and not w.spent and self._excused(w)]
        for worker in lost[:missing]:
            worker.spent = True
        return len(lost) >= missing

    def _forced(self, pod: Json, key: FleetKey, missing: int) -> bool:
        """Whether a worker leaves because its machine does, while the world keeps so many others from serving."""
        mine = {p["metadata"]["uid"] for p in self._of(key)} - {pod["metadata"]["uid"]}
        down = [w for uid, w in self._workers.items() if uid in mine and not is_ready(w.body) and self._excused(w)]
        return self.leaving_node(pod) and len(down) >= missing

    def _excused(self, worker: _Worker) -> bool:
        return self.excuse(worker.body["metadata"]["uid"]) is not None

    def _going(self, worker: _Worker, before: Json, *, at_once: bool) -> None:
        """Drained: a worker that served may only go when its drain is over."""
        pod = worker.body
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        self.checks["drained"] += 1
        if not worker.served or self.excuse(uid) is not None or has_failed(before):
            return
        done = self.drained(uid)
        if done:
            return
        key, fleet = self._fleet_of(pod)
        waited = self.clock.now() - worker.told if worker.told is not None else 0.0
        if done is None and worker.told is not None:
            return  # nobody can look into the agent: that it was told to drain must do
        if worker.told is None or waited < fleet.deadline:
            how = "removed" if at_once else "deleted"
            told = "never told to drain" if worker.told is None else f"told to drain {waited:.0f} s before"
            self.broken("drained", f"{key}: {name} was {how} while it served, {told}")

    def _created(self, pod: Json) -> None:
        """Limits, once: a new worker must be within what may be there."""
        key, fleet = self._fleet_of(pod)
        self.checks["limits"] += 1
        self.checks["once"] += 1
        kind = pod_labels(pod).get(labels.INSTANCE_TYPE, "")
        limit = self.limits.get(kind)
        if limit is not None:
            there = sum(pod_labels(w.body).get(labels.INSTANCE_TYPE) == kind for w in self._workers.values())
            if there > limit:
                self.broken("limits", f"{there} workers of {kind}, the limit is {limit}")
        here = [p for p in self._of(key) if not is_leaving(p)]
        # Whom another may stand in for: it failed, its node is leaving, or it served and does not any more.
        lame = [p for p in here if has_failed(p) or self.leaving_node(p) or self._lame(p)]
        revisions = {pod_labels(p).get(labels.REVISION) for p in here}
        most = self._bounds(fleet)[1] + (len(revisions) > 1)
        if len(here) - len(lame) > most:
            names = ", ".join(f"{p['metadata']['name']}={_word(p)}" for p in here)
            self.broken("once", f"{key}: {len(here)} workers where {most} are allowed: {names}")

    def _bounds(self, fleet: _Fleet) -> tuple[int, int]:
        """(least, most) with those of a moment ago: what was decided under them may still be on its way."""
        now, still = self.clock.now(), self.stood_still
        fleet.earlier = [e for e in fleet.earlier if now - e[0] < _LAG + still - e[1]]
        least = min([fleet.least, *(e[2] for e in fleet.earlier)])
        return least, max([fleet.most, *(e[3] for e in fleet.earlier)])

    def _lame(self, pod: Json) -> bool:
        return self._workers[pod["metadata"]["uid"]].served and not is_ready(pod)

    def deleted_twice(self, counts: Mapping[str, int]) -> None:
        """Once: how many deletions of each pod were answered with success."""
        for uid, count in counts.items():
            if count > 1:
                self.broken("once", f"pod {uid} was deleted {count} times")


def _word(pod: Json) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "terminating"
    if labels.DRAINING in annotations(pod):
        return f"draining({annotations(pod)[labels.DRAINING]})"
    return "failed" if has_failed(pod) else "ready" if is_ready(pod) else "starting"
