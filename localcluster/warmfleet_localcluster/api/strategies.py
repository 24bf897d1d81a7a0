"""What the built-in kinds do to their objects on create and update: initial status, defaults, immutable fields."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from warmfleet_localcluster.api import errors
from warmfleet_localcluster.api.errors import Cause, bad_request, forbidden_value, required_value
from warmfleet_localcluster.api.objects import Object, clone
from warmfleet_localcluster.api.resources import Resource, StorageKey
from warmfleet_localcluster.api.store import ObjectStore

_POD_DEFAULTS: Object = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "securityContext": {},
    "enableServiceLinks": True,
}
_POD_MUTABLE = ("tolerations", "activeDeadlineSeconds", "terminationGracePeriodSeconds", "schedulingGates")
_DEPLOYMENT_DEFAULTS: Object = {
    "replicas": 1,
    "revisionHistoryLimit": 10,
    "progressDeadlineSeconds": 600,
    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
}
_STATEFUL_DEFAULTS: Object = {
    "replicas": 1,
    "revisionHistoryLimit": 10,
    "podManagementPolicy": "OrderedReady",
    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
}
_JOB_DEFAULTS: Object = {"parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": False}
_TEMPLATED = {"deployments", "replicasets", "statefulsets", "daemonsets"}
_UNDELETABLE = ("default", "kube-system", "kube-public", "kube-node-lease")


class Strategies:
    """Per-kind behaviour of the built-in resources.

    Args:
        store: Read for priority classes.
        service_prefix: First two octets of the cluster IPs handed to services.
    """

    def __init__(self, store: ObjectStore, *, service_prefix: str = "10.96") -> None:
        self._store = store
        self._service_prefix = service_prefix
        self._service_ips = itertools.count(1)
        self._prepare: dict[StorageKey, Callable[[Resource, Object], None]] = {
            ("", "pods"): self._pod,
            ("", "namespaces"): self._namespace,
            ("", "services"): self._service,
            ("", "secrets"): self._secret,
            ("", "nodes"): self._node,
            ("apps", "deployments"): self._workload,
            ("apps", "replicasets"): self._workload,
            ("apps", "statefulsets"): self._workload,
            ("apps", "daemonsets"): self._workload,
            ("batch", "jobs"): self._job,
            ("scheduling.k8s.io", "priorityclasses"): self._priority_class,
        }

    def on_create(self, resource: Resource, item: Object) -> None:
        """Bring a new built-in object into its initial state, in place.

        Raises:
            ApiError: 4xx, the object is not acceptable.
        """
        if resource.storage in {("", "persistentvolumeclaims"), ("", "persistentvolumes")}:
            item["status"] = {"phase": "Pending"}
        prepare = self._prepare.get(resource.storage)
        if prepare:
            if resource.plural != "secrets" and not isinstance(item.setdefault("spec", {}), dict):
                raise bad_request("spec must be an object")
            prepare(resource, item)

    def on_update(self, resource: Resource, item: Object, old: Object) -> None:
        """Check and complete an update of a built-in object, in place.

        Raises:
            ApiError: 422, an immutable field changed.
        """
        if resource.storage == ("", "secrets"):
            self._secret(resource, item)
        if resource.storage == ("", "namespaces"):
            item["spec"] = old["spec"]
        if resource.storage == ("", "services"):
            for field in ("clusterIP", "clusterIPs"):
                if field in old.get("spec", {}):
                    item["spec"].setdefault(field, old["spec"][field])
        causes = list(_immutable(resource, item, old))
        if causes:
            raise errors.invalid(resource, item["metadata"]["name"], causes)

    def _pod(self, resource: Resource, pod: Object) -> None:
        spec = pod["spec"]
        _check_pod_spec(resource, pod["metadata"]["name"], spec, "spec")
        complete_pod_spec(spec)
        self._resolve_priority(resource, pod["metadata"]["name"], spec)
        pod["status"] = {"phase": "Pending", "qosClass": _qos(spec)}

    def _resolve_priority(self, resource: Resource, name: str, spec: Object) -> None:
        wanted = spec.get("priorityClassName")
        storage = ("scheduling.k8s.io", "priorityclasses")
        if not wanted:
            defaults = [c for c in self._store.objects(storage) if c.get("globalDefault")]
            spec["priority"] = max((c["value"] for c in defaults), default=0)
            if defaults:
                spec["priorityClassName"] = defaults[0]["metadata"]["name"]
        else:
            found = self._store.get(storage, (None, wanted))
            if found is None:
                raise errors.forbidden(resource, name, f"no PriorityClass with name {wanted} was found")
            spec["priority"] = found["value"]
            spec["preemptionPolicy"] = found.get("preemptionPolicy") or "PreemptLowerPriority"
        spec.setdefault("preemptionPolicy", "PreemptLowerPriority")

    def _namespace(self, _: Resource, namespace: Object) -> None:
        meta = namespace["metadata"]
        meta.setdefault("labels", {})["kubernetes.io/metadata.name"] = meta["name"]
        namespace["spec"] = {"finalizers": ["kubernetes"]}
        namespace["status"] = {"phase": "Active"}

    def _service(self, _: Resource, service: Object) -> None:
        spec = service["spec"]
        spec.setdefault("type", "ClusterIP")
        spec.setdefault("sessionAffinity", "None")
        for port in spec.get("ports") or ():
            port.setdefault("protocol", "TCP")
            port.setdefault("targetPort", port.get("port"))
        if spec["type"] != "ExternalName":
            if not spec.get("clusterIP"):
                number = next(self._service_ips)
                spec["clusterIP"] = f"{self._service_prefix}.{number // 254 % 256}.{number % 254 + 1}"
            spec.setdefault("clusterIPs", [spec["clusterIP"]])
            spec.setdefault("ipFamilies", ["IPv4"])
            spec.setdefault("ipFamilyPolicy", "SingleStack")
            spec.setdefault("internalTrafficPolicy", "Cluster")
        service["status"] = {"loadBalancer": {}}

    def _secret(self, _: Resource, secret: Object) -> None:
        secret.setdefault("type", "Opaque")
        for key, value in (secret.pop("stringData", None) or {}).items():
            secret.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()

    def _node(self, _: Resource, node: Object) -> None:
        node.setdefault("status", {})

    def _workload(self, resource: Resource, item: Object) -> None:
        name, spec = item["metadata"]["name"], item["spec"]
        _check_template(resource, name, spec)
        complete_pod_spec(spec["template"]["spec"])
        if resource.plural == "deployments":
            _fill(spec, _DEPLOYMENT_DEFAULTS)
        elif resource.plural == "statefulsets":
            _fill(spec, _STATEFUL_DEFAULTS)
        elif resource.plural == "replicasets":
            spec.setdefault("replicas", 1)
        item["status"] = {} if resource.plural in {"deployments", "daemonsets"} else {"replicas": 0}

    def _job(self, resource: Resource, job: Object) -> None:
        name, spec, uid = job["metadata"]["name"], job["spec"], job["metadata"]["uid"]
        template = spec.setdefault("template", {})
        _check_pod_spec(resource, name, template.setdefault("spec", {}), "spec.template.spec")
        _fill(spec, _JOB_DEFAULTS)
        spec.setdefault("completions", 1)
        if not spec.get("manualSelector"):
            labels = template.setdefault("metadata", {}).setdefault("labels", {})
            labels |= {"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": name}
            labels |= {"controller-uid": uid, "job-name": name}
            spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
        complete_pod_spec(template["spec"])
        job["status"] = {}

    def _priority_class(self, resource: Resource, item: Object) -> None:
        item.pop("spec", None)
        if not isinstance(item.get("value"), int):
            raise errors.invalid(resource, item["metadata"]["name"], [required_value("value")])
        item.setdefault("preemptionPolicy", "PreemptLowerPriority")


def undeletable(resource: Resource, name: str) -> bool:
    """Return whether the object belongs to the cluster itself."""
    return resource.storage == ("", "namespaces") and name in _UNDELETABLE


def complete_pod_spec(spec: Object) -> None:
    """Fill in the defaults of a pod spec that clients rely on, in place."""
    _fill(spec, _POD_DEFAULTS)
    for container in itertools.chain(spec.get("initContainers") or (), spec.get("containers") or ()):
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        image = str(container.get("image") or "")
        latest = image.endswith(":latest") or (":" not in image.rpartition("/")[2] and "@" not in image)
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
        container.setdefault("resources", {})
        for port in container.get("ports") or ():
            port.setdefault("protocol", "TCP")


def _fill(spec: Object, defaults: Object) -> None:
    for key, value in defaults.items():
        if spec.get(key) is None:
            spec[key] = clone(value)


def _check_pod_spec(resource: Resource, name: str, spec: Object, path: str) -> None:
    containers = spec.get("containers")
    if not isinstance(containers, list) or not containers:
        raise errors.invalid(resource, name, [required_value(f"{path}.containers")])
    causes: list[Cause] = []
    for index, container in enumerate(containers):
        where = f"{path}.containers[{index}]"
        causes += [required_value(f"{where}.{field}") for field in ("name", "image") if not container.get(field)]
        for at, variable in enumerate(container.get("env") or ()):
            if not isinstance(variable.get("value", ""), str | None):
                value = errors.shown(variable["value"])
                raise bad_request(f"{where}.env[{at}].value must be a string, not {value}: quote it")
    if causes:
        raise errors.invalid(resource, name, causes)


def _check_template(resource: Resource, name: str, spec: Object) -> None:
    template = spec.get("template")
    if not isinstance(template, dict) or not isinstance(template.get("spec"), dict):
        raise errors.invalid(resource, name, [required_value("spec.template.spec")])
    _check_pod_spec(resource, name, template["spec"], "spec.template.spec")
    wanted = (spec.get("selector") or {}).get("matchLabels")
    if not spec.get("selector"):
        raise errors.invalid(resource, name, [required_value("spec.selector")])
    labels = (template.get("metadata") or {}).get("labels") or {}
    if any(labels.get(key) != value for key, value in (wanted or {}).items()):
        cause = errors.invalid_value(
            "spec.template.metadata.labels", labels, "`selector` does not match template `labels`"
        )
        raise errors.invalid(resource, name, [cause])


def _immutable(resource: Resource, item: Object, old: Object) -> Iterator[Cause]:
    if resource.storage == ("", "pods") and _pod_fixed(item) != _pod_fixed(old):
        yield forbidden_value(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, "
            "`spec.activeDeadlineSeconds`, `spec.tolerations` or `spec.terminationGracePeriodSeconds`",
        )
    if resource.storage in {("", "secrets"), ("", "configmaps")} and old.get("immutable"):
        changed = any(item.get(field) != old.get(field) for field in ("data", "binaryData", "immutable"))
        if changed:
            yield forbidden_value("data", "field is immutable when `immutable` is set")
    if resource.storage[0] == "apps" and resource.plural in _TEMPLATED:
        selector = item.get("spec", {}).get("selector")
        if selector != old.get("spec", {}).get("selector"):
            yield errors.invalid_value("spec.selector", selector, "field is immutable")


def _pod_fixed(pod: Object) -> Any:
    spec = {key: value for key, value in (pod.get("spec") or {}).items() if key not in _POD_MUTABLE}
    for field in ("containers", "initContainers"):
        spec[field] = [{k: v for k, v in c.items() if k != "image"} for c in spec.get(field) or ()]
    return spec


def _qos(spec: Object) -> str:
    resources = [container.get("resources") or {} for container in spec["containers"]]
    if not any(r.get("requests") or r.get("limits") for r in resources):
        return "BestEffort"
    guaranteed = all(
        {"cpu", "memory"} <= (r.get("limits") or {}).keys() and (r.get("requests") or r["limits"]) == r["limits"]
        for r in resources
    )
    return "Guaranteed" if guaranteed else "Burstable"
