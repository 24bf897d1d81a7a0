"""The resource types that anything here reads or writes, and their URL paths."""

from __future__ import annotations

from dataclasses import dataclass

from warmfleet_contracts.api import API_VERSION

from warmfleet_runtime.rest import path_of


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource type.

    Attributes:
        api: ``v1`` or ``<group>/<version>``.
        plural: As in the URL.
        kind: As in manifests.
        namespaced: Whether its objects live in namespaces.
    """

    api: str
    plural: str
    kind: str
    namespaced: bool = True

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path of an object, or of a collection when ``name`` is None; all namespaces when ``namespace`` is None.

        Raises:
            ValueError: A single namespaced object without namespace.
        """
        if name is not None and self.namespaced and not namespace:
            raise ValueError(f"{self.plural}/{name}: namespace is required")
        return path_of(self.api, self.plural, namespace if self.namespaced else None, name, subresource)


_RBAC = "rbac.authorization.k8s.io/v1"

LLM_DEPLOYMENTS = Resource(API_VERSION, "llmdeployments", "LLMDeployment")
INSTANCE_TYPES = Resource(API_VERSION, "instancetypes", "InstanceType", namespaced=False)
TRAFFIC_FORECASTS = Resource(API_VERSION, "trafficforecasts", "TrafficForecast")
PODS = Resource("v1", "pods", "Pod")
NODES = Resource("v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("v1", "namespaces", "Namespace", namespaced=False)
SERVICES = Resource("v1", "services", "Service")
SERVICE_ACCOUNTS = Resource("v1", "serviceaccounts", "ServiceAccount")
SECRETS = Resource("v1", "secrets", "Secret")
CONFIG_MAPS = Resource("v1", "configmaps", "ConfigMap")
EVENTS = Resource("v1", "events", "Event")
DEPLOYMENTS = Resource("apps/v1", "deployments", "Deployment")
REPLICA_SETS = Resource("apps/v1", "replicasets", "ReplicaSet")
STATEFUL_SETS = Resource("apps/v1", "statefulsets", "StatefulSet")
ENDPOINT_SLICES = Resource("discovery.k8s.io/v1", "endpointslices", "EndpointSlice")
DISRUPTION_BUDGETS = Resource("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget")
PRIORITY_CLASSES = Resource("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", namespaced=False)
LEASES = Resource("coordination.k8s.io/v1", "leases", "Lease")
ROLES = Resource(_RBAC, "roles", "Role")
ROLE_BINDINGS = Resource(_RBAC, "rolebindings", "RoleBinding")
CLUSTER_ROLE_BINDINGS = Resource(_RBAC, "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
CUSTOM_RESOURCE_DEFINITIONS = Resource(
    "apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
