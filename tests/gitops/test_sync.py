"""A GitOps tool that applies the same manifests again and again, on a real server: no drift, no writes, no fight.

What a person owns stays as applied while the operator works: it writes the status, and in the object's metadata its
finalizer, and neither shows as a difference. kubectl's client-side apply calls a resource "configured" whose list items
have defaults of the schema, because it compares by itself; whether anything was written, the resourceVersion tells.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from argo import health
from kstatus import verdicts
from test_health import AGREES, FOLDER
from warmfleet_runtime.resources import INSTANCE_TYPES, LLM_DEPLOYMENTS
from world import World, deployment, eventually, instance_type

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(500)]
ROUNDS = 5
SECONDS = 120.0

Json = dict[str, Any]


async def settled(world: World, resource: Any, name: str, namespace: str | None) -> Json:
    """The object once it has not changed for a while: figures of a fresh fleet may still move."""
    seen: list[str] = []

    async def check() -> Json | None:
        await world.clock.sleep(30)
        body: Json = await world.kube.get(resource, name, namespace)
        scaling = body["status"].get("scaling")
        if scaling is not None and "queue" not in scaling:
            return None  # on a busy machine the first answers of the agents are late
        seen.append(body["metadata"]["resourceVersion"])
        return body if seen[-2:] == seen[-1:] * 2 else None

    return await eventually(check, f"rest of {name}", SECONDS)


@pytest.mark.parametrize("how", ["server-side", "client-side"])
async def test_a_sync_loop_changes_nothing(world: World, tmp_path: Path, how: str) -> None:
    manifests = tmp_path / "fleet.yaml"
    manifests.write_text(yaml.safe_dump_all([instance_type(), deployment(scaling={"min": 1, "max": 3})]))
    flags = ("--server-side", "--field-manager=gitops") if how == "server-side" else ()
    apply = ("apply", *flags, "-f", str(manifests))
    await world.kubectl(*apply)
    await world.start_operator()
    await world.until_ready(1, seconds=SECONDS)
    await world.until_condition("Ready", "True", seconds=SECONDS)
    before = [
        await settled(world, LLM_DEPLOYMENTS, "chat", "default"),
        await settled(world, INSTANCE_TYPES, "h100", None),
    ]
    for _ in range(ROUNDS):
        said = await world.kubectl(*apply)
        assert "created" not in said
        assert await world.kubectl("diff", *flags, "-f", str(manifests)) == ""
        await world.clock.sleep(10)
    after = [
        await world.kube.get(LLM_DEPLOYMENTS, "chat", "default"),
        await world.kube.get(INSTANCE_TYPES, "h100", None),
    ]
    for old, new in zip(before, after, strict=True):
        assert new["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"], changes(old, new)
    assert len(await world.ready_workers()) == 1


def changes(old: Json, new: Json) -> str:
    """What differs, for a failed test."""
    return json.dumps({key: [old.get(key), new[key]] for key in new if old.get(key) != new[key]}, indent=1)


async def test_argo_and_flux_follow_a_fleet_through_its_life(world: World, kstatus: Path) -> None:
    async def until(status: str) -> Json:
        async def check() -> Json | None:
            body: Json = await world.get()
            return body if health(FOLDER, body)["status"] == status else None

        body = await eventually(check, status, SECONDS)
        assert verdicts(kstatus, body) == [AGREES[status]]
        return body

    await world.apply(instance_type(), deployment(replicas=1))
    fresh = await until("Progressing")
    assert fresh["status"]["observedGeneration"] == -1, "nobody has looked at it yet"
    await world.start_operator()
    await until("Healthy")
    await world.kubectl("annotate", "llmd", "chat", "warmfleet.dev/paused=true")
    await until("Suspended")
    await world.kubectl("annotate", "llmd", "chat", "warmfleet.dev/paused-")
    await until("Healthy")
    await world.apply(deployment(replicas=1, variants=[{"name": "a", "instanceType": "nowhere"}]))
    degraded = await until("Degraded")
    assert "nowhere" in health(FOLDER, degraded)["message"]
    await world.apply(deployment(replicas=1))
    await until("Healthy")
