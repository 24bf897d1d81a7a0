"""The whole operator against the embedded API: create, ready, drain, delete, and what may go wrong on the way."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from fleet import Fleet, llm_deployment
from warmfleet_contracts import labels
from warmfleet_operator.acting.diff import FINALIZER
from warmfleet_runtime import resources


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


async def test_a_fleet_at_rest_causes_no_writes() -> None:
    async with Fleet(scale=150.0) as fleet:
        await fleet.instance_type()
        await fleet.router()
        await serving(fleet, replicas=3)
        await fleet.until(
            lambda: any("template.json" in (m.get("data") or {}) for m in fleet.objects("configmaps")),
            what="the template counts as good, and that is noted",
        )
        await asyncio.sleep(fleet.clock.real(90))
        fleet.api.requests.reset()
        await asyncio.sleep(fleet.clock.real(600))
        rows = [r for r in fleet.api.requests.as_json() if "warmfleet-operator" in r["user_agent"]]
        writes = [r for r in rows if r["verb"] not in ("get", "list", "watch") and r["resource"] != "leases"]
        assert writes == []
        assert [r for r in rows if r["verb"] == "list"], "the audit reads on"


async def test_a_deployment_deleted_in_the_middle_of_a_drain_still_goes(fleet: Fleet) -> None:
    await serving(fleet)
    for agent in fleet.agents.values():
        agent.drain_seconds = 30.0
    await fleet.apply(llm_deployment(replicas=1))
    await fleet.until(lambda: len(fleet.workers(leaving=True)) == 1, what="one worker drains")
    await fleet.kube.delete(resources.LLM_DEPLOYMENTS, "chat", "prod")
    await fleet.until(lambda: len(fleet.workers(leaving=True)) == 2, what="the other drains too")
    await fleet.until(lambda: fleet.deployment() is None, what="the deployment is gone")
    assert all(a.drained for a in fleet.agents.values())


async def test_a_namespace_being_deleted_does_not_hang(fleet: Fleet) -> None:
    await serving(fleet)
    created = len(fleet.agents)
    await fleet.kube.delete(resources.NAMESPACES, "prod")
    await fleet.until(
        lambda: not any(n["metadata"]["name"] == "prod" for n in fleet.objects("namespaces")), what="gone"
    )
    assert len(fleet.agents) == created


async def test_an_agent_that_does_not_answer_is_bounded_by_the_deadline(fleet: Fleet) -> None:
    await serving(fleet, kvCache={"drainDeadline": "20s"})
    for agent in fleet.agents.values():
        agent.mode = "silent"
    await fleet.apply(llm_deployment(replicas=1, kvCache={"drainDeadline": "20s"}))
    await fleet.until(lambda: len(fleet.workers(leaving=True)) == 1, what="one worker is told to drain")
    started = fleet.clock.now()
    await fleet.until(lambda: len(fleet.workers()) == 1, what="it is removed")
    assert fleet.clock.now() - started >= 20
    await fleet.until(lambda: "DrainForced" in fleet.events(), what="the force is reported")


async def test_a_worker_that_is_needed_again_comes_back(fleet: Fleet) -> None:
    await serving(fleet)
    for agent in fleet.agents.values():
        agent.drain_seconds = 500.0
    await fleet.apply(llm_deployment(replicas=1, kvCache={"drainDeadline": "600s"}))
    await fleet.until(lambda: len(fleet.workers(leaving=True)) == 1, what="one worker drains")
    await fleet.until(lambda: any(a.drain for a in fleet.agents.values()), what="its agent knows")
    await asyncio.sleep(fleet.clock.real(15))
    await fleet.apply(llm_deployment(replicas=2, kvCache={"drainDeadline": "600s"}))
    await fleet.until(lambda: not fleet.workers(leaving=True) and fleet.ready() == 2, what="it is back")
    assert len(fleet.agents) == 2
    assert all(p["metadata"]["labels"].get(labels.ROUTE) == "true" for p in fleet.workers())


async def test_an_unknown_instance_type_is_said_and_cured(fleet: Fleet) -> None:
    fleet.start_operator()
    variants = [{"name": "b200", "instanceType": "b200", "performance": {"requestsPerSecond": 10.0}}]
    await fleet.apply(llm_deployment(replicas=1, variants=variants))
    await fleet.until(lambda: fleet.condition("Stalled").get("reason") == "UnknownInstanceType", what="stalled")
    assert fleet.condition("Ready")["status"] == "False"
    await fleet.instance_type("b200")
    await fleet.until(lambda: fleet.ready() == 1, what="a worker")
    await fleet.until(lambda: fleet.condition("Stalled") == {}, what="no longer stalled")


async def test_garbage_and_lies_of_agents_scale_nothing(fleet: Fleet) -> None:
    fleet.start_operator()
    scaling = {"min": 1, "max": 5}
    await fleet.apply(llm_deployment(scaling=scaling))
    await fleet.until(lambda: fleet.ready() == 1, what="one worker")
    for mode in ("garbage", "huge", "liar"):
        next(iter(fleet.agents.values())).mode = mode
        await asyncio.sleep(fleet.clock.real(30))
        assert len(fleet.workers()) == 1
    await fleet.until(lambda: fleet.condition("ScalingActive").get("reason") == "MetricsMissing", what="said")


async def test_demand_at_the_router_creates_workers() -> None:
    async with Fleet(scale=10.0) as fleet:
        await fleet.instance_type()
        await fleet.router()
        fleet.router_text = 'vllm_router_processed_requests_total{worker="a"} 0\n'
        fleet.start_operator(tick_seconds=5, telemetry_seconds=5)
        await fleet.apply(llm_deployment(scaling={"min": 1, "max": 5}))
        await fleet.until(lambda: fleet.ready() == 1, what="one worker")
        await fleet.until(lambda: fleet.condition("ScalingActive").get("status") == "True", what="demand is known")
        fleet.router_text = 'vllm_router_processed_requests_total{worker="a"} 900\n'
        await fleet.until(lambda: len(fleet.workers()) >= 3, what="more workers")


async def test_a_router_is_deployed_owned_and_removed_with_its_mode(fleet: Fleet) -> None:
    await serving(fleet, replicas=1)
    await fleet.until(lambda: bool(fleet.objects("deployments", "apps")), what="the router")
    router = fleet.objects("deployments", "apps")[0]
    uid = (fleet.deployment() or {})["metadata"]["uid"]
    assert router["metadata"]["ownerReferences"][0]["uid"] == uid
    assert "--service-discovery" in router["spec"]["template"]["spec"]["containers"][0]["args"]
    await fleet.apply(llm_deployment(replicas=1, routing={"mode": "service"}))
    await fleet.until(lambda: not fleet.objects("deployments", "apps"), what="the router is removed")
    service = next(s for s in fleet.objects("services") if s["metadata"]["name"] == "chat")
    assert service["spec"]["selector"][labels.ROUTE] == "true"


async def test_a_service_of_somebody_else_is_not_taken_over(fleet: Fleet) -> None:
    foreign = {"metadata": {"name": "chat"}, "spec": {"selector": {"app": "mine"}, "ports": [{"port": 1}]}}
    await fleet.kube.create(resources.SERVICES, foreign, "prod")
    fleet.start_operator()
    await fleet.apply(llm_deployment(replicas=1))
    await fleet.until(lambda: fleet.condition("Stalled").get("reason") == "OperatorError", what="said")
    service = next(s for s in fleet.objects("services") if s["metadata"]["name"] == "chat")
    assert service["spec"]["selector"] == {"app": "mine"}


async def test_a_paused_deployment_is_left_alone_but_reported(fleet: Fleet) -> None:
    await serving(fleet)
    body = llm_deployment(replicas=3)
    body["metadata"]["annotations"] = {labels.PAUSED: "true"}
    await fleet.apply(body)
    await fleet.until(lambda: fleet.condition("Paused").get("status") == "True", what="pause is said")
    await fleet.until(lambda: "Paused" in fleet.events(), what="an event says so")
    await asyncio.sleep(fleet.clock.real(30))
    assert len(fleet.workers()) == 2
    body["metadata"]["annotations"] = {labels.PAUSED: "false"}
    await fleet.apply(body)
    await fleet.until(lambda: len(fleet.workers()) == 3 and "Resumed" in fleet.events(), what="it goes on")
    body["metadata"]["annotations"] = {labels.PAUSED: "true"}
    await fleet.apply(body)
    await fleet.kube.delete(resources.LLM_DEPLOYMENTS, "chat", "prod")
    await fleet.until(lambda: fleet.deployment() is None, what="a paused deployment can be deleted")


async def test_a_schedule_holds_by_the_wall_time_of_the_operators_clock(fleet: Fleet) -> None:
    today = fleet.clock.wall()
    days = [f"{today + timedelta(days=n):%a}" for n in (0, 3)]
    whole = {"start": "00:00", "end": "00:00"}
    schedules = [
        {"name": "today", "days": [days[0], f"{today + timedelta(days=1):%a}"], "min": 3, **whole},
        {"name": "later", "days": [days[1]], "min": 4, **whole},
    ]
    fleet.start_operator()
    await fleet.apply(llm_deployment(scaling={"min": 1, "max": 5, "schedules": schedules}))
    await fleet.until(lambda: fleet.ready() == 3, what="as many as the schedule of today asks for are ready")
    await fleet.until(
        lambda: ((fleet.deployment() or {}).get("status") or {}).get("desiredReplicas") == 3, what="it is reported"
    )
    assert len(fleet.workers()) == 3


async def test_a_second_operator_takes_over_where_the_first_stopped(fleet: Fleet) -> None:
    await serving(fleet)
    for agent in fleet.agents.values():
        agent.drain_seconds = 40.0
    await fleet.apply(llm_deployment(replicas=1))
    await fleet.until(lambda: len(fleet.workers(leaving=True)) == 1, what="one worker drains")
    await fleet.stop_operator()
    assert fleet.exit_code == 0
    fleet.start_operator(identity="second")
    await fleet.until(lambda: len(fleet.workers()) == 1, what="the drain is finished")
    await asyncio.sleep(fleet.clock.real(20))
    assert len(fleet.agents) == 2
    assert len(fleet.workers(leaving=False)) == 1
