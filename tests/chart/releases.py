"""What tests of whole releases share: Helm, the operator's namespace, and what an installation may leave behind."""

from __future__ import annotations

import uuid
from pathlib import Path

from clients import helm_path
from cluster import ControlPlane
from objects import eventually, get

ROOT = Path(__file__).resolve().parents[2]
CHART, BASE = ROOT / "charts/warmfleet", ROOT / "deploy/kustomize"
SYSTEM = "warmfleet-system"
CLUSTER_KINDS = "customresourcedefinitions,clusterroles,clusterrolebindings"
OWN_KINDS = (
    "deployments,statefulsets,replicasets,pods,services,configmaps,secrets,serviceaccounts,roles,rolebindings,leases,"
    "poddisruptionbudgets,networkpolicies,controllerrevisions"
)
CRD_NAMES = {f"{plural}.warmfleet.dev" for plural in ("instancetypes", "llmdeployments", "trafficforecasts")}
CRD_SECONDS = 90.0
"""Longest end of a CRD that was deleted right after it was made."""


def helm(servers: ControlPlane, *arguments: str, namespace: str = SYSTEM) -> str:
    """Output of Helm; AssertionError when it fails."""
    return servers.run([helm_path(), *arguments, f"--namespace={namespace}"], timeout=240).stdout


def helm_refusal(servers: ControlPlane, *arguments: str, namespace: str = SYSTEM) -> str:
    """What Helm says when it refuses; AssertionError when it does not."""
    done = servers.run([helm_path(), *arguments, f"--namespace={namespace}"], check=False, timeout=240)
    assert done.returncode, f"Helm did it: {done.stdout}"
    return done.stderr


def make_namespace(servers: ControlPlane, name: str) -> None:
    """A namespace that enforces restricted Pod Security."""
    servers.kubectl("create", "namespace", name)
    servers.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    eventually(lambda: "serviceaccount/default" in names(servers, "serviceaccounts", f"-n={name}"), seconds=60)


def remove_namespace(servers: ControlPlane, name: str = SYSTEM) -> None:
    """Ends the namespace with all that is in it; no kubelet ends its pods."""
    own = f"-n={name}"
    servers.kubectl("delete", "deployments,statefulsets", "--all", own, "--ignore-not-found")
    servers.kubectl("delete", "pods", "--all", own, "--grace-period=0", "--force", "--ignore-not-found")
    servers.kubectl("delete", "namespace", name, "--timeout=60s", "--ignore-not-found")


def names(servers: ControlPlane, *arguments: str) -> set[str]:
    """``<kind>/<name>`` of what ``kubectl get`` finds."""
    return set(servers.kubectl("get", *arguments, "-o=name").split())


def everything(servers: ControlPlane, *namespaces: str) -> set[str]:
    """Names of all objects that an installation could leave behind."""
    own = [names(servers, OWN_KINDS, f"-n={each}") for each in namespaces or (SYSTEM,)]
    return names(servers, CLUSTER_KINDS).union(*own)


def left(servers: ControlPlane, before: set[str]) -> set[str]:
    """What is there now and was not before."""
    return everything(servers) - before


def crds(servers: ControlPlane) -> set[str]:
    """Names of this project's CRDs that are there."""
    return {c["metadata"]["name"] for c in get(servers, "crds")["items"]} & CRD_NAMES


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
