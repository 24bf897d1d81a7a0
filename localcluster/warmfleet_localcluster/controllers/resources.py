"""Resource arithmetic of pods: effective requests, as the scheduler counts them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from warmfleet_localcluster.api.cel_library import parse_quantity

Amounts = dict[str, Decimal]


def amounts(resources: Mapping[str, Any]) -> Amounts:
    """Numbers from quantities."""
    return {name: _parsed(str(value)) for name, value in resources.items()}


@lru_cache(maxsize=1024)
def _parsed(quantity: str) -> Decimal:
    return parse_quantity(quantity)


def pod_requests(spec: Mapping[str, Any]) -> Amounts:
    """What a pod takes of its node: containers and sidecars together, or the largest step of initialization.

    While an init container runs, the sidecars started before it run too.
    """
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers") or []:
        wanted = _requests(container)
        if container.get("restartPolicy") == "Always":
            sidecars = plus(sidecars, wanted)
            peak = _maximum(peak, sidecars)
        else:
            peak = _maximum(peak, plus(sidecars, wanted))
    total = sidecars
    for container in spec["containers"]:
        total = plus(total, _requests(container))
    return plus(_maximum(total, peak), {"pods": Decimal(1)})


def total_requests(specs: list[Mapping[str, Any]]) -> Amounts:
    """Sum over pods."""
    total: Amounts = {}
    for spec in specs:
        total = plus(total, pod_requests(spec))
    return total


def _requests(container: Mapping[str, Any]) -> Amounts:
    resources = container.get("resources") or {}
    return amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def plus(left: Amounts, right: Amounts) -> Amounts:
    """Sum by resource."""
    return {name: left.get(name, Decimal(0)) + right.get(name, Decimal(0)) for name in left.keys() | right}


def _maximum(left: Amounts, right: Amounts) -> Amounts:
    return {name: max(left.get(name, Decimal(0)), right.get(name, Decimal(0))) for name in left.keys() | right}
