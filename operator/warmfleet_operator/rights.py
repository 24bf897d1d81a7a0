"""What the operator may do in a cluster, verb by verb, and what stops working without each verb.

The one source of its RBAC rules: the chart and the kustomize base are generated from :data:`RIGHTS`; tests run the
operator with exactly these, take each away in turn and see it refused. A right that nothing uses must not be here.
"""

from __future__ import annotations

from warmfleet_contracts import bearer
from warmfleet_contracts.api import API_VERSION
from warmfleet_runtime import resources
from warmfleet_runtime.resources import Resource
from warmfleet_runtime.rights import Right, Scope, granted

_GROUP = API_VERSION.partition("/")[0]
_LIST = "the start and every audit list them"
_WATCH = "changes are seen at once"


def _rights(
    resource: Resource | tuple[str, str], scope: Scope, *, named: bool = False, name: str = "", **why: str
) -> tuple[Right, ...]:
    if isinstance(resource, Resource):
        group, plural = resource.api.rpartition("/")[0], resource.plural
    else:
        group, plural = resource
    return granted(group, plural, scope, named=named, name=name, **why)


def _child(resource: Resource, what: str) -> tuple[Right, ...]:
    return _rights(
        resource,
        Scope.FLEET,
        get=f"{what} is compared with what is wanted",
        create=f"{what} is applied where it does not exist",
        patch=f"{what} is applied",
        delete=f"{what} is removed when it is no longer wanted",
    )


RIGHTS: tuple[Right, ...] = (
    *_rights(
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        Scope.CLUSTER,
        get="CRDs older or newer than the operator are refused",
        list="CRDs that are installed or changed while the operator runs are noticed",
        watch="CRDs that are installed or changed while the operator runs are noticed",
    ),
    *_rights(resources.NAMESPACES, Scope.CLUSTER, list=_LIST, watch="nothing is created in one that is being deleted"),
    *_rights(resources.NODES, Scope.CLUSTER, list=_LIST, watch="nodes that are about to go are drained in time"),
    *_rights(
        resources.PRIORITY_CLASSES,
        Scope.CLUSTER,
        list=_LIST,
        watch="who gives way is known",
    ),
    *_rights(resources.INSTANCE_TYPES, Scope.CLUSTER, list=_LIST, watch=_WATCH),
    *_rights((_GROUP, "instancetypes/status"), Scope.CLUSTER, patch="use and measured start-up times are reported"),
    *_rights(
        resources.LLM_DEPLOYMENTS,
        Scope.FLEET,
        get="one that has changed under a write is read again",
        list=_LIST,
        watch=_WATCH,
        patch="the drain finalizer is put on and taken off",
    ),
    *_rights((_GROUP, "llmdeployments/status"), Scope.FLEET, patch="the state and the decision are reported"),
    *_rights(
        (_GROUP, "llmdeployments/finalizers"),
        Scope.FLEET,
        update="children may hold up their owner's deletion (asked where OwnerReferencesPermissionEnforcement is on)",
    ),
    *_rights(resources.TRAFFIC_FORECASTS, Scope.FLEET, list=_LIST, watch=_WATCH),
    *_rights(
        resources.PODS,
        Scope.FLEET,
        get="a worker that exists already is adopted; granted on to the router",
        list=f"{_LIST}; granted on to the router",
        watch=f"{_WATCH}; granted on to the router",
        create="workers are created",
        patch="a draining worker is marked and taken off the route",
        delete="drained, failed and superfluous workers are removed",
    ),
    *_child(resources.SERVICES, "the Service"),
    *_child(resources.SERVICE_ACCOUNTS, "the router's account"),
    *_child(resources.ROLES, "the router's Role"),
    *_child(resources.ROLE_BINDINGS, "the router's RoleBinding"),
    *_child(resources.DEPLOYMENTS, "the router's Deployment"),
    *_child(resources.DISRUPTION_BUDGETS, "the disruption budget"),
    *_rights(
        resources.CONFIG_MAPS,
        Scope.FLEET,
        list="what earlier processes have learned is read at the start",
        create="what was learned is kept, where nothing was yet",
        patch="what was learned is kept",
    ),
    *_rights(
        resources.SECRETS,
        Scope.FLEET,
        create="the Secret with the agents' key is made, where there is none",
    ),
    *_rights(
        resources.SECRETS,
        Scope.FLEET,
        name=bearer.SECRET_NAME,
        get="agents are asked with their namespace's key",
        patch="the key is rotated, and kept for as long as one deployment is left",
    ),
    *_rights(
        resources.SECRETS,
        Scope.OWN,
        name=bearer.METRICS_SECRET_NAME,
        get="readers of metrics are known by its token",
        patch="the token is made and rotated",
    ),
    *_rights(resources.EVENTS, Scope.FLEET, create="events tell what was done"),
    *_rights(resources.LEASES, Scope.OWN, create="the Lease is made where there is none"),
    *_rights(
        resources.LEASES,
        Scope.OWN,
        named=True,
        get="the leader is known",
        update="the leadership is taken, kept and given back",
    ),
)
"""Every right, grouped by resource.

No verb escalates: the router's Role grants ``get``, ``list`` and ``watch`` on pods, which the operator holds itself, so
neither ``bind`` nor ``escalate`` is needed.
"""


def of(scope: Scope) -> tuple[Right, ...]:
    """The rights of a scope."""
    return tuple(right for right in RIGHTS if right.scope is scope)
