"""Server-side apply: who owns which field, on the user's object and on the operator's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from warmfleet_contracts import labels
from warmfleet_runtime.resources import DEPLOYMENTS, DISRUPTION_BUDGETS, INSTANCE_TYPES, LLM_DEPLOYMENTS, PODS, SERVICES
from world import World, deployment, eventually, instance_type

OPERATORS = {labels.FIELD_MANAGER, labels.STATUS_FIELD_MANAGER}
VERIFIED = 320.0
"""Logical seconds after which the operator has read its children again."""


def fields(body: dict[str, Any], manager: str) -> list[tuple[str, dict[str, Any]]]:
    """Subresource and owned fields of each entry of a field manager."""
    entries = body["metadata"].get("managedFields") or []
    return [(e.get("subresource", ""), e["fieldsV1"]) for e in entries if e["manager"] == manager]


def write(folder: Path, *bodies: dict[str, Any]) -> str:
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump_all(bodies))
    return str(path)


async def test_a_users_apply_neither_conflicts_nor_is_changed(running: World, tmp_path: Path) -> None:
    manifest = write(tmp_path, instance_type(), deployment(replicas=2))
    await running.kubectl("apply", "--server-side", "-f", manifest)
    first = (await running.get())["spec"]
    await running.until_ready(2)
    await running.until_condition("Ready", "True")
    await running.kubectl("apply", "--server-side", "-f", manifest)  # fails on a conflict: it is not forced
    assert await running.kubectl("diff", "--server-side", "-f", manifest) == ""
    body = await running.get()
    assert body["spec"] == first
    assert body["metadata"]["generation"] == 1


async def test_a_client_side_apply_stays_without_a_difference(running: World, tmp_path: Path) -> None:
    manifest = write(tmp_path, instance_type(), deployment(replicas=1))
    await running.kubectl("apply", "-f", manifest)
    await running.until_ready(1)
    await running.until_condition("Ready", "True")
    assert "unchanged" in await running.kubectl("apply", "-f", manifest)
    assert await running.kubectl("diff", "-f", manifest) == ""
    await running.kubectl("annotate", "llmd", "chat", "team=search")
    await running.until_condition("Ready", "True")
    assert (await running.get())["metadata"]["annotations"]["team"] == "search"


async def test_the_operator_owns_the_status_and_its_finalizer_of_a_users_object(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=1))
    await running.until_ready(1)
    await running.until_condition("Ready", "True")
    body = await running.get()
    assert [(sub, list(owned)) for sub, owned in fields(body, labels.STATUS_FIELD_MANAGER)] == [
        ("status", ["f:status"])
    ]
    for sub, owned in fields(body, labels.FIELD_MANAGER):
        assert (sub, list(owned), list(owned["f:metadata"])) == ("", ["f:metadata"], ["f:finalizers"])
    managers = {entry["manager"] for entry in body["metadata"]["managedFields"]}
    assert managers == {"scenario", *OPERATORS}
    types = (await running.kube.list(INSTANCE_TYPES))["items"]
    for found in types:
        assert {e["manager"] for e in found["metadata"]["managedFields"] if "subresource" not in e} == {"scenario"}


async def test_children_are_the_operators_alone(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=2))
    await running.until_ready(2)
    await running.until_endpoint()
    real = {"kube-controller-manager", "kube-scheduler"}
    for resource in (DEPLOYMENTS, SERVICES, DISRUPTION_BUDGETS, PODS):
        found = (await running.kube.list(resource, "default", labelSelector=f"{labels.DEPLOYMENT}=chat"))["items"]
        assert found, resource.plural
        for body in found:
            owners = {e["manager"] for e in body["metadata"]["managedFields"] if "subresource" not in e}
            assert owners <= {*OPERATORS, *real}, (resource.plural, owners)


async def test_a_child_that_somebody_changes_is_brought_back(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=1))
    await running.until_endpoint()
    await running.kubectl("scale", "deployment", "chat-router", "--replicas=2")
    await running.kubectl("delete", "service", "chat")

    async def mended() -> bool:
        router = await running.kube.get(DEPLOYMENTS, "chat-router", "default")
        await running.kube.get(SERVICES, "chat", "default")
        return router["spec"]["replicas"] == 1

    await eventually(mended, "the operator's children as it made them", seconds=running.clock.real(VERIFIED) + 15)


async def test_a_user_who_owns_replicas_keeps_them(running: World) -> None:
    """kubectl scale takes the field over; the operator's writes do not touch it."""
    await running.apply(instance_type(), deployment(replicas=1))
    await running.until_ready(1)
    assert "scaled" in await running.kubectl("scale", "llmd", "chat", "--replicas=2")
    await running.until_ready(2)
    body = await running.kube.get(LLM_DEPLOYMENTS, "chat", "default")
    assert body["spec"]["replicas"] == 2
    assert [sub for sub, owned in fields(body, "kubectl") if "f:spec" in owned] == ["scale"]
