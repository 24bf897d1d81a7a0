"""``plan``, ``explain`` and snapshots: the shipped planner on files, and refusals that name the field."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from warmfleet_cli import capture
from warmfleet_cli.main import main

ROOT = Path(__file__).resolve().parents[2]
TYPE = {
    "apiVersion": "warmfleet.dev/v1alpha1",
    "kind": "InstanceType",
    "metadata": {"name": "h100", "uid": "t1"},
    "spec": {"accelerator": {"name": "H100-SXM"}, "price": {"onDemand": 6.0}, "startup": {"p50": "1m", "p90": "2m"}},
}


def fleet(**scaling: Any) -> dict[str, Any]:
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "chat", "namespace": "prod", "uid": "d1", "generation": 3},
        "spec": {
            "model": {"name": "llama", "source": {"hf": {"repo": "x/y"}}},
            "engine": {"image": "vllm/vllm-openai:v1"},
            "variants": [{"name": "a", "instanceType": "h100", "performance": {"requestsPerSecond": 10}}],
            "scaling": {"min": 1, "max": 9, **scaling},
        },
    }


def pod(name: str) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-05-01T11:00:00Z"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "prod",
            "uid": f"u-{name}",
            "creationTimestamp": "2026-05-01T10:58:00Z",
            "labels": {
                "app.kubernetes.io/managed-by": "warmfleet",
                "app.kubernetes.io/component": "worker",
                "warmfleet.dev/deployment": "chat",
                "warmfleet.dev/variant": "a",
                "warmfleet.dev/instance-type": "h100",
            },
            "ownerReferences": [{"kind": "LLMDeployment", "name": "chat", "uid": "d1"}],
        },
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": "Running", "conditions": [ready]},
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return write(tmp_path / "s.json")


def write(path: Path, **changes: Any) -> Path:
    body = {
        "kind": "WarmfleetSnapshot",
        "version": 1,
        "takenAt": "2026-05-01T12:00:00Z",
        "objects": [fleet(), TYPE, pod("p1"), pod("p2")],
        "demand": {"prod/chat": {"arrivals": 34, "queue": 0, "inputTokens": 1000, "outputTokens": 200}},
    }
    path.write_text(json.dumps(body | changes))
    return path


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", *arguments, "-o", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    return dict(row)


def test_a_saved_snapshot_is_planned_as_the_operator_would(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = planned(capsys, "--snapshot", str(saved))
    assert (row["now"], row["desired"], row["chosenBy"], row["costPerHour"]) == (2, 4, "ReactiveUp", 24.0)
    assert row["variants"][0]["create"] == 2
    assert [step["stage"] for step in row["trace"]] == ["Demand", "Capacity", "Blend", "Mix", "Limits", "Victims"]


def test_manifests_take_the_place_of_what_is_in_the_snapshot(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "new.yaml"
    changed.write_text(json.dumps(fleet(max=3)))
    row = planned(capsys, "--snapshot", str(saved), "-f", str(changed))
    assert (row["now"], row["desired"], row["chosenBy"]) == (2, 3, "Max")
    row = planned(capsys, "--snapshot", str(saved), "--demand", "prod/chat=12")
    assert (row["desired"], row["now"]) == (2, 2)


def test_manifests_alone_are_planned_for_a_stated_demand(capsys: pytest.CaptureFixture[str]) -> None:
    example = str(ROOT / "examples" / "quickstart.yaml")
    assert planned(capsys, "-f", example, "--demand", "chat=60")["desired"] == 3
    assert main(["plan", "-f", example, "--demand", "chat=60", "--explain"]) == 0
    text = capsys.readouterr().out
    assert "create 3 h100" in text
    assert "70.6 req/s of capacity are needed" in text


def test_advice_is_marked(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(saved, objects=[fleet(mode="Advisory"), TYPE, pod("p1")])
    row = planned(capsys, "--snapshot", str(saved))
    assert (row["acts"], row["desired"], row["variants"][0]["create"]) == (False, 4, 0)


def test_explain_reads_a_snapshot(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "chat", "--snapshot", str(saved)]) == 0
    text = capsys.readouterr().out
    assert "prod/chat: 4 workers wanted, ReactiveUp" in text
    assert "2 ready (20 req/s) + 0 starting (0 req/s): create 2 a" in text
    assert main(["explain", "chat", "--snapshot", str(saved), "-o", "json"]) == 0
    chain = json.loads(capsys.readouterr().out)
    assert chain["trace"][0]["figures"]["demand_rps"] == 34.0
    assert main(["explain", "nobody", "--snapshot", str(saved)]) == 2
    assert "prod/chat" in capsys.readouterr().err


def test_a_fleet_that_cannot_be_planned_is_an_exit_code(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(saved, objects=[fleet(), pod("p1")])
    assert main(["plan", "--snapshot", str(saved)]) == 1
    assert "there is no InstanceType h100" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "version 2 is not 1"),
        ({"kind": "List"}, "kind: "),
        ({"takenAt": "yesterday"}, "takenAt: "),
        ({"takenAt": "2026-05-01T12:00:00"}, "takenAt: "),
        ({"objects": [{"kind": "Secret", "metadata": {"name": "x"}}]}, "objects.0.kind: 'Secret' is not one of"),
        ({"objects": [{"kind": "Pod"}]}, "objects.0.metadata.name is missing"),
        ({"demand": {"prod/chat": {"arrivals": -1}}}, "demand.prod/chat.arrivals: "),
        ({"demand": {"prod/chat": {"rate": 1}}}, "demand.prod/chat.rate: "),
        ({"demand": {"chat": {"arrivals": 1}}}, "must be namespace/name"),
        ({"memory": {"prod/chat": {"version": 99}}}, "memory.prod/chat: checkpoint: version 99"),
        ({"surprise": 1}, "surprise: "),
    ],
)
def test_a_snapshot_that_makes_no_sense_is_refused_by_field(
    changes: dict[str, Any], said: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(saved, **changes)
    assert main(["plan", "--snapshot", str(saved)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(saved) in error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: LLMDeployment\nmetadata: {name: x}\nspec: {}", "document 1: LLMDeployment x: spec.model"),
        ("kind: LLMDeployment\nspec: {}", "metadata.name is missing"),
        ("a: [", "not YAML"),
        ("kind: Secret", "no LLMDeployment"),
    ],
)
def test_a_manifest_that_would_be_refused_is_refused(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.yaml").write_text(text)
    assert main(["plan", "-f", str(tmp_path / "m.yaml")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan"], "nothing to plan"),
        (["plan", "--snapshot", "/nowhere.json"], "/nowhere.json: No such file"),
        (["plan", "--live", "--kubeconfig", "/nowhere"], "--kubeconfig /nowhere: no such file"),
        (["explain", "chat", "--kubeconfig", "/nowhere"], "--kubeconfig /nowhere: no such file"),
        (["status", "--kubeconfig", "/nowhere"], "--kubeconfig /nowhere: no such file"),
    ],
)
def test_what_is_missing_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", [["status"], ["explain", "chat"], ["pause", "chat"], ["drain", "pod"], ["report"]])
def test_without_a_kubeconfig_one_line_says_which_was_looked_for(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/a:{tmp_path}/b")
    assert main(command) == 2
    told = capsys.readouterr()
    assert (
        told.err
        == f"error: kubeconfig {tmp_path}/a:{tmp_path}/b: no such file; name one with --kubeconfig or KUBECONFIG\n"
    )
    assert told.out == ""
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(command) == 2
    assert f"error: kubeconfig {tmp_path}/.kube/config: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["hello", "[]", "a: 1", "a: [", "clusters: 5", "contexts: [{name: x}]", "\0\xff"])
def test_a_file_that_is_no_kubeconfig_is_named(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config").write_text(text, encoding="latin-1")
    assert main(["status", "--kubeconfig", str(tmp_path / "config")]) == 2
    assert f"error: kubeconfig {tmp_path}/config: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("demand", "said"),
    [
        ("nope=3", "no LLMDeployment nope; NAMESPACE/NAME=RATE is expected, there are: prod/chat, test/chat"),
        ("chat=3", "several LLMDeployments chat; NAMESPACE/NAME=RATE is expected, there are: prod/chat, test/chat"),
        ("other/chat=3", "no LLMDeployment other/chat"),
        ("prod/chat=-3", "NAME=RATE with RATE in requests/s"),
        ("prod/chat=many", "NAME=RATE with RATE in requests/s"),
        ("prod/chat", "NAME=RATE with RATE in requests/s"),
    ],
)
def test_demand_of_a_fleet_that_is_not_there_is_no_demand(
    demand: str, said: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = fleet()
    twin["metadata"] |= {"namespace": "test", "uid": "d2"}
    write(saved, objects=[fleet(), twin, TYPE])
    assert main(["plan", "--snapshot", str(saved), "--demand", demand]) == 2
    assert f"--demand {demand}: {said}" in capsys.readouterr().err


def test_a_name_alone_is_the_fleet_of_that_name(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(capsys, "--snapshot", str(saved), "--demand", "chat=60")["desired"] == 8
    assert planned(capsys, "--snapshot", str(saved), "--demand", "chat=60", "-n", "prod")["desired"] == 8
    assert main(["plan", "--snapshot", str(saved), "--demand", "chat=60", "-n", "test"]) == 2


def test_who_reads_the_first_lines_only_sees_no_traceback(saved: Path) -> None:
    write(saved, objects=[fleet(), TYPE, *(pod(f"p{number}") for number in range(40))])
    program = [sys.executable, "-m", "warmfleet_cli", "plan", "--snapshot", str(saved), "-o", "json"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait() == 1
    assert said == ""


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"warmfleet {version('warmfleet')}\n"


def test_demand_comes_from_the_status_and_is_absent_without_one() -> None:
    assert capture.demand(fleet()) is None
    figures = {"arrivals_rps": 12.0, "queue": 3.0, "input_tokens": 900.0}
    told = capture.demand({**fleet(), "status": {"scaling": {"trace": [{"stage": "Demand", "figures": figures}]}}})
    assert told is not None
    assert (told.arrivals, told.queue, told.input_tokens, told.hit_ratio) == (12.0, 3, 900.0, None)
