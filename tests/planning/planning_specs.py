"""What somebody writes down for tests of the planner: a fleet, its variants, its machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from warmfleet_contracts.api import InstanceTypeSpec, LLMDeploymentSpec
from warmfleet_operator.state.records import DeploymentRecord, InstanceTypeRecord, Key

KEY = Key("team-a", "chat")


def spec(**changes: Any) -> LLMDeploymentSpec:
    """A fleet of workers that sustain 10 req/s each, one accelerator of type ``h100``, 1 to 20 of them."""
    raw: dict[str, Any] = {
        "model": {"name": "llama-3.1-8b", "source": {"hf": {"repo": "meta-llama/Llama-3.1-8B-Instruct"}}},
        "engine": {"image": "vllm/vllm-openai:v1"},
        "variants": [variant()],
        "scaling": {"min": 1, "max": 20},
    }
    raw |= changes
    if "replicas" in changes:
        raw.pop("scaling")
    return LLMDeploymentSpec.model_validate(raw)


def variant(name: str = "main", kind: str = "h100", rps: float | None = 10.0, **changes: Any) -> dict[str, Any]:
    raw: dict[str, Any] = {"name": name, "instanceType": kind}
    if rps is not None:
        raw["performance"] = {"requestsPerSecond": rps}
    return raw | changes


def scaling(low: int = 1, high: int = 20, **down: Any) -> dict[str, Any]:
    return {"min": low, "max": high, "scaleDown": down}


def deployment(body: LLMDeploymentSpec | None = None, key: Key = KEY, **changes: Any) -> DeploymentRecord:
    made = DeploymentRecord(key, f"uid-{key.namespace}-{key.name}", 1, "1", body if body is not None else spec())
    return replace(made, **changes)


def itype(
    name: str = "h100",
    accelerator: str = "H100-SXM",
    *,
    count: int = 8,
    price: float = 32.0,
    startup: float = 60.0,
    limit: Mapping[str, Any] | None = None,
) -> InstanceTypeRecord:
    body = {
        "accelerator": {"name": accelerator, "count": count},
        "price": {"onDemand": price},
        "startup": {"p50": f"{startup / 2:g}s", "p90": f"{startup:g}s"},
        "limit": dict(limit or {}),
    }
    return InstanceTypeRecord(name, f"uid-{name}", 1, InstanceTypeSpec.model_validate(body))
