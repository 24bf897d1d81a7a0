"""No secret leaves its Secret: a fleet's whole life with marked tokens, then everything it wrote is searched."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import aiohttp
import pytest
from warmfleet_contracts import bearer, labels
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    INSTANCE_TYPES,
    LLM_DEPLOYMENTS,
    PODS,
    SECRETS,
    SERVICES,
    Resource,
)
from world import World, deployment, eventually, instance_type

CANARY = "hf_canary0123456789abcdefCANARY"
S3 = {"AWS_ACCESS_KEY_ID": "AKIACANARY0123456789", "AWS_SECRET_ACCESS_KEY": "s3canary/0123456789/CANARY"}
PATIENCE = 120.0
LEASE = {"WARMFLEET_LEASE_DURATION_SECONDS": "120"}
"""Longer than any standstill: who leads is not of interest here."""
SOURCES: dict[str, dict[str, Any]] = {
    "chat": {"hf": {"repo": "meta-llama/x", "tokenSecretRef": {"name": "hf", "key": "token"}}},
    "store": {"s3": {"uri": "s3://bucket/llama", "credentialsSecretRef": {"name": "s3"}}},
}
KINDS: tuple[Resource, ...] = (PODS, EVENTS, CONFIG_MAPS, SERVICES, LLM_DEPLOYMENTS, INSTANCE_TYPES, DEPLOYMENTS)


async def secret(kube: KubeClient, name: str, **values: str) -> None:
    """A Secret as a user makes it."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    await kube.create(SECRETS, {"metadata": {"name": name, "namespace": "default"}, "data": data}, "default")


def fleet(name: str, replicas: int, source: dict[str, Any]) -> dict[str, Any]:
    """A fleet of a fixed size whose weights need a secret."""
    model = {"name": "meta-llama/Llama-3.1-8B-Instruct", "source": source, "maxModelLen": 16384}
    return deployment(name, model=model, replicas=replicas)


async def agents_key(world: World, name: str = bearer.SECRET_NAME) -> str:
    """The key that the operator made; empty before it has."""
    found = await world.kube.get(SECRETS, name, "default")
    return base64.b64decode((found.get("data") or {}).get(bearer.KEY_ITEM, "")).decode()


def gather(world: World, texts: dict[str, str], pods: list[dict[str, Any]]) -> None:
    """Adds the logs of the operators and of every container."""
    for child in world.operators:
        texts[f"log of {child.name}"] = child.log.read_text(errors="replace")
    for pod in pods:
        meta, spec = pod["metadata"], pod["spec"]
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            texts[f"log of {meta['name']}/{container['name']}"] = world.node.logs(
                meta["namespace"], meta["name"], container["name"]
            )


async def test_no_secret_is_in_any_log_status_or_event(world: World) -> None:
    kube = world.kube
    await secret(kube, "hf", token=CANARY)
    await secret(kube, "s3", **S3)
    await secret(kube, bearer.METRICS_SECRET_NAME)
    await world.apply(instance_type())
    await world.start_operator(
        WARMFLEET_LOG_LEVEL="debug",
        WARMFLEET_AGENT_KEY_ROTATION_SECONDS="400",
        WARMFLEET_METRICS_AUTHENTICATION="true",
        **LEASE,
    )

    async def reader() -> str:
        return await agents_key(world, bearer.METRICS_SECRET_NAME)

    readers = {await eventually(reader, "token of the metrics", PATIENCE)}
    texts: dict[str, str] = {}
    for name, source in SOURCES.items():
        await world.apply(fleet(name, 1, source))
    for name in SOURCES:
        await world.until_ready(1, name=name, seconds=PATIENCE)
    keys = {await agents_key(world)}
    pods = (await kube.list(PODS, "default"))["items"]
    await wrong_tokens(pods, await reader())
    await world.apply(fleet("chat", 2, SOURCES["chat"]))
    await world.until_ready(2, seconds=PATIENCE)
    keys.add(await agents_key(world))
    pods = (await kube.list(PODS, "default"))["items"]
    await world.apply(fleet("chat", 1, SOURCES["chat"]))  # one drains and goes
    await world.until_ready(1, seconds=PATIENCE)

    async def rotated() -> bool:
        keys.add(await agents_key(world))
        return len(keys) > 1

    await eventually(rotated, "rotated key", PATIENCE)
    readers.add(await reader())
    gather(world, texts, pods)
    for resource in KINDS:
        texts[resource.plural] = json.dumps((await kube.list(resource))["items"])
    for name in SOURCES:
        await kube.delete(LLM_DEPLOYMENTS, name, "default")
    for name in SOURCES:
        await world.until_gone(name=name, seconds=PATIENCE)
    texts["last log"] = world.operators[0].log.read_text(errors="replace")
    texts["last events"] = json.dumps((await kube.list(EVENTS))["items"])

    secrets_ = {CANARY, *S3.values(), *keys, *readers}
    tokens = {bearer.bearer(key, pod["metadata"]["uid"]) for key in keys for pod in pods}
    marks = secrets_ | tokens | {base64.b64encode(s.encode()).decode() for s in secrets_}
    assert [(where, mark[:12]) for where, text in texts.items() for mark in marks if mark in text] == []
    assert sum("log of" in where for where in texts) >= 6
    assert all(text for where, text in texts.items() if where.endswith("/agent"))
    # The hook's token stands in the pod, where the kubelet reads it, and nowhere else.
    hooks = {e["value"] for p in pods for e in variables(p) if e["name"] == "WARMFLEET_PRESTOP_TOKEN"}
    assert len(hooks) == sum(p["metadata"]["labels"].get(labels.COMPONENT) == labels.COMPONENT_WORKER for p in pods)
    assert [w for w, text in texts.items() if w != "pods" and any(h in text for h in hooks)] == []


def variables(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """The agent's environment."""
    return [e for c in pod["spec"].get("initContainers", ()) for e in c["env"]]


async def wrong_tokens(pods: list[dict[str, Any]], reader: str) -> None:
    """A stranger knocks at every agent: refused, counted, and what it presented is not written down."""
    workers = [p for p in pods if p["metadata"]["labels"].get(labels.COMPONENT) == labels.COMPONENT_WORKER]
    async with aiohttp.ClientSession(trust_env=False) as http:
        for pod in workers:
            url = f"http://{pod['status']['podIP']}:{labels.AGENT_PORT}"
            body = {"reason": "Mischief", "deadlineSeconds": 0}
            for headers in ({}, {"Authorization": f"Bearer {CANARY}"}):
                async with http.post(f"{url}/v1/drain", json=body, headers=headers) as answer:
                    assert answer.status == 401
                async with http.get(f"{url}/v1/prestop", headers=headers) as answer:
                    assert answer.status == 401
            async with http.get(f"{url}/metrics", headers={"Authorization": f"Bearer {reader}"}) as answer:
                assert "warmfleet_agent_unauthorized_requests_total 4.0" in await answer.text()


async def test_a_fleet_lives_on_when_its_secret_is_deleted_or_its_namespace_has_none(world: World) -> None:
    await world.apply(instance_type())
    await world.start_operator(**LEASE)
    await world.apply(deployment(replicas=1))
    await world.until_ready(1, seconds=PATIENCE)
    before = await agents_key(world)
    await world.kube.delete(SECRETS, bearer.SECRET_NAME, "default")

    async def made_anew() -> bool:
        return bool(await agents_key(world) != before)

    await eventually(made_anew, "new key", PATIENCE)
    # This node does not refresh volumes, so the agent still knows the old key only; the operator tries that too.
    await asyncio.sleep(world.clock.real(60))
    await world.apply(deployment(replicas=2))
    await world.until_ready(2, seconds=PATIENCE)
    await world.apply(deployment(replicas=1))
    await world.until_ready(1, seconds=PATIENCE)
    text = world.operators[0].log.read_text(errors="replace")
    if "unauthorized" in text:
        pytest.fail(f"an agent refused the operator: {text[-2000:]}")
