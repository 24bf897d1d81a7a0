"""OpenAPI v3 validation of custom resources, with the apiserver's wording."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError

from warmfleet_localcluster.api.errors import Cause, invalid_value, required_value, shown
from warmfleet_localcluster.api.objects import Object, parse_timestamp
from warmfleet_localcluster.api.schemas import Schema, body_of

_FORMATS = jsonschema.FormatChecker(formats=())


@_FORMATS.checks("date-time", raises=ValueError)
def _is_datetime(value: object) -> bool:
    return not isinstance(value, str) or parse_timestamp(value) is not None


@_FORMATS.checks("duration")
def _is_duration(value: object) -> bool:
    return not isinstance(value, str) or bool(re.fullmatch(r"-?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+|0", value))


_EVERYWHERE = ("apiVersion", "kind", "metadata")
"""Fields that every object has, and that are checked elsewhere."""


class SchemaValidator:
    """Validates the bodies of one custom resource version; built once per schema.

    Args:
        schema: The version's `openAPIV3Schema`.
    """

    def __init__(self, schema: Schema) -> None:
        translated = _to_json_schema(schema)
        for key in _EVERYWHERE:
            translated.get("properties", {}).pop(key, None)
        translated["required"] = [key for key in translated.get("required", ()) if key not in _EVERYWHERE]
        self._validator = jsonschema.Draft7Validator(translated, format_checker=_FORMATS)

    def check(self, item: Object) -> list[Cause]:
        """Return what is wrong with an object, in the schema's order."""
        errors = self._validator.iter_errors(body_of(item))
        return [cause for error in errors for cause in _causes(error)]


def _to_json_schema(schema: Any) -> Any:
    """Return a structural schema as JSON schema: no extensions, nullable and int-or-string spelled out."""
    if isinstance(schema, list):
        return [_to_json_schema(entry) for entry in schema]
    if not isinstance(schema, Mapping):
        return schema
    result = {key: _translated(key, value) for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("anyOf", None)
        result["type"] = ["integer", "string"]
    for bound in ("Minimum", "Maximum"):  # OpenAPI v3 has draft 4's boolean form
        if result.pop(f"exclusive{bound}", False) is True:
            result[f"exclusive{bound}"] = result.pop(bound.lower())
    if result.pop("nullable", False):
        _allow_null(result)
    return result


def _translated(key: str, value: Any) -> Any:
    if key == "properties" and isinstance(value, Mapping):
        return {name: _to_json_schema(field) for name, field in value.items()}
    return value if key in {"default", "enum", "example"} else _to_json_schema(value)


def _allow_null(schema: dict[str, Any]) -> None:
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = [*kinds, "null"]
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]


def path_of(parts: Iterator[Any] | Any, base: str = "") -> str:
    """Return a field path as the apiserver writes it: `spec.variants[0].min`."""
    path = base
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _limit(text: str) -> Callable[[str, ValidationError], Cause]:
    def build(path: str, error: ValidationError) -> Cause:
        return invalid_value(path, error.instance, f"{path} in body {text.format(_plain(error.validator_value))}")

    return build


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _type(path: str, error: ValidationError) -> Cause:
    wanted: Any = error.validator_value
    names = wanted if isinstance(wanted, str) else ",".join(w for w in wanted if w != "null")
    text = shown(_type_name(error.instance) if isinstance(error.instance, dict | list) else error.instance)
    return Cause(
        path,
        "FieldValueTypeInvalid",
        f"Invalid value: {shown(_type_name(error.instance))}: {path} in body must be of type {names}: {text}",
    )


def _type_name(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return names.get(type(value), "null")


def _enum(path: str, error: ValidationError) -> Cause:
    values: Any = error.validator_value
    allowed = ", ".join(f'"{v}"' for v in values if v is not None)
    text = f"Unsupported value: {shown(error.instance)}: supported values: {allowed}"
    return Cause(path, "FieldValueNotSupported", text)


def _too_many(path: str, error: ValidationError) -> Cause:
    items: Any = error.instance
    text = f"Too many: {len(items)}: must have at most {error.validator_value} items"
    return Cause(path, "FieldValueTooMany", text)


def _too_long(path: str, error: ValidationError) -> Cause:
    return Cause(path, "FieldValueTooLong", f"Too long: may not be more than {error.validator_value} bytes")


_BUILDERS: Mapping[str, Callable[[str, ValidationError], Cause]] = {
    "type": _type,
    "enum": _enum,
    "minimum": _limit("should be greater than or equal to {}"),
    "maximum": _limit("should be less than or equal to {}"),
    "exclusiveMinimum": _limit("should be greater than {}"),
    "exclusiveMaximum": _limit("should be less than {}"),
    "multipleOf": _limit("should be a multiple of {}"),
    "pattern": _limit("should match '{}'"),
    "format": _limit("must be of type {}"),
    "minLength": _limit("should be at least {} chars long"),
    "maxLength": _too_long,
    "minItems": _limit("should have at least {} items"),
    "maxItems": _too_many,
    "minProperties": _limit("should have at least {} properties"),
    "maxProperties": _limit("should have at most {} properties"),
}


def _causes(error: ValidationError) -> Iterator[Cause]:
    path = path_of(error.absolute_path)
    if error.validator == "required":
        names: Any = error.validator_value
        for name in names:
            # jsonschema reports each missing name on its own; the message starts with the quoted name
            if error.message.startswith(f"{name!r} "):
                yield required_value(f"{path}.{name}" if path else name)
    elif error.validator in {"oneOf", "anyOf", "allOf", "not"}:
        text = f'"{path}" must validate the schema ({error.validator})'
        if error.validator == "oneOf":
            text = f'"{path}" must validate one and only one schema (oneOf). Found none or more than one valid'
        yield invalid_value(path, error.instance, text)
    else:
        build = _BUILDERS.get(str(error.validator))
        yield build(path, error) if build else invalid_value(path, error.instance, error.message)
