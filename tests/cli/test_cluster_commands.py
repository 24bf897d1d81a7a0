"""Commands that talk to a cluster: pause, resume, drain, report; what a report must not contain."""

from __future__ import annotations

import argparse
import json
import tarfile
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml
from warmfleet_cli import redact, report
from warmfleet_cli.cluster import ClusterError, read
from warmfleet_cli.main import main
from warmfleet_contracts import labels
from warmfleet_runtime.resources import CONFIG_MAPS, EVENTS, INSTANCE_TYPES, LLM_DEPLOYMENTS, NAMESPACES, PODS, Resource


class Cluster(Protocol):
    logs: dict[str, str]

    def arguments(self, *words: str) -> list[str]: ...
    def put(self, resource: Resource, body: dict[str, Any]) -> dict[str, Any]: ...
    def get(self, resource: Resource, name: str, namespace: str | None = "default") -> dict[str, Any]: ...


SECRETS = {
    "hub": "hf_AbCdEfGhIjKlMnOpQrStUvWx",
    "variable": "correct-horse-battery",
    "flag": "sesame-open-please",
    "header": "aGVhZGVyLXRva2Vu",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl",
    "aws": "AKIAABCDEFGHIJKLMNOP",
    "url": "s3cr3t-in-url",
    "applied": "copied-by-kubectl",
    "logged": "printed-by-mistake",
}


def fleet(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {
            "name": name,
            "namespace": "default",
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": f'{{"x":"{SECRETS["applied"]}"}}'},
        },
        "spec": {
            "model": {"name": "m", "source": {"hf": {"repo": "x/y", "tokenSecretRef": {"name": "hf", "key": "token"}}}},
            "engine": {
                "image": "vllm:v0.32.0",
                "args": ["--api-key", SECRETS["flag"], f"--hf-token={SECRETS['flag']}", "--port-range", "1-2"],
                "env": [{"name": "MY_PASSWORD", "value": SECRETS["variable"]}, {"name": "LEVEL", "value": "debug"}],
            },
            "variants": [{"name": "a", "instanceType": "h100"}],
            "replicas": 1,
        },
        "status": {"conditions": [], "observedGeneration": 1},
    }


def pod(name: str, of: str, **annotations: str) -> dict[str, Any]:
    hook = {
        "httpGet": {"path": "/v1/prestop", "port": 9600, "httpHeaders": [{"name": "X", "value": SECRETS["header"]}]}
    }
    engine = {"name": "engine", "image": "vllm", "lifecycle": {"preStop": hook}}
    own = {
        labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
        "app.kubernetes.io/name": "warmfleet",
        labels.COMPONENT: labels.COMPONENT_WORKER,
        labels.DEPLOYMENT: of,
        labels.ROUTE: labels.ROUTE_VALUE,
    }
    state = {"name": "engine", "image": "vllm", "imageID": "", "ready": True, "restartCount": 1, "state": {}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": own, "annotations": annotations},
        "spec": {"containers": [engine]},
        "status": {"phase": "Running", "containerStatuses": [state]},
    }


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


def test_pause_and_resume_write_annotations(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.put(LLM_DEPLOYMENTS, fleet("held"))
    assert main(cluster.arguments("pause", "held", "--scale-in", "-o", "json")) == 0
    assert told(capsys)["paused"] == ["scale-in"]
    assert main(cluster.arguments("pause", "held")) == 0
    assert "all, scale-in paused" in capsys.readouterr().out
    notes = cluster.get(LLM_DEPLOYMENTS, "held")["metadata"]["annotations"]
    assert (notes[labels.PAUSED], notes[labels.PAUSED_SCALE_IN]) == ("true", "true")
    assert main(cluster.arguments("resume", "held", "-o", "json")) == 0
    assert told(capsys)["paused"] == []
    assert labels.PAUSED not in cluster.get(LLM_DEPLOYMENTS, "held")["metadata"]["annotations"]
    assert main(cluster.arguments("pause", "nobody")) == 2
    assert "nobody" in capsys.readouterr().err


def test_drain_marks_a_worker_as_the_operator_does(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.put(LLM_DEPLOYMENTS, fleet("chat"))
    cluster.put(PODS, pod("chat-1", "chat"))
    cluster.put(PODS, pod("chat-2", "chat", **{labels.DO_NOT_DRAIN: "true"}))
    assert main(cluster.arguments("drain", "chat-1", "-o", "json")) == 0
    said = told(capsys)
    assert (said["started"], said["reason"], said["gone"]) == (True, "Requested", None)
    meta = cluster.get(PODS, "chat-1")["metadata"]
    assert meta["annotations"][labels.DRAINING] == "Requested"
    assert labels.ROUTE not in meta["labels"]
    assert main(cluster.arguments("drain", "chat-1", "--wait", "--timeout", "10ms")) == 1
    assert "still there" in capsys.readouterr().out
    assert main(cluster.arguments("drain", "chat-2")) == 2
    assert "--force" in capsys.readouterr().err
    assert main(cluster.arguments("pause", "chat")) == 0
    assert main(cluster.arguments("drain", "chat-2", "--force")) == 2
    assert "warmfleet resume chat" in capsys.readouterr().err
    assert main(cluster.arguments("drain", "chat-2", "--timeout", "soon")) == 2
    other = pod("other", "chat")
    other["metadata"]["labels"] = {}
    cluster.put(PODS, other)
    assert main(cluster.arguments("drain", "other")) == 2
    assert "is not a worker" in capsys.readouterr().err


def test_fit_reads_instance_types_and_a_fleet_of_the_cluster(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = {"accelerator": {"name": "H100-SXM", "count": 8}, "price": {"onDemand": 48.0}}
    body = {"apiVersion": "warmfleet.dev/v1alpha1", "kind": "InstanceType", "metadata": {"name": "h100"}, "spec": kind}
    cluster.put(INSTANCE_TYPES, body)
    fitted = fleet("fitted")
    fitted["spec"]["model"] |= {"profile": "llama-3.1-8b", "maxModelLen": 8192}
    cluster.put(LLM_DEPLOYMENTS, fitted)
    assert main(cluster.arguments("fit", "--live", "--name", "fitted", "-o", "json")) == 0
    found = told(capsys)
    assert [(row["variant"], row["instanceType"], row["costPerHour"]) for row in found["rows"]] == [("a", "h100", 6.0)]
    assert found["notes"] == []
    assert main(cluster.arguments("fit", "Qwen/Qwen3-32B", "--live", "-o", "json")) == 0
    found = told(capsys)
    assert [row["tensorParallel"] for row in found["rows"]] != []
    assert "maxModelLen is not set" in found["notes"][0]


def test_a_report_has_everything_but_secrets(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.put(LLM_DEPLOYMENTS, fleet("told"))
    cluster.put(PODS, pod("told-1", "told"))
    cluster.logs["engine"] = f"loading\nAuthorization: Bearer {SECRETS['jwt']}\ntoken={SECRETS['logged']} ok\n"
    cluster.logs["engine-previous"] = f"died of {SECRETS['aws']}\n"
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e1", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "told-1", "namespace": "default"},
        "reason": "Failed",
        "message": f"cannot pull with {SECRETS['hub']} from https://me:{SECRETS['url']}@registry.example/x",
    }
    cluster.put(EVENTS, event)
    path = tmp_path / "bundle.tgz"
    assert main(cluster.arguments("report", "--file", str(path), "-o", "json")) == 0
    listed = told(capsys)["files"]
    with tarfile.open(path) as tar:
        found = {m.name.removeprefix("bundle/"): tar.extractfile(m) for m in tar.getmembers()}
        files = {name: entry.read().decode() for name, entry in found.items() if entry is not None}
    assert set(listed) == set(files)
    assert {
        "llmdeployments.yaml",
        "pods.yaml",
        "events.yaml",
        "status.txt",
        "snapshot.json",
        "versions.json",
        "explain/default_told.txt",
        "logs/default_told-1-engine.log",
        "logs/default_told-1-engine-previous.log",
        "notes.txt",
    } <= set(files)
    everything = "\n".join(files.values())
    assert [name for name, secret in SECRETS.items() if secret in everything] == []
    assert "loading" in files["logs/default_told-1-engine.log"]
    bodies = {b["metadata"]["name"]: b for b in yaml.safe_load_all(files["llmdeployments.yaml"])}
    spec = bodies["told"]["spec"]
    assert spec["model"]["source"]["hf"]["tokenSecretRef"] == {"name": "hf", "key": "token"}
    assert spec["engine"]["args"][-2:] == ["--port-range", "1-2"]
    assert spec["engine"]["env"] == [
        {"name": "MY_PASSWORD", "value": redact.REMOVED},
        {"name": "LEVEL", "value": "debug"},
    ]


def operators(name: str, namespace: str) -> dict[str, Any]:
    """A pod of the installation."""
    own = {"app.kubernetes.io/name": "warmfleet", "app.kubernetes.io/component": "operator"}
    found = pod(name, "none")
    found["metadata"] |= {"namespace": namespace, "labels": own}
    found["status"]["containerStatuses"][0] |= {"name": "operator", "restartCount": 0}
    return found


def test_a_report_of_one_namespace_has_the_operator_of_another(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.put(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "zz-system"}})
    cluster.put(PODS, operators("warmfleet-operator-1", "zz-system"))
    for number in range(3):
        cluster.put(PODS, pod(f"many-{number}", "many"))
    own = {"app.kubernetes.io/name": "warmfleet", "app.kubernetes.io/component": "operator"}
    meta = {"namespace": "zz-system", "labels": own}
    settings = {"config.yaml": f"tickSeconds: 7\nprometheusUrl: http://me:{SECRETS['url']}@prometheus:9090\n"}
    for name, data in (("warmfleet-operator", settings), ("warmfleet-dashboard", {"fleet.json": "panels"})):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **meta}, "data": data}
        cluster.put(CONFIG_MAPS, body)
    cluster.logs["operator"] = "the decision failed\n"
    monkeypatch.setattr(report, "_MOST_LOGS", 2)
    for scope in ([], ["-A"]):
        path = tmp_path / f"bundle{len(scope)}.tgz"
        assert main(cluster.arguments("report", "--file", str(path), *scope)) == 0
        assert "narrow it with -n" in capsys.readouterr().err
        with tarfile.open(path) as tar:
            found = {m.name.partition("/")[2]: tar.extractfile(m) for m in tar.getmembers()}
            files = {name: entry.read().decode() for name, entry in found.items() if entry is not None}
        assert files["logs/zz-system_warmfleet-operator-1-operator.log"] == "the decision failed\n"
        bodies = list(yaml.safe_load_all(files["installation.yaml"]))
        assert {(b["kind"], b["metadata"]["name"]) for b in bodies} == {
            ("Pod", "warmfleet-operator-1"),
            ("ConfigMap", "warmfleet-operator"),
        }
        assert "tickSeconds: 7" in files["installation.yaml"]
        assert SECRETS["url"] not in files["installation.yaml"]


def test_a_fleet_that_is_not_there_is_no_matter_of_crds(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["explain", "typo"], ["pause", "typo"], ["fit", "--live", "--name", "typo"]):
        assert main(cluster.arguments(*command)) == 2
        said = capsys.readouterr().err
        assert '"typo" not found' in said
        assert "CRDs" not in said


def test_a_kind_that_is_not_there_is(cluster: Cluster) -> None:
    args = argparse.Namespace(kubeconfig=cluster.arguments()[-1], context=None)
    with pytest.raises(ClusterError, match=r"404.*; install the CRDs"):
        read(args, lambda client: client.list(Resource("warmfleet.dev/v1alpha1", "llmfleets", "LLMFleet"), "default"))


def test_a_report_that_cannot_be_written_says_so(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(cluster.arguments("report", "--file", "/nowhere/x.tgz", "--no-logs")) == 2
    assert "/nowhere/x.tgz" in capsys.readouterr().err
    assert main(cluster.arguments("report", "--tail", "0")) == 2


@pytest.mark.parametrize(
    "text",
    [
        "kvCacheTokens: 180000",
        "prompt_tokens_total 123456789",
        "secretName: warmfleet-agents",
        "image: registry.example/vllm:v0.32.0",
        "the token of the Secret hf cannot be read",
        "commit 0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact.text(text) == text
    assert redact.objects({"automountServiceAccountToken": False, "secretName": "x", "kvCacheTokens": 7}) == {
        "automountServiceAccountToken": False,
        "secretName": "x",
        "kvCacheTokens": 7,
    }
