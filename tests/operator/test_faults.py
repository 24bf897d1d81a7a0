"""What goes wrong around the operator: a forgetful watch, a failing API server, another leader, its own end."""

from __future__ import annotations

import asyncio
from unittest.mock import AsyncMock, Mock

import aiohttp
from fleet import Fleet, llm_deployment
from warmfleet_contracts import labels
from warmfleet_operator.acting.diff import Delete, Job, Outcome
from warmfleet_operator.acting.workers import Tools, WorkerActor
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.process import OperatorProcess
from warmfleet_operator.settings import Settings
from warmfleet_operator.state.records import DeploymentRecord, Key
from warmfleet_operator.state.snapshot import FleetStore, Kind
from warmfleet_runtime import resources
from warmfleet_runtime.clock import ManualClock


async def get(process: OperatorProcess | None, path: str) -> tuple[int, str]:
    assert process is not None
    assert process.probes is not None
    url = f"http://127.0.0.1:{process.probes.port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def one_worker(fleet: Fleet, replicas: int = 1, **overrides: object) -> None:
    fleet.start_operator(**overrides)
    await fleet.apply(llm_deployment(replicas=replicas))
    await fleet.until(lambda: fleet.ready() == replicas, what="workers are ready")


async def test_a_deletion_that_the_watch_missed_is_noticed(fleet: Fleet) -> None:
    await one_worker(fleet, audit_seconds=10)
    old = fleet.workers()[0]["metadata"]
    pods = fleet.api.registry.named("pods")
    # The pod vanishes and no watch ever says so: the log is dropped, and the streams have to start over.
    fleet.api.store.cut_watches(pods.storage)
    await fleet.kube.delete(resources.PODS, old["name"], "prod", grace_seconds=0)
    fleet.api.store.forget_events()
    await fleet.until(
        lambda: fleet.ready() == 1 and fleet.workers()[0]["metadata"]["uid"] != old["uid"], what="another"
    )


async def test_failing_requests_delay_but_do_not_double(fleet: Fleet) -> None:
    for verb in ("create", "patch"):
        fleet.api.faults.fail(6, 503, verb=verb, resource="pods")
    fleet.api.faults.fail(3, 429, verb="patch", resource="llmdeployments")
    await one_worker(fleet, replicas=3)
    await asyncio.sleep(fleet.clock.real(30))
    assert len(fleet.agents) == 3


async def test_a_decision_made_before_the_answer_came_does_not_delete_again() -> None:
    """The next job may have been made from what was known while the DELETE was on its way."""
    mine = {labels.COMPONENT: labels.COMPONENT_WORKER, labels.DEPLOYMENT: "chat"}
    meta = {"name": "w", "namespace": "prod", "uid": "u", "resourceVersion": "5", "labels": mine}
    clock, api = ManualClock(), AsyncMock()
    api.delete.return_value = {"metadata": {**meta, "resourceVersion": "6", "deletionTimestamp": "now"}}
    store = FleetStore(clock)
    store.observe(Kind.POD, {"metadata": meta})
    (worker,) = store.snapshot().workers
    tools = Tools(api, AsyncMock(), store, Mock(), Metrics(), Settings())
    job = Job(DeploymentRecord(Key("prod", "chat"), "d", 1, "1", None), None, (worker,), clock.now())
    for _ in range(2):
        await WorkerActor(tools).carry_out(job, [Delete(worker, Outcome.COMPLETED, "OldestNode")], {})
    assert api.delete.call_count == 1


async def test_a_refused_pod_is_said_and_tried_again(fleet: Fleet) -> None:
    fleet.api.faults.fail(1, 403, verb="create", resource="pods")
    fleet.start_operator()
    await fleet.apply(llm_deployment(replicas=1))
    await fleet.until(lambda: "CreateFailed" in fleet.events(), what="the refusal is reported")
    await fleet.until(lambda: fleet.ready() == 1, what="it is tried again")


async def test_a_standby_is_healthy_writes_nothing_and_takes_over(fleet: Fleet) -> None:
    await one_worker(fleet)
    standby = fleet.operator_of(identity="standby")
    stop = asyncio.Event()
    run = asyncio.create_task(standby.run(stop))
    await fleet.until(lambda: standby.probes is not None and standby.probes.port > 0, what="it is up")
    for path in ("/readyz", "/healthz"):  # the fleet's clock is fast: on a busy machine a second of it is minutes old
        for _ in range(100):
            if (answer := await get(standby, path))[0] == 200:
                break
            await asyncio.sleep(0.1)
        assert answer[0] == 200, answer
    assert "warmfleet_operator_leader 0.0" in (await get(standby, "/metrics"))[1]
    await fleet.stop_operator()
    await fleet.apply(llm_deployment(replicas=2))
    await fleet.until(lambda: fleet.ready() == 2, what="the standby acts")
    assert len(fleet.agents) == 2
    stop.set()
    assert await asyncio.wait_for(run, 10) == 0


async def test_losing_the_lease_ends_the_process_with_an_error(fleet: Fleet) -> None:
    await one_worker(fleet)
    lease = fleet.objects("leases", "coordination.k8s.io")[0]
    thief = {**lease, "spec": {**lease["spec"], "holderIdentity": "thief", "leaseDurationSeconds": 600}}
    loop = asyncio.get_running_loop()
    while lease["spec"]["holderIdentity"] != "thief":
        fresh = await fleet.kube.get(resources.LEASES, "warmfleet-operator", "warmfleet-system")
        lease = await fleet.kube.replace(resources.LEASES, {**fresh, "spec": thief["spec"]}, "warmfleet-system")
    began = loop.time()
    assert await asyncio.wait_for(fleet._operator, 10) == 1
    assert loop.time() - began < 8
    fleet.process = None


async def test_it_stops_fast_and_leaves_lease_and_memory_behind(fleet: Fleet) -> None:
    await one_worker(fleet)
    began = asyncio.get_running_loop().time()
    await fleet.stop_operator()
    assert asyncio.get_running_loop().time() - began < 5
    assert fleet.exit_code == 0
    assert fleet.objects("leases", "coordination.k8s.io")[0]["spec"]["holderIdentity"] == ""
    assert [c["metadata"]["name"] for c in fleet.objects("configmaps") if "warmfleet" in str(c)] == ["chat-memory"]


async def test_metrics_show_a_deployment_and_forget_it(fleet: Fleet) -> None:
    await one_worker(fleet)
    await asyncio.sleep(fleet.clock.real(10))
    text = (await get(fleet.process, "/metrics"))[1]
    labelled = 'deployment="chat",namespace="prod"'
    assert f"warmfleet_operator_desired_workers{{{labelled}}} 1.0" in text
    assert f"warmfleet_operator_cost_dollars_per_hour{{{labelled}}} 4.0" in text
    assert "warmfleet_operator_leader 1.0" in text
    await fleet.kube.delete(resources.LLM_DEPLOYMENTS, "chat", "prod")
    await fleet.until(lambda: fleet.deployment() is None, what="it is gone")
    await asyncio.sleep(fleet.clock.real(15))
    assert 'deployment="chat"' not in (await get(fleet.process, "/metrics"))[1]


async def test_a_pod_deleted_by_somebody_else_drains_and_is_replaced(fleet: Fleet) -> None:
    await one_worker(fleet)
    victim = fleet.workers()[0]["metadata"]
    await fleet.kube.delete(resources.PODS, victim["name"], "prod")

    def replaced() -> bool:
        found = fleet.workers()
        return fleet.ready() == 1 == len(found) and found[0]["metadata"]["uid"] != victim["uid"]

    await fleet.until(replaced, what="a replacement")
