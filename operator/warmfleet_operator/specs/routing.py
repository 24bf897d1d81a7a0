"""How requests reach the workers: a prefix-aware router with its identity, or a plain Service.

The router (vllm-router) discovers workers by itself: pods that carry the worker labels and the route label and are
Ready. A worker that starts to drain loses the route label, so the router drops it even if readiness were late.
"""

from __future__ import annotations

from warmfleet_contracts import labels
from warmfleet_contracts.api import LLMDeploymentSpec

from warmfleet_operator.settings import Settings
from warmfleet_operator.specs.common import (
    POD_ADDRESS,
    POD_ADDRESS_ENV,
    RESTRICTED,
    Object,
    common_labels,
    metadata,
    worker_selector,
)
from warmfleet_operator.state.records import DeploymentRecord

_USER = 1000
_GRACE = 330
"""Seconds a router may take to finish its streams."""
_PRESTOP = 5
"""Seconds a leaving router keeps serving while endpoints forget it."""


def endpoint(record: DeploymentRecord, spec: LLMDeploymentSpec) -> str:
    """URL of the OpenAI endpoint inside the cluster; empty when routing is none."""
    if spec.routing.mode == "none":
        return ""
    return f"http://{record.key.name}.{record.key.namespace}.svc:{labels.ROUTER_PORT}/v1"


def routing_children(record: DeploymentRecord, spec: LLMDeploymentSpec, settings: Settings) -> list[Object]:
    """The child objects that routing needs, in the order in which they are applied."""
    if spec.routing.mode == "none":
        return []
    if spec.routing.mode == "service":
        return [_service(record, worker_selector(record.key.name, routed=True), labels.ENGINE_PORT)]
    name = router_name(record)
    return [
        _account(record, name),
        _role(record, name),
        _binding(record, name),
        _deployment(record, spec, settings),
        _service(record, router_selector(record.key.name), labels.ROUTER_PORT),
    ]


def router_name(record: DeploymentRecord) -> str:
    """Name of the router's Deployment, account and role."""
    return f"{record.key.name}-router"


def router_selector(deployment: str) -> dict[str, str]:
    """Labels that select the router pods of a deployment."""
    return {
        labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
        labels.COMPONENT: labels.COMPONENT_ROUTER,
        labels.DEPLOYMENT: deployment,
    }


def _service(record: DeploymentRecord, selector: dict[str, str], target: int) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(record, record.key.name, labels.COMPONENT_ROUTER),
        "spec": {
            "type": "ClusterIP",
            "selector": selector,
            "ports": [{"name": "http", "port": labels.ROUTER_PORT, "targetPort": target, "protocol": "TCP"}],
        },
    }


def _account(record: DeploymentRecord, name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(record, name, labels.COMPONENT_ROUTER),
        "automountServiceAccountToken": False,
    }


def _role(record: DeploymentRecord, name: str) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": metadata(record, name, labels.COMPONENT_ROUTER),
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
    }


def _binding(record: DeploymentRecord, name: str) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata(record, name, labels.COMPONENT_ROUTER),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": record.key.namespace}],
    }


def router_arguments(record: DeploymentRecord, spec: LLMDeploymentSpec) -> list[str]:
    """Arguments of the router."""
    selector = [f"{k}={v}" for k, v in sorted(worker_selector(record.key.name, routed=True).items())]
    return [
        *("--host", POD_ADDRESS, "--port", str(labels.ROUTER_PORT)),
        *("--service-discovery", "--selector", *selector),
        *("--service-discovery-port", str(labels.ENGINE_PORT)),
        *("--service-discovery-namespace", record.key.namespace),
        *("--policy", spec.routing.policy),
        *("--prometheus-host", POD_ADDRESS, "--prometheus-port", str(labels.ROUTER_METRICS_PORT)),
        *spec.routing.args,
    ]


def _deployment(record: DeploymentRecord, spec: LLMDeploymentSpec, settings: Settings) -> Object:
    name, selector = router_name(record), router_selector(record.key.name)
    probe = {"httpGet": {"path": "/liveness", "port": labels.ROUTER_PORT}}
    container: Object = {
        "name": "router",
        "image": spec.routing.image or settings.router_image,
        "command": list(settings.router_command),
        "args": router_arguments(record, spec),
        "env": [POD_ADDRESS_ENV],
        "ports": [
            {"name": "http", "containerPort": labels.ROUTER_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": labels.ROUTER_METRICS_PORT, "protocol": "TCP"},
        ],
        # Not /readiness: without workers the router must still answer, or the demand at zero would not be seen.
        "readinessProbe": {**probe, "periodSeconds": 2},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": _PRESTOP}}},
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}},
        "securityContext": {**RESTRICTED, "runAsUser": _USER, "readOnlyRootFilesystem": True},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - an emptyDir of the pod
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(record, name, labels.COMPONENT_ROUTER),
        "spec": {
            "replicas": spec.routing.replicas,
            "selector": {"matchLabels": selector},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": common_labels(record.key.name, labels.COMPONENT_ROUTER)},
                "spec": {
                    "serviceAccountName": name,
                    "automountServiceAccountToken": True,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": _GRACE,
                    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [container],
                    "volumes": [{"name": "tmp", "emptyDir": {}}],
                },
            },
        },
    }
