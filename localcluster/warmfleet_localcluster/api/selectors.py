"""Label and field selectors, from their URL form and from their object form."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from warmfleet_localcluster.api.errors import ApiError, bad_request
from warmfleet_localcluster.api.objects import Object, dig, labels_of
from warmfleet_localcluster.api.resources import Resource, StorageKey

Predicate = Callable[[Object], bool]
"""Decides whether an object is selected."""

_Test = Callable[[Mapping[str, str]], bool]
_SPLIT = re.compile(r",(?![^(]*\))")
_SET = re.compile(r"^(\S+)\s+(in|notin)\s*\(([^)]*)\)$")
_KEY = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$")
_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")

_FIELDS: dict[StorageKey, tuple[str, ...]] = {
    ("", "pods"): (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    ("", "events"): (
        *(f"involvedObject.{part}" for part in _INVOLVED),
        *(f"regarding.{part}" for part in _INVOLVED),
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    ("", "nodes"): ("spec.unschedulable",),
    ("", "namespaces"): ("status.phase",),
    ("", "secrets"): ("type",),
    ("", "replicationcontrollers"): ("status.replicas",),
    ("apps", "replicasets"): ("status.replicas",),
    ("batch", "jobs"): ("status.successful",),
}


def parse_labels(text: str) -> Predicate:
    """Return the predicate of a label selector such as `app=a,tier in (x, y),!old`.

    Raises:
        ApiError: 400, the selector does not parse.
    """
    tests = [_label_test(part.strip()) for part in _SPLIT.split(text) if part.strip()]
    return lambda item: all(test(labels_of(item)) for test in tests)


def _label_test(part: str) -> _Test:
    if found := _SET.match(part):
        values = {value.strip() for value in found[3].split(",")}
        return _membership(_checked(found[1], part), values, inverted=found[2] == "notin")
    for operator in ("!=", "==", "="):
        if operator in part:
            key, value = (side.strip() for side in part.split(operator, 1))
            return _membership(_checked(key, part), {value}, inverted=operator == "!=")
    if part.startswith("!"):
        absent = _checked(part[1:].strip(), part)
        return lambda labels: absent not in labels
    present = _checked(part, part)
    return lambda labels: present in labels


def _checked(key: str, part: str) -> str:
    if not _KEY.match(key):
        raise bad_request(f'unable to parse requirement: {part!r}: "{key}" is not a valid label key')
    return key


def _membership(key: str, values: set[str], *, inverted: bool) -> _Test:
    if inverted:
        return lambda labels: labels.get(key) not in values
    return lambda labels: labels.get(key) in values


def from_selector(selector: Mapping[str, Any] | None) -> Predicate:
    """Return the predicate of a `metav1.LabelSelector`; None selects nothing, an empty selector everything."""
    if selector is None:
        return lambda _: False
    tests: list[_Test] = [
        _membership(key, {value}, inverted=False) for key, value in (selector.get("matchLabels") or {}).items()
    ]
    tests += [_expression_test(expression) for expression in selector.get("matchExpressions") or ()]
    return lambda item: all(test(labels_of(item)) for test in tests)


def _expression_test(expression: Mapping[str, Any]) -> _Test:
    key, operator = expression["key"], expression["operator"]
    values = set(expression.get("values") or ())
    match operator:
        case "In" | "NotIn":
            return _membership(key, values, inverted=operator == "NotIn")
        case "Exists":
            return lambda labels: key in labels
        case "DoesNotExist":
            return lambda labels: key not in labels
        case _:
            raise bad_request(f'"{operator}" is not a valid label selector operator')


def parse_fields(text: str, resource: Resource) -> Predicate:
    """Return the predicate of a field selector such as `metadata.name=x,status.phase!=Running`.

    Raises:
        ApiError: 400, the selector does not parse or names a field this kind cannot be selected by.
    """
    tests: list[Predicate] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        found = re.match(r"^([\w./-]+?)(!=|==|=)(.*)$", part)
        if not found:
            raise bad_request(f"invalid field selector: {part!r}")
        tests.append(_field_test(_supported(found[1], resource), found[2], found[3]))
    return lambda item: all(test(item) for test in tests)


def _supported(path: str, resource: Resource) -> str:
    declared = (f["jsonPath"].lstrip(".") for f in resource.definition.get("selectableFields") or ())
    if path in {"metadata.name", "metadata.namespace", *_FIELDS.get(resource.storage, ()), *declared}:
        # the two event kinds share their objects, which are kept in the core form
        return path.replace("regarding.", "involvedObject.", 1)
    raise ApiError(400, "BadRequest", f"field label not supported: {path}")


def _field_test(path: str, operator: str, value: str) -> Predicate:
    keys = path.split(".")

    def test(item: Object) -> bool:
        found = dig(item, *keys)
        if isinstance(found, dict):  # events: `source` selects by component
            found = found.get("component")
        if found is None and path in {"spec.unschedulable", "spec.hostNetwork"}:
            found = False
        text = str(found).lower() if isinstance(found, bool) else "" if found is None else str(found)
        return (text == value) != (operator == "!=")

    return test
