"""Settings of a process: a YAML file and ``WARMFLEET_*`` variables, which win over the file.

The file is named by ``WARMFLEET_CONFIG``; its keys are the model's field names in camelCase, the variables are the
field names in upper case after ``WARMFLEET_``, such as ``WARMFLEET_TICK_SECONDS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

PREFIX = "WARMFLEET_"
CONFIG_ENV = "WARMFLEET_CONFIG"

_Model = TypeVar("_Model", bound=BaseModel)


class SettingsError(Exception):
    """A setting is wrong; the message names it and the fix."""


def load(model: type[_Model], environ: Mapping[str, str]) -> _Model:
    """Settings of this process.

    Args:
        model: What may be set; its aliases are camelCase.
        environ: Where the variables are.

    Raises:
        SettingsError: A key or value is wrong.
    """
    path = environ.get(CONFIG_ENV)
    values = {**(_from_file(path) if path else {}), **_from_environ(model, environ)}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        details = ((".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in error.errors())
        said = "; ".join(": ".join(filter(None, detail)) for detail in details)
        raise SettingsError(f"settings: {said}") from error


def _from_file(path: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{CONFIG_ENV}={path}: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise SettingsError(f"{CONFIG_ENV}={path}: must be a mapping of settings, not {type(loaded).__name__}")
    return {str(key): value for key, value in loaded.items()}


def _from_environ(model: type[BaseModel], environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        raw = environ.get(PREFIX + name.upper())
        if raw is not None:
            found[to_camel(name)] = tuple(raw.split()) if "tuple" in str(info.annotation) else raw
    return found
