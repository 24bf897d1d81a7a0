"""The Secret with the agents' key: made before the first worker, rotated, shared by all fleets of a namespace."""

from __future__ import annotations

import asyncio
import base64
import itertools
from typing import Any

import pytest
from fleet import Fleet, llm_deployment
from warmfleet_contracts import bearer
from warmfleet_operator.adapters.agentkeys import AgentKeys
from warmfleet_operator.state import parse
from warmfleet_operator.state.records import DeploymentRecord, Key, WorkerPhase, WorkerRecord
from warmfleet_runtime import resources
from warmfleet_runtime.clock import ManualClock


def secret_of(fleet: Fleet) -> dict[str, Any]:
    return next(s for s in fleet.objects("secrets") if s["metadata"]["name"] == bearer.SECRET_NAME)


def key_of(body: dict[str, Any], item: str = bearer.KEY_ITEM) -> str:
    return base64.b64decode(body["data"].get(item, "")).decode()


def owners(body: dict[str, Any]) -> set[str]:
    return {owner["uid"] for owner in body["metadata"]["ownerReferences"]}


async def record(fleet: Fleet, name: str = "chat") -> DeploymentRecord:
    await fleet.apply(llm_deployment(name, replicas=1))
    body = fleet.deployment(name)
    found = parse.deployment_from(body or {}, None, 0.0)
    assert found is not None
    return found


def worker(namespace: str = "prod") -> WorkerRecord:
    return WorkerRecord(Key(namespace, "w"), "pod-1", "5", "chat", "a", "h100", "t1-0", WorkerPhase.READY, 1, 0.0)


class Rig:
    def __init__(self, fleet: Fleet, rotation: float = 0.0) -> None:
        self.fleet, self.clock, numbers = fleet, ManualClock(), itertools.count()
        self.keys = AgentKeys(
            fleet.kube, self.clock, rotation_seconds=rotation, make=lambda: f"made-key-number-{next(numbers):03d}"
        )


async def test_the_key_is_made_once_and_owned_by_every_deployment() -> None:
    async with Fleet() as fleet:
        rig = Rig(fleet)
        one, other = await record(fleet), await record(fleet, "other")
        for _ in range(2):
            await rig.keys.ensure(one)
            await rig.keys.ensure(other)
        made = secret_of(fleet)
        assert key_of(made) == "made-key-number-000"
        assert owners(made) == {one.uid, other.uid}
        assert rig.keys.bearers(worker()) == (bearer.bearer(key_of(made), "pod-1"),)
        assert not rig.keys.bearers(worker("elsewhere"))


async def test_two_deployments_that_begin_at_once_share_one_key() -> None:
    async with Fleet() as fleet:
        rig = Rig(fleet)
        pair = [await record(fleet), await record(fleet, "other")]
        await asyncio.gather(*map(rig.keys.ensure, pair))
        await asyncio.gather(*map(rig.keys.ensure, pair))
        assert owners(secret_of(fleet)) == {one.uid for one in pair}
        assert rig.keys.bearers(worker())[0] == bearer.bearer(key_of(secret_of(fleet)), "pod-1")


async def test_an_old_key_is_rotated_and_both_are_known_for_a_while() -> None:
    async with Fleet() as fleet:
        rig = Rig(fleet, rotation=1000.0)
        await rig.keys.ensure(await record(fleet))
        rig.clock.advance(900.0)
        await rig.keys.ensure(await record(fleet))
        assert key_of(secret_of(fleet)) == "made-key-number-000"
        rig.clock.advance(400.0)
        await rig.keys.ensure(await record(fleet))
        made = secret_of(fleet)
        assert (key_of(made), key_of(made, bearer.PREVIOUS_ITEM)) == ("made-key-number-001", "made-key-number-000")
        tokens = rig.keys.bearers(worker())
        assert tokens == tuple(bearer.bearer(f"made-key-number-00{n}", "pod-1") for n in (1, 0))


@pytest.mark.parametrize("broken", [False, True])
async def test_what_telemetry_reads_in_between_delays_neither_rotation_nor_repair(broken: bool) -> None:
    async with Fleet() as fleet:
        rig = Rig(fleet, rotation=1000.0)
        one = await record(fleet)
        await rig.keys.ensure(one)
        if broken:
            await fleet.kube.patch(resources.SECRETS, bearer.SECRET_NAME, {"data": {"token": "AAAA"}}, "prod")
        for _ in range(60 if broken else 110):
            rig.clock.advance(10.0)
            await rig.keys.refresh("prod")
            await rig.keys.ensure(one)
        assert key_of(secret_of(fleet)) == "made-key-number-001"


@pytest.mark.parametrize("damage", ["deleted", "garbage", "emptied"])
async def test_a_secret_that_is_lost_or_broken_is_made_anew(damage: str) -> None:
    async with Fleet() as fleet:
        rig = Rig(fleet)
        await rig.keys.ensure(await record(fleet))
        if damage == "deleted":
            await fleet.kube.delete(resources.SECRETS, bearer.SECRET_NAME, "prod")
        else:
            data = {"token": "AAAA"} if damage == "garbage" else None
            await fleet.kube.patch(resources.SECRETS, bearer.SECRET_NAME, {"data": data}, "prod")
        rig.keys.refused("prod")
        rig.clock.advance(11.0)
        await rig.keys.ensure(await record(fleet))
        assert key_of(secret_of(fleet)) == "made-key-number-001"
        old = bearer.bearer("made-key-number-000", "pod-1")
        assert old in rig.keys.bearers(worker()), "agents whose volume is not yet refreshed know the old one only"


async def test_a_replica_that_does_not_lead_learns_the_key_by_reading() -> None:
    async with Fleet() as fleet:
        rig, early = Rig(fleet), AgentKeys(fleet.kube, ManualClock())
        await early.refresh("prod")
        assert early.bearers(worker()) == ()
        await rig.keys.ensure(await record(fleet))
        other = AgentKeys(fleet.kube, ManualClock())
        await other.refresh("prod")
        assert other.bearers(worker()) == rig.keys.bearers(worker())


async def test_the_operator_speaks_to_agents_that_ask_for_the_key_also_over_a_rotation() -> None:
    async with Fleet() as fleet:
        await fleet.instance_type()
        fleet.start_operator(agent_key_rotation_seconds=0)
        await fleet.apply(llm_deployment(replicas=1))
        await fleet.until(lambda: fleet.ready() == 1, 30, "a ready worker")
        (pod,) = fleet.workers()
        (agent,) = fleet.agents.values()
        agent.key = key_of(secret_of(fleet))
        agent.requests.clear()
        await fleet.until(lambda: agent.requests.count("GET /v1/state") >= 2, 30, "answers with a token")
        assert agent.refused == 0
        header = pod["spec"]["containers"][0]["lifecycle"]["preStop"]["httpGet"]["httpHeaders"][0]
        variables = {e["name"]: e.get("value") for e in pod["spec"]["initContainers"][0]["env"]}
        assert header["value"] == f"Bearer {variables['WARMFLEET_PRESTOP_TOKEN']}"
        assert agent.key not in str(pod)
        await fleet.kube.delete(resources.SECRETS, bearer.SECRET_NAME, "prod")
        before = agent.key
        agent.key = "nobody-knows-this-one"
        await fleet.until(lambda: any(key_of(s) != before for s in fleet.objects("secrets")), 60, "a new key")
        agent.key = key_of(secret_of(fleet))
        agent.requests.clear()
        await fleet.until(lambda: bool(agent.requests), 60, "answers with the new key")


async def test_deployments_that_come_at_once_do_not_collide() -> None:
    async with Fleet() as fleet:
        rig = Rig(fleet)
        records = [await record(fleet, f"chat-{number}") for number in range(12)]
        fleet.api.requests.reset()
        assert all(await asyncio.gather(*map(rig.keys.ensure, records)))
        assert owners(secret_of(fleet)) == {one.uid for one in records}
        rows = [r for r in fleet.api.requests.as_json() if r["resource"] == "secrets" and r["verb"] != "get"]
        assert sum(r["count"] for r in rows) == len(records)


async def test_who_was_not_noted_down_says_so() -> None:
    async with Fleet() as fleet:
        rig = Rig(fleet)
        one, other = await record(fleet), await record(fleet, "other")
        assert await rig.keys.ensure(one)
        patch = fleet.kube.patch

        async def forestalled(*args: Any, **how: Any) -> dict[str, Any]:
            fleet.kube.patch = patch  # type: ignore[method-assign]
            touched = {"metadata": {"labels": {"somebody": "else"}}}
            await patch(resources.SECRETS, bearer.SECRET_NAME, touched, "prod")
            return await patch(*args, **how)

        fleet.kube.patch = forestalled  # type: ignore[method-assign]
        assert not await rig.keys.ensure(other)
        assert await rig.keys.ensure(other)
        assert owners(secret_of(fleet)) == {one.uid, other.uid}
