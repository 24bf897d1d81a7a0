"""The chart as text: generated parts are current, values are checked, what it renders is valid Kubernetes."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import generate
import kubernetes_validate
import pytest
import yaml
from combinations import COMBINATIONS
from warmfleet_contracts import labels
from warmfleet_contracts.api import InstanceType, LLMDeployment
from warmfleet_contracts.bearer import KEY_ITEM, METRICS_SECRET_NAME, SECRET_NAME
from warmfleet_forecasting.rights import RIGHTS as FORECASTER_RIGHTS
from warmfleet_forecasting.settings import load_settings as load_forecaster_settings
from warmfleet_operator.adapters.prometheus import DEPLOYMENT
from warmfleet_operator.rights import RIGHTS
from warmfleet_operator.settings import Settings, load_settings
from warmfleet_runtime.rights import Right, Scope

Json = dict[str, Any]
KUBERNETES = "1.37"


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
        return ("warmfleet-operator",) if right.named else (right.name,) if right.name else ()

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
        assert right.resource not in {"pods/exec", "serviceaccounts/token"}
        if right.resource == "secrets":  # two names; `create` cannot be limited to them, and reads nothing
            assert right.verb == "create" or right.name in {SECRET_NAME, METRICS_SECRET_NAME}
        assert right.why
    for rights in (RIGHTS, FORECASTER_RIGHTS):
        assert len({(r.group, r.resource, r.verb, r.name) for r in rights}) == len(rights)


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
        ("--set=metrics.podMonitor.interval=often", "interval"),
        ("--set=metrics.podMonitors.enabled=true", "podMonitors"),
        ("--set=resources.limits.memory=much", "memory"),
        ('--set-json=extraEnv=[{"nam":"A"}]', "extraEnv"),
        ('--set-json=commonLabels={"a":1}', "commonLabels"),
        ('--set-json=commonLabels={"app.kubernetes.io/name":"mine"}', "app.kubernetes.io/name"),
        ('--set-json=podLabels={"app.kubernetes.io/instance":"mine"}', "app.kubernetes.io/instance"),
        ('--set-json=podAnnotations={"warmfleet.dev/config-hash":"1"}', "warmfleet.dev/config-hash"),
        ('--set-json=extraEnv=[{"name":"WARMFLEET_CONFIG","value":"x"}]', "extraEnv"),
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
    text = (generate.CHART / "values.yaml").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `([^`]+)` \|", generate.values_table(text), re.MULTILINE))

    def undescribed(value: Any, path: str) -> set[str]:
        if path in described:
            return set()
        if not isinstance(value, dict):
            return {path}
        return {found for key, each in value.items() for found in undescribed(each, f"{path}.{key}".strip("."))}

    assert not undescribed(yaml.safe_load(text), "")


def test_every_object_of_the_schema_is_closed() -> None:
    schema = json.loads((generate.CHART / "values.schema.json").read_text(encoding="utf-8"))
    open_ones = {
        path for path, node in objects(schema, "") if "properties" in node and node.get("additionalProperties", True)
    }
    assert not open_ones
    free = {
        path for path, node in objects(schema, "") if "properties" not in node and "additionalProperties" not in node
    }
    assert free <= FREE, "Kubernetes' own objects are checked by the API server"


FREE = {
    f".properties.{name}"
    for name in (
        "global",
        "affinity",
        "tolerations.items",
        "topologySpreadConstraints.items",
        "networkPolicy.properties.scrapers.items",
        "networkPolicy.properties.fleets.properties.clients.items",
        "networkPolicy.properties.fleets.properties.directClients.items",
    )
} | {".definitions.env.items.properties.valueFrom"}


def objects(node: Any, path: str) -> list[tuple[str, Json]]:
    found = []
    if isinstance(node, dict):
        if node.get("type") == "object":
            found.append((path, node))
        for key, value in node.items():
            found += objects(value, f"{path}.{key}")
    return found


def test_what_artifact_hub_shows_is_true() -> None:
    chart = yaml.safe_load((generate.CHART / "Chart.yaml").read_text(encoding="utf-8"))
    notes = {key.partition("/")[2]: value for key, value in chart["annotations"].items()}
    crds = yaml.safe_load(notes["crds"])
    checked_in = [yaml.safe_load(p.read_text(encoding="utf-8")) for p in (generate.ROOT / "crds").glob("*.yaml")]
    assert {(c["kind"], c["name"], c["version"]) for c in crds} == {
        (c["spec"]["names"]["kind"], c["metadata"]["name"], c["spec"]["versions"][0]["name"]) for c in checked_in
    }
    kinds = {"LLMDeployment": LLMDeployment, "InstanceType": InstanceType}
    for example in yaml.safe_load(notes["crdsExamples"]):
        kinds[example["kind"]].model_validate(example)
    images = {each["name"]: each["image"] for each in yaml.safe_load(notes["images"])}
    values = yaml.safe_load((generate.CHART / "values.yaml").read_text(encoding="utf-8"))
    version = chart["appVersion"]
    assert images == {
        "operator": f"{values['image']['repository']}:{version}",
        "forecaster": f"{values['forecaster']['image']['repository']}:{version}",
        "agent": Settings().agent_image,
        "router": Settings().router_image,
    }


def test_the_versions_of_chart_and_package_agree() -> None:
    chart = yaml.safe_load((generate.CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((generate.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def monitoring(helm: str, *arguments: str) -> dict[str, Json]:
    parts = ("podMonitor", "prometheusRule", "dashboards")
    switches = [f"--set=metrics.{part}.enabled=true" for part in parts]
    bodies = generate.render(helm, "--set=crds.enabled=false", *switches, *arguments)
    return {f"{b['kind']}/{b['metadata']['name']}": b for b in bodies}


def test_pod_monitors_select_pods_that_exist_and_ports_they_have(helm: str) -> None:
    bodies = monitoring(helm)
    own = {
        "operator": bodies["Deployment/warmfleet-operator"],
        "forecaster": bodies["StatefulSet/warmfleet-forecaster"],
    }
    for part, owner in own.items():
        spec, template = bodies[f"PodMonitor/warmfleet-{part}"]["spec"], owner["spec"]["template"]
        assert spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        ports = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
        assert {endpoint["port"] for endpoint in spec["podMetricsEndpoints"]} <= ports
        assert "namespaceSelector" not in spec
    for part, ports in ((labels.COMPONENT_ROUTER, {"metrics"}), (labels.COMPONENT_WORKER, {"agent", "http"})):
        spec = bodies[f"PodMonitor/warmfleet-{part}"]["spec"]
        assert spec["selector"]["matchLabels"] == {
            labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
            labels.COMPONENT: part,
        }
        assert {endpoint["port"] for endpoint in spec["podMetricsEndpoints"]} == ports
        assert spec["namespaceSelector"] == {"any": True}
        for endpoint in spec["podMetricsEndpoints"]:  # what the operator asks Prometheus by
            sources = {r["targetLabel"]: r["sourceLabels"] for r in endpoint["relabelings"]}
            assert sources[DEPLOYMENT] == ["__meta_kubernetes_pod_label_warmfleet_dev_deployment"]
    narrow = monitoring(helm, "--set=namespaced=true")["PodMonitor/warmfleet-worker"]["spec"]
    assert narrow["namespaceSelector"] == {"matchNames": [generate.NAMESPACE]}


def test_monitors_present_the_token_where_one_is_asked_for(helm: str) -> None:
    asked = {"operator": {"http"}, "forecaster": {"http"}, "worker": {"agent"}, "router": set()}
    for arguments, on in (([], True), (["--set=metrics.authentication=false"], False)):
        bodies = monitoring(helm, *arguments)
        for part, ports in asked.items():
            endpoints = bodies[f"PodMonitor/warmfleet-{part}"]["spec"]["podMetricsEndpoints"]
            given = {e["port"]: e["authorization"]["credentials"] for e in endpoints if "authorization" in e}
            assert given == ({port: {"name": METRICS_SECRET_NAME, "key": KEY_ITEM} for port in ports} if on else {})
        own = bodies.get(f"Secret/{METRICS_SECRET_NAME}")
        assert (own is not None) is on
        assert own is None or "data" not in own, "no manifest holds a token"
        config = yaml.safe_load(bodies["ConfigMap/warmfleet-operator"]["data"]["config.yaml"])
        assert config["metricsAuthentication"] is on
        forecaster = bodies["StatefulSet/warmfleet-forecaster"]["spec"]["template"]["spec"]
        settings = yaml.safe_load(bodies["ConfigMap/warmfleet-forecaster"]["data"]["config.yaml"])
        mounts = {m["name"]: m["mountPath"] for m in forecaster["containers"][0]["volumeMounts"]}
        assert mounts.get("metrics-token") == settings.get("metricsTokenFolder") == (FOLDER if on else None)


FOLDER = "/etc/warmfleet-metrics"


def test_rules_and_dashboards_are_the_files(helm: str) -> None:
    bodies = monitoring(helm, "--set=metrics.prometheusRule.labels.release=prometheus")
    files = [yaml.safe_load(p.read_text(encoding="utf-8")) for p in sorted((generate.CHART / "rules").glob("*.yaml"))]
    if files:
        rule = bodies["PrometheusRule/warmfleet-operator"]
        assert rule["metadata"]["labels"]["release"] == "prometheus"
        assert rule["spec"]["groups"] == [group for file in files for group in file["groups"]]
    boards = {name: body for name, body in bodies.items() if "-dashboard-" in name}
    assert {key: json.loads(value) for body in boards.values() for key, value in body["data"].items()} == {
        p.name: json.loads(p.read_text(encoding="utf-8")) for p in (generate.CHART / "dashboards").glob("*.json")
    }
    assert all(body["metadata"]["labels"]["grafana_dashboard"] == "1" for body in boards.values())


def test_a_disruption_budget_exists_where_it_blocks_nothing_for_good(helm: str) -> None:
    def budgets(*arguments: str) -> list[Json]:
        return [b["spec"] for b in generate.render(helm, *arguments) if b["kind"] == "PodDisruptionBudget"]

    assert budgets() == []
    (spec,) = budgets("--set=replicas=2")
    assert (spec["minAvailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert budgets("--set=replicas=2", "--set=podDisruptionBudget.enabled=false") == []


def test_common_labels_are_on_everything_but_the_crds(helm: str) -> None:
    for body in generate.render(
        helm, "--set=commonLabels.team=serving", "--set=crds.enabled=false", "--set=replicas=2"
    ):
        assert body["metadata"]["labels"]["team"] == "serving"
        assert "team" not in body.get("spec", {}).get("selector", {}).get("matchLabels", {})
