"""Labels, annotations, ports and container names that components find each other by."""

from __future__ import annotations

DOMAIN = "warmfleet.dev"

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY_VALUE = "warmfleet"
"""Every child object carries it; the operator watches pods through it."""
COMPONENT = "app.kubernetes.io/component"
COMPONENT_WORKER = "worker"
COMPONENT_ROUTER = "router"

DEPLOYMENT = f"{DOMAIN}/deployment"
"""Name of the LLMDeployment a child belongs to."""
VARIANT = f"{DOMAIN}/variant"
"""Variant of a worker pod."""
INSTANCE_TYPE = f"{DOMAIN}/instance-type"
"""InstanceType of a worker pod."""
REVISION = f"{DOMAIN}/revision"
"""Hash of the worker template a pod was made from; excludes the operator's version."""
ROUTE = f"{DOMAIN}/route"
"""``true`` on a worker pod that may receive requests; part of the router's and the Service's selector. Removed when
the worker starts to drain, so that even a router that does not see readiness stops sending."""
ROUTE_VALUE = "true"

DRAINING = f"{DOMAIN}/draining"
"""Annotation on a worker pod that the operator has told to drain: the enum reason."""
PAUSED = f"{DOMAIN}/paused"
"""Annotation on an LLMDeployment: the operator observes and writes only the status."""
PAUSED_SCALE_IN = f"{DOMAIN}/paused-scale-in"
"""Annotation on an LLMDeployment: no worker is removed."""
PAUSED_SCALE_OUT = f"{DOMAIN}/paused-scale-out"
"""Annotation on an LLMDeployment: no worker is added."""
DO_NOT_DRAIN = f"{DOMAIN}/do-not-drain"
"""Annotation on a worker pod: never chosen as a victim."""
KARPENTER_DO_NOT_DISRUPT = "karpenter.sh/do-not-disrupt"

AGENT_CONTAINER = "agent"
ENGINE_CONTAINER = "engine"
AGENT_PORT = 9600
ENGINE_PORT = 8000
ROUTER_PORT = 8080
ROUTER_METRICS_PORT = 29000

FIELD_MANAGER = "warmfleet-operator"
STATUS_FIELD_MANAGER = "warmfleet-operator-status"


def is_true(annotations: dict[str, str], key: str) -> bool:
    """Whether the annotation is set to anything but a clear no.

    A value that cannot be read counts as true: pausing is the safe side.
    """
    value = annotations.get(key)
    return value is not None and value.strip().lower() not in {"false", "0", "no", "off"}
