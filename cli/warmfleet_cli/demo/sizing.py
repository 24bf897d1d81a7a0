"""How much traffic the demo's fleets are made for: the manifests, the traffic's shape, and the operator's estimate."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml
from warmfleet_contracts.api import InstanceType, LLMDeployment
from warmfleet_contracts.perfmodel import PerfProfile, Workload, lookup
from warmfleet_operator.planning.capacity import rates
from warmfleet_operator.state.records import InstanceTypeRecord

from warmfleet_cli.demo.conversations import Shape

EXPECTED_HIT_RATIO = 0.85
"""Of the demo's prompts: sessions come back to the worker that knows them."""
PEAK_RATE = 0.33
"""Requests per logical second at the peak of one fleet: what this machine's processes can play on two cores."""
BESIDE = "chat-without"
"""The second fleet: the same requests, the same spec, no hand-over."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A variant of the deployment and what it runs on.

    Attributes:
        name: The variant's name.
        instance_type: Its InstanceType.
        profile: Row of the performance model that its simulated engines run at.
        rate: Requests per second that the operator will count on one worker to sustain.
        cost: Dollars per hour of one worker.
    """

    name: str
    instance_type: InstanceType
    profile: PerfProfile
    rate: float
    cost: float

    @property
    def accelerator(self) -> str:
        """The accelerator's name in the performance model."""
        return self.instance_type.spec.accelerator.name

    @property
    def lead_s(self) -> float:
        """Start-up time at the 90th percentile, as the InstanceType declares it, logical seconds."""
        startup = self.instance_type.spec.startup
        return startup.p90 if startup is not None else 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is installed, and what it sustains.

    Attributes:
        deployment: The LLMDeployment.
        beside: The same without hand-over.
        kinds: Its variants.
        manifests: All objects to apply, in order.
    """

    deployment: LLMDeployment
    beside: LLMDeployment
    kinds: tuple[Kind, ...]
    manifests: tuple[dict[str, Any], ...]

    @property
    def deployments(self) -> tuple[LLMDeployment, ...]:
        """Both fleets."""
        return (self.deployment, self.beside)

    @property
    def max_workers(self) -> int:
        """Most workers of one fleet."""
        scaling = self.deployment.spec.scaling
        return scaling.max if scaling is not None else self.deployment.spec.replicas or 0

    def machines(self, kind: Kind) -> int:
        """Machines of a type that both fleets could fill, and one to spare."""
        workers = len(self.deployments) * self.max_workers
        return -(-workers // kind.instance_type.spec.accelerator.count) + 1


def plan(shape: Shape) -> Plan:
    """Reads the demo's manifests and asks the performance model.

    Raises:
        ValueError: The model has no row for them, or no rate within the objectives.
    """
    types = _documents("instancetypes.yaml")
    (document,) = _documents("llmdeployment.yaml")
    without = copy.deepcopy(document)
    without["metadata"]["name"] = BESIDE
    without["spec"]["kvCache"]["handover"] = ["none"]
    deployment, beside = (LLMDeployment.model_validate(d) for d in (document, without))
    parsed = {t.metadata.name: t for t in (InstanceType.model_validate(document) for document in types)}
    records = {name: InstanceTypeRecord(name, "", 0, t.spec) for name, t in parsed.items()}
    workload = Workload(shape.mean_input, shape.mean_output, EXPECTED_HIT_RATIO)
    found = rates(deployment.spec, records, workload)
    kinds = tuple(
        _kind(deployment, variant.name, parsed[variant.instance_type], found[variant.name])
        for variant in deployment.spec.variants
    )
    return Plan(deployment, beside, kinds, (*types, document, without))


def _kind(deployment: LLMDeployment, name: str, instance_type: InstanceType, rate: float | None) -> Kind:
    spec = deployment.spec
    variant = next(v for v in spec.variants if v.name == name)
    dtype = "bf16" if spec.model.quantization == "none" else spec.model.quantization
    accelerator = instance_type.spec.accelerator
    model = spec.model.profile or spec.model.name
    profile = lookup(model, dtype, accelerator.name, variant.tensor_parallel)
    if profile is None:
        raise ValueError(f"the performance model has no row for {model} in {dtype} on {accelerator.name}")
    if not rate:
        raise ValueError(f"{profile.name} cannot meet the objectives of the demo's deployment at any rate")
    cost = instance_type.spec.price_per_hour * variant.accelerators / accelerator.count
    return Kind(name, instance_type, profile, rate, cost)


def _documents(name: str) -> list[dict[str, Any]]:
    text = files("warmfleet_cli.demo").joinpath("manifests", name).read_text(encoding="utf-8")
    return [document for document in yaml.safe_load_all(text) if document]
