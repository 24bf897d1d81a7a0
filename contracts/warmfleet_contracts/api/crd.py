"""Turns the pydantic models into CustomResourceDefinitions: ``python -m warmfleet_contracts.api.crd crds/``.

The JSON schema of pydantic is not a *structural* schema as the API server wants it, so :func:`structural` rewrites it:
references are inlined, optional ``anyOf [X, null]`` becomes X, titles, constants and empty defaults go, numeric
exclusive bounds become the boolean form of OpenAPI v3.0, and the models' rules become ``x-kubernetes-validations``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from warmfleet_contracts.api import GROUP, VERSION, InstanceType, LLMDeployment, TrafficForecast
from warmfleet_contracts.api.base import ApiModel, Rule, format_duration

KINDS: tuple[type[ApiModel], ...] = (LLMDeployment, InstanceType, TrafficForecast)

_KEPT = (
    "type",
    "format",
    "description",
    "default",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
)
_NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def structural(schema: dict[str, Any], models: dict[str, type[ApiModel]]) -> dict[str, Any]:
    """A structural schema from pydantic's JSON schema of a model.

    Args:
        schema: ``Model.model_json_schema(by_alias=True)``.
        models: Model classes by name, for their rules.

    Returns:
        The schema without references.
    """
    return _convert(schema, schema.get("$defs", {}), models)


def _convert(node: dict[str, Any], defs: dict[str, Any], models: dict[str, type[ApiModel]]) -> dict[str, Any]:
    node = _resolve(node, defs)
    model = models.get(node.get("title", ""))
    out = {key: node[key] for key in _KEPT if key in node}
    if "const" in node:
        out["enum"] = [node["const"]]
    if out.get("type") == "string":
        for key in _NUMERIC:
            out.pop(key, None)
    _boolean_bounds(out)
    _clean_default(out)
    if "description" in out:
        out["description"] = " ".join(out["description"].split())
    if "properties" in node:
        out["properties"] = {name: _convert(child, defs, models) for name, child in node["properties"].items()}
        out["type"] = "object"
    if "items" in node:
        out["items"] = _convert(node["items"], defs, models)
    extra = node.get("additionalProperties")
    if isinstance(extra, dict):
        out["additionalProperties"] = _convert(extra, defs, models)
        if "maxProperties" in node:
            out["maxProperties"] = node["maxProperties"]
    if model is not None and model.rules:
        out["x-kubernetes-validations"] = [_validation(rule) for rule in model.rules]
    return out


def _resolve(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """Follows references and takes the one branch of ``anyOf [X, null]``; siblings (description, default) win."""
    while True:
        if "$ref" in node:
            target = defs[node["$ref"].rsplit("/", 1)[1]]
        elif "anyOf" in node:
            branches = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
            if len(branches) != 1:
                raise TypeError(f"a structural schema cannot hold {node['anyOf']}")
            target = branches[0]
        else:
            return node
        own = {key: value for key, value in node.items() if key not in ("$ref", "anyOf")}
        title = target.get("title")
        node = {**target, **own}
        if title is not None:
            node["title"] = title


def _boolean_bounds(out: dict[str, Any]) -> None:
    for exclusive, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in out:
            out[inclusive] = out[exclusive]
            out[exclusive] = True


def _clean_default(out: dict[str, Any]) -> None:
    """No default for None and for empty lists; an object's own fields carry theirs, so it defaults to ``{}``."""
    if "default" not in out:
        return
    value = out["default"]
    if out.get("type") == "string" and isinstance(value, float):
        out["default"] = format_duration(value)
    elif value is None or value == []:
        del out["default"]
    elif isinstance(value, dict):
        if value and not out.get("x-kubernetes-preserve-unknown-fields"):
            out["default"] = {}
        else:
            del out["default"]


def _validation(rule: Rule) -> dict[str, str]:
    return {"rule": rule.cel, "message": rule.message}


def _models(root: type[ApiModel]) -> dict[str, type[ApiModel]]:
    known: dict[str, type[ApiModel]] = {}
    stack: list[type[ApiModel]] = list(ApiModel.__subclasses__())
    while stack:
        model = stack.pop()
        known[model.__name__] = model
        stack.extend(model.__subclasses__())
    known.pop(root.__name__, None)
    return known


def custom_resource_definition(kind: type[ApiModel]) -> dict[str, Any]:
    """The CRD of a resource model, which carries names, columns and scope in its ``crd`` attribute."""
    meta: dict[str, Any] = kind.crd  # type: ignore[attr-defined]
    body = structural(kind.model_json_schema(by_alias=True), _models(kind))
    properties = body["properties"]
    properties["apiVersion"] = {"type": "string"}
    properties["kind"] = {"type": "string"}
    properties["metadata"] = {"type": "object"}
    properties["status"]["default"] = {"observedGeneration": -1}
    schema: dict[str, Any] = {
        "type": "object",
        "description": " ".join((kind.__doc__ or "").split()),
        "required": ["spec"],
        "properties": properties,
    }
    if "rules" in meta:
        schema["x-kubernetes-validations"] = [{"rule": cel, "message": text} for cel, text in meta["rules"]]
    subresources: dict[str, Any] = {"status": {}}
    if "scale" in meta:
        subresources["scale"] = meta["scale"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{meta['plural']}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "warmfleet", "app.kubernetes.io/part-of": "warmfleet"},
        },
        "spec": {
            "group": GROUP,
            "scope": meta["scope"],
            "names": {
                "kind": kind.__name__,
                "listKind": f"{kind.__name__}List",
                "plural": meta["plural"],
                "singular": meta["singular"],
                "shortNames": meta["shortNames"],
                "categories": meta["categories"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": subresources,
                    "additionalPrinterColumns": [_column(*column) for column in meta["columns"]],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _column(name: str, kind: str, path: str, description: str, priority: int) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | ({"priority": priority} if priority else {})


def render(kind: type[ApiModel]) -> str:
    """The CRD as YAML text with a header."""
    body = yaml.safe_dump(custom_resource_definition(kind), sort_keys=False, width=120, allow_unicode=True)
    return f"# Generated from warmfleet_contracts by `make crds`; do not edit.\n{body}"


def file_name(kind: type[ApiModel]) -> str:
    """File name of the CRD below ``crds/``."""
    return f"{GROUP}_{kind.crd['plural']}.yaml"  # type: ignore[attr-defined]


def main(argv: list[str]) -> int:
    """Writes all CRDs into the folder named by the first argument."""
    if len(argv) != 1 or argv[0].startswith("-"):
        sys.stderr.write("usage: python -m warmfleet_contracts.api.crd FOLDER\n")
        return 2
    folder = Path(argv[0])
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        (folder / file_name(kind)).write_text(render(kind), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
