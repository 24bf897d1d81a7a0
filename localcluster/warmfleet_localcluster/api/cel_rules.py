"""`x-kubernetes-validations`: compiling the CEL rules of a schema and running them on an object."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cel

from warmfleet_localcluster.api.cel_library import new_context
from warmfleet_localcluster.api.errors import Cause, invalid_value
from warmfleet_localcluster.api.objects import Object, clone, parse_timestamp
from warmfleet_localcluster.api.schemas import Schema, body_of

_MISSING = object()
_REASONS = {"FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One CEL rule.

    Attributes:
        text: The expression.
        message: What to say when it is false.
        message_expression: An expression that builds the message, empty for none.
        reason: The `FieldValue...` reason of the cause.
        field_path: Path below `self` to report, e.g. `.max`; empty for `self`.
        needs_old: Whether it is a transition rule, skipped when there is no old value.
        optional_old: Whether it runs without an old value all the same, `oldSelf` then being an empty optional.
    """

    text: str
    message: str
    message_expression: str
    reason: str
    field_path: str
    needs_old: bool
    optional_old: bool


@lru_cache(maxsize=1024)
def compiled(expression: str) -> cel.Program:
    """Return the compiled expression.

    Raises:
        ValueError: It does not parse (or uses syntax this CEL library lacks).
    """
    return cel.compile(expression)


def rules_of(schema: Schema) -> list[Rule]:
    """Return the rules of one schema node (not of the nodes below it)."""
    return [
        Rule(
            text=rule["rule"],
            message=rule.get("message") or f"failed rule: {rule['rule'].strip()}",
            message_expression=rule.get("messageExpression") or "",
            reason=rule.get("reason") or "FieldValueInvalid",
            field_path=rule.get("fieldPath") or "",
            needs_old=bool(re.search(r"\boldSelf\b", rule["rule"])),
            optional_old=bool(rule.get("optionalOldSelf")),
        )
        for rule in schema.get("x-kubernetes-validations") or ()
    ]


def check_rules(schema: Schema, path: str = "") -> list[Cause]:
    """Return a cause for every rule anywhere in a schema that does not compile."""
    causes = []
    for index, rule in enumerate(rules_of(schema)):
        try:
            compiled(rule.text)
        except ValueError as error:
            where = f"{path}.x-kubernetes-validations[{index}].rule"
            causes.append(invalid_value(where, rule.text, f"compilation failed: {error}"))
    for name, child in _children(schema):
        causes += check_rules(child, f"{path}.{name}")
    return causes


def _children(schema: Schema) -> Iterator[tuple[str, Schema]]:
    for name, child in (schema.get("properties") or {}).items():
        yield f"properties[{name}]", child
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            yield name, schema[name]


def has_rules(schema: Schema) -> bool:
    """Return whether any rule is anywhere in a schema."""
    return bool(schema.get("x-kubernetes-validations")) or any(has_rules(child) for _, child in _children(schema))


class RuleChecker:
    """Runs the rules of one custom resource version.

    Args:
        schema: The version's `openAPIV3Schema`.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._context = new_context()

    def check(self, item: Object, old: Object | None) -> list[Cause]:
        """Return the rules an object breaks; a rule that fails to evaluate counts as broken.

        Args:
            item: The object after defaulting.
            old: The object before the write, None on create.
        """
        root = {**body_of(item), "apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": _meta(item)}
        before = _MISSING if old is None else {**body_of(old), "metadata": _meta(old)}
        return list(self._walk(self._schema, root, before, ""))

    def _walk(self, schema: Schema, value: Any, old: Any, path: str) -> Iterator[Cause]:
        if schema.get("x-kubernetes-validations") and value is not None:
            yield from self._node(schema, value, old, path)
        if isinstance(value, dict):
            properties = schema.get("properties") or {}
            extra = schema.get("additionalProperties")
            for key, entry in value.items():
                child = properties.get(key, extra)
                if isinstance(child, Mapping):
                    before = old.get(key, _MISSING) if isinstance(old, dict) else _MISSING
                    yield from self._walk(child, entry, before, f"{path}.{key}" if path else key)
        elif isinstance(value, list):
            yield from self._walk_list(schema, value, old, path)

    def _walk_list(self, schema: Schema, value: list[Any], old: Any, path: str) -> Iterator[Cause]:
        items = schema.get("items") or {}
        keys = schema.get("x-kubernetes-list-map-keys") or ()
        correlate = schema.get("x-kubernetes-list-type") == "map" and isinstance(old, list)
        known = {tuple(entry.get(k) for k in keys): entry for entry in old} if correlate else {}
        for index, entry in enumerate(value):
            before = known.get(tuple(entry.get(k) for k in keys), _MISSING) if correlate else _MISSING
            yield from self._walk(items, entry, before, f"{path}[{index}]")

    def _node(self, schema: Schema, value: Any, old: Any, path: str) -> Iterator[Cause]:
        variables = {"self": typed(schema, value)}
        if old is not _MISSING:
            variables["oldSelf"] = typed(schema, old)
        for rule in rules_of(schema):
            if rule.needs_old and old is _MISSING and not rule.optional_old:
                continue
            bound = dict(variables)
            if rule.optional_old:
                empty = old is _MISSING
                bound["oldSelf"] = cel.OptionalValue.none() if empty else cel.OptionalValue.of(variables["oldSelf"])
            if (cause := self._run(rule, bound, value, path)) is not None:
                yield cause

    def _run(self, rule: Rule, variables: dict[str, Any], value: Any, path: str) -> Cause | None:
        try:
            if self._evaluate(rule.text, variables) is True:
                return None
            message = rule.message
            if rule.message_expression:
                message = str(self._evaluate(rule.message_expression, variables))
        except (ValueError, TypeError, KeyError, RuntimeError, OverflowError, ArithmeticError, IndexError) as error:
            message = f"{rule.text}: rule evaluation error: {error}"
        where = path + rule.field_path if path else rule.field_path.lstrip(".")
        cause = invalid_value(where, value, message)
        return Cause(cause.field, rule.reason if rule.reason in _REASONS else cause.reason, cause.message)

    def _evaluate(self, expression: str, variables: dict[str, Any]) -> Any:
        self._context.update({"oldSelf": None, **variables})
        return compiled(expression).execute(self._context)


def _meta(item: Object) -> Object:
    """Only the name and generateName of metadata are visible to rules."""
    return {key: item["metadata"][key] for key in ("name", "generateName") if key in item["metadata"]}


def typed(schema: Schema, value: Any) -> Any:
    """Return a value as CEL sees it: numbers as doubles where the schema says so, dates as timestamps."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        extra = schema.get("additionalProperties")
        other = extra if isinstance(extra, Mapping) else {}
        return {_identifier(key): typed(properties.get(key, other), entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [typed(schema.get("items") or {}, entry) for entry in value]
    if schema.get("type") == "number" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if schema.get("format") == "date-time" and isinstance(value, str):
        return parse_timestamp(value)
    return clone(value)


def _identifier(key: str) -> str:
    """Escape a property name the way Kubernetes does, so that rules can name it."""
    if key.isidentifier() or not re.search(r"[-./]", key):
        return key
    return (
        key.replace("__", "__underscores__").replace(".", "__dot__").replace("-", "__dash__").replace("/", "__slash__")
    )
