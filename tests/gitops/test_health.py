"""Argo CD's health and actions by their scripts, beside what kstatus, and so Flux, says of the same objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import generate
import pytest
import yaml
from argo import health, run
from kstatus import verdicts
from test_docs import fences, manifests

KINDS = generate.ARGO / "resource_customizations" / "warmfleet.dev"
FOLDER = KINDS / "LLMDeployment"
AGREES = {"Healthy": "Current", "Suspended": "Current", "Progressing": "InProgress", "Degraded": "Failed"}
"""What kstatus calls each of Argo CD's statuses; of an object that is being deleted it says Terminating."""


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


TESTS = [(path.parent, case) for path in sorted(KINDS.glob("*/health_test.yaml")) for case in load(path)["tests"]]
IDS = [f"{folder.name}-{case['inputPath']}" for folder, case in TESTS]
ACTIONS = load(FOLDER / "actions" / "action_test.yaml")


@pytest.mark.parametrize(("folder", "case"), TESTS, ids=IDS)
def test_health_is_as_written(folder: Path, case: dict[str, Any]) -> None:
    assert health(folder, load(folder / case["inputPath"])) == case["healthStatus"]


def test_a_forecast_as_its_page_shows_it_is_done_once_it_is_written(kstatus: Path) -> None:
    """Else a sync that waits for an external forecaster's object would wait for ever."""
    page = generate.ROOT / "docs" / "how-to" / "external-forecaster.md"
    (target,) = (body for body in manifests(page) if body.get("kind") == "TrafficForecast")
    (written,) = fences(page, "json")
    target["metadata"]["generation"] = 1
    fresh, told = {**target, "status": {"observedGeneration": -1}}, {**target, **json.loads(written)}
    assert [health(KINDS / "TrafficForecast", body)["status"] for body in (fresh, told)] == ["Progressing", "Healthy"]
    assert verdicts(kstatus, fresh, told) == ["InProgress", "Current"]


def test_all_test_data_is_used_and_all_kinds_have_the_same_script() -> None:
    used = {folder / case["inputPath"] for folder, case in TESTS}
    used |= {FOLDER / case[key] for case in ACTIONS["actionTests"] for key in ("inputPath", "expectedOutputPath")}
    assert used == set(KINDS.glob("*/testdata/*"))
    scripts = {path.read_text(encoding="utf-8") for path in KINDS.glob("*/health.lua")}
    assert len(scripts) == 1
    assert {path.name for path in KINDS.iterdir()} == {"LLMDeployment", "InstanceType", "TrafficForecast"}


def test_kstatus_says_the_same(kstatus: Path) -> None:
    bodies = [load(folder / case["inputPath"]) for folder, case in TESTS]
    for (_, case), body, verdict in zip(TESTS, bodies, verdicts(kstatus, *bodies), strict=True):
        expected = AGREES[case["healthStatus"]["status"]]
        if "deletionTimestamp" in body["metadata"]:
            expected = "Terminating"
        if "status" in body:  # the schema's default gives a fresh object one: without it kstatus takes it for Current
            assert verdict == expected, case["inputPath"]


@pytest.mark.parametrize("case", ACTIONS["discoveryTests"], ids=lambda case: case["inputPath"])
def test_actions_are_offered_where_they_do_something(case: dict[str, Any]) -> None:
    offered = run((FOLDER / "actions" / "discovery.lua").read_text(encoding="utf-8"), load(FOLDER / case["inputPath"]))
    assert offered == {each["name"]: {"disabled": each["disabled"]} for each in case["result"]}


@pytest.mark.parametrize("case", ACTIONS["actionTests"], ids=lambda case: case["action"])
def test_an_action_changes_the_annotation_and_nothing_else(case: dict[str, Any]) -> None:
    script = (FOLDER / "actions" / case["action"] / "action.lua").read_text(encoding="utf-8")
    assert run(script, load(FOLDER / case["inputPath"])) == load(FOLDER / case["expectedOutputPath"])


def test_the_config_map_holds_the_scripts() -> None:
    data = load(generate.ARGO / "argocd-cm.yaml")["data"]
    for kind in KINDS.iterdir():
        script = (kind / "health.lua").read_text(encoding="utf-8")
        assert data[f"resource.customizations.health.warmfleet.dev_{kind.name}"] == script
    actions = yaml.safe_load(data["resource.customizations.actions.warmfleet.dev_LLMDeployment"])
    assert [each["name"] for each in actions["definitions"]] == ["pause", "resume"]
