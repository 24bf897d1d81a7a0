"""The control plane is real: its parts do what the operator's tests rely on."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from binaries import kubernetes_version
from clients import helm_path
from cluster import ControlPlane
from objects import apply, config_map, deployment, eventually, get, pod, report_ready, wait

HERE = Path(__file__).resolve().parent


def test_the_server_says_its_version(controlplane: ControlPlane) -> None:
    version = json.loads(controlplane.kubectl("get", "--raw", "/version"))
    assert version["gitVersion"] == controlplane.version
    assert f"v{version['major']}.{version['minor']}" == ".".join(controlplane.version.split(".")[:2])
    if "KUBEBUILDER_ASSETS" not in os.environ:
        assert controlplane.version == kubernetes_version()


def test_helm_installs_a_chart_with_a_kube_version(controlplane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    minor = ".".join(controlplane.version.removeprefix("v").split(".")[:2])
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text(
        f"apiVersion: v2\nname: probe\nversion: 0.1.0\nkubeVersion: '>={minor}.0-0 <{minor}.99'\n"
    )
    template = config_map("{{ .Release.Name }}", namespace) | {"data": {"version": "{{ .Capabilities.KubeVersion }}"}}
    (tmp_path / "templates" / "map.yaml").write_text(json.dumps(template))
    helm = [helm_path(), f"--namespace={namespace}"]
    controlplane.run([*helm, "install", "probe", str(tmp_path)])
    assert get(controlplane, "configmap/probe", f"-n={namespace}")["data"] == {"version": controlplane.version}
    controlplane.run([*helm, "uninstall", "probe"])


def test_a_pod_is_scheduled_where_it_fits(controlplane: ControlPlane, namespace: str, node: str) -> None:
    apply(controlplane, pod("fits", namespace, gpus=8), pod("too-big", namespace, gpus=9))
    wait(controlplane, f"jsonpath={{.spec.nodeName}}={node}", "pod/fits", f"-n={namespace}")
    wait(controlplane, "condition=PodScheduled=false", "pod/too-big", f"-n={namespace}")
    too_big = get(controlplane, "pod/too-big", f"-n={namespace}")
    assert "nodeName" not in too_big["spec"]
    assert "Insufficient nvidia.com/gpu" in too_big["status"]["conditions"][0]["message"]


def test_what_an_owner_leaves_behind_is_collected(controlplane: ControlPlane, namespace: str) -> None:
    apply(controlplane, config_map("owner", namespace))
    uid = get(controlplane, "configmap/owner", f"-n={namespace}")["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    apply(controlplane, config_map("owned", namespace, owners=[owner]), config_map("stranger", namespace))
    controlplane.kubectl("delete", "configmap", "owner", f"-n={namespace}")
    wait(controlplane, "delete", "configmap/owned", f"-n={namespace}")
    assert get(controlplane, "configmap/stranger", f"-n={namespace}")["metadata"]["name"] == "stranger"


def pods_of(controlplane: ControlPlane, namespace: str) -> list[str]:
    found = get(controlplane, "pods", f"-n={namespace}", "-l=app=fleet")["items"]
    return sorted(each["metadata"]["name"] for each in found)


def test_a_deployment_makes_pods_and_takes_them_along(controlplane: ControlPlane, namespace: str) -> None:
    apply(controlplane, deployment(namespace, replicas=3))
    eventually(lambda: len(pods_of(controlplane, namespace)) == 3)
    controlplane.kubectl("scale", "deployment/fleet", "--replicas=1", f"-n={namespace}")
    eventually(lambda: len(pods_of(controlplane, namespace)) == 1)
    controlplane.kubectl("delete", "deployment/fleet", f"-n={namespace}")
    eventually(lambda: not pods_of(controlplane, namespace))


def test_a_disruption_budget_counts_and_protects(controlplane: ControlPlane, namespace: str, node: str) -> None:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "fleet", "namespace": namespace},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "fleet"}}},
    }
    apply(controlplane, deployment(namespace, replicas=2), budget)
    eventually(lambda: len(pods_of(controlplane, namespace)) == 2)
    names = pods_of(controlplane, namespace)
    for name, address in zip(names, controlplane.pod_network.hosts(), strict=False):
        wait(controlplane, "condition=PodScheduled", f"pod/{name}", f"-n={namespace}")
        report_ready(controlplane, namespace, name, str(address + 10))
    wait(controlplane, "jsonpath={.status.currentHealthy}=2", "pdb/fleet", f"-n={namespace}")
    status = get(controlplane, "pdb/fleet", f"-n={namespace}")["status"]
    assert (status["expectedPods"], status["desiredHealthy"], status["disruptionsAllowed"]) == (2, 2, 0)

    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": names[0], "namespace": namespace}}
    path = f"/api/v1/namespaces/{namespace}/pods/{names[0]}/eviction"
    with pytest.raises(AssertionError, match="violate the pod's disruption budget"):
        controlplane.kubectl("create", f"--raw={path}", "-f", "-", stdin=json.dumps(eviction))


def test_a_ready_pod_becomes_an_endpoint_that_answers(controlplane: ControlPlane, namespace: str, node: str) -> None:
    address = str(controlplane.pod_network[50])
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "fleet", "namespace": namespace},
        "spec": {"selector": {"app": "fleet"}, "ports": [{"port": 8000}]},
    }
    apply(controlplane, service, pod("replica", namespace, labels={"app": "fleet"}))
    wait(controlplane, "condition=PodScheduled", "pod/replica", f"-n={namespace}")
    report_ready(controlplane, namespace, "replica", address)

    def endpoints() -> list[tuple[list[str], bool, int]]:
        slices = get(controlplane, "endpointslices", f"-n={namespace}", "-l=kubernetes.io/service-name=fleet")["items"]
        return [
            (endpoint["addresses"], endpoint["conditions"]["ready"], each["ports"][0]["port"])
            for each in slices
            for endpoint in each.get("endpoints") or []
        ]

    eventually(lambda: endpoints() == [([address], True, 8000)])
    with socket.create_server((address, 8000)), socket.create_connection((address, 8000), timeout=5) as client:
        assert client.getpeername() == (address, 8000)


def test_a_user_may_do_only_what_was_granted(controlplane: ControlPlane, namespace: str) -> None:
    user = controlplane.kubeconfig_for(user="jane", groups=["readers"])
    arguments = ("get", "pods", f"-n={namespace}")
    with pytest.raises(AssertionError, match=r'Forbidden.*User "jane" cannot list resource "pods"'):
        controlplane.kubectl(*arguments, kubeconfig=user)
    controlplane.kubectl("create", "role", "reader", "--verb=list", "--resource=pods", f"-n={namespace}")
    controlplane.kubectl("create", "rolebinding", "readers", "--role=reader", "--group=readers", f"-n={namespace}")
    eventually(
        lambda: controlplane.run([controlplane.kubectl_path, *arguments], kubeconfig=user, check=False).returncode == 0,
        seconds=5,
    )
    with pytest.raises(AssertionError, match='cannot create resource "pods"'):
        controlplane.kubectl("run", "x", "--image=x", f"-n={namespace}", kubeconfig=user)


def test_a_service_account_is_known_by_its_token(controlplane: ControlPlane, namespace: str) -> None:
    account = controlplane.kubeconfig_for_service_account(namespace, "default")
    answer = json.loads(controlplane.kubectl("auth", "whoami", "-o=json", kubeconfig=account))
    assert answer["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:default"
    with pytest.raises(AssertionError, match="Forbidden"):
        controlplane.kubectl("get", "secrets", f"-n={namespace}", kubeconfig=account)


def test_kwok_runs_nodes_and_their_pods(controlplane: ControlPlane, namespace: str) -> None:
    controlplane.start_kwok()
    annotations = {"kwok.x-k8s.io/node": "fake"}
    labels = {"pool": "kwok"}
    metadata = {"name": "kwok-1", "annotations": annotations, "labels": labels}
    status = {"capacity": {"cpu": "8", "memory": "64Gi", "pods": "10", "nvidia.com/gpu": "2"}}
    apply(controlplane, {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status})
    wait(controlplane, "condition=Ready", "node/kwok-1")
    replica = pod("replica", namespace, gpus=2)
    replica["spec"]["nodeSelector"] = labels
    apply(controlplane, replica)
    wait(controlplane, "condition=Ready", "pod/replica", f"-n={namespace}")
    status = get(controlplane, "pod/replica", f"-n={namespace}")["status"]
    assert status["phase"] == "Running"
    address = ipaddress.IPv4Address(status["podIP"])
    assert address in ipaddress.IPv4Network("10.244.0.0/16")
    assert address not in controlplane.pod_network
    controlplane.kubectl("delete", "pod/replica", f"-n={namespace}", "--timeout=30s")  # gracefully, as a kubelet would
    controlplane.kubectl("delete", "node/kwok-1")


@pytest.mark.parametrize("force", [True, False])
def test_it_survives_a_restart_of_the_api_server(controlplane: ControlPlane, namespace: str, force: bool) -> None:
    apply(controlplane, config_map("before", namespace))
    others = {name: pid for name, pid in controlplane.pids().items() if name != "kube-apiserver"}
    started = time.monotonic()
    controlplane.stop_apiserver(force=force)
    assert time.monotonic() - started < 10
    assert controlplane.status("/readyz") is None
    controlplane.start_apiserver()
    assert get(controlplane, "configmap/before", f"-n={namespace}")["metadata"]["name"] == "before"
    apply(controlplane, deployment(namespace, replicas=1))
    eventually(lambda: len(pods_of(controlplane, namespace)) == 1)
    assert {name: controlplane.pids().get(name) for name in others} == others


DRIVER = """
import os, signal, subprocess, sys, time
sys.path.insert(0, {here!r})
from binaries import resolve
from cluster import ControlPlane
from objects import apply, config_map, deployment, eventually, get, pod, report_ready, wait
with ControlPlane(resolve(build=False)) as controlplane:
    controlplane.start_kwok()
    controlplane.popen(["sh", "-c", "sleep 1000 & sleep 1000"])
    assert len(controlplane.pids()) == 5, controlplane.pids()
    print("ready", flush=True)
    sys.stdin.readline()
assert not controlplane.directory.exists()
left = {{int(name) for name in os.listdir("/proc") if name.isdigit()}} - {{1, os.getpid()}}
assert not left, subprocess.run(["ps", "aux"], capture_output=True, text=True).stdout
print("clean", flush=True)
"""


def network_namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def in_network_namespace(namespace: str) -> list[int]:
    """Returns the processes seen from here that are in a network namespace, given as the target of ns/net."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            pid = int(process.name)
            if network_namespace(pid) == namespace:
                found.append(pid)
    return found


def wait_until_empty(namespace: str) -> None:
    eventually(lambda: not in_network_namespace(namespace), seconds=10)


@pytest.fixture
def nested(controlplane: ControlPlane, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another control plane in namespaces of its own, on the same ports; yields the running in_netns.py."""
    command = [sys.executable, str(HERE / "in_netns.py"), "--no-prepare", "--", sys.executable, "-c"]
    process = subprocess.Popen(
        [*command, DRIVER.format(here=str(HERE))],
        env={**os.environ, "TMPDIR": str(tmp_path)},  # a killed run cannot remove its files
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_clean_end_leaves_no_process_directory_or_namespace(nested: subprocess.Popen[str]) -> None:
    namespace = network_namespace(nested.pid)
    assert namespace != network_namespace(os.getpid())
    assert len(in_network_namespace(namespace)) >= 8  # in_netns, process 1, driver, five servers
    output, _ = nested.communicate("\n", timeout=30)
    assert (nested.returncode, output) == (0, "clean\n")
    wait_until_empty(namespace)


@pytest.mark.parametrize("victim", ["in_netns", "first process", "test process"])
def test_a_killed_run_leaves_no_process_or_namespace(nested: subprocess.Popen[str], victim: str) -> None:
    namespace = network_namespace(nested.pid)
    (first,) = children(nested.pid)
    test_process = children(first)[0]
    assert len(in_network_namespace(namespace)) >= 8
    victims = {"in_netns": nested.pid, "first process": first, "test process": test_process}
    os.kill(victims[victim], signal.SIGKILL)
    assert nested.wait(timeout=10) != 0
    wait_until_empty(namespace)


def test_terminating_the_run_reaches_the_test_process(nested: subprocess.Popen[str]) -> None:
    nested.terminate()
    assert nested.wait(timeout=10) == 128 + signal.SIGTERM
