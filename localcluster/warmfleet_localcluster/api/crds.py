"""CustomResourceDefinitions: checking them, and serving the resources they define."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from warmfleet_localcluster.api import errors
from warmfleet_localcluster.api.cel_rules import RuleChecker, check_rules, has_rules
from warmfleet_localcluster.api.errors import Cause, bad_request, invalid_value, required_value
from warmfleet_localcluster.api.objects import Object, dig
from warmfleet_localcluster.api.resources import Registry, Resource, StorageKey
from warmfleet_localcluster.api.schemas import apply_defaults, prune
from warmfleet_localcluster.api.validation import SchemaValidator

CRDS: StorageKey = ("apiextensions.k8s.io", "customresourcedefinitions")
CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
"""Holds a definition until its objects are gone."""

_REQUIRED = (("group",), ("scope",), ("names", "plural"), ("names", "kind"), ("versions",))
_UNCHECKED = Cause(
    "",
    "FieldValueInvalid",
    'Invalid value: "null": some validation rules were not checked because the object was invalid; '
    "correct the existing errors to complete validation",
)


def check_definition(resource: Resource, crd: Object) -> None:
    """Refuse a definition that could not be served.

    Raises:
        ApiError: 422, naming the fields.
    """
    spec, name = crd.get("spec") or {}, crd["metadata"]["name"]
    causes = [required_value(f"spec.{'.'.join(path)}") for path in _REQUIRED if not dig(spec, *path)]
    if not causes:
        expected = f"{spec['names']['plural']}.{spec['group']}"
        if name != expected:
            causes.append(invalid_value("metadata.name", name, f'must be spec.names.plural+"."+spec.group: {expected}'))
        if sum(bool(version.get("storage")) for version in spec["versions"]) != 1:
            causes.append(
                invalid_value(
                    "spec.versions", spec["versions"], "must have exactly one version marked as storage version"
                )
            )
        for index, version in enumerate(spec["versions"]):
            causes += _check_version(f"spec.versions[{index}]", version)
    if causes:
        raise errors.invalid(resource, name, causes)


def _check_version(path: str, version: Mapping[str, Any]) -> Iterator[Cause]:
    schema = dig(dict(version), "schema", "openAPIV3Schema")
    if not schema:
        yield required_value(f"{path}.schema.openAPIV3Schema", "schemas are required")
    else:
        yield from check_rules(schema, f"{path}.schema.openAPIV3Schema")


def complete_definition(crd: Object, now: str) -> None:
    """Fill in names, finalizer and status as the apiextensions controllers would, in place.

    Args:
        crd: The definition.
        now: Timestamp for new conditions.
    """
    spec = crd["spec"]
    names = spec["names"]
    names.setdefault("listKind", f"{names['kind']}List")
    names.setdefault("singular", names["kind"].lower())
    spec.setdefault("conversion", {"strategy": "None"})
    finalizers = crd["metadata"].setdefault("finalizers", [])
    if CLEANUP_FINALIZER not in finalizers:
        finalizers.append(CLEANUP_FINALIZER)
    status = crd.setdefault("status", {})
    status["acceptedNames"] = names
    stored = [version["name"] for version in spec["versions"] if version.get("storage")]
    status["storedVersions"] = sorted({*status.get("storedVersions", ()), *stored})
    if not status.get("conditions"):
        status["conditions"] = [
            _condition("NamesAccepted", "NoConflicts", "no conflicts found", now),
            _condition("Established", "InitialNamesAccepted", "the initial names have been accepted", now),
        ]


def _condition(kind: str, reason: str, message: str, now: str) -> Object:
    return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now}


def resources_of(crd: Object) -> list[Resource]:
    """Return one resource per served version, the newest (as listed) first."""
    spec = crd["spec"]
    names = spec["names"]
    return [
        Resource(
            group=spec["group"],
            version=version["name"],
            plural=names["plural"],
            kind=names["kind"],
            namespaced=spec["scope"] == "Namespaced",
            short_names=tuple(names.get("shortNames") or ()),
            subresources=tuple(version.get("subresources") or ()),
            categories=tuple(names.get("categories") or ()),
            singular=names.get("singular") or "",
            crd=crd["metadata"]["name"],
            definition=version,
        )
        for version in spec["versions"]
        if version.get("served")
    ]


def serve_definition(registry: Registry, crd: Object) -> None:
    """Make the registry serve exactly what a definition says."""
    registry.remove_crd(crd["metadata"]["name"])
    for resource in resources_of(crd):
        registry.add(resource)


class CustomValidation:
    """Prunes, defaults and validates custom objects; schemas are compiled once per definition."""

    def __init__(self) -> None:
        self._compiled: dict[Resource, tuple[Mapping[str, Any], SchemaValidator, RuleChecker]] = {}

    def admit(self, resource: Resource, item: Object, old: Object | None) -> list[str]:
        """Prune and default an object in place, then validate it.

        Args:
            resource: A custom resource.
            item: The object to write.
            old: The object before the write, None on create.

        Returns:
            The paths of the fields that were unknown and are gone.

        Raises:
            ApiError: 422, with every field that is wrong.
        """
        schema = resource.schema or {}
        unknown = prune(schema, item)
        apply_defaults(schema, item)
        validator, rules = self._for(resource, schema)
        causes = validator.check(item)
        if causes and has_rules(schema):
            causes.append(_UNCHECKED)
        causes = causes or rules.check(item, old)
        if causes:
            raise errors.invalid(resource, item["metadata"]["name"], causes)
        return unknown

    def _for(self, resource: Resource, schema: Mapping[str, Any]) -> tuple[SchemaValidator, RuleChecker]:
        known = self._compiled.get(resource)
        if known is None or known[0] is not schema:
            known = self._compiled[resource] = (schema, SchemaValidator(schema), RuleChecker(schema))
        return known[1], known[2]


def report_unknown(unknown: list[str], field_validation: str, warnings: list[str]) -> None:
    """Treat unknown fields as the request's `fieldValidation` asks: Strict refuses, Warn warns, Ignore is silent.

    Raises:
        ApiError: 400, Strict and at least one field is unknown.
    """
    messages = [f'unknown field "{path}"' for path in unknown]
    if messages and field_validation == "Strict":
        raise bad_request(f"strict decoding error: {', '.join(messages)}")
    if field_validation == "Warn":
        warnings.extend(messages)
