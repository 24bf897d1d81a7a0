"""The saved form of everything a decision is made from: a JSON file that ``plan`` and ``explain`` read.

::

    {"kind": "WarmfleetSnapshot", "version": 1, "takenAt": RFC 3339,
     "objects": [Kubernetes objects: LLMDeployment, InstanceType, TrafficForecast, PriorityClass, Pod, Node],
     "demand": {"namespace/name": {"arrivals": requests/s, "queue": ..., "inputTokens": ..., "outputTokens": ...,
                                   "hitRatio": 0..1, "sloAttainment": 0..1}},
     "memory": {"namespace/name": what the operator keeps in the ConfigMap NAME-memory}}

Objects are as ``kubectl get -o json`` prints them, so that a snapshot can be put together by hand. Moments are taken
from them relative to ``takenAt``: this is a dry run, not the operator, which trusts no other clock than its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from warmfleet_contracts.api import InstanceType, LLMDeployment
from warmfleet_operator.state import checkpoint
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import Demand, FleetSnapshot, Key, WorkerPhase, WorkerRecord
from warmfleet_operator.state.snapshot import FleetStore, Kind
from warmfleet_runtime.clock import ManualClock

VERSION = 1
NOW = 1e6
"""Logical seconds of the moment of a snapshot."""
KINDS = {
    "LLMDeployment": Kind.DEPLOYMENT,
    "InstanceType": Kind.INSTANCE_TYPE,
    "TrafficForecast": Kind.FORECAST,
    "PriorityClass": Kind.PRIORITY_CLASS,
    "Pod": Kind.POD,
    "Node": Kind.NODE,
    "Namespace": Kind.NAMESPACE,
}
_MODELS: dict[str, type[BaseModel]] = {"LLMDeployment": LLMDeployment, "InstanceType": InstanceType}
_CLUSTER_WIDE = frozenset({"InstanceType", "PriorityClass", "Node", "Namespace"})
_LARGEST = 512 * 1024 * 1024

Body = dict[str, Any]


class SnapshotError(ValueError):
    """A snapshot or manifest that cannot be used; the message names the file, the field and the fix."""


class _Saved(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class SavedDemand(_Saved):
    """Traffic of one deployment; what is left out is unknown."""

    arrivals: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    queue: Annotated[int, Field(ge=0)] | None = None
    input_tokens: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    output_tokens: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    hit_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    slo_attainment: Annotated[float, Field(ge=0, le=1)] | None = None


class Saved(_Saved):
    """A snapshot as it is in the file."""

    kind: Literal["WarmfleetSnapshot"] = "WarmfleetSnapshot"
    version: Literal[1] = 1
    taken_at: AwareDatetime
    objects: list[Body] = Field(default_factory=list)
    demand: dict[str, SavedDemand] = Field(default_factory=dict)
    memory: dict[str, Body] = Field(default_factory=dict)


World = tuple[FleetSnapshot, PlannerMemory, float]
"""What ``plan()`` takes: snapshot, memory, now."""


def load(path: Path) -> Saved:
    """Read a snapshot.

    Raises:
        SnapshotError: It cannot be read, or is none.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise SnapshotError(f"{path}: larger than {_LARGEST >> 20} MB; it is no snapshot of one cluster")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SnapshotError(
            f"{path}: not JSON: {error}; make one with: warmfleet snapshot --file {path.name}"
        ) from error
    if isinstance(raw, Mapping) and raw.get("version") not in (None, VERSION):
        raise SnapshotError(
            f"{path}: version {raw['version']!r} is not {VERSION}; take it again with this program: warmfleet snapshot"
        )
    try:
        return Saved.model_validate(raw)
    except ValidationError as error:
        raise SnapshotError(f"{path}: {first_error(error)}") from error


def dump(saved: Saved) -> str:
    """The file's text."""
    return saved.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n"


def manifests(paths: Iterable[Path]) -> list[Body]:
    """LLMDeployments, InstanceTypes and TrafficForecasts of YAML files, checked; other kinds are left out.

    Raises:
        SnapshotError: A file cannot be read, or an object in it would be refused.
    """
    found: list[Body] = []
    for path in paths:
        try:
            bodies = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise SnapshotError(f"{path}: {error.strerror or error}") from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise SnapshotError(f"{path}: not YAML: {error}") from error
        for index, body in enumerate(bodies):
            if isinstance(body, dict) and body.get("kind") in ("LLMDeployment", "InstanceType", "TrafficForecast"):
                found.append(_checked(f"{path}: document {index + 1}", body))
    if not found:
        raise SnapshotError("-f: no LLMDeployment, InstanceType or TrafficForecast in it")
    return found


def _checked(where: str, body: Body) -> Body:
    name = (body.get("metadata") or {}).get("name")
    if not isinstance(name, str) or not name:
        raise SnapshotError(f"{where}: metadata.name is missing")
    model = _MODELS.get(str(body.get("kind")))
    try:
        if model is not None:
            model.model_validate(body)
    except ValidationError as error:
        raise SnapshotError(f"{where}: {body['kind']} {name}: {first_error(error)}") from error
    return body


def with_manifests(saved: Saved, bodies: Iterable[Body], default_namespace: str) -> Saved:
    """The snapshot as it would be had the manifests been applied: what exists keeps its identity and status."""
    objects = {_identity(body, default_namespace): body for body in saved.objects}
    for body in bodies:
        key = _identity(body, default_namespace)
        before = objects.get(key)
        meta = {**body["metadata"]}
        if key[1]:
            meta["namespace"] = key[1]
        if before is not None:
            old = before.get("metadata") or {}
            changed = before.get("spec") != body.get("spec")
            generation = int(old.get("generation") or 1) + changed
            meta = {**old, **meta, "uid": old.get("uid"), "generation": generation}
        objects[key] = {**(before or {}), **body, "metadata": meta}
    return saved.model_copy(update={"objects": list(objects.values())})


def world(saved: Saved, where: str = "snapshot") -> World:
    """What ``plan()`` takes.

    Raises:
        SnapshotError: An object or a memory in it makes no sense.
    """
    clock = ManualClock(NOW, start_wall=saved.taken_at)
    store = FleetStore(clock)
    bodies: dict[str, Body] = {}
    for index, body in enumerate(saved.objects):
        kind = KINDS.get(str(body.get("kind")))
        meta = body.get("metadata")
        if kind is None:
            known = ", ".join(KINDS)
            raise SnapshotError(f"{where}: objects.{index}.kind: {body.get('kind')!r} is not one of {known}")
        if not isinstance(meta, Mapping) or not isinstance(meta.get("name"), str):
            raise SnapshotError(f"{where}: objects.{index}.metadata.name is missing")
        uid = meta.get("uid") or f"saved-{'-'.join(_identity(body, ''))}"
        bodies[str(uid)] = body
        store.observe(kind, {**body, "metadata": {**meta, "uid": uid}})
    seen = store.snapshot()
    workers = tuple(_aged(worker, bodies.get(worker.uid, {}), saved.taken_at) for worker in seen.workers)
    demand = {_key(where, name): told for name, told in saved.demand.items()}
    snapshot = replace(
        seen,
        workers=workers,
        demand={key: _demand(key, told, workers) for key, told in demand.items()},
    )
    return snapshot, _memory(saved, where), NOW


def _memory(saved: Saved, where: str) -> PlannerMemory:
    found = {}
    for name, data in saved.memory.items():
        try:
            found[_key(where, name)] = checkpoint.load(data, NOW)
        except checkpoint.CheckpointError as error:
            raise SnapshotError(f"{where}: memory.{name}: {error}") from error
    return PlannerMemory(found)


def _demand(key: Key, told: SavedDemand, workers: tuple[WorkerRecord, ...]) -> Demand:
    ready = sum(w.deployment_key == key and w.phase is WorkerPhase.READY for w in workers)
    return Demand(
        at=NOW,
        arrivals=told.arrivals,
        input_tokens=told.input_tokens,
        output_tokens=told.output_tokens,
        hit_ratio=told.hit_ratio,
        queue=told.queue,
        slo_attainment=told.slo_attainment,
        sources=("router", "agents"),
        reporting_workers=ready,
    )


def _aged(worker: WorkerRecord, body: Mapping[str, Any], taken: datetime) -> WorkerRecord:
    """The worker with the moments that its pod tells."""
    status = body.get("status") or {}
    since = {c.get("type"): c.get("lastTransitionTime") for c in status.get("conditions") or []}
    created = _ago((body.get("metadata") or {}).get("creationTimestamp"), taken)
    ready, scheduled = _ago(since.get("Ready"), taken), _ago(since.get("PodScheduled"), taken)
    return replace(
        worker,
        first_seen=NOW - created,
        first_ready=None if worker.first_ready is None else NOW - min(ready, created),
        unschedulable_since=None if worker.unschedulable_since is None else NOW - scheduled,
    )


def _ago(stamp: object, taken: datetime) -> float:
    """Seconds from a timestamp to the snapshot; 0 when it says nothing."""
    if isinstance(stamp, str):
        try:
            return max(0.0, (taken - datetime.fromisoformat(stamp)).total_seconds())
        except (ValueError, TypeError):  # not RFC 3339, or without a zone
            return 0.0
    return 0.0


def _identity(body: Mapping[str, Any], default_namespace: str) -> tuple[str, str, str]:
    meta = body.get("metadata") or {}
    kind = str(body.get("kind"))
    inside = "" if kind in _CLUSTER_WIDE else str(meta.get("namespace") or default_namespace)
    return kind, inside, str(meta.get("name"))


def _key(where: str, name: str) -> Key:
    namespace, slash, rest = name.partition("/")
    if not slash or not namespace or not rest:
        raise SnapshotError(f"{where}: {name!r} must be namespace/name of an LLMDeployment")
    return Key(namespace, rest)


def first_error(error: ValidationError) -> str:
    """Field and words of the first of a document's errors."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "the document"
    return f"{field}: {first['msg']}"
