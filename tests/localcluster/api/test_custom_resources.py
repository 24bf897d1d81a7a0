"""Custom resources: discovery, defaults, pruning, validation messages, CEL, scale, their definition's life."""

from __future__ import annotations

import pytest

WIDGETS = "/apis/example.dev/v1/namespaces/default/widgets"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PREFIX = 'Widget.example.dev "w" is invalid: '
UNCHECKED = "some validation rules were not checked"


async def test_definition_is_established_and_discoverable(widgets):
    _, crd = await widgets.get(f"{CRDS}/widgets.example.dev")
    assert {c["type"]: c["status"] for c in crd["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    _, found = await widgets.get("/apis/example.dev/v1")
    assert {r["name"] for r in found["resources"]} == {"widgets", "widgets/status", "widgets/scale"}


async def test_defaults_of_spec_and_status_and_dropped_status(widgets, make_widget):
    item = await widgets.made(WIDGETS, {**make_widget("w", scaling={"max": 3}), "status": {"phase": "Fake"}})
    assert item["spec"]["colour"] == "red"
    assert item["spec"]["scaling"] == {"min": 1, "max": 3}
    assert item["status"] == {"observedGeneration": -1}


async def test_unknown_fields_are_pruned_warned_about_or_refused(widgets, make_widget):
    body = make_widget("w", typo=1, free={"any": {"thing": 1}})
    code, status = await widgets.post(f"{WIDGETS}?fieldValidation=Strict", body)
    assert (code, status["message"]) == (400, 'strict decoding error: unknown field "spec.typo"')
    async with widgets.session.post(widgets.url + WIDGETS, json=body) as response:
        assert response.headers["Warning"] == '299 - "unknown field \\"spec.typo\\""'
        item = await response.json()
    assert "typo" not in item["spec"]
    assert item["spec"]["free"] == {"any": {"thing": 1}}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"replicas": "x"},
            'spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "x"',
        ),
        (
            {"replicas": -1},
            "spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0",
        ),
        ({"size": "big"}, 'spec.size: Unsupported value: "big": supported values: "small", "large"'),
        ({"parts": [{"weight": 1}]}, "spec.parts[0].name: Required value"),
        ({"parts": [{"name": str(i)} for i in range(4)]}, "spec.parts: Too many: 4: must have at most 3 items"),
        (
            {"port": {}},
            'spec.port: Invalid value: "object": spec.port in body must be of type integer,string: "object"',
        ),
    ],
)
async def test_schema_errors_read_like_the_real_ones(widgets, make_widget, spec, message):
    code, status = await widgets.post(WIDGETS, make_widget("w", **spec))
    assert code == 422
    assert status["message"].startswith(f"{PREFIX}[{message}, <nil>: Invalid value")
    assert UNCHECKED in status["message"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"replicas": 1, "scaling": {"max": 2}},
            'spec: Invalid value: "object": replicas and scaling exclude each other',
        ),
        ({"scaling": {"min": 3, "max": 2}}, 'spec.scaling: Invalid value: "object": min must not exceed max'),
        ({"memory": "1Mi"}, 'spec.memory: Invalid value: "1Mi": needs over 1Gi'),
    ],
)
async def test_cel_rules_read_like_the_real_ones(widgets, make_widget, spec, message):
    code, status = await widgets.post(WIDGETS, make_widget("w", **spec))
    assert (code, status["message"]) == (422, PREFIX + message)


async def test_rule_that_fails_to_evaluate_is_a_rejection_naming_it(widgets, make_widget):
    code, status = await widgets.post(WIDGETS, make_widget("w", scaling={}))
    assert code == 422
    assert "spec.scaling: Invalid value" in status["message"]
    assert "self.min <= self.max: rule evaluation error" in status["message"]


async def test_transition_rule_compares_with_the_old_object(widgets, make_widget):
    await widgets.made(WIDGETS, make_widget("w"))
    code, status = await widgets.patch(f"{WIDGETS}/w", {"spec": {"size": "large"}})
    assert (code, status["message"]) == (422, PREFIX + 'spec: Invalid value: "object": size is immutable')
    assert (await widgets.patch(f"{WIDGETS}/w", {"spec": {"colour": "blue"}}))[0] == 200


async def test_status_and_generation(widgets, make_widget):
    await widgets.made(WIDGETS, make_widget("w"))
    _, item = await widgets.patch(f"{WIDGETS}/w/status", {"status": {"phase": "Up"}, "spec": {"colour": "blue"}})
    assert (item["status"]["phase"], item["spec"]["colour"], item["metadata"]["generation"]) == ("Up", "red", 1)
    _, item = await widgets.patch(f"{WIDGETS}/w", {"spec": {"colour": "blue"}, "status": {"phase": "Down"}})
    assert (item["status"]["phase"], item["spec"]["colour"], item["metadata"]["generation"]) == ("Up", "blue", 2)


async def test_scale_subresource(widgets, make_widget):
    await widgets.made(WIDGETS, make_widget("w", replicas=1))
    _, scale = await widgets.get(f"{WIDGETS}/w/scale")
    assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 1)
    _, scale = await widgets.patch(f"{WIDGETS}/w/scale", {"spec": {"replicas": 5}})
    assert scale["spec"]["replicas"] == 5
    assert (await widgets.get(f"{WIDGETS}/w"))[1]["spec"]["replicas"] == 5
    stale = {"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 2}}
    assert (await widgets.put(f"{WIDGETS}/w/scale", stale))[0] == 409


async def test_blind_put_and_strategic_patch_are_refused(widgets, make_widget):
    await widgets.made(WIDGETS, make_widget("w"))
    code, status = await widgets.put(f"{WIDGETS}/w", make_widget("w"))
    assert code == 422
    assert "metadata.resourceVersion: Invalid value: 0: must be specified for an update" in status["message"]
    assert (await widgets.patch(f"{WIDGETS}/w", {}, "application/strategic-merge-patch+json"))[0] == 415


async def test_definition_with_a_rule_that_does_not_compile_is_refused(client, make_crd):
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "x-kubernetes-validations": [{"rule": "1 +"}]}},
    }
    code, status = await client.post(CRDS, make_crd(schema))
    assert code == 422
    assert "x-kubernetes-validations[0].rule" in status["message"]


async def test_deleting_the_definition_takes_the_objects_along(widgets, make_widget):
    body = make_widget("w")
    body["metadata"]["finalizers"] = ["x.dev/hold"]
    await widgets.made(WIDGETS, body)
    await widgets.made(WIDGETS, make_widget("v"))
    await widgets.delete(f"{CRDS}/widgets.example.dev")
    assert await widgets.gone(f"{WIDGETS}/v")
    assert (await widgets.get(f"{CRDS}/widgets.example.dev"))[0] == 200, "held by the finalized object"
    await widgets.patch(f"{WIDGETS}/w", {"metadata": {"finalizers": None}})
    assert await widgets.gone(f"{CRDS}/widgets.example.dev")
    assert (await widgets.get("/apis/example.dev/v1"))[0] == 404
