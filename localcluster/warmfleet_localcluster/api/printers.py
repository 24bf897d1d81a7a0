"""The columns kubectl prints for built-in kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from warmfleet_localcluster.api.ages import age
from warmfleet_localcluster.api.objects import Object, condition_true, dig, is_deleting, parse_timestamp
from warmfleet_localcluster.api.resources import StorageKey

NONE = "<none>"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, OpenAPI type, priority (above 0: only with `-o wide`), help and format."""

    name: str
    type: str = "string"
    priority: int = 0
    description: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True)
class Printer:
    """The columns after the name, and what fills them for one object at one moment."""

    columns: tuple[Column, ...]
    cells: Callable[[Object, datetime], list[Any]]


def _age(item: Object, now: datetime) -> str:
    return age(item["metadata"].get("creationTimestamp"), now)


def _pod(pod: Object, now: datetime) -> list[Any]:
    containers = dig(pod, "spec", "containers") or []
    states = dig(pod, "status", "containerStatuses") or []
    ready = sum(bool(state.get("ready")) for state in states)
    gates = dig(pod, "spec", "readinessGates") or []
    passed = sum(condition_true(pod, gate["conditionType"]) for gate in gates)
    return [
        f"{ready}/{len(containers)}",
        pod_status(pod),
        sum(state.get("restartCount", 0) for state in states),
        _age(pod, now),
        dig(pod, "status", "podIP") or NONE,
        dig(pod, "spec", "nodeName") or NONE,
        dig(pod, "status", "nominatedNodeName") or NONE,
        f"{passed}/{len(gates)}" if gates else NONE,
    ]


def pod_status(pod: Object) -> str:
    """Return the STATUS column of a pod: a container's trouble before the phase, Terminating before all."""
    if is_deleting(pod):
        return "Terminating"
    status = str(dig(pod, "status", "reason") or dig(pod, "status", "phase") or "Unknown")
    for state in dig(pod, "status", "containerStatuses") or ():
        waiting, ended = dig(state, "state", "waiting"), dig(state, "state", "terminated")
        if waiting and waiting.get("reason"):
            status = str(waiting["reason"])
        elif ended:
            status = str(ended.get("reason") or f"ExitCode:{ended.get('exitCode', 0)}")
    return status


def _node(node: Object, now: datetime) -> list[Any]:
    words = ["Ready" if condition_true(node, "Ready") else "NotReady"]
    if dig(node, "spec", "unschedulable"):
        words.append("SchedulingDisabled")
    prefix = "node-role.kubernetes.io/"
    labels = node["metadata"].get("labels") or {}
    roles = sorted(key.removeprefix(prefix) for key in labels if key.startswith(prefix))
    addresses = {a["type"]: a["address"] for a in dig(node, "status", "addresses") or ()}
    info = dig(node, "status", "nodeInfo") or {}
    return [
        ",".join(words),
        ",".join(roles) or NONE,
        _age(node, now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", NONE),
        addresses.get("ExternalIP", NONE),
        info.get("osImage", "<unknown>"),
        info.get("kernelVersion", "<unknown>"),
        info.get("containerRuntimeVersion", "<unknown>"),
    ]


def _deployment(item: Object, now: datetime) -> list[Any]:
    status, wanted = item.get("status") or {}, dig(item, "spec", "replicas") or 0
    containers = dig(item, "spec", "template", "spec", "containers") or []
    return [
        f"{status.get('readyReplicas', 0)}/{wanted}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        _age(item, now),
        ",".join(c["name"] for c in containers),
        ",".join(c["image"] for c in containers),
        _selector(item),
    ]


def _replica_set(item: Object, now: datetime) -> list[Any]:
    status = item.get("status") or {}
    wanted = dig(item, "spec", "replicas") or 0
    return [wanted, status.get("replicas", 0), status.get("readyReplicas", 0), _age(item, now)]


def _stateful_set(item: Object, now: datetime) -> list[Any]:
    ready, wanted = dig(item, "status", "readyReplicas") or 0, dig(item, "spec", "replicas") or 0
    return [f"{ready}/{wanted}", _age(item, now)]


def _selector(item: Object) -> str:
    selector = dig(item, "spec", "selector") or {}
    labels = selector.get("matchLabels", selector) if isinstance(selector, dict) else {}
    return ",".join(f"{k}={v}" for k, v in labels.items() if isinstance(v, str)) or NONE


def _port(port: Object) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port['port']}{node_port}/{port.get('protocol', 'TCP')}"


def _service(item: Object, now: datetime) -> list[Any]:
    spec = item.get("spec") or {}
    ingress = dig(item, "status", "loadBalancer", "ingress") or []
    external = ",".join(entry.get("ip") or entry.get("hostname", "") for entry in ingress)
    ports = [_port(port) for port in spec.get("ports") or ()]
    return [
        spec.get("type", "ClusterIP"),
        spec.get("clusterIP") or NONE,
        external or spec.get("externalName") or NONE,
        ",".join(ports) or NONE,
        _age(item, now),
        _selector(item),
    ]


def _event(event: Object, now: datetime) -> list[Any]:
    about = event.get("involvedObject") or {}
    meta = event["metadata"]
    seen = dig(event, "series", "lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    first = event.get("firstTimestamp") or event.get("eventTime") or meta["creationTimestamp"]
    count = dig(event, "series", "count") or event.get("count") or 1
    source = dig(event, "source", "component") or event.get("reportingComponent") or ""
    return [
        age(seen or meta["creationTimestamp"], now),
        event.get("type", ""),
        event.get("reason", ""),
        f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}",
        event.get("message", ""),
        source,
        age(first, now),
        count,
    ]


def _namespace(item: Object, now: datetime) -> list[Any]:
    return [dig(item, "status", "phase") or "", _age(item, now)]


def _job(item: Object, now: datetime) -> list[Any]:
    done, wanted = dig(item, "status", "succeeded") or 0, dig(item, "spec", "completions") or 1
    state = next((k for k in ("Complete", "Failed", "Suspended") if condition_true(item, k)), "Running")
    start = dig(item, "status", "startTime")
    end = dig(item, "status", "completionTime")
    lasted = ""
    if start:
        until = parse_timestamp(end) if end else now
        lasted = f"{int((until - parse_timestamp(start)).total_seconds())}s"
    return [state, f"{done}/{wanted}", lasted, _age(item, now)]


def _config_map(item: Object, now: datetime) -> list[Any]:
    return [len(item.get("data") or {}) + len(item.get("binaryData") or {}), _age(item, now)]


def _secret(item: Object, now: datetime) -> list[Any]:
    return [item.get("type", "Opaque"), len(item.get("data") or {}), _age(item, now)]


def _budget(item: Object, now: datetime) -> list[Any]:
    spec = item.get("spec") or {}
    allowed = dig(item, "status", "disruptionsAllowed") or 0
    return [str(spec.get("minAvailable", "N/A")), str(spec.get("maxUnavailable", "N/A")), allowed, _age(item, now)]


def _lease(item: Object, now: datetime) -> list[Any]:
    return [dig(item, "spec", "holderIdentity") or "", _age(item, now)]


def _definition(item: Object, _: datetime) -> list[Any]:
    return [item["metadata"]["creationTimestamp"]]


def _columns(text: str) -> tuple[Column, ...]:
    """Return columns from their headings; `#` marks integers, `+` those of the wide output."""
    found = []
    for word in text.split("|"):
        name = word.strip(" #+")
        found.append(Column(name, "integer" if "#" in word else "string", int("+" in word)))
    return tuple(found)


PRINTERS: Mapping[StorageKey, Printer] = {
    ("", "pods"): Printer(
        _columns("Ready|Status|Restarts|Age|+IP|+Node|+Nominated Node|+Readiness Gates"),
        _pod,
    ),
    ("", "nodes"): Printer(
        _columns("Status|Roles|Age|Version|+Internal-IP|+External-IP|+OS-Image|+Kernel-Version|+Container-Runtime"),
        _node,
    ),
    ("apps", "deployments"): Printer(
        _columns("Ready|#Up-to-date|#Available|Age|+Containers|+Images|+Selector"), _deployment
    ),
    ("apps", "replicasets"): Printer(_columns("#Desired|#Current|#Ready|Age"), _replica_set),
    ("apps", "statefulsets"): Printer(_columns("Ready|Age"), _stateful_set),
    ("batch", "jobs"): Printer(_columns("Status|Completions|Duration|Age"), _job),
    ("", "services"): Printer(_columns("Type|Cluster-IP|External-IP|Port(s)|Age|+Selector"), _service),
    ("", "events"): Printer(
        _columns("Last Seen|Type|Reason|Object|Message|+Source|+First Seen|#+Count"),
        _event,
    ),
    ("", "namespaces"): Printer(_columns("Status|Age"), _namespace),
    ("", "configmaps"): Printer(_columns("#Data|Age"), _config_map),
    ("", "secrets"): Printer(_columns("Type|#Data|Age"), _secret),
    ("policy", "poddisruptionbudgets"): Printer(
        _columns("Min Available|Max Unavailable|#Allowed Disruptions|Age"), _budget
    ),
    ("coordination.k8s.io", "leases"): Printer(_columns("Holder|Age"), _lease),
    ("apiextensions.k8s.io", "customresourcedefinitions"): Printer(_columns("Created At"), _definition),
}
