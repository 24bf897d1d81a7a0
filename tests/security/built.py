"""What the product puts into a cluster: the chart's objects, and the operator's for fleets of every kind."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml
from clients import helm_path
from fleet import instance_type, llm_deployment
from warmfleet_contracts.api import InstanceTypeSpec
from warmfleet_operator.settings import Settings
from warmfleet_operator.specs.routing import routing_children
from warmfleet_operator.specs.worker import WorkerTemplate, worker_pod
from warmfleet_operator.state import parse
from warmfleet_operator.state.records import DeploymentRecord

CHART = Path(__file__).resolve().parents[2] / "charts" / "warmfleet"
SYSTEM = "warmfleet-system"
Json = dict[str, Any]

TIERS = [{"medium": "cpu", "size": "8Gi"}, {"medium": "fs", "size": "1Ti", "claimName": "shared"}]
KINDS: dict[str, Json] = {
    "plain": {},
    "replay": {"kvCache": {"handover": ["replay"]}},
    "store": {"kvCache": {"tiers": TIERS, "handover": ["store"]}},
    "s3": {"model": {"name": "m", "source": {"s3": {"uri": "s3://b/p", "credentialsSecretRef": {"name": "s3"}}}}},
    "claim": {"model": {"name": "m", "source": {"pvc": {"claimName": "weights"}}}},
}
"""Kinds of fleets, as changes to a spec."""


def rendered(*arguments: str) -> list[Json]:
    """The chart's objects as Helm renders them."""
    command = [helm_path(), "template", "warmfleet", str(CHART), f"--namespace={SYSTEM}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [body for body in yaml.safe_load_all(done.stdout) if body]


def record(namespace: str = "prod", **spec: Any) -> DeploymentRecord:
    """A deployment whose spec is valid."""
    body = llm_deployment(replicas=1, **spec)
    body["metadata"] |= {"uid": "u-1", "generation": 1, "resourceVersion": "5", "namespace": namespace}
    found = parse.deployment_from(body, None, 0.0)
    assert found is not None
    assert found.spec is not None, found.spec_error
    return found


def worker(found: DeploymentRecord, accelerator: str = "nvidia.com/gpu") -> Json:
    """The pod of a worker."""
    assert found.spec is not None
    itype = instance_type()["spec"]
    itype["accelerator"] |= {"resourceName": accelerator}
    template = WorkerTemplate(
        found, found.spec, found.spec.variants[0], InstanceTypeSpec.model_validate(itype), Settings(), "hook-token"
    )
    return worker_pod(template, "chat-h100-00000")


def router(found: DeploymentRecord) -> Json:
    """The pod of a router."""
    assert found.spec is not None
    children = routing_children(found, found.spec, Settings())
    return pod_of(next(c for c in children if c["kind"] == "Deployment"))


def pod_of(body: Json) -> Json:
    """A pod as the controller of a Deployment or StatefulSet would make it."""
    template = body["spec"]["template"]
    meta = {**template["metadata"], "name": body["metadata"]["name"], "namespace": body["metadata"]["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}
