"""The installed operator at work: the chart's Deployment runs as a pod with its own token, on a real server."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from cluster import ControlPlane
from objects import eventually, get
from releases import CHART, CRD_NAMES, SYSTEM, crds, helm, names
from strict_controlplane import Request, StrictControlPlane
from traffic import Streams
from warmfleet_contracts import labels
from warmfleet_localcluster.__main__ import ProbeClock
from warmfleet_localcluster.node import ImageEntry, ProcessNode, Settings
from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock
from warmfleet_runtime.kubeclient import KubeClient
from world import SCALE, World, deployment, images, instance_type, shapes

FAST = {
    "rateWindowSeconds": 40,
    "meanWindowSeconds": 200,
    "agentPollSeconds": 4,
    "unrouteSeconds": 20,
    "engineShutdownSeconds": 120,
    "auditSeconds": 200,
    "staleSeconds": 1200,
}
"""Settings for time that runs fast, as in the scenarios."""


@pytest.mark.timeout(700)
async def test_the_installed_operator_brings_a_fleet_up_and_lets_it_go(
    strict: StrictControlPlane, servers: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chart's Deployment runs as a pod with its own token; everything else is as for a user."""
    clock = ScaledClock(SCALE)
    monkeypatch.setenv(CLOCK_ENV, clock.to_env())
    table = images()
    table["ghcr.io/warmfleet/operator:*"] = ImageEntry(
        [sys.executable, "-m", "warmfleet_operator"],
        env={"WARMFLEET_LISTEN_ADDRESS": "$(WARMFLEET_POD_IP)"},  # pods share this machine's ports
        entry_only=True,
    )
    addresses = str(list(servers.pod_network.subnets(prefixlen_diff=1))[1])
    settings = Settings(addresses=addresses, min_probe_period=0.25, min_probe_timeout=2.0)
    release = ("warmfleet", str(CHART), f"--set-json=config={json.dumps(FAST)}")
    own = (f"-n={SYSTEM}",)

    async def run(function: Any, *arguments: Any) -> Any:
        return await asyncio.to_thread(function, servers, *arguments)

    async with (
        await KubeClient.from_kubeconfig(servers.kubeconfig) as kube,
        ProcessNode(kube, ProbeClock(clock, 2.0), shapes(), table, settings=settings) as node,
    ):
        world = World(kube, node, table, clock, servers.kubeconfig, tmp_path, None)
        await run(helm, "install", *release)
        await run(until_rolled_out)
        said = await run(helm, "test", "warmfleet", "--timeout=150s")
        assert said.count("Succeeded") == 4, said
        await world.apply(instance_type(), deployment(replicas=1))
        (worker,) = await world.until_ready(1, seconds=120)
        streams = Streams(await world.until_endpoint(seconds=120))
        streams.send(4)
        await streams.finish()

        await run(helm, "upgrade", *release, "--set=replicas=2", "--set=config.tickSeconds=4")
        await run(until_rolled_out)
        (lease,) = (await run(get, "leases", *own))["items"]
        pods = {p["metadata"]["name"] for p in (await run(get, "pods", *own))["items"]}
        assert lease["metadata"]["name"] == "warmfleet-operator"
        await world.kubectl("scale", "llmd", "chat", "--replicas=2")  # the new leader acts
        assert worker["metadata"]["uid"] in {p["metadata"]["uid"] for p in await world.until_ready(2, seconds=120)}
        (lease,) = (await run(get, "leases", *own))["items"]
        assert lease["spec"]["holderIdentity"] in pods

        assert (await run(scrape, lease["spec"]["holderIdentity"], False))[0] == 401
        status, metrics = await run(scrape, lease["spec"]["holderIdentity"], True)
        assert status == 200
        assert re.search(r'^warmfleet_operator_api_requests_total\{code="20[01]"', metrics, re.MULTILINE)
        assert 'code="403"' not in metrics

        operator = f"system:serviceaccount:{SYSTEM}:warmfleet-operator"
        assert not refused(strict, operator)
        while_roles_went = await uninstalled_over_a_live_fleet(servers, world, streams, release, strict, operator)

        await world.kubectl("delete", "llmd", "chat", "--wait=false")
        await world.until_gone(seconds=120)
        requests = strict.requests(operator)
        assert [r for r in requests if (r.verb, r.resource, r.code) == ("create", "pods", 201)]
        assert len(refused(strict, operator)) == while_roles_went
        await run(helm, "uninstall", "warmfleet")  # takes the roles away at once: the Lease may be left to expire
        await asyncio.to_thread(eventually, lambda: not names(servers, *OWN_PODS), seconds=60)
        assert crds(servers) == CRD_NAMES
    await asyncio.to_thread(eventually, lambda: not children(servers), seconds=60)  # collected by the real collector


OWN_PODS = ("pods", f"-n={SYSTEM}", "-l=app.kubernetes.io/component=operator")


def refused(strict: StrictControlPlane, user: str) -> list[Request]:
    """Requests for which a right was lacking."""
    return [r for r in strict.requests(user) if r.code == 403 or not r.allowed]


async def uninstalled_over_a_live_fleet(
    servers: ControlPlane,
    world: World,
    streams: Streams,
    release: tuple[str, ...],
    strict: StrictControlPlane,
    user: str,
) -> int:
    """It serves on, and the next installation takes it over as it is.

    Returns:
        Requests refused while the roles were gone and the operator was not.
    """
    await asyncio.to_thread(helm, servers, "uninstall", "warmfleet")
    await asyncio.to_thread(eventually, lambda: not names(servers, *OWN_PODS), seconds=60)
    before = {p["metadata"]["uid"] for p in await world.until_ready(2, seconds=120)}
    streams.send(4)
    await streams.finish()
    known = len(refused(strict, user))
    await asyncio.to_thread(helm, servers, "install", *release)
    await asyncio.to_thread(until_rolled_out, servers)
    await world.kubectl("scale", "llmd", "chat", "--replicas=1")
    (stayed,) = await world.until_ready(1, seconds=150)
    assert stayed["metadata"]["uid"] in before
    return known


def until_rolled_out(servers: ControlPlane) -> None:
    """Waits for the operator's Deployment; on a busy machine a process takes its time to start."""
    rollout = ["rollout", "status", "deployment/warmfleet-operator", f"-n={SYSTEM}", "--timeout=150s"]
    done = servers.run([servers.kubectl_path, *rollout], check=False, timeout=180)
    assert not done.returncode, done.stderr + servers.kubectl("get", "pods", f"-n={SYSTEM}", "-o=yaml")


def children(servers: ControlPlane) -> set[str]:
    kinds = "deployments,services,serviceaccounts,roles,rolebindings,configmaps,poddisruptionbudgets"
    return names(servers, kinds, "-n=default", f"-l={labels.DEPLOYMENT}=chat")


def scrape(servers: ControlPlane, pod: str, known: bool) -> tuple[int, str]:
    """Status and text of the metrics, asked for with the token that PodMonitors name, or without one."""
    address = get(servers, f"pod/{pod}", f"-n={SYSTEM}")["status"]["podIP"]
    request = urllib.request.Request(f"http://{address}:8081/metrics")
    if known:
        data = get(servers, "secret/warmfleet-metrics", f"-n={SYSTEM}")["data"]
        request.add_header("Authorization", f"Bearer {base64.b64decode(data['token']).decode()}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy of the environment
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.code, ""
