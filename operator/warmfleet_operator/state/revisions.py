"""The template revision of a worker: a hash of what a *user* wrote that changes what runs in its pod.

::

    revision(variant) = "t1-" + hash(model, engine, kvCache, priorityClassName; the variant's type and parallelism)

Defaults and fields that only steer the operator (model.profile, scheme and sparsity, engine.version,
kvCache.drainDeadline and minRetainedHitRatio, the SLO) are left out, and so is everything that the operator adds to the
pod: an upgrade of the operator, or a new field with a default, makes no worker outdated. ``t1`` names this way of
hashing. A worker whose label has another one was made by another version of the operator; it cannot be compared and is
left alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from warmfleet_contracts.api import LLMDeploymentSpec, Variant

SCHEME = "t1-"
_LENGTH = 10


def revision(spec: LLMDeploymentSpec, variant: Variant) -> str:
    """Value of the revision label of a worker of the variant."""
    return _hash([_common(spec), _shape(variant)])


def revisions(spec: LLMDeploymentSpec) -> dict[str, str]:
    """Revision by variant."""
    common = _common(spec)
    return {variant.name: _hash([common, _shape(variant)]) for variant in spec.variants}


def fingerprint(found: Mapping[str, str]) -> str:
    """One revision for all variants together: that of the variant when there is only one."""
    if len(found) == 1:
        return next(iter(found.values()))
    distinct = sorted(set(found.values()))
    return distinct[0] if len(distinct) == 1 else _hash(sorted(found.items())) if distinct else ""


def comparable(label: str) -> bool:
    """Whether a label was made by this way of hashing."""
    return label.startswith(SCHEME)


def with_template(spec: LLMDeploymentSpec, good: LLMDeploymentSpec) -> LLMDeploymentSpec:
    """``spec`` with the template of ``good``: what it says of scaling, routing and the SLO stays.

    A variant that only ``spec`` has keeps its own type and parallelism.
    """
    steering = {"drain_deadline", "handover_budget", "min_retained_hit_ratio"}
    kept = {name: getattr(spec.kv_cache, name) for name in steering}
    older = {variant.name: variant for variant in good.variants}
    return spec.model_copy(
        update={
            "model": good.model,
            "engine": good.engine,
            "kv_cache": good.kv_cache.model_copy(update=kept),
            "priority_class_name": good.priority_class_name,
            "variants": tuple(_as_before(variant, older.get(variant.name)) for variant in spec.variants),
        }
    )


def _as_before(variant: Variant, older: Variant | None) -> Variant:
    if older is None or _shape(older) == _shape(variant):
        return variant
    names = ("instance_type", "role", "tensor_parallel", "pipeline_parallel", "performance", "placement")
    return variant.model_copy(update={name: getattr(older, name) for name in names})


def _common(spec: LLMDeploymentSpec) -> dict[str, Any]:
    def wire(part: Any, without: set[str]) -> Any:
        return part.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True, exclude=without)

    return {
        "model": wire(spec.model, {"profile", "scheme", "sparsity"}),
        "engine": wire(spec.engine, {"version"}),
        "kvCache": wire(spec.kv_cache, {"drain_deadline", "handover_budget", "min_retained_hit_ratio"}),
        "priorityClassName": spec.priority_class_name or "",
    }


def _shape(variant: Variant) -> list[Any]:
    shape: list[Any] = [variant.instance_type, variant.role, variant.tensor_parallel, variant.pipeline_parallel]
    if variant.placement is not None:
        shape.append(variant.placement.to_wire())
    return shape


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return SCHEME + hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]
