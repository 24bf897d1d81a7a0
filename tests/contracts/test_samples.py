"""The samples: valid ones parse, each invalid one gets the message it names, and CRDs match what is checked in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from warmfleet_contracts.api import InstanceType, LLMDeployment, TrafficForecast
from warmfleet_contracts.api.base import ApiModel, format_duration, parse_duration
from warmfleet_contracts.api.crd import KINDS, custom_resource_definition, file_name, render

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = Path(__file__).parent / "samples"
MODELS: dict[str, type[ApiModel]] = {
    "LLMDeployment": LLMDeployment,
    "InstanceType": InstanceType,
    "TrafficForecast": TrafficForecast,
}


def load(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """The message a sample names (empty for valid ones) and its objects."""
    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[0]
    return first.removeprefix("# refused: ") if first.startswith("# refused: ") else "", list(yaml.safe_load_all(text))


def samples(kind: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted((SAMPLES / kind).glob("*.yaml"))]


@pytest.mark.parametrize(
    "path", [*samples("valid"), *(pytest.param(p, id=p.stem) for p in (ROOT / "examples").glob("*.yaml"))]
)
def test_a_valid_sample_parses_and_survives_the_way_to_the_wire_and_back(path: Path) -> None:
    for body in load(path)[1]:
        model = MODELS[body["kind"]]
        parsed = model.model_validate(body)
        assert model.model_validate(parsed.to_wire()) == parsed


JUDGED_BY_THE_API_SERVER_ALONE = {"long-name"}
"""Samples whose metadata is wrong: the models do not look at it. A real API server refuses them in its own suite."""


@pytest.mark.parametrize("path", [p for p in samples("invalid") if p.id not in JUDGED_BY_THE_API_SERVER_ALONE])
def test_an_invalid_sample_gets_the_message_it_names(path: Path) -> None:
    message, (body,) = load(path)
    assert message, "an invalid sample starts with '# refused: <message>'"
    with pytest.raises(ValidationError) as error:
        MODELS[body["kind"]].model_validate(body)
    assert message.rsplit(".", 1)[-1] in str(error.value) if " " not in message else message in str(error.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_the_checked_in_crd_is_the_generated_one(kind: type[ApiModel]) -> None:
    path = ROOT / "crds" / file_name(kind)
    assert path.read_text(encoding="utf-8") == render(kind), "run `make crds`"
    assert path.stat().st_size < 100_000, "plain `kubectl apply` keeps it in an annotation, of at most 256 KiB"


def walk(node: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = [(path, node)] if isinstance(node, dict) and "type" in node and isinstance(node["type"], str) else []
    if isinstance(node, dict):
        for key, child in node.get("properties", {}).items():
            found += walk(child, f"{path}.{key}")
        for key in ("items", "additionalProperties"):
            if isinstance(node.get(key), dict):
                found += walk(node[key], f"{path}[]")
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_the_schema_is_structural_bounded_and_described(kind: type[ApiModel]) -> None:
    version = custom_resource_definition(kind)["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    nodes = walk(schema)
    assert len(nodes) > 20
    for path, node in nodes:
        assert not {"$ref", "anyOf", "title", "const"} & set(node), path
        if node["type"] == "array":
            assert "maxItems" in node, f"{path} is not bounded"
        if path.count(".") >= 2 and not path.endswith("[]"):
            assert node.get("description"), f"{path} has no description"
    assert schema["properties"]["status"]["default"] == {"observedGeneration": -1}
    assert all(column["description"] for column in version["additionalPrinterColumns"])


def test_the_columns_that_people_look_for_are_there() -> None:
    columns = custom_resource_definition(LLMDeployment)["spec"]["versions"][0]["additionalPrinterColumns"]
    assert {"READY", "DESIRED", "COST/H", "REASON"} <= {column["name"].upper() for column in columns}


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("30s", 30.0), ("1h30m", 5400.0), ("1.5m", 90.0), ("0s", 0.0)]
)
def test_durations_are_read_and_written(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "five", "1d", "-3s", None, [1]])
def test_what_is_no_duration_is_refused_with_the_fix(text: object) -> None:
    with pytest.raises(ValueError, match="write a number with ms, s, m or h"):
        parse_duration(text)
