"""CRDs that are older or newer than this release are told apart by their fields."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from warmfleet_contracts.api import skew
from warmfleet_contracts.api.crd import KINDS, custom_resource_definition

CRDS = {body["metadata"]["name"]: body for body in map(custom_resource_definition, KINDS)}
NAME = "llmdeployments.warmfleet.dev"


def installed(*path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The CRD as this release makes it, and the properties at the path."""
    body = copy.deepcopy(CRDS[NAME])
    node = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for name in path:
        node = node[name]["items" if name == "variants" else "properties"]
        node = node["properties"] if name == "variants" else node
    return body, node


def test_the_same_release_fits() -> None:
    assert sorted(skew.names()) == sorted(CRDS)
    assert not [found for found in map(skew.compare, CRDS.values()) if found.differs]


@pytest.mark.parametrize(
    ("path", "field", "text"),
    [
        (("spec",), "kvCache", "spec.kvCache"),
        (("spec", "variants"), "role", "spec.variants[].role"),
        (("status",), "conditions", "status.conditions"),
    ],
)
def test_an_older_crd_lacks_fields_and_they_are_named(path: tuple[str, ...], field: str, text: str) -> None:
    body, node = installed(*path)
    del node[field]
    found = skew.compare(body)
    assert (found.lacking, found.unknown, found.differs) == ((text,), (), True)
    said = found.text("operator")
    assert f"{NAME} is older than this operator: it lacks {text};" in said
    assert "kubectl apply --server-side -f crds/" in said


def test_a_newer_crd_has_unknown_fields_and_they_are_named() -> None:
    body, node = installed("spec", "scaling")
    node["mood"] = {"type": "object", "properties": {"level": {"type": "integer"}}}
    found = skew.compare(body)
    assert found.unknown == ("spec.scaling.mood",)
    assert "is newer than this operator: it has spec.scaling.mood, which would be ignored" in found.text("operator")


def test_texts_bounds_and_defaults_may_differ() -> None:
    body, node = installed("spec", "scaling")
    node["max"] |= {"description": "another", "maximum": 7}
    assert not skew.compare(body).differs


def test_many_differences_are_counted() -> None:
    body, node = installed("spec")
    for number in range(5):
        node[f"x{number}"] = {"type": "string"}
    assert "spec.x0, spec.x1, spec.x2 and 2 more" in skew.compare(body).text("operator")


def test_a_crd_that_does_not_serve_the_version_is_said() -> None:
    body, _ = installed()
    body["spec"]["versions"][0]["served"] = False
    assert "does not serve v1alpha1" in skew.compare(body).text("operator")
