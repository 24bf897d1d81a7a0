"""The built-in kinds, as a table."""

from __future__ import annotations

from warmfleet_localcluster.api.resources import Resource

_CREATE_ONLY = ("create",)
_ALL = ("all",)
_STATUS = ("status",)
_SCALED = ("status", "scale")
_RBAC = "rbac.authorization.k8s.io"
_ADMISSION = "admissionregistration.k8s.io"

NO_GENERATION = frozenset(
    {
        "bindings",
        "configmaps",
        "endpoints",
        "events",
        "leases",
        "limitranges",
        "namespaces",
        "nodes",
        "persistentvolumeclaims",
        "persistentvolumes",
        "podtemplates",
        "resourcequotas",
        "roles",
        "rolebindings",
        "clusterroles",
        "clusterrolebindings",
        "secrets",
        "serviceaccounts",
        "services",
        "storageclasses",
    }
)
"""Built-in plurals whose objects carry no `metadata.generation`."""


def _core(kind: str, plural: str, *, namespaced: bool = True, **more: tuple[str, ...]) -> Resource:
    return Resource("", "v1", plural, kind, namespaced, **more)  # type: ignore[arg-type]


def _of(
    group: str, version: str, kind: str, plural: str, *, namespaced: bool = True, **more: tuple[str, ...]
) -> Resource:
    return Resource(group, version, plural, kind, namespaced, **more)  # type: ignore[arg-type]


BUILTIN: tuple[Resource, ...] = (
    _core("Namespace", "namespaces", namespaced=False, short_names=("ns",), subresources=_STATUS),
    _core(
        "Pod",
        "pods",
        short_names=("po",),
        subresources=("status", "eviction", "binding", "log"),
        categories=_ALL,
    ),
    _core("Node", "nodes", namespaced=False, short_names=("no",), subresources=_STATUS),
    _core("Service", "services", short_names=("svc",), subresources=_STATUS, categories=_ALL),
    _core("Endpoints", "endpoints", short_names=("ep",)),
    _core("ConfigMap", "configmaps", short_names=("cm",)),
    _core("Secret", "secrets"),
    _core("Event", "events", short_names=("ev",)),
    _core("ServiceAccount", "serviceaccounts", short_names=("sa",), subresources=("token",)),
    _core("PersistentVolumeClaim", "persistentvolumeclaims", short_names=("pvc",), subresources=_STATUS),
    _core("PersistentVolume", "persistentvolumes", namespaced=False, short_names=("pv",), subresources=_STATUS),
    _core("ResourceQuota", "resourcequotas", short_names=("quota",), subresources=_STATUS),
    _core("LimitRange", "limitranges", short_names=("limits",)),
    _core("PodTemplate", "podtemplates"),
    _core(
        "ReplicationController",
        "replicationcontrollers",
        short_names=("rc",),
        subresources=_SCALED,
        categories=_ALL,
    ),
    Resource("events.k8s.io", "v1", "events", "Event", short_names=("ev",), storage=("", "events")),
    _of("apps", "v1", "Deployment", "deployments", short_names=("deploy",), subresources=_SCALED, categories=_ALL),
    _of("apps", "v1", "ReplicaSet", "replicasets", short_names=("rs",), subresources=_SCALED, categories=_ALL),
    _of("apps", "v1", "StatefulSet", "statefulsets", short_names=("sts",), subresources=_SCALED, categories=_ALL),
    _of("apps", "v1", "DaemonSet", "daemonsets", short_names=("ds",), subresources=_STATUS, categories=_ALL),
    _of("apps", "v1", "ControllerRevision", "controllerrevisions"),
    _of("batch", "v1", "Job", "jobs", subresources=_STATUS, categories=_ALL),
    _of("batch", "v1", "CronJob", "cronjobs", short_names=("cj",), subresources=_STATUS, categories=_ALL),
    _of("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", short_names=("pdb",), subresources=_STATUS),
    _of("coordination.k8s.io", "v1", "Lease", "leases"),
    _of("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    _of(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        short_names=("hpa",),
        subresources=_STATUS,
        categories=_ALL,
    ),
    _of("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", namespaced=False, short_names=("pc",)),
    _of(_RBAC, "v1", "Role", "roles"),
    _of(_RBAC, "v1", "RoleBinding", "rolebindings"),
    _of(_RBAC, "v1", "ClusterRole", "clusterroles", namespaced=False),
    _of(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    _of("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", short_names=("netpol",)),
    _of("networking.k8s.io", "v1", "Ingress", "ingresses", short_names=("ing",), subresources=_STATUS),
    _of("networking.k8s.io", "v1", "IngressClass", "ingressclasses", namespaced=False),
    _of("storage.k8s.io", "v1", "StorageClass", "storageclasses", namespaced=False, short_names=("sc",)),
    _of(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        namespaced=False,
        short_names=("crd", "crds"),
        subresources=_STATUS,
    ),
    _of(_ADMISSION, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", namespaced=False),
    _of(_ADMISSION, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", namespaced=False),
    _of(
        "authorization.k8s.io",
        "v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        namespaced=False,
        verbs=_CREATE_ONLY,
    ),
)
