"""Pods on a process node: start, environment, restarts, probes and reports."""

import base64
import itertools
import json
import sys
from pathlib import Path

from warmfleet_localcluster.node import ImageEntry
from warmfleet_runtime.resources import CONFIG_MAPS, ENDPOINT_SLICES, NODES, PODS, SECRETS

from .conftest import Cluster, condition, container, is_ready, python, sleeper


def text(file: Path) -> str:
    return file.read_text()


async def test_a_pod_runs_and_is_reported_ready_on_its_own_address(cluster: Cluster) -> None:
    await cluster.run("a", sleeper())
    await cluster.run("b", sleeper())
    first, second = [await cluster.until(name, is_ready) for name in "ab"]
    assert first["status"]["phase"] == "Running"
    assert first["status"]["podIP"].startswith("127.")
    assert first["status"]["podIP"] != second["status"]["podIP"]
    for kind in ("Initialized", "ContainersReady", "PodScheduled"):
        assert condition(first, kind) == "True"
    node = await cluster.client.get(NODES, "gpu-0")
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "1"
    assert node["metadata"]["labels"]["gpu"] == "l4"


async def test_environment_volumes_and_expansion(cluster: Cluster) -> None:
    secret = {"token": base64.b64encode(b"s3").decode()}
    await cluster.client.create(SECRETS, {"metadata": {"name": "s", "namespace": "default"}, "data": secret})
    await cluster.client.create(
        CONFIG_MAPS, {"metadata": {"name": "c", "namespace": "default"}, "data": {"A": "1", "conf.json": "{}"}}
    )
    code = "import json,os,sys; print(json.dumps([dict(os.environ), sys.argv[1:]]), flush=True)"
    spec = python(
        code,
        env=[
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "ROLE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['role']"}}},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
            {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y", "optional": True}}},
            {"name": "URL", "value": "http://$(IP):8000/$(UNKNOWN)/$$(IP)"},
            {"name": "SOCKET", "value": "ipc:///run/kv/events"},
        ],
        envFrom=[{"configMapRef": {"name": "c"}, "prefix": "C_"}],
        volumeMounts=[
            {"name": "kv", "mountPath": "/run/kv"},
            {"name": "conf", "mountPath": "/etc/conf"},
        ],
    )
    spec["args"] += ["--dir=/run/kv/a", "/run/kvx", "$(TOKEN)", "/etc/conf"]
    volumes = [{"name": "kv", "emptyDir": {"medium": "Memory"}}, {"name": "conf", "configMap": {"name": "c"}}]
    await cluster.run("e", spec, volumes=volumes, metadata={"labels": {"role": "both"}}, restartPolicy="Never")
    pod = await cluster.until("e", lambda p: p["status"].get("phase") == "Succeeded")
    env, argv = json.loads(cluster.node.logs("default", "e", "main"))
    real = env["WARMFLEET_MOUNT_KV"]
    assert env["IP"] == env["WARMFLEET_POD_IP"] == pod["status"]["podIP"]
    assert (env["ROLE"], env["TOKEN"], env["C_A"]) == ("both", "s3", "1")
    assert "NONE" not in env
    assert env["URL"] == f"http://{env['IP']}:8000/$(UNKNOWN)/$(IP)"
    assert env["SOCKET"] == f"ipc://{real}/events"
    assert len(real) < 60
    assert argv[:3] == [f"--dir={real}/a", "/run/kvx", "s3"]
    assert text(Path(argv[3], "conf.json")) == "{}"
    assert "server: http://127.0.0.1" in text(Path(env["KUBECONFIG"]))


async def test_command_runs_unless_the_image_is_entry_only(cluster: Cluster) -> None:
    cluster.images["engine:*"] = ImageEntry(
        [sys.executable, "-S", "-c", "import sys; print('entry', sys.argv[1:])"], entry_only=True
    )
    command = {"command": ["sh", "-c", "echo command $0"], "args": ["x"]}
    await cluster.run("own", {"name": "main", "image": "python:3", **command}, restartPolicy="Never")
    await cluster.run("entry", {"name": "main", "image": "engine:1", **command}, restartPolicy="Never")
    assert await cluster.said("own", "main", "command x")
    assert await cluster.said("entry", "main", "entry ['x']")


async def test_an_unknown_image_waits_without_a_process_until_it_is_known(cluster: Cluster) -> None:
    await cluster.run("u", {"name": "main", "image": "nowhere/engine:9", "args": ["print('here', flush=True)"]})
    reasons = set()

    def pulling(pod: dict) -> bool:
        reasons.add(container(pod)["state"].get("waiting", {}).get("reason"))
        return "ImagePullBackOff" in reasons

    pod = await cluster.until("u", pulling)
    assert "nowhere/engine:9" in container(pod)["state"]["waiting"]["message"]
    assert pod["status"]["phase"] == "Pending"
    assert cluster.node.processes() == []
    cluster.images["nowhere/*"] = ImageEntry([sys.executable, "-S", "-c"])
    await cluster.said("u", "main", "here")


async def test_a_missing_secret_is_a_config_error_until_it_exists(cluster: Cluster) -> None:
    ref = {"name": "K", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}
    await cluster.run("m", python("import os; print(os.environ['K'], flush=True)", env=[ref]))
    pod = await cluster.until(
        "m", lambda p: container(p)["state"].get("waiting", {}).get("reason") == "CreateContainerConfigError"
    )
    assert container(pod)["state"]["waiting"]["message"] == 'secret "late" not found'
    data = {"k": base64.b64encode(b"now").decode()}
    await cluster.client.create(SECRETS, {"metadata": {"name": "late", "namespace": "default"}, "data": data})
    await cluster.said("m", "main", "now")


async def test_crashes_back_off_longer_each_time(cluster: Cluster) -> None:
    await cluster.run("c", python("import sys, time; print(time.monotonic(), flush=True); sys.exit(3)"))
    pod = await cluster.until("c", lambda p: container(p).get("restartCount", 0) >= 3)
    assert container(pod)["lastState"]["terminated"]["exitCode"] == 3
    await cluster.until("c", lambda p: "back-off 40s" in container(p)["state"].get("waiting", {}).get("message", ""))
    starts = [float(line) for line in cluster.node.logs("default", "c", "main").split()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps[0] < 0.9 < gaps[1] < 1.9 < gaps[2], "at 10 times real speed: none, 10 s, 20 s"


async def test_exit_codes_and_phases_without_restart(cluster: Cluster) -> None:
    await cluster.run("ok", python("pass"), restartPolicy="OnFailure")
    await cluster.run("bad", python("import os; os.kill(os.getpid(), 9)"), restartPolicy="Never")
    await cluster.run("none", {"name": "main", "image": "python:3", "command": ["/no/such"]}, restartPolicy="Never")
    await cluster.until("ok", lambda p: p["status"].get("phase") == "Succeeded")
    pod = await cluster.until("bad", lambda p: p["status"].get("phase") == "Failed")
    assert container(pod)["state"]["terminated"]["exitCode"] == 137
    pod = await cluster.until("none", lambda p: p["status"].get("phase") == "Failed")
    assert container(pod)["state"]["terminated"]["reason"] == "StartError"
    assert "/no/such" in container(pod)["state"]["terminated"]["message"]


async def test_startup_gates_readiness_and_liveness_restarts(cluster: Cluster, tmp_path: Path) -> None:
    started, healthy = tmp_path / "started", tmp_path / "healthy"
    healthy.touch()
    test = lambda file: {"exec": {"command": ["test", "-e", str(file)]}, "periodSeconds": 1, "failureThreshold": 1}  # noqa: E731
    probes = {"startupProbe": {**test(started), "failureThreshold": 500}, "livenessProbe": test(healthy)}
    await cluster.run("p", sleeper(**probes))
    pod = await cluster.until("p", lambda p: "running" in container(p)["state"])
    assert not container(pod)["started"]
    assert not is_ready(pod)
    started.touch()
    pod = await cluster.until("p", is_ready)
    assert container(pod)["started"]
    healthy.unlink()
    await cluster.until("p", lambda p: container(p)["restartCount"] >= 1)
    assert "main term" in cluster.node.logs("default", "p", "main")


async def test_readiness_gates_hold_ready_back(cluster: Cluster) -> None:
    await cluster.run("g", sleeper(), readinessGates=[{"conditionType": "warm"}])
    pod = await cluster.until("g", lambda p: condition(p, "ContainersReady") == "True")
    assert condition(pod, "Ready") == "False"
    warm = {"status": {"conditions": [{"type": "warm", "status": "True"}]}}
    await cluster.client.patch(PODS, "g", warm, "default", subresource="status", how="strategic")
    pod = await cluster.until("g", is_ready)
    assert condition(pod, "warm") == "True"


async def test_init_containers_and_sidecars_start_in_order(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    probe = {"exec": {"command": ["test", "-e", str(gate)]}, "periodSeconds": 1, "failureThreshold": 500}
    sidecar = sleeper("agent", restartPolicy="Always", startupProbe=probe)
    init = python("print('init done', flush=True)", name="init")
    await cluster.run("i", sleeper(), initContainers=[init, sidecar])
    pod = await cluster.until("i", lambda p: "running" in container(p, "agent")["state"])
    assert container(pod, "init")["state"]["terminated"]["exitCode"] == 0
    assert container(pod, "main")["state"]["waiting"]["reason"] in {"ContainerCreating", "PodInitializing"}
    assert pod["status"]["phase"] == "Pending"
    assert condition(pod, "Initialized") == "False"
    gate.touch()
    pod = await cluster.until("i", is_ready)
    assert condition(pod, "Initialized") == "True"


async def test_a_failing_init_container_is_tried_again(cluster: Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"import os,sys\nif not os.path.exists({str(mark)!r}): open({str(mark)!r},'w'); sys.exit(1)"
    await cluster.run("r", sleeper(), initContainers=[python(code, name="init")])
    pod = await cluster.until("r", is_ready)
    assert container(pod, "init")["restartCount"] == 1


async def test_status_is_written_only_when_it_changes(cluster: Cluster) -> None:
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
    await cluster.run("q", sleeper(readinessProbe=probe, livenessProbe=probe))
    before = await cluster.until("q", is_ready)
    await cluster.clock.sleep(8)
    after = await cluster.pod("q")
    assert after is not None
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert container(after)["restartCount"] == 0


async def test_a_container_has_its_nodes_devices_and_the_addresses_of_services(cluster: Cluster) -> None:
    await cluster.client.create(
        ENDPOINT_SLICES,
        {
            "metadata": {"name": "chat-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "chat"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["127.0.0.9"], "conditions": {"ready": True}}],
            "ports": [],
        },
    )
    code = "import os; print(os.environ['DEVICE'], os.environ['HOSTNAME'], os.environ['URL'], flush=True)"
    await cluster.run("p", python(code, env=[{"name": "URL", "value": "http://chat.default.svc:8080"}]))
    await cluster.said("p", "main", "L4 p http://127.0.0.9:8080")
