"""The whole operator against the embedded API: create, ready, drain, delete, and what may go wrong on the way."""

from __future__ import annotations

import asyncio

from fleet import Fleet, llm_deployment
from warmfleet_contracts import labels
from warmfleet_operator.acting.diff import FINALIZER
from warmfleet_operator.adapters import resources


async def serving(fleet: Fleet, replicas: int = 2, **spec: object) -> None:
    fleet.start_operator()
    await fleet.apply(llm_deployment(replicas=replicas, **spec))
    await fleet.until(lambda: fleet.ready() == replicas, what="workers are ready")
    await fleet.until(lambda: fleet.condition("Ready").get("status") == "True", what="Ready is reported")


async def test_a_fleet_comes_up_shrinks_by_draining_and_goes(fleet: Fleet) -> None:
    await serving(fleet)
    body = fleet.deployment() or {}
    assert body["metadata"]["finalizers"] == [FINALIZER]
    assert body["status"]["readyReplicas"] == 2
    assert body["status"]["costPerHour"] == 8.0
    owners = {o["uid"] for p in fleet.workers() for o in p["metadata"]["ownerReferences"]}
    assert owners == {body["metadata"]["uid"]}

    await fleet.apply(llm_deployment(replicas=1))
    await fleet.until(lambda: len(fleet.workers(leaving=True)) == 1, what="one worker drains")
    leaving = fleet.workers(leaving=True)[0]
    assert labels.ROUTE not in leaving["metadata"]["labels"]
    agent = fleet.agents[leaving["metadata"]["name"]]
    await fleet.until(lambda: len(fleet.workers()) == 1, what="it is deleted")
    assert agent.drained
    assert agent.drain is not None
    assert agent.drain["deadlineSeconds"] <= 60
    await fleet.until(lambda: "DrainCompleted" in fleet.events(), what="the drain is reported")

    await fleet.kube.delete(resources.LLM_DEPLOYMENTS, "chat", "prod")
    await fleet.until(lambda: fleet.deployment() is None, what="the deployment is gone")
    assert all(a.drained for a in fleet.agents.values())
    assert fleet.workers() == []
    await fleet.stop_operator()
    assert fleet.exit_code == 0
