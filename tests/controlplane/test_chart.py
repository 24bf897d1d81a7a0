"""The chart on a real server by real Helm: installed, upgraded, removed; the same objects by ``kubectl apply -k``."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clients import helm_path
from cluster import ControlPlane
from objects import eventually, get
from shared_controlplane import ROOT
from strict_controlplane import StrictControlPlane, strict_controlplane
from traffic import Streams
from warmfleet_contracts import labels
from warmfleet_localcluster.node import ImageEntry, ProcessNode, Settings
from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock
from warmfleet_runtime.kubeclient import KubeClient
from world import SCALE, World, deployment, images, instance_type, shapes

pytestmark = pytest.mark.controlplane
CHART, BASE = ROOT / "charts/warmfleet", ROOT / "deploy/kustomize"
SYSTEM = "warmfleet-system"
CLUSTER_KINDS = "customresourcedefinitions,clusterroles,clusterrolebindings"
OWN_KINDS = (
    "deployments,replicasets,pods,services,configmaps,secrets,serviceaccounts,roles,rolebindings,leases,"
    "poddisruptionbudgets"
)
CRD_NAMES = {f"{plural}.warmfleet.dev" for plural in ("instancetypes", "llmdeployments", "trafficforecasts")}

CRD_SECONDS = 90.0
"""Longest end of a CRD that was deleted right after it was made."""

Json = dict[str, Any]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrictControlPlane]:
    """A control plane without CRDs."""
    with strict_controlplane(tmp_path_factory.mktemp("chart")) as made:
        yield made


@pytest.fixture
def servers(strict: StrictControlPlane) -> Iterator[ControlPlane]:
    """The same with the operator's namespace, which enforces restricted Pod Security; clean again after."""
    made = strict.servers
    made.kubectl("create", "namespace", SYSTEM)
    made.kubectl("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
    eventually(lambda: "serviceaccount/default" in names(made, "serviceaccounts", f"-n={SYSTEM}"))
    yield made
    remove_namespace(made)
    made.kubectl("delete", "crds", *sorted(CRD_NAMES), "--ignore-not-found", "--wait=false")
    eventually(lambda: crds_gone(made), seconds=CRD_SECONDS)


def remove_namespace(servers: ControlPlane) -> None:
    servers.kubectl("delete", "deployments", "--all", f"-n={SYSTEM}", "--ignore-not-found")
    servers.kubectl("delete", "pods", "--all", f"-n={SYSTEM}", "--grace-period=0", "--force", "--ignore-not-found")
    servers.kubectl("delete", "namespace", SYSTEM, "--timeout=30s", "--ignore-not-found")


def helm(servers: ControlPlane, *arguments: str, check: bool = True) -> str:
    return servers.run([helm_path(), *arguments, f"--namespace={SYSTEM}"], check=check, timeout=120).stdout


def names(servers: ControlPlane, *arguments: str) -> set[str]:
    return set(servers.kubectl("get", *arguments, "-o=name").split())


def everything(servers: ControlPlane) -> set[str]:
    """Names of all objects that an installation could leave behind."""
    return names(servers, CLUSTER_KINDS) | names(servers, OWN_KINDS, f"-n={SYSTEM}")


def crds(servers: ControlPlane) -> set[str]:
    return {c["metadata"]["name"] for c in get(servers, "crds")["items"]}


def crds_gone(servers: ControlPlane) -> bool:
    """Whether all CRDs are gone.

    The server's attempts to end a CRD become rare, up to minutes apart, when the first ones came too early after its
    making; a CRD that somebody touches is looked at again at once.
    """
    ending = [c["metadata"]["name"] for c in get(servers, "crds")["items"] if "deletionTimestamp" in c["metadata"]]
    for name in ending:
        touch = ["annotate", "crd", name, f"test/touched={uuid.uuid4().hex[:8]}", "--overwrite"]
        servers.run([servers.kubectl_path, *touch], check=False)  # it may be gone by now
    return not crds(servers)


def test_a_server_accepts_all_that_is_rendered(servers: ControlPlane) -> None:
    for arguments in ((), ("--set=namespaced=true",), ("--set=replicas=2", "--set=crds.keep=false")):
        rendered = helm(servers, "template", "warmfleet", str(CHART), *arguments)
        servers.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=rendered)


@pytest.mark.parametrize("keep", [True, False])
def test_helm_installs_upgrades_and_removes_it(servers: ControlPlane, keep: bool) -> None:
    before = everything(servers)
    said = helm(servers, "install", "warmfleet", str(CHART), f"--set=crds.keep={str(keep).lower()}")
    assert "kubectl delete llmdeployments --all" in said
    assert ("WARNING: crds.keep is false" in said) is not keep
    assert crds(servers) == CRD_NAMES
    own = (f"-n={SYSTEM}",)
    first = get(servers, "deployment/warmfleet-operator", *own)
    assert first["spec"]["template"]["spec"]["containers"][0]["image"] == "ghcr.io/warmfleet/operator:0.1.0"

    upgrade = ("upgrade", "warmfleet", str(CHART), "--reuse-values", "--set=replicas=2", "--set=config.tickSeconds=7")
    helm(servers, *upgrade)
    second = get(servers, "deployment/warmfleet-operator", *own)
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    assert second["spec"]["replicas"] == 2
    assert second["metadata"]["generation"] > first["metadata"]["generation"]
    settings = get(servers, "configmap/warmfleet-operator", *own)["data"]["config.yaml"]
    assert yaml.safe_load(settings)["tickSeconds"] == 7

    # Restricted Pod Security: the namespace enforces it, so pods exist only if they meet it.
    eventually(lambda: len(names(servers, "pods", *own)) >= 2)
    events = [e["message"] for e in get(servers, "events", *own)["items"]]
    assert not [message for message in events if "PodSecurity" in message]

    helm(servers, "uninstall", "warmfleet")
    kept = {f"customresourcedefinition.apiextensions.k8s.io/{name}" for name in CRD_NAMES} if keep else set()
    servers.kubectl("delete", "pods", "--all", *own, "--grace-period=0", "--force")  # no kubelet ends them
    if not keep:
        eventually(lambda: crds_gone(servers), seconds=CRD_SECONDS)
    eventually(lambda: left(servers, before) == kept)


def left(servers: ControlPlane, before: set[str]) -> set[str]:
    """What is there now and was not before."""
    return everything(servers) - before


def test_kept_crds_and_their_objects_survive_a_second_installation(servers: ControlPlane) -> None:
    helm(servers, "install", "warmfleet", str(CHART))
    servers.kubectl("apply", "-f", "-", stdin=json.dumps(instance_type()))
    uid = get(servers, "instancetype/h100")["metadata"]["uid"]
    helm(servers, "uninstall", "warmfleet")
    assert crds(servers) == CRD_NAMES
    helm(servers, "install", "warmfleet", str(CHART))
    assert get(servers, "instancetype/h100")["metadata"]["uid"] == uid
    helm(servers, "uninstall", "warmfleet")


def test_kubectl_applies_and_deletes_the_same_objects(servers: ControlPlane) -> None:
    before = everything(servers)
    helm(servers, "install", "warmfleet", str(CHART), "--set=crds.keep=false")
    by_helm = {name for name in left(servers, before) if not name.startswith(_MADE_BY_OTHERS)}
    helm(servers, "uninstall", "warmfleet")
    eventually(lambda: crds_gone(servers), seconds=CRD_SECONDS)
    remove_namespace(servers)
    servers.kubectl("apply", "--server-side", "-k", str(BASE))
    by_kubectl = {name for name in left(servers, before) if not name.startswith(_MADE_BY_OTHERS)}
    assert by_kubectl == by_helm
    servers.kubectl("apply", "--server-side", "-k", str(BASE))  # twice is as good as once
    servers.kubectl("wait", "crds", *sorted(CRD_NAMES), "--for=condition=Established", "--timeout=30s")
    servers.kubectl("delete", "-k", str(BASE), "--wait=false")
    eventually(lambda: crds_gone(servers), seconds=CRD_SECONDS)
    eventually(lambda: not left(servers, before), seconds=60)


_MADE_BY_OTHERS = ("pod/", "replicaset.apps/", "secret/sh.helm.release")


def test_people_get_rights_by_the_usual_roles(servers: ControlPlane) -> None:
    helm(servers, "install", "warmfleet", str(CHART))
    for role, allowed, refused in (
        ("view", ["list llmdeployments", "get instancetypes"], ["create llmdeployments", "list nodes"]),
        ("edit", ["create llmdeployments", "patch llmdeployments/scale"], ["create instancetypes"]),
    ):
        user = f"jane-{role}"
        kubeconfig = servers.kubeconfig_for(user=user)
        servers.kubectl("create", "clusterrolebinding", user, f"--clusterrole={role}", f"--user={user}")
        eventually(lambda: all(can(servers, kubeconfig, each) for each in allowed))  # noqa: B023 - called at once
        assert not [each for each in refused if can(servers, kubeconfig, each)]
        servers.kubectl("delete", "clusterrolebinding", user)
    helm(servers, "uninstall", "warmfleet")


def can(servers: ControlPlane, kubeconfig: Path, what: str) -> bool:
    verb, _, resource = what.partition(" ")
    base, _, sub = resource.partition("/")
    group = "" if base == "nodes" else ".warmfleet.dev"
    command = [servers.kubectl_path, "auth", "can-i", verb, base + group, *([f"--subresource={sub}"] if sub else [])]
    return servers.run(command, kubeconfig=kubeconfig, check=False).stdout.strip() == "yes"


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


@pytest.mark.timeout(240)
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
    rollout = ("rollout", "status", "deployment/warmfleet-operator", *own, "--timeout=60s")

    async def run(function: Any, *arguments: Any) -> Any:
        return await asyncio.to_thread(function, servers, *arguments)

    async with (
        await KubeClient.from_kubeconfig(servers.kubeconfig) as kube,
        ProcessNode(kube, clock, shapes(), table, settings=settings) as node,
    ):
        world = World(kube, node, table, clock, servers.kubeconfig, tmp_path, None)
        await run(helm, "install", *release)
        await asyncio.to_thread(servers.kubectl, *rollout)
        await world.apply(instance_type(), deployment(replicas=1))
        (worker,) = await world.until_ready(1)
        streams = Streams(await world.until_endpoint())
        streams.send(4)
        await streams.finish()

        await run(helm, "upgrade", *release, "--set=replicas=2", "--set=config.tickSeconds=4")
        await asyncio.to_thread(servers.kubectl, *rollout)
        (lease,) = (await run(get, "leases", *own))["items"]
        pods = {p["metadata"]["name"] for p in (await run(get, "pods", *own))["items"]}
        assert lease["metadata"]["name"] == "warmfleet-operator"
        await world.kubectl("scale", "llmd", "chat", "--replicas=2")  # the new leader acts
        assert worker["metadata"]["uid"] in {p["metadata"]["uid"] for p in await world.until_ready(2)}
        (lease,) = (await run(get, "leases", *own))["items"]
        assert lease["spec"]["holderIdentity"] in pods

        metrics = await run(scrape, lease["spec"]["holderIdentity"])
        assert re.search(r'^warmfleet_operator_api_requests_total\{code="20[01]"', metrics, re.MULTILINE)
        assert 'code="403"' not in metrics

        await world.kubectl("delete", "llmd", "chat", "--wait=false")
        await world.until_gone()
        requests = strict.requests(f"system:serviceaccount:{SYSTEM}:warmfleet-operator")
        assert [r for r in requests if (r.verb, r.resource, r.code) == ("create", "pods", 201)]
        assert not [r for r in requests if r.code == 403 or not r.allowed]
        await run(helm, "uninstall", "warmfleet")  # takes the roles away at once: the Lease may be left to expire
        selector = "-l=app.kubernetes.io/component=operator"
        await asyncio.to_thread(eventually, lambda: not names(servers, "pods", *own, selector))
        assert crds(servers) == CRD_NAMES
    await asyncio.to_thread(eventually, lambda: not children(servers), seconds=60)  # collected by the real collector


def children(servers: ControlPlane) -> set[str]:
    kinds = "deployments,services,serviceaccounts,roles,rolebindings,configmaps,poddisruptionbudgets"
    return names(servers, kinds, "-n=default", f"-l={labels.DEPLOYMENT}=chat")


def scrape(servers: ControlPlane, pod: str) -> str:
    address = get(servers, f"pod/{pod}", f"-n={SYSTEM}")["status"]["podIP"]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy of the environment
    with opener.open(f"http://{address}:8081/metrics", timeout=10) as answer:
        return str(answer.read().decode())
