"""The store: raw objects in, frozen records out. Thread-safe; filled by the watch and by the answers of own writes.

Objects arrive out of order (a watch event may be older than the answer of a write), so an object replaces the one known
only when its resourceVersion is not smaller, and a UID that was deleted never comes back. One that was only missing
from a list comes back with a version newer than that list.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from warmfleet_contracts import labels
from warmfleet_contracts.api.instancetype import AcceleratorLimit
from warmfleet_runtime.clock import Clock

from warmfleet_operator.state import parse
from warmfleet_operator.state.expectations import Expectations
from warmfleet_operator.state.records import (
    Demand,
    DeploymentRecord,
    FleetSnapshot,
    ForecastRecord,
    InstanceTypeRecord,
    Key,
    NodeRecord,
    PriorityClassRecord,
    RouterRecord,
    WorkerRecord,
    WorkerTelemetry,
)

_TOMBSTONES = 10_000


class Kind(StrEnum):
    """Kinds that are watched."""

    DEPLOYMENT = "llmdeployments"
    INSTANCE_TYPE = "instancetypes"
    FORECAST = "trafficforecasts"
    POD = "pods"
    NODE = "nodes"
    NAMESPACE = "namespaces"
    PRIORITY_CLASS = "priorityclasses"


Record = (
    DeploymentRecord
    | InstanceTypeRecord
    | ForecastRecord
    | WorkerRecord
    | RouterRecord
    | NodeRecord
    | PriorityClassRecord
    | bool
)
_VOLATILE = ("resource_version", "status")
"""Fields whose change alone is no reason to decide again: versions, and what the operator itself reports."""


@dataclass(slots=True)
class _Entry:
    uid: str
    version: int | None
    record: Record


@dataclass(slots=True)
class _Shelf:
    entries: dict[Key, _Entry] = field(default_factory=dict)
    last_event: float | None = None
    newest: int = 0


class FleetStore:
    """What the operator has seen of the cluster.

    Args:
        clock: Gives the moments at which things are first seen.
        wake: Called, from whatever thread, when something changed that may matter to a decision.
    """

    def __init__(self, clock: Clock, wake: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._wake = wake
        self._lock = threading.Lock()
        self._shelves = {kind: _Shelf() for kind in Kind}
        self._dead: OrderedDict[str, int | None] = OrderedDict()
        self._held: Counter[tuple[str, str | None]] = Counter()  # accelerators by InstanceType, and by namespace
        self.expectations = Expectations()

    def observe(self, kind: Kind, body: object, *, deleted: bool = False) -> None:
        """Take in an object of a watch event or of an answer; ``deleted`` when it is gone."""
        found = parse.identity(body)
        if found is None or not isinstance(body, Mapping):
            return
        key, uid, version_text = found
        version = parse.number(version_text)
        with self._lock:
            shelf = self._shelves[kind]
            shelf.last_event = self._clock.now()
            shelf.newest = max(shelf.newest, version or 0)
            known = shelf.entries.get(key)
            if deleted:
                self._bury(uid)
                changed = known is not None and known.uid == uid
                if changed:
                    self._hold(shelf.entries.pop(key).record, -1)
            else:
                changed = not self._is_dead(uid, version) and self._put(kind, shelf, key, uid, version, body)
        if changed:
            self._wake()

    def _is_dead(self, uid: str, version: int | None) -> bool:
        if uid not in self._dead:
            return False
        missed_at = self._dead[uid]
        if missed_at is None or version is None or version <= missed_at:
            return True
        del self._dead[uid]  # an old list had not shown it
        return False

    def _bury(self, uid: str, missed_at: int | None = None) -> None:
        """Note that an object is gone for good, or that a list of version ``missed_at`` had not shown it."""
        self._dead[uid] = missed_at
        while len(self._dead) > _TOMBSTONES:
            self._dead.popitem(last=False)

    def _put(self, kind: Kind, shelf: _Shelf, key: Key, uid: str, version: int | None, body: Mapping[str, Any]) -> bool:
        known = shelf.entries.get(key)
        if known is not None and None not in (known.version, version) and version < known.version:  # type: ignore[operator]
            return False
        if known is not None and known.uid != uid:
            self._bury(known.uid)
        record = self._parse(kind, body, known.record if known is not None and known.uid == uid else None)
        if record is None:
            return False
        if known is not None:
            self._hold(known.record, -1)
        self._hold(record, 1)
        shelf.entries[key] = _Entry(uid, version, record)
        return known is None or known.uid != uid or _matters(known.record, record)

    def _parse(self, kind: Kind, body: Mapping[str, Any], before: Record | None) -> Record | None:
        now = self._clock.now()
        record: Record | None = True  # what is only counted, not read
        match kind:
            case Kind.DEPLOYMENT:
                record = parse.deployment_from(body, before if isinstance(before, DeploymentRecord) else None, now)
            case Kind.INSTANCE_TYPE:
                record = parse.instance_type_from(body)
            case Kind.FORECAST:
                record = parse.forecast_from(body, now, self._clock.wall().timestamp())
            case Kind.NODE:
                record = parse.node_from(body, before if isinstance(before, NodeRecord) else None, now)
            case Kind.NAMESPACE:
                record = parse.namespace_terminating(body)
            case Kind.PRIORITY_CLASS:
                record = parse.priority_class_from(body)
            case Kind.POD if parse.component(body) == labels.COMPONENT_ROUTER:
                record = parse.router_from_pod(body)
            case Kind.POD if parse.component(body) == labels.COMPONENT_WORKER:
                record = parse.worker_from_pod(body, before if isinstance(before, WorkerRecord) else None, now)
            case _:
                pass
        return record

    def _hold(self, record: Record, sign: int) -> None:
        """A worker pod came (1) or went (-1)."""
        if isinstance(record, WorkerRecord):
            for namespace in (None, record.key.namespace):
                self._held[record.instance_type, namespace] += sign * max(1, record.accelerators)

    def has_room(self, worker: WorkerRecord, limit: AcceleratorLimit) -> bool:
        """Whether one more worker is within its InstanceType's limit now.

        A decision is made for what was there when it began; what others were given meanwhile shows only here.

        Args:
            worker: Who is to be created.
            limit: Of its InstanceType.
        """
        own = {n.namespace: n.accelerators for n in limit.namespaces}
        most = {None: limit.accelerators, worker.key.namespace: own.get(worker.key.namespace)}
        with self._lock:
            coming = self.expectations.unseen(self._shelves[Kind.POD].entries.keys(), self._clock.now())
            asked = [w for w in coming if w.instance_type == worker.instance_type and w.key != worker.key]
            for namespace, bound in most.items():
                mine = sum(max(1, w.accelerators) for w in asked if namespace in (None, w.key.namespace))
                there = self._held[worker.instance_type, namespace] + mine
                if bound is not None and there + max(1, worker.accelerators) > bound:
                    return False
        return True

    def _records(self, kind: Kind) -> list[tuple[Key, Record]]:
        return [(key, entry.record) for key, entry in self._shelves[kind].entries.items()]

    def snapshot(
        self,
        telemetry: Mapping[str, WorkerTelemetry] | None = None,
        demand: Mapping[Key, Demand] | None = None,
    ) -> FleetSnapshot:
        """Everything a decision is made from, at this moment."""
        with self._lock:
            ending = {key.name for key, gone in self._records(Kind.NAMESPACE) if gone is True}
            deployments = {
                key: replace(r, namespace_terminating=True) if key.namespace in ending else r
                for key, r in self._records(Kind.DEPLOYMENT)
                if isinstance(r, DeploymentRecord)
            }
            seen = {key: r for key, r in self._records(Kind.POD) if isinstance(r, WorkerRecord)}
            types = [r for _, r in self._records(Kind.INSTANCE_TYPE) if isinstance(r, InstanceTypeRecord)]
            nodes = [r for _, r in self._records(Kind.NODE) if isinstance(r, NodeRecord)]
            forecasts: dict[Key, tuple[ForecastRecord, ...]] = {}
            for key, r in self._records(Kind.FORECAST):
                if isinstance(r, ForecastRecord):
                    target = Key(key.namespace, r.target)
                    forecasts[target] = (*forecasts.get(target, ()), r)
            classes = [r for _, r in self._records(Kind.PRIORITY_CLASS) if isinstance(r, PriorityClassRecord)]
        workers = [*seen.values(), *self.expectations.unseen(seen.keys(), self._clock.now())]
        return FleetSnapshot(
            deployments=deployments,
            instance_types={r.name: r for r in types},
            workers=tuple(sorted(workers, key=lambda w: w.key)),
            nodes={r.name: r for r in nodes},
            telemetry=dict(telemetry or {}),
            demand=dict(demand or {}),
            forecasts=forecasts,
            wall_epoch=self._clock.wall().timestamp(),
            priorities=_values(classes),
        )

    def routers(self) -> tuple[RouterRecord, ...]:
        """All router pods."""
        with self._lock:
            return tuple(r for _, r in self._records(Kind.POD) if isinstance(r, RouterRecord))

    def deployment(self, key: Key) -> DeploymentRecord | None:
        """The newest record of one deployment."""
        with self._lock:
            entry = self._shelves[Kind.DEPLOYMENT].entries.get(key)
            record = entry.record if entry is not None else None
        return record if isinstance(record, DeploymentRecord) else None

    def worker(self, key: Key) -> WorkerRecord | None:
        """The newest record of one worker pod."""
        with self._lock:
            entry = self._shelves[Kind.POD].entries.get(key)
            record = entry.record if entry is not None else None
        return record if isinstance(record, WorkerRecord) else None

    def last_event(self, kind: Kind) -> float | None:
        """When the last object of a kind arrived, logical seconds; None before the first."""
        with self._lock:
            return self._shelves[kind].last_event

    def newest(self, kind: Kind) -> int:
        """The largest resourceVersion of a kind that was seen; 0 before the first."""
        with self._lock:
            return self._shelves[kind].newest

    def behind(self, kind: Kind, listed: Mapping[Key, tuple[str, str]]) -> set[Key]:
        """Objects of a fresh list that the store does not have, or has in an older version.

        Args:
            kind: The kind that was listed.
            listed: UID and resourceVersion by key.
        """
        missing = set()
        with self._lock:
            entries = self._shelves[kind].entries
            for key, (uid, version) in listed.items():
                entry = entries.get(key)
                if entry is None:
                    late = uid not in self._dead
                else:
                    known, fresh = entry.version, parse.number(version)
                    late = entry.uid != uid or (known is not None and fresh is not None and known < fresh)
                if late:
                    missing.add(key)
        return missing

    def known(self, kind: Kind) -> dict[Key, str]:
        """UIDs of what the store holds, by key."""
        with self._lock:
            return {key: entry.uid for key, entry in self._shelves[kind].entries.items()}

    def prune(self, kind: Kind, gone: Mapping[Key, str], list_version: str) -> None:
        """Forget objects that a list no longer shows: their deletion was missed.

        Args:
            kind: The kind that was listed.
            gone: UID by key.
            list_version: resourceVersion of the list. What is known in a newer version stays: the list is too old to
                say that it is gone.
        """
        at = parse.number(list_version)
        with self._lock:
            entries = self._shelves[kind].entries
            hits = [
                key
                for key, uid in gone.items()
                if (entry := entries.get(key)) is not None
                and entry.uid == uid
                and (at is None or entry.version is None or entry.version <= at)
            ]
            for key in hits:
                entry = entries.pop(key)
                self._hold(entry.record, -1)
                self._bury(entry.uid, at)
        if hits:
            self._wake()


def _values(classes: Sequence[PriorityClassRecord]) -> dict[str, int]:
    """Values by name; the default's, the lowest if there are several, under the empty name."""
    values = {r.name: r.value for r in classes}
    defaults = [r.value for r in classes if r.default]
    return {**values, "": min(defaults)} if defaults else values


def _matters(old: Record, new: Record) -> bool:
    if isinstance(old, bool) or isinstance(new, bool) or type(old) is not type(new):
        return old != new
    names = (f.name for f in fields(old) if f.name not in _VOLATILE)
    return any(getattr(old, name) != getattr(new, name) for name in names)
