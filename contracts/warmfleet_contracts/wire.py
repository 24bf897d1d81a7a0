"""The base of all models that cross the wire: API objects and the agent protocol.

It stands outside :mod:`warmfleet_contracts.api` so that an agent, which has little memory, does not load the models
of all API objects with it.

A cross-field rule is written once, as a :class:`Rule` with two faces: the CEL text that goes into the CRD, so that
the API server refuses a bad object, and the Python predicate that refuses it everywhere else (the CLI, the
operator's own parse, tests). A test holds the two faces against each other on every sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


@dataclass(frozen=True, slots=True)
class Rule:
    """One cross-field rule of a model.

    Attributes:
        cel: The rule as CEL over ``self``; true means valid.
        message: What a person is told: the field and the fix.
        check: The same rule over the parsed model; None for transition rules (``oldSelf``), which only the API
            server can judge.
    """

    cel: str
    message: str
    check: Callable[[Any], bool] | None


class ApiModel(BaseModel):
    """Base of all API models: camelCase on the wire, immutable, unknown fields ignored.

    Unknown fields are ignored because the API server has already pruned or warned about them, and an operator that
    is older than the CRD must keep working.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _apply_rules(self) -> Self:
        broken = [rule.message for rule in type(self).rules if rule.check is not None and not rule.check(self)]
        if broken:
            raise PydanticCustomError("rule", "{message}", {"message": "; ".join(broken)})
        return self

    def to_wire(self) -> dict[str, Any]:
        """The JSON form: camelCase keys, unset optional fields left out."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")
