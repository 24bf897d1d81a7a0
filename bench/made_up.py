"""Made-up deployments and InstanceTypes for the planner's benches; importing it makes the packages importable."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / part) for part in ("simulation", "contracts", "operator", "runtime", "forecasting")]

from warmfleet_contracts.api import InstanceTypeSpec, LLMDeploymentSpec  # noqa: E402
from warmfleet_operator.state.records import InstanceTypeRecord  # noqa: E402

UP = 0.85
"""Utilisation that the reactive rule buys for."""


def deployment(rates: Mapping[str, float], most: int) -> LLMDeploymentSpec:
    """A spec with one variant per InstanceType.

    Args:
        rates: Requests/s of one worker by InstanceType.
        most: scaling.max.
    """
    return LLMDeploymentSpec.model_validate(
        {
            "model": {"name": "m", "source": {"hostPath": {"path": "/m"}}},
            "engine": {"image": "e"},
            "variants": [
                {"name": n, "instanceType": n, "performance": {"requestsPerSecond": r}} for n, r in rates.items()
            ],
            "scaling": {"min": 1, "max": most},
        }
    )


def with_forecast(spec: LLMDeploymentSpec | None) -> LLMDeploymentSpec:
    """The same spec with ``scaling.forecast``.

    Raises:
        ValueError: There is no spec.
    """
    if spec is None:
        raise ValueError("no spec")
    body = spec.model_dump(by_alias=True, exclude_unset=True, mode="json")
    body["scaling"]["forecast"] = {}
    return LLMDeploymentSpec.model_validate(body)


def instance_type(name: str, price: float, limit: int | None = None) -> InstanceTypeRecord:
    """A type with one accelerator, at a price in $/h, with or without a limit."""
    spec = InstanceTypeSpec.model_validate(
        {
            "accelerator": {"name": name, "count": 1},
            "price": {"onDemand": price},
            "limit": {} if limit is None else {"accelerators": limit},
        }
    )
    return InstanceTypeRecord(name, name, 1, spec)
