"""The life of a small fleet without nodes: what makes an operator use every one of its rights.

Pods stay unscheduled, the test writes their status by hand. Nobody answers as agent, so drains end by force, which
takes two seconds of real time on the scaled clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from warmfleet_contracts import bearer, labels
from warmfleet_operator.acting.diff import FINALIZER
from warmfleet_operator.specs.common import short_hash
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import (
    CLUSTER_ROLE_BINDINGS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    EVENTS,
    LEASES,
    LLM_DEPLOYMENTS,
    NAMESPACES,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Resource,
)
from warmfleet_runtime.rest import ApiError

SCALE = 20.0
"""Logical seconds per real second."""

Json = dict[str, Any]
_CLUSTER_ROLES = Resource("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", namespaced=False)
_CHILDREN: dict[str, tuple[Resource, str]] = {
    "account": (SERVICE_ACCOUNTS, "chat-router"),
    "role": (ROLES, "chat-router"),
    "binding": (ROLE_BINDINGS, "chat-router"),
    "router": (DEPLOYMENTS, "chat-router"),
    "service": (SERVICES, "chat"),
    "budget": (DISRUPTION_BUDGETS, "chat"),
    "memory": (CONFIG_MAPS, "chat-memory"),
}

SETTINGS: Json = {
    "tick_seconds": 5,
    "telemetry_seconds": 20,
    "audit_seconds": 200,
    "checkpoint_seconds": 10,
    "agent_key_rotation_seconds": 20,
    "metrics_authentication": True,
    "listen_address": "127.0.0.1",
    "listen_port": 0,
    "lease_duration_seconds": 60,  # longer than any test: a busy machine must not cost the leadership
    "lease_retry_seconds": 1,
}
"""Operator settings that fit the scene."""


def instance_type(name: str = "h100") -> Json:
    """An InstanceType whose nodes nobody has."""
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "InstanceType",
        "metadata": {"name": name},
        "spec": {
            "accelerator": {"name": "H100-SXM", "count": 1},
            "nodeSelector": {"warmfleet.test/pool": name},
            "price": {"onDemand": 6.88},
            "startup": {"p50": "30s", "p90": "60s"},
        },
    }


def fixed_fleet(namespace: str, *, replicas: int = 2, paused: bool = False, **spec: Any) -> Json:
    """An LLMDeployment ``chat`` of a fixed size."""
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {
            "name": "chat",
            "namespace": namespace,
            "annotations": {labels.PAUSED: "true"} if paused else {},
        },
        "spec": {
            "model": {
                "name": "meta-llama/Llama-3.1-8B-Instruct",
                "source": {"hf": {"repo": "meta-llama/x"}},
                "maxModelLen": 16384,
            },
            "engine": {"image": "vllm/vllm-openai:v0.32.0"},
            "variants": [{"name": "a", "instanceType": "h100"}],
            "slo": {"ttft": "2s", "tpot": "50ms", "attainment": 0.99},
            "kvCache": {"drainDeadline": "1s"},
            "replicas": replicas,
            **spec,
        },
    }


class Scene:
    """One fleet in one namespace.

    Args:
        kube: Administrator's connection.
        namespace: Exists and is empty.
        home: Namespace of the operator; the same by default.
    """

    def __init__(self, kube: KubeClient, namespace: str, home: str | None = None) -> None:
        self._kube, self._namespace = kube, namespace
        self._home = namespace if home is None else home

    async def play(self, contended: Callable[[], bool] | None = None) -> None:
        """All of it; returns when the fleet is gone.

        Args:
            contended: When given, somebody else keeps writing to the LLMDeployment until this says that the operator
                has met it.
        """
        await self.begin()
        await self.until("workers")
        if contended is not None:
            await self._contend(contended)
        for stage in (*_CHILDREN, "finalizer", "status", "event", "rotated", "readers"):
            await self.until(stage)
        await self._report_ready()
        await self._change({"spec": {"replicas": 1}})
        await self.until("budget gone")
        await self.until("scaled in")
        await self._change({"spec": {"routing": {"mode": "none"}}})
        for child in ("router", "binding", "role", "account", "service"):
            await self.until(f"{child} gone")
        await self._kube.delete(LLM_DEPLOYMENTS, "chat", self._namespace)
        await self.until("gone")

    async def begin(self) -> None:
        """The LLMDeployment, with a foreign pod where its first worker would be; what an installation brings."""
        await self._kube.create(SECRETS, {"metadata": {"name": bearer.METRICS_SECRET_NAME, "namespace": self._home}})
        made = await self._kube.create(LLM_DEPLOYMENTS, fixed_fleet(self._namespace, paused=True))
        name = f"chat-a-{short_hash([made['metadata']['uid'], 'a', 0])}"
        foreign = {"containers": [{"name": "x", "image": "example.invalid/x:1"}]}
        await self._kube.create(PODS, {"metadata": {"name": name, "namespace": self._namespace}, "spec": foreign})
        await self._change({"metadata": {"annotations": {labels.PAUSED: None}}})

    async def until(self, stage: str) -> None:
        """Returns once the stage is reached."""
        while not await self.reached(stage):  # noqa: ASYNC110 - another process makes it so
            await asyncio.sleep(0.1)

    async def reached(self, stage: str) -> bool:
        """Whether a stage is reached, such as ``service``, ``service gone``, ``workers`` or ``scaled in``."""
        child, _, gone = stage.partition(" ")
        if child in _CHILDREN:
            resource, name = _CHILDREN[child]
            return await self._exists(resource, name) != bool(gone)
        return await _STAGES[stage](self)

    async def _exists(self, resource: Resource, name: str) -> bool:
        try:
            await self._kube.get(resource, name, self._namespace)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    async def _chat(self) -> Json:
        return await self._kube.get(LLM_DEPLOYMENTS, "chat", self._namespace)

    async def _workers(self) -> list[Json]:
        selector = f"{labels.DEPLOYMENT}=chat,{labels.COMPONENT}={labels.COMPONENT_WORKER}"
        return list((await self._kube.list(PODS, self._namespace, labelSelector=selector))["items"])

    async def _two_workers(self) -> bool:
        return len(await self._workers()) == 2

    async def _scaled_in(self) -> bool:
        return len(await self._workers()) == 1

    async def _marked(self) -> bool:
        return any(labels.DRAINING in (w["metadata"].get("annotations") or {}) for w in await self._workers())

    async def _finalizer(self) -> bool:
        return FINALIZER in ((await self._chat())["metadata"].get("finalizers") or [])

    async def _status(self) -> bool:
        return bool(((await self._chat()).get("status") or {}).get("conditions"))

    async def _event(self) -> bool:
        found = (await self._kube.list(EVENTS, self._namespace))["items"]
        return any(e.get("source", {}).get("component") == "warmfleet-operator" for e in found)

    async def _rotated(self) -> bool:
        secret = await self._kube.get(SECRETS, bearer.SECRET_NAME, self._namespace)
        return bearer.PREVIOUS_ITEM in secret["data"]

    async def _readers(self) -> bool:
        own = await self._kube.get(SECRETS, bearer.METRICS_SECRET_NAME, self._home)
        return bearer.KEY_ITEM in (own.get("data") or {})

    async def _leads(self) -> bool:
        leases = (await self._kube.list(LEASES, self._namespace))["items"]
        return any(lease["spec"].get("holderIdentity") for lease in leases)

    async def _gone(self) -> bool:
        return not await self._exists(LLM_DEPLOYMENTS, "chat")

    async def _change(self, patch: Json) -> None:
        await self._kube.patch(LLM_DEPLOYMENTS, "chat", patch, self._namespace)

    async def _contend(self, met: Callable[[], bool]) -> None:
        """Keeps changing the object, and takes the finalizer off again, until the operator has met it."""
        async with _repeated(lambda n: self._change({"metadata": {"annotations": {"test/touched": str(n)}}})):
            while not met():
                with contextlib.suppress(ApiError):
                    await self._change({"metadata": {"finalizers": None}})
                await asyncio.sleep(0.3)

    async def _report_ready(self) -> None:
        ready = [{"type": kind, "status": "True"} for kind in ("ContainersReady", "Ready")]
        for number, worker in enumerate(await self._workers()):
            address = f"10.244.7.{200 + number}"  # of the pod network, and nobody listens there
            status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": ready}
            await self._kube.patch(
                PODS, worker["metadata"]["name"], {"status": status}, self._namespace, subresource="status"
            )


_STAGES: dict[str, Callable[[Scene], Awaitable[bool]]] = {
    "workers": Scene._two_workers,
    "scaled in": Scene._scaled_in,
    "marked": Scene._marked,
    "finalizer": Scene._finalizer,
    "status": Scene._status,
    "event": Scene._event,
    "rotated": Scene._rotated,
    "readers": Scene._readers,
    "leads": Scene._leads,
    "gone": Scene._gone,
}


@contextlib.asynccontextmanager
async def _repeated(work: Callable[[int], Awaitable[None]]) -> AsyncIterator[None]:
    """Does something over and over meanwhile."""

    async def run() -> None:
        number = 0
        while True:
            number += 1
            await work(number)

    tasks = [asyncio.create_task(run()) for _ in range(3)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def grant(kube: KubeClient, namespace: str, rules: Json) -> str:
    """Makes a namespace with an account ``operator`` that has exactly these rights; returns a token for it.

    Args:
        kube: Administrator's connection.
        namespace: To be made.
        rules: ``cluster``: policy rules on cluster-scoped objects; ``namespace``: on those of the namespace.
    """
    rbac = "rbac.authorization.k8s.io"
    await kube.create(NAMESPACES, {"metadata": {"name": namespace}})
    await kube.create(SERVICE_ACCOUNTS, {"metadata": {"name": "operator", "namespace": namespace}})
    subjects = [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}]
    for role, binding, name, where in (
        (_CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS, namespace, None),
        (ROLES, ROLE_BINDINGS, "operator", namespace),
    ):
        meta = {"name": name, **({"namespace": where} if where else {})}
        found = rules["namespace" if where else "cluster"]
        reference = {"apiGroup": rbac, "kind": role.kind, "name": name}
        await kube.create(role, {"metadata": meta, "rules": found}, where)
        await kube.create(binding, {"metadata": meta, "roleRef": reference, "subjects": subjects}, where)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    answer = await kube.create(SERVICE_ACCOUNTS, request, namespace, name="operator", subresource="token")
    return str(answer["status"]["token"])


def shown(value: object) -> str:
    """For messages."""
    return json.dumps(value, indent=1, default=str)
