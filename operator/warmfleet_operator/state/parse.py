"""Raw Kubernetes objects to frozen records. Pure; a body that makes no sense never raises.

What comes from a watch may be wrong in any way: pruned by another CRD version, written by hand, truncated. A custom
resource that cannot be parsed becomes a record with ``spec_error``; a pod or node that cannot be parsed becomes the
most cautious record it still supports, or None when it has no identity at all.

Times are never taken from the objects, but for the moment a forecast was made. What was seen before is carried over
from the previous record, so that ``first_seen`` and its like are moments of this process's clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from warmfleet_contracts import labels
from warmfleet_contracts.api import InstanceTypeSpec, LLMDeploymentSpec
from warmfleet_contracts.api.trafficforecast import TrafficForecastStatus
from warmfleet_contracts.leadwindow import LeadWindowTable

from warmfleet_operator.state.records import (
    DeploymentRecord,
    ForecastRecord,
    InstanceTypeRecord,
    Key,
    NodeRecord,
    PriorityClassRecord,
    RouterRecord,
    WorkerPhase,
    WorkerRecord,
)
from warmfleet_operator.state.revisions import revisions

Body = Mapping[str, Any]
_Spec = TypeVar("_Spec", bound=BaseModel)

CANNOT_START = frozenset(
    {
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Waiting reasons of the kubelet after which a pod does not come up by itself soon."""

MOST_PRIORITY = 1_000_000_000
"""The largest value of a PriorityClass that is not the system's own."""

LEAVING_TAINTS = frozenset(
    {
        "node.kubernetes.io/unschedulable",
        "node.kubernetes.io/out-of-service",
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/not-ready",
        "karpenter.sh/disrupted",
        "karpenter.sh/disruption",
        "ToBeDeletedByClusterAutoscaler",
        "cloud.google.com/impending-node-termination",
        "aws-node-termination-handler/spot-itn",
    }
)
"""Taints by which a node says that its pods must leave."""


def mapping(value: object) -> Mapping[str, Any]:
    """``value`` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> tuple[Mapping[str, Any], ...]:
    """The mappings of a list; anything else is left out."""
    return tuple(item for item in value if isinstance(item, Mapping)) if isinstance(value, list | tuple) else ()


def text(value: object) -> str:
    """``value`` if it is a string, else the empty string."""
    return value if isinstance(value, str) else ""


def texts(value: object) -> dict[str, str]:
    """The string entries of a mapping."""
    return {k: v for k, v in mapping(value).items() if isinstance(k, str) and isinstance(v, str)}


def whole(value: object) -> int:
    """``value`` if it is an integer, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def number(version: str) -> int | None:
    """A resourceVersion as a number; None when it is none."""
    return int(version) if version.isascii() and version.isdigit() and len(version) < 20 else None


def identity(body: object) -> tuple[Key, str, str] | None:
    """Key, UID and resourceVersion of an object; None when it has no name or UID."""
    meta = mapping(mapping(body).get("metadata"))
    name, uid = text(meta.get("name")), text(meta.get("uid"))
    if not name or not uid:
        return None
    return Key(text(meta.get("namespace")), name), uid, text(meta.get("resourceVersion"))


def _spec(model: type[_Spec], raw: object) -> tuple[_Spec | None, str | None]:
    try:
        return model.model_validate(raw), None
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc']) or 'spec'}: {e['msg']}" for e in error.errors()[:5]]
        return None, "; ".join(lines)[:900]
    except RecursionError:
        return None, "spec: nested too deeply"


def _deployment_spec(raw: object) -> tuple[LLMDeploymentSpec | None, str | None, dict[str, str]]:
    """The spec, or why there is none; and the revisions of its variants."""
    spec, error = _spec(LLMDeploymentSpec, raw)
    try:
        return spec, error, revisions(spec) if spec is not None else {}
    except ValueError as problem:  # what is no spec at all cannot be hashed either
        return None, f"spec: {problem}"[:900], {}


def deployment_from(body: Body, previous: DeploymentRecord | None, now: float) -> DeploymentRecord | None:
    """An LLMDeployment; ``previous`` is the record seen before under the same key."""
    found = identity(body)
    if found is None:
        return None
    key, uid, version = found
    meta = mapping(body.get("metadata"))
    previous = previous if previous is not None and previous.uid == uid else None
    deleting = meta.get("deletionTimestamp") is not None
    if previous is not None and previous.generation == whole(meta.get("generation")) and previous.generation > 0:
        spec, error, wanted = previous.spec, previous.spec_error, previous.revisions
    else:
        spec, error, wanted = _deployment_spec(body.get("spec"))
    since = (previous.deleting_since if previous is not None else None) or now
    finalizers = meta.get("finalizers")
    return DeploymentRecord(
        key=key,
        uid=uid,
        generation=whole(meta.get("generation")),
        resource_version=version,
        spec=spec,
        spec_error=error,
        annotations=texts(meta.get("annotations")),
        deleting=deleting,
        deleting_since=since if deleting else None,
        finalizers=tuple(f for f in finalizers if isinstance(f, str)) if isinstance(finalizers, list) else (),
        status=mapping(body.get("status")),
        revisions=wanted,
    )


def priority_class_from(body: Body) -> PriorityClassRecord | None:
    """A PriorityClass. Values of the system's own classes are cut to the largest that users may define."""
    found = identity(body)
    if found is None:
        return None
    value = max(-MOST_PRIORITY, min(MOST_PRIORITY, whole(body.get("value"))))
    return PriorityClassRecord(found[0].name, value, body.get("globalDefault") is True)


def instance_type_from(body: Body) -> InstanceTypeRecord | None:
    """An InstanceType."""
    found = identity(body)
    if found is None:
        return None
    key, uid, _ = found
    spec, error = _spec(InstanceTypeSpec, body.get("spec"))
    generation = whole(mapping(body.get("metadata")).get("generation"))
    return InstanceTypeRecord(key.name, uid, generation, spec, error, mapping(body.get("status")))


def forecast_from(body: Body, now: float, wall_epoch: float) -> ForecastRecord | None:
    """A TrafficForecast; one without a name, or without a target, is None.

    Args:
        body: The object.
        now: Logical seconds.
        wall_epoch: Wall time at ``now``, seconds since 1970.
    """
    found = identity(body)
    target = text(mapping(mapping(body.get("spec")).get("target")).get("name"))
    if found is None or not target:
        return None
    key, uid, _ = found
    raw = mapping(body.get("status"))
    if not raw:
        return ForecastRecord(key, uid, target, fault="it has no status yet")
    status, error = _spec(TrafficForecastStatus, raw)
    if status is None:
        return ForecastRecord(key, uid, target, fault=f"its status cannot be read: {error}"[:500])
    issued = epoch(status.issued_at)
    table = LeadWindowTable.from_status(status)
    fault = table if isinstance(table, str) else "" if issued is not None else "issuedAt is not an RFC 3339 time"
    return ForecastRecord(
        key=key,
        uid=uid,
        target=target,
        issued_at=None if issued is None else now - (wall_epoch - issued),
        valid_for=status.valid_for,
        trusted=status.trusted,
        table=None if isinstance(table, str) else table,
        fault=fault[:500],
    )


def epoch(stamp: object) -> float | None:
    """Seconds since 1970 of an RFC 3339 time; None when it is none, or has no zone."""
    try:
        at = datetime.fromisoformat(text(stamp))
        seconds = at.timestamp() if at.tzinfo is not None else math.nan
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((c for c in items(status.get("conditions")) if c.get("type") == kind), {})


def _containers(status: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    return items(status.get("initContainerStatuses")) + items(status.get("containerStatuses"))


def _failure(status: Mapping[str, Any]) -> tuple[str, str]:
    """(reason, message for a person) of the first container that waits for something unusual, or of the pod."""
    for container in _containers(status):
        waiting = mapping(mapping(container.get("state")).get("waiting"))
        reason = text(waiting.get("reason"))
        if reason in CANNOT_START or reason == "ErrImagePull":
            detail = text(waiting.get("message"))
            return reason, f"container {text(container.get('name'))}: {reason}{': ' + detail if detail else ''}"[:500]
    if status.get("phase") == "Failed":
        reason = text(status.get("reason")) or "Failed"
        return reason, f"pod failed: {reason} {text(status.get('message'))}".strip()[:500]
    return "", ""


def _engine_started(status: Mapping[str, Any]) -> bool:
    engine = next(
        (c for c in items(status.get("containerStatuses")) if c.get("name") == labels.ENGINE_CONTAINER),
        {},
    )
    return engine.get("started") is True


def _worker_phase(body: Body, *, was_ready: bool) -> WorkerPhase:
    status = mapping(body.get("status"))
    if mapping(body.get("metadata")).get("deletionTimestamp") is not None:
        return WorkerPhase.TERMINATING
    if status.get("phase") in ("Failed", "Succeeded"):
        return WorkerPhase.FAILED
    if _condition(status, "Ready").get("status") == "True":
        return WorkerPhase.READY
    if _failure(status)[0] in CANNOT_START:
        return WorkerPhase.FAILED
    if not text(mapping(body.get("spec")).get("nodeName")):
        return WorkerPhase.UNSCHEDULED
    return WorkerPhase.NOT_READY if was_ready else WorkerPhase.STARTING


def _accelerators(spec: Mapping[str, Any]) -> int:
    """Extended resources requested by the engine container (domain-qualified resource names)."""
    for container in items(spec.get("containers")):
        if container.get("name") == labels.ENGINE_CONTAINER:
            limits = mapping(mapping(container.get("resources")).get("limits"))
            amounts = [str(v) for k, v in limits.items() if "/" in str(k)]
            return sum(int(amount) for amount in amounts if amount.isascii() and amount.isdigit() and len(amount) < 7)
    return 0


def worker_from_pod(body: Body, previous: WorkerRecord | None, now: float) -> WorkerRecord | None:
    """A worker's pod; ``previous`` is the record seen before under the same key.

    ``first_ready`` of a pod that was started before this process is taken as now when its engine has started once:
    a worker that drains during a restart of the operator must not look as if it had never served.
    """
    found = identity(body)
    if found is None:
        return None
    key, uid, version = found
    old = previous if previous is not None and previous.uid == uid else None
    meta, spec, status = (mapping(body.get(part)) for part in ("metadata", "spec", "status"))
    pod_labels, annotations = texts(meta.get("labels")), texts(meta.get("annotations"))
    was_ready = (old is not None and old.first_ready is not None) or _engine_started(status)
    phase = _worker_phase(body, was_ready=was_ready)
    served = was_ready or phase is WorkerPhase.READY
    scheduled = _condition(status, "PodScheduled")
    unschedulable = scheduled.get("status") == "False" and phase is WorkerPhase.UNSCHEDULED
    reason, failure = _failure(status)
    draining = annotations.get(labels.DRAINING)
    terminating = phase is WorkerPhase.TERMINATING
    return WorkerRecord(
        key=key,
        uid=uid,
        resource_version=version,
        deployment=pod_labels.get(labels.DEPLOYMENT, ""),
        variant=pod_labels.get(labels.VARIANT, ""),
        instance_type=pod_labels.get(labels.INSTANCE_TYPE, ""),
        revision=pod_labels.get(labels.REVISION, ""),
        phase=phase,
        accelerators=_accelerators(spec),
        first_seen=old.first_seen if old is not None else now,
        node=text(spec.get("nodeName")),
        ip=text(status.get("podIP")),
        first_ready=_since(served, old.first_ready if old is not None else None, now),
        unschedulable_since=_since(unschedulable, old.unschedulable_since if old is not None else None, now),
        failure=failure,
        failure_reason=reason,
        drain_reason=draining,
        drain_since=_since(draining is not None, old.drain_since if old is not None else None, now),
        terminating_since=_since(terminating, old.terminating_since if old is not None else None, now),
        routed=pod_labels.get(labels.ROUTE) == labels.ROUTE_VALUE,
        protected=labels.is_true(annotations, labels.DO_NOT_DRAIN),
        orphaned=not items(meta.get("ownerReferences")),
    )


def _since(holds: bool, before: float | None, now: float) -> float | None:  # noqa: FBT001
    """The moment from which something holds: the one noted before, else now; None when it does not hold."""
    if not holds:
        return None
    return before if before is not None else now


def router_from_pod(body: Body) -> RouterRecord | None:
    """A router's pod."""
    found = identity(body)
    if found is None:
        return None
    key, uid, _ = found
    meta, status = mapping(body.get("metadata")), mapping(body.get("status"))
    ready = _condition(status, "Ready").get("status") == "True" and meta.get("deletionTimestamp") is None
    name = texts(meta.get("labels")).get(labels.DEPLOYMENT, "")
    return RouterRecord(key, uid, name, text(status.get("podIP")), ready)


def component(body: Body) -> str:
    """Value of the component label."""
    return texts(mapping(body.get("metadata")).get("labels")).get(labels.COMPONENT, "")


def node_from(body: Body, previous: NodeRecord | None, now: float) -> NodeRecord | None:
    """A node, as far as it says whether its workers must leave."""
    found = identity(body)
    if found is None:
        return None
    name = found[0].name
    spec, status = mapping(body.get("spec")), mapping(body.get("status"))
    taints = [text(t.get("key")) for t in items(spec.get("taints"))]
    leaving = next((f"taint {key}" for key in taints if key in LEAVING_TAINTS), None)
    if spec.get("unschedulable") is True:
        leaving = "cordoned"
    if mapping(body.get("metadata")).get("deletionTimestamp") is not None:
        leaving = "being deleted"
    ready = _condition(status, "Ready").get("status")
    if leaving is None and ready in ("False", "Unknown"):
        leaving = "not ready"
    return NodeRecord(name, previous.first_seen if previous is not None else now, leaving)


def namespace_terminating(body: Body) -> bool:
    """Whether a Namespace is being deleted."""
    terminating = mapping(body.get("status")).get("phase") == "Terminating"
    return terminating or mapping(body.get("metadata")).get("deletionTimestamp") is not None
