"""The chart as text: generated parts are current, values are checked, what it renders is valid Kubernetes."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import generate
import kubernetes_validate
import pytest
import yaml
from warmfleet_forecasting.rights import RIGHTS as FORECASTER_RIGHTS
from warmfleet_forecasting.settings import load_settings as load_forecaster_settings
from warmfleet_operator.rights import RIGHTS
from warmfleet_operator.settings import load_settings
from warmfleet_runtime.rights import Right, Scope

Json = dict[str, Any]
KUBERNETES = "1.37"
COMBINATIONS: dict[str, list[str]] = {
    "defaults": [],
    "namespaced": ["--set=namespaced=true"],
    "two replicas by digest": ["--set=replicas=2", f"--set=image.digest=sha256:{'0' * 64}"],
    "everything set": [
        "--set=imagePullSecrets={registry}",
        "--set=serviceAccount.annotations.a=b",
        "--set=podLabels.team=serving",
        "--set=podAnnotations.a=b",
        "--set=priorityClassName=system-cluster-critical",
        "--set=nodeSelector.pool=system",
        '--set-json=tolerations=[{"key":"system","operator":"Exists"}]',
        '--set-json=affinity={"nodeAffinity":{}}',
        '--set-json=config={"tickSeconds":2.5,"agentCommand":["agent","--x"]}',
        "--set=metrics.service.annotations.a=b",
        "--set=forecaster.replicas=3",
        "--set=forecaster.persistence.enabled=true",
        "--set=forecaster.persistence.storageClassName=fast",
        "--set=forecaster.serviceAccountAnnotations.a=b",
        '--set-json=forecaster.config={"history":"Prometheus","prometheusUrl":"http://prometheus:9090"}',
    ],
    "as little as possible": [
        "--set=crds.enabled=false",
        "--set=rbac.create=false",
        "--set=serviceAccount.create=false",
        "--set=metrics.service.enabled=false",
        "--set=forecaster.enabled=false",
    ],
}


def by_name(bodies: list[Json]) -> dict[tuple[str, str, str], Json]:
    return {(b["kind"], b["metadata"].get("namespace", ""), b["metadata"]["name"]): b for b in bodies}


def granted(bodies: list[Json], kind: str, name: str) -> set[tuple[str, str, str, tuple[str, ...]]]:
    (role,) = (b for b in bodies if b["kind"] == kind and b["metadata"]["name"] == name)
    return {
        (group, resource, verb, tuple(rule.get("resourceNames", ())))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def wanted(*scopes: Scope) -> set[tuple[str, str, str, tuple[str, ...]]]:
    def names(right: Right) -> tuple[str, ...]:
        return ("warmfleet-operator",) if right.named else ()

    return {(r.group, r.resource, r.verb, names(r)) for r in RIGHTS if r.scope in scopes}


def test_generated_files_of_the_chart_are_current() -> None:
    for path, content in generate.chart_files().items():
        assert path.read_text(encoding="utf-8") == content, f"{path.name}: run `python deploy/generate.py`"


def test_the_kustomize_base_is_what_the_chart_renders(helm: str, kubectl: str) -> None:
    for path, content in generate.base_files(helm).items():
        assert path.read_text(encoding="utf-8") == content, f"{path.name}: run `python deploy/generate.py`"
    built = subprocess.run([kubectl, "kustomize", str(generate.BASE)], capture_output=True, text=True, check=True)
    base = by_name(list(yaml.safe_load_all(built.stdout)))
    namespace = base.pop(("Namespace", "", generate.NAMESPACE))
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert base == by_name([generate.plain(body) for body in generate.render(helm)])


def test_crds_of_the_chart_are_the_checked_in_ones(helm: str) -> None:
    own = by_name([yaml.safe_load(p.read_text(encoding="utf-8")) for p in (generate.ROOT / "crds").glob("*.yaml")])
    assert len(own) == 3
    for keep, expected in (("true", {"helm.sh/resource-policy": "keep"}), ("false", {})):
        rendered = [b for b in generate.render(helm, f"--set=crds.keep={keep}") if b["kind"] in CRD]
        assert [b["metadata"].pop("annotations", {}) for b in rendered] == [expected] * 3
        assert by_name(rendered) == own
    assert not [b for b in generate.render(helm, "--set=crds.enabled=false") if b["kind"] in CRD]


CRD = {"CustomResourceDefinition"}


def test_roles_grant_the_written_rights_and_nothing_else(helm: str) -> None:
    bodies = generate.render(helm)
    assert granted(bodies, "ClusterRole", "warmfleet-operator") == wanted(Scope.CLUSTER, Scope.FLEET)
    forecaster = {(r.group, r.resource, r.verb, ()) for r in FORECASTER_RIGHTS}
    assert granted(bodies, "ClusterRole", "warmfleet-forecaster") == forecaster
    assert granted(bodies, "Role", "warmfleet-operator") == wanted(Scope.OWN)


def test_a_namespaced_release_has_no_right_on_other_namespaces(helm: str) -> None:
    bodies = generate.render(helm, "--set=namespaced=true")
    name = f"warmfleet-operator-{generate.NAMESPACE}"
    assert granted(bodies, "ClusterRole", name) == wanted(Scope.CLUSTER)
    assert granted(bodies, "Role", "warmfleet-operator") == wanted(Scope.FLEET, Scope.OWN)
    assert settings_of(bodies)["namespace"] == generate.NAMESPACE
    assert settings_of(bodies, "warmfleet-forecaster")["namespace"] == generate.NAMESPACE
    for scope, kind, role in (
        (Scope.CLUSTER, "ClusterRole", f"warmfleet-forecaster-{generate.NAMESPACE}"),
        (Scope.FLEET, "Role", "warmfleet-forecaster"),
    ):
        forecaster = {(r.group, r.resource, r.verb, ()) for r in FORECASTER_RIGHTS if r.scope is scope}
        assert granted(bodies, kind, role) == forecaster


def test_no_right_is_wide_or_gives_more_than_it_says() -> None:
    for right in (*RIGHTS, *FORECASTER_RIGHTS):
        assert "*" not in (right.group + right.resource + right.verb)
        assert right.verb not in {"bind", "escalate", "impersonate", "deletecollection"}
        assert right.resource not in {"secrets", "pods/exec", "serviceaccounts/token"}
        assert right.why
    for rights in (RIGHTS, FORECASTER_RIGHTS):
        assert len({(r.group, r.resource, r.verb) for r in rights}) == len(rights)


def settings_of(bodies: list[Json], name: str = "warmfleet-operator") -> Json:
    (found,) = (b for b in bodies if b["kind"] == "ConfigMap" and b["metadata"]["name"] == name)
    return dict(yaml.safe_load(found["data"]["config.yaml"]))


def test_settings_reach_the_operator(helm: str, tmp_path: Path) -> None:
    config = {"tickSeconds": 2.5, "agentCommand": ["agent", "--x"], "logLevel": "debug"}
    given = settings_of(generate.render(helm, f"--set-json=config={json.dumps(config)}"))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(given))
    loaded = load_settings({"WARMFLEET_CONFIG": str(file)})
    assert (loaded.tick_seconds, loaded.agent_command, loaded.log_level) == (2.5, ("agent", "--x"), "debug")
    assert (loaded.lease_namespace, loaded.lease_name) == (generate.NAMESPACE, "warmfleet-operator")


def test_settings_reach_the_forecaster(helm: str, tmp_path: Path) -> None:
    config = {"history": "Prometheus", "prometheusUrl": "http://prometheus:9090", "fitDeadlineSeconds": 30}
    bodies = generate.render(helm, f"--set-json=forecaster.config={json.dumps(config)}", "--set=forecaster.replicas=3")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings_of(bodies, "warmfleet-forecaster")))
    loaded = load_forecaster_settings({"WARMFLEET_CONFIG": str(file), "WARMFLEET_IDENTITY": "warmfleet-forecaster-2"})
    assert (loaded.ordinal, loaded.replicas, loaded.prometheus_url) == (2, 3, "http://prometheus:9090")
    services = {b["metadata"]["name"] for b in bodies if b["kind"] == "Service"}
    host = loaded.operator_url.removeprefix("http://").partition(".")[0]
    assert host in services, "the operator is asked at a Service that exists"
    (claims,) = (b["spec"].get("volumeClaimTemplates") for b in bodies if b["kind"] == "StatefulSet")
    assert claims is None


def test_a_changed_setting_rolls_the_pods(helm: str) -> None:
    def annotations(kind: str, *arguments: str) -> Json:
        (found,) = (b for b in generate.render(helm, *arguments) if b["kind"] == kind)
        return dict(found["spec"]["template"]["metadata"]["annotations"])

    assert annotations("Deployment") == annotations("Deployment")
    assert annotations("Deployment") != annotations("Deployment", "--set=config.tickSeconds=7")
    assert annotations("Deployment") == annotations("Deployment", "--set=forecaster.config.refitSeconds=7")
    assert annotations("StatefulSet") != annotations("StatefulSet", "--set=forecaster.config.refitSeconds=7")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--set=replica=2", "replica"),
        ("--set=image.tagg=x", "tagg"),
        ("--set=image.digest=latest", "digest"),
        ("--set=config.tickSecond=5", "tickSecond"),
        ("--set=config.tickSeconds=0", "tickSeconds"),
        ("--set=config.leaseName=x", "leaseName"),
        ("--set=replicas=-1", "replicas"),
        ("--set=forecaster.config.databasePath=x", "databasePath"),
        ("--set=forecaster.config.refitSecond=60", "refitSecond"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(helm: str, argument: str, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        generate.render(helm, argument)


@pytest.mark.parametrize("arguments", COMBINATIONS.values(), ids=COMBINATIONS)
def test_what_is_rendered_is_valid(helm: str, arguments: list[str]) -> None:
    bodies = generate.render(helm, *arguments)
    assert {"ConfigMap", "Deployment"} <= {b["kind"] for b in bodies}
    for body in bodies:
        if (
            body["kind"] not in CRD
        ):  # their schema is recursive, which the validator refuses; the real server checks them
            kubernetes_validate.validate(copy.deepcopy(body), KUBERNETES, strict=True)


def test_helm_lint_finds_nothing(helm: str) -> None:
    done = subprocess.run([helm, "lint", "--strict", str(generate.CHART)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_value_is_described() -> None:
    lines = (generate.CHART / "values.yaml").read_text(encoding="utf-8").splitlines()
    values = yaml.safe_load("\n".join(lines))
    described = {
        lines[n + 1].strip().partition(":")[0] for n, line in enumerate(lines) if line.strip().startswith("# --")
    }

    def leaves(mapping: Json) -> set[str]:
        mapping = {key: value for key, value in mapping.items() if key != "resources"}  # described as a whole
        return {key for key, value in mapping.items() if not isinstance(value, dict) or not value} | {
            leaf for value in mapping.values() if isinstance(value, dict) for leaf in leaves(value)
        }

    undescribed = leaves(values) - described
    assert not undescribed
