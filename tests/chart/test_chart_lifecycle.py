"""The chart on a real server by real Helm: installed, upgraded, removed; the same objects by ``kubectl apply -k``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cluster import ControlPlane
from foreign_crds import crd_file
from objects import eventually, get
from releases import (
    BASE,
    CHART,
    CLUSTER_KINDS,
    CRD_NAMES,
    CRD_SECONDS,
    OWN_KINDS,
    SYSTEM,
    crds,
    crds_gone,
    everything,
    helm,
    helm_refusal,
    left,
    make_namespace,
    names,
    remove_namespace,
)
from warmfleet_contracts.bearer import METRICS_SECRET_NAME
from world import instance_type

NO_HOOK = "--skip-tests"
"""A dry run makes no account for the hook's pod, without which the server refuses it; ``helm test`` runs elsewhere."""


def test_a_server_accepts_all_that_is_rendered(servers: ControlPlane) -> None:
    for arguments in ((), ("--set=namespaced=true",), ("--set=replicas=2", "--set=crds.keep=false")):
        rendered = helm(servers, "template", "warmfleet", str(CHART), NO_HOOK, *arguments)
        servers.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=rendered)


def test_the_prometheus_operators_own_crds_accept_what_is_made_for_it(servers: ControlPlane) -> None:
    files = [crd_file(f"{plural}.monitoring.coreos.com") for plural in ("podmonitors", "prometheusrules")]
    try:
        for file in files:
            servers.kubectl("apply", "--server-side", "-f", str(file))
            servers.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(file))
        monitors = "metrics.podMonitor.enabled=true,metrics.podMonitor.labels.release=prometheus"
        switches = (f"--set={monitors}", "--set=metrics.prometheusRule.enabled=true", "--set=crds.enabled=false")
        rendered = helm(servers, "template", "warmfleet", str(CHART), NO_HOOK, *switches)
        dry = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
        said = servers.kubectl(*dry, stdin=rendered)
        assert said.count("podmonitor.monitoring.coreos.com/") == 4
        wrong = rendered.replace("scrapeTimeout:", "scrapeTimeOut:")
        refused = servers.run([servers.kubectl_path, *dry], check=False, input=wrong)
        assert "scrapeTimeOut" in refused.stderr, "the server knows the fields"
    finally:
        for file in files:
            servers.kubectl("delete", "--wait=false", "--ignore-not-found", "-f", str(file))


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

    helm(servers, "rollback", "warmfleet", "1")
    third = get(servers, "deployment/warmfleet-operator", *own)
    assert (third["metadata"]["uid"], third["spec"]["replicas"]) == (first["metadata"]["uid"], 1)
    assert third["spec"]["template"] == first["spec"]["template"]
    assert crds(servers) == CRD_NAMES
    helm(servers, "rollback", "warmfleet", "2")

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


def test_kept_crds_and_their_objects_survive_a_second_installation(servers: ControlPlane) -> None:
    helm(servers, "install", "warmfleet", str(CHART))
    servers.kubectl("apply", "-f", "-", stdin=json.dumps(instance_type()))
    uid = get(servers, "instancetype/h100")["metadata"]["uid"]
    helm(servers, "uninstall", "warmfleet")
    assert crds(servers) == CRD_NAMES
    helm(servers, "install", "warmfleet", str(CHART))
    assert get(servers, "instancetype/h100")["metadata"]["uid"] == uid
    helm(servers, "uninstall", "warmfleet")


SECOND = "second-system"


def test_several_releases_share_a_cluster_only_where_they_do_not_meet(servers: ControlPlane) -> None:
    make_namespace(servers, SECOND)
    narrow = "--set=namespaced=true"
    try:
        before = everything(servers, SYSTEM, SECOND)
        helm(servers, "install", "warmfleet", str(CHART), narrow, "--set=crds.keep=false")
        said = helm_refusal(servers, "install", "warmfleet", str(CHART), narrow, namespace=SECOND)
        assert "warmfleet.dev" in said, "the CRDs belong to the first release"
        assert "ownership" in said
        whole = ("install", "warmfleet", str(CHART), "--set=crds.enabled=false")
        said = helm_refusal(servers, *whole, namespace=SECOND)
        assert f"release warmfleet in namespace {SYSTEM} already watches that namespace" in said
        helm(servers, *whole, narrow, namespace=SECOND)
        helm(servers, "upgrade", "warmfleet", str(CHART), narrow, "--set=crds.keep=false", "--set=replicas=2")
        helm(servers, "uninstall", "warmfleet", namespace=SECOND)
        assert crds(servers) == CRD_NAMES, "the first release is whole"
        assert get(servers, "deployment/warmfleet-operator", f"-n={SYSTEM}")["spec"]["replicas"] == 2
        helm(servers, "uninstall", "warmfleet")
        servers.kubectl("delete", "pods", "--all", f"-n={SYSTEM}", "--grace-period=0", "--force")
        servers.kubectl("delete", "pods", "--all", f"-n={SECOND}", "--grace-period=0", "--force")
        eventually(lambda: crds_gone(servers), seconds=CRD_SECONDS)
        eventually(lambda: everything(servers, SYSTEM, SECOND) <= before, seconds=60)
    finally:
        remove_namespace(servers, SECOND)


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
    servers.kubectl("wait", "crds", *sorted(CRD_NAMES), "--for=condition=Established", "--timeout=30s")
    a_sync_loop_leaves_it_alone(servers)
    servers.kubectl("delete", "-k", str(BASE), "--wait=false")
    eventually(lambda: crds_gone(servers), seconds=CRD_SECONDS)
    eventually(lambda: not left(servers, before), seconds=60)


def a_sync_loop_leaves_it_alone(servers: ControlPlane) -> None:
    """The same manifests again: no difference, nothing written, and the token that the operator keeps stays."""
    own = f"-n={SYSTEM}"
    filled = json.dumps({"data": {"token": "dG9rZW4="}})  # as the operator does, with its own name as the manager
    manager = "--field-manager=warmfleet-operator"
    servers.kubectl("patch", "secret", METRICS_SECRET_NAME, own, "--type=merge", f"-p={filled}", manager)
    kinds = f"{CLUSTER_KINDS},{OWN_KINDS}".replace(",pods,", ",").replace(",leases,", ",")

    def written() -> dict[str, object]:
        """What counts the writes of each object: controllers touch no more than the status of what they run."""
        bodies = get(servers, kinds, own)["items"]
        metas = {
            f"{b['kind']}/{b['metadata']['name']}": b["metadata"] for b in bodies if "warmfleet" in str(b["metadata"])
        }
        return {name: meta.get("generation") or meta["resourceVersion"] for name, meta in metas.items()}

    before = written()
    assert len(before) > 15
    for words in (["apply"], ["diff"], ["apply"], ["diff"]):
        command = [servers.kubectl_path, *words, "--server-side", "-k", str(BASE)]
        said = servers.run(command, timeout=240).stdout  # diff ends with 1 when it finds one
        assert said == "" if words == ["diff"] else "serverside-applied" in said
    assert written() == before
    assert get(servers, f"secret/{METRICS_SECRET_NAME}", own)["data"] == {"token": "dG9rZW4="}


_MADE_BY_OTHERS = ("pod/", "replicaset.apps/", "controllerrevision.apps/", "secret/sh.helm.release")


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
