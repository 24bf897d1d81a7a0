"""Bad specs, bad nodes, bad answers: a condition that a person understands, no lost request, no orphaned pod."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from traffic import Streams
from warmfleet_contracts import labels
from warmfleet_localcluster.node import ImageEntry
from warmfleet_runtime.resources import (
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    LLM_DEPLOYMENTS,
    NAMESPACES,
    PODS,
    SERVICES,
)
from world import World, deployment, eventually, instance_type

BRISK = pytest.mark.scale(40.0)
"""For scenarios that wait out a deadline while nothing streams."""
LIAR = """
import json, os, sys
from aiohttp import web
mode = sys.argv[1]
async def ready(request): return web.Response(text="ok")
async def state(request):
    if mode == "garbage": return web.Response(body=b"\\xff\\x00 not json " * 1000)
    if mode == "hang":
        import asyncio; await asyncio.sleep(3600)
    return web.json_response({"phase": "Serving",
        "engine": {"ready": True, "running": 10**30, "waiting": -5, "kvUsage": 17},
        "counters": {"cacheHitTokens": 9e99}})
app = web.Application()
app.router.add_get("/readyz", ready); app.router.add_get("/healthz", ready); app.router.add_get("/v1/prestop", ready)
app.router.add_route("*", "/v1/state", state); app.router.add_route("*", "/v1/drain", state)
web.run_app(app, host=os.environ["WARMFLEET_POD_IP"], port=9600, print=None)
"""


FALSE_ROUTER = """
import asyncio, itertools, sys
from aiohttp import web
mode, flags = sys.argv[1], sys.argv[2:]
host = flags[flags.index("--host") + 1]
count = itertools.count(1)
async def answer(request):
    if request.path != "/metrics":
        return web.Response(text="ok")
    if mode == "hang":
        await asyncio.sleep(3600)
    if mode == "lie":
        value = 10 ** (9 + next(count) % 200)
        return web.Response(text='vllm_router_processed_requests_total{worker="a"} %d\\n' % value)
    return web.Response(text="%% not metrics {{{")
async def run():
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    for port in ("--port", "--prometheus-port"):
        await web.TCPSite(runner, host, int(flags[flags.index(port) + 1])).start()
    await asyncio.Event().wait()
asyncio.run(run())
"""


async def test_an_unknown_instance_type_is_named_and_creating_it_helps(running: World) -> None:
    await running.apply(deployment(replicas=1))
    found = await running.until_condition("Stalled", "True", "UnknownInstanceType")
    assert "h100" in found["message"]
    assert not await running.workers()
    await running.apply(instance_type())
    await running.until_ready(1)
    await running.until_condition("Ready", "True")
    assert await running.condition("Stalled") == {}


async def test_a_variant_that_cannot_hold_the_model_says_why(running: World) -> None:
    big = {
        "name": "llama-70b",
        "profile": "llama-3.1-70b",
        "maxModelLen": 8192,
        "source": {"hf": {"repo": "meta-llama/x"}},
    }
    await running.apply(instance_type(), deployment(model=big, replicas=1))
    found = await running.until_condition("Stalled", "True", "VariantCannotFit")
    assert "a" in found["message"]
    assert not await running.workers()


async def test_an_image_that_cannot_be_pulled_stalls_and_is_not_tried_for_ever(running: World) -> None:
    await running.apply(instance_type(), deployment(engine={"image": "vllm/no-such:tag"}, replicas=1))
    found = await running.until_condition("Stalled", "True", "ImagePullFailed", seconds=60)
    assert "vllm/no-such:tag" in found["message"]
    assert len(await running.workers()) <= 2


async def test_an_engine_that_crashes_at_start_stalls_the_fleet(running: World) -> None:
    engine = {"image": "vllm/vllm-openai:v0.32.0", "args": ["--no-such-flag"]}
    await running.apply(instance_type(), deployment(engine=engine, replicas=1))
    await running.until_condition("Stalled", "True", "WorkerStartFailed", seconds=90)
    assert len(await running.workers()) <= 2


async def test_no_free_accelerator_is_said_and_the_rest_serves(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=6))
    await running.until_ready(4)

    async def said() -> bool:
        found = await running.condition("Ready")
        return found.get("reason") == "NoCapacity" and "2 workers found no node" in found["message"]

    await eventually(said, "word that nodes are missing", seconds=60)
    assert len(await running.workers()) == 6, "pods that wait for a node are neither multiplied nor orphaned"


async def test_an_instance_type_limit_is_kept(running: World) -> None:
    await running.apply(instance_type(limit={"accelerators": 2}), deployment(replicas=4))
    await running.until_ready(2)
    found = await running.until_condition("ScalingLimited", "True", "CapacityExhausted")
    assert "h100" in found["message"]
    assert len(await running.workers()) == 2


async def _left(world: World, namespace: str) -> list[str]:
    """What is still in a namespace, and what it waits for."""
    lines = []
    for resource in (LLM_DEPLOYMENTS, PODS, DEPLOYMENTS, SERVICES, CONFIG_MAPS):
        for item in (await world.kube.list(resource, namespace))["items"]:
            meta, status = item["metadata"], item.get("status") or {}
            waits = {key: meta[key] for key in ("deletionTimestamp", "finalizers", "annotations") if key in meta}
            lines.append(f"{resource.plural}/{meta['name']}: {status.get('phase', '')} {json.dumps(waits)}")
    return lines


async def test_a_namespace_that_is_deleted_takes_its_fleet_with_it(running: World) -> None:
    await running.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})
    await running.apply(instance_type(), deployment(namespace="team", replicas=1))
    await running.until_ready(1, namespace="team")
    await running.kubectl("delete", "namespace", "team", "--wait=false")

    async def gone() -> bool:
        return "team" not in {item["metadata"]["name"] for item in (await running.kube.list(NAMESPACES))["items"]}

    try:
        await eventually(gone, "end of the namespace", seconds=60)
    except pytest.fail.Exception as error:
        pytest.fail(f"{error}\n" + "\n".join(await _left(running, "team")))


async def test_a_deployment_deleted_while_a_worker_drains_ends_clean(running: World) -> None:
    await running.apply(instance_type(), deployment(replicas=2))
    await running.until_ready(2)
    streams = Streams(await running.until_endpoint())
    streams.send(10, tokens=2500)
    await running.kubectl("scale", "llmd", "chat", "--replicas=1")

    async def draining() -> bool:
        return any(labels.DRAINING in pod["metadata"].get("annotations", {}) for pod in await running.workers())

    await eventually(draining, "draining worker")
    await running.kubectl("delete", "llmd", "chat", "--wait=false")
    await streams.finish()
    await running.until_gone()


async def _with_lying_agents(running: World, mode: str) -> None:
    running.images["ghcr.io/warmfleet/agent:*"] = ImageEntry([sys.executable, "-c", LIAR, mode], entry_only=True)
    await running.apply(instance_type(), deployment(replicas=2))
    await running.until_ready(2)
    await running.until_condition("Ready", "True")
    assert (await running.status())["desiredReplicas"] == 2
    await running.kubectl("scale", "llmd", "chat", "--replicas=1")
    await running.until_ready(1, seconds=60)  # bounded by the drain deadline, whatever the agent says
    await running.kubectl("delete", "llmd", "chat", "--wait=false")
    await running.until_gone(seconds=60)


@BRISK
async def test_agents_that_answer_garbage_are_bounded(running: World) -> None:
    await _with_lying_agents(running, "garbage")


@BRISK
async def test_agents_that_hang_are_bounded(running: World) -> None:
    await _with_lying_agents(running, "hang")


@BRISK
async def test_agents_that_lie_are_bounded(running: World) -> None:
    await _with_lying_agents(running, "lie")


def _false_router(mode: str) -> ImageEntry:
    return ImageEntry([sys.executable, "-c", FALSE_ROUTER, mode], entry_only=True)


@BRISK
async def test_a_fleet_whose_metrics_vanish_is_held(running: World) -> None:
    """Router metrics and agents' answers are garbage: the fleet keeps its size, and the condition says so."""
    running.images["ghcr.io/warmfleet/router:*"] = _false_router("garbage")
    running.images["ghcr.io/warmfleet/agent:*"] = ImageEntry([sys.executable, "-c", LIAR, "garbage"], entry_only=True)
    await running.apply(instance_type(), deployment(scaling={"min": 2, "max": 4}))
    await running.until_ready(2)
    await running.until_condition("ScalingActive", "False", "MetricsMissing")
    await running.clock.sleep(120)
    assert len(await running.ready_workers()) == 2
    assert (await running.status())["scaling"]["chosenBy"] in {"NoData", "Min"}


@BRISK
@pytest.mark.parametrize("mode", ["hang", "lie"])
async def test_a_router_that_hangs_or_lies_moves_the_fleet_within_its_bounds_only(running: World, mode: str) -> None:
    running.images["ghcr.io/warmfleet/router:*"] = _false_router(mode)
    await running.apply(instance_type(), deployment(scaling={"min": 2, "max": 3}))
    await running.until_ready(2)
    for _ in range(8):
        await running.clock.sleep(15)
        stay = [pod for pod in await running.workers() if not pod["metadata"].get("deletionTimestamp")]
        assert 2 <= len(stay) <= 3
    assert (await running.condition("Ready"))["status"] == "True"
    assert running.operators[0].exit_code() is None


async def test_a_spec_that_an_older_schema_let_in_is_refused_by_the_operator_with_the_same_words(
    running: World,
) -> None:
    """The CRD is loosened, as an older one might be: the operator's own parse refuses what would be ignored."""
    if running.api is None:
        pytest.skip("it loosens the CRD, which all scenarios on the control plane share")
    bad = deployment(replicas=1)
    bad["spec"]["scaling"] = {"min": 1, "max": 2}
    loosened = await running.kube.get(CUSTOM_RESOURCE_DEFINITIONS, "llmdeployments.warmfleet.dev")
    schema = loosened["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    schema.pop("x-kubernetes-validations")
    loosened["metadata"].pop("managedFields", None)
    await running.apply(
        {k: loosened[k] for k in ("apiVersion", "kind", "spec")} | {"metadata": {"name": loosened["metadata"]["name"]}}
    )
    await running.apply(instance_type(), bad)
    found = await running.until_condition("Stalled", "True", "InvalidSpec")
    assert "set exactly one of replicas" in found["message"]
    assert not (await running.kube.list(PODS, "default", labelSelector=f"{labels.DEPLOYMENT}=chat"))["items"]


async def test_templates_that_are_nested_without_end_hide_no_other_fleet(world: World, tmp_path: Path) -> None:
    """Neither from a start, which waits for all there is, nor from a watch; on a real API server 3,000 levels pass."""
    await world.apply(instance_type(), deployment(replicas=1))
    await nested(world, tmp_path, "before")
    operator = await world.start_operator()
    await world.until_ready(1, seconds=120)
    await nested(world, tmp_path, "after")
    await world.kubectl("scale", "llmd", "chat", "--replicas=2")
    await world.until_ready(2)
    for name in ("before", "after"):
        found = await world.until_condition("Stalled", "True", "InvalidSpec", name=name)
        assert "engine.podTemplate" in found["message"]
        assert await world.workers(name) == []
    assert operator.exit_code() is None

    async def listed() -> set[str]:
        """What the forecaster sees, which follows fleets by another client."""
        names = set()
        async for event in world.kube.follow(LLM_DEPLOYMENTS, "default"):
            if event.type == "SYNCED":
                break
            names.add(event.object["metadata"]["name"])
        return names

    assert await asyncio.wait_for(listed(), 20) == {"chat", "before", "after"}


async def nested(world: World, folder: Path, name: str) -> None:
    """Create a fleet whose template is nested as deep as the server takes."""
    levels = 3000 if world.api is None else 300  # the embedded one is Python itself
    body = deployment(name, replicas=1)
    body["spec"]["engine"]["podTemplate"] = {"spec": "HERE"}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(body).replace('"HERE"', '{"a":' * levels + "1" + "}" * levels))
    await world.kubectl("create", "--validate=false", "-f", str(path))
