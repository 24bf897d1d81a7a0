"""A fleet from the manifests a user applies: InstanceTypes, LLMDeployments and their PriorityClasses in one YAML file.

Capacities, prices and start-up times come from the planner's own survey of the variants, so that ``--fleet`` simulates
what the operator would count on.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError
from warmfleet_contracts.api import InstanceType, LLMDeployment
from warmfleet_contracts.perfmodel import Workload
from warmfleet_contracts.traces import RateTrace
from warmfleet_operator.planning.capacity import Offer, survey
from warmfleet_operator.state.records import InstanceTypeRecord

from warmfleet_simulation.fleet import Fleet, Service, SloClass, WorkerType

_Z90 = 1.2816


class FleetError(ValueError):
    """A fleet file that cannot be simulated; the message names the field and the fix."""


def load_fleet(path: Path, traces: tuple[RateTrace, ...]) -> Fleet:
    """The fleet of a manifest file for the given traffic, one trace per LLMDeployment in order.

    Args:
        path: YAML documents; kinds other than InstanceType, LLMDeployment and PriorityClass are ignored.
        traces: Their mean lengths decide what a worker sustains.

    Raises:
        FleetError: The file cannot be read or planned.
    """
    types: dict[str, InstanceType] = {}
    deployments: list[LLMDeployment] = []
    priorities: dict[str, int] = {}
    for index, body in enumerate(_documents(path)):
        try:
            if body.get("kind") == "InstanceType":
                parsed = InstanceType.model_validate(body)
                types[parsed.metadata.name] = parsed
            elif body.get("kind") == "LLMDeployment":
                deployments.append(LLMDeployment.model_validate(body))
            elif body.get("kind") == "PriorityClass":
                name, value = _priority(body, path, index)
                priorities[name] = value
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise FleetError(f"{path.name}: document {index}: {where}: {first['msg']}") from error
    if not types or not deployments:
        raise FleetError(f"{path.name}: at least one InstanceType and one LLMDeployment are needed")
    if len(deployments) != len(traces):
        raise FleetError(
            f"{path.name}: {len(deployments)} LLMDeployments need as many --trace options, not {len(traces)}"
        )
    records = {name: InstanceTypeRecord(name, name, 1, t.spec) for name, t in types.items()}
    names = list(types)
    offers = [_offers(path, d, records, _lengths(t)) for d, t in zip(deployments, traces, strict=True)]
    services = tuple(
        replace(_service(d, o, names), priority=priorities.get(d.spec.priority_class_name or "", 0))
        for d, o in zip(deployments, offers, strict=True)
    )
    flat = {o.instance_type: o for own in offers for o in own}
    return Fleet(tuple(_type(types[name], flat.get(name)) for name in names), services)


def _priority(body: dict[str, Any], path: Path, index: int) -> tuple[str, int]:
    meta, value = body.get("metadata"), body.get("value")
    if not isinstance(meta, dict) or not isinstance(value, int):
        raise FleetError(f"{path.name}: document {index}: value: a PriorityClass needs a name and a whole number")
    return str(meta.get("name")), value


def _documents(path: Path) -> list[dict[str, Any]]:
    try:
        found = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise FleetError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FleetError(f"{path.name}: not YAML: {error}") from error
    return [body for body in found if isinstance(body, dict)]


def _lengths(trace: RateTrace) -> Workload:
    if trace.requests is None or trace.input_tokens is None or trace.output_tokens is None:
        raise FleetError(
            f"{trace.name}: --fleet sizes workers from token lengths, and this trace lacks requests or tokens; "
            "leave --fleet out to use the standard fleet"
        )
    good = ~trace.missing & np.isfinite(trace.requests + trace.input_tokens + trace.output_tokens)
    requests = float(trace.requests[good].sum())
    if requests <= 0:
        raise FleetError(f"{trace.name}: no request in it")
    mean_in = float(trace.input_tokens[good].sum()) / requests
    mean_out = float(trace.output_tokens[good].sum()) / requests
    return Workload(max(1.0, round(mean_in)), max(1.0, round(mean_out)))


def _offers(
    path: Path, deployment: LLMDeployment, types: dict[str, InstanceTypeRecord], workload: Workload
) -> list[Offer]:
    offers, problems = survey(deployment.spec, types, workload, needs_rates=True)
    usable = [o for o in offers if o.buy and o.rate and o.price is not None]
    if not usable:
        why = "; ".join(p.message for p in problems) or "no variant can be bought"
        raise FleetError(f"{path.name}: {deployment.metadata.name}: {why}")
    return usable


def _service(deployment: LLMDeployment, offers: list[Offer], names: list[str]) -> Service:
    best = {name: max((o.rate or 0.0 for o in offers if o.instance_type == name), default=0.0) for name in names}
    scaling = deployment.spec.scaling
    fixed = deployment.spec.replicas or 1
    ttft = deployment.spec.slo.ttft
    return Service(
        name=deployment.metadata.name,
        capacity=tuple(best[name] for name in names),
        classes=(SloClass("all", 1.0, max(1.0, ttft), max(60.0, 10 * ttft)),),
        min_workers=scaling.min if scaling is not None else fixed,
        max_workers=scaling.max if scaling is not None else fixed,
        attainment=deployment.spec.slo.attainment,
    )


def _type(kind: InstanceType, offer: Offer | None) -> WorkerType:
    spec = kind.spec
    accelerators = offer.accelerators if offer is not None else 1
    price = offer.price if offer is not None and offer.price is not None else spec.price_per_hour
    limit = spec.limit.accelerators
    return WorkerType(
        name=kind.metadata.name,
        price=price,
        startup_s=spec.startup.p50,
        startup_sigma=max(0.0, math.log(max(spec.startup.p90, spec.startup.p50) / spec.startup.p50)) / _Z90,
        limit=None if limit is None else limit // accelerators,
        spot=spec.spot,
    )
