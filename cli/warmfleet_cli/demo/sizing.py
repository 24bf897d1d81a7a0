"""How much traffic the demo's fleet is made for: its manifests, the traffic's shape, and the operator's estimate."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml
from warmfleet_contracts.api import InstanceType, LLMDeployment
from warmfleet_contracts.perfmodel import PerfProfile, Workload, lookup
from warmfleet_operator.planning.capacity import rates
from warmfleet_operator.state.records import InstanceTypeRecord

from warmfleet_cli.demo.conversations import Shape

EXPECTED_HIT_RATIO = 0.8
"""Of the demo's prompts: the system prompts are shared and conversations come back to their worker."""
PEAK_WORKERS = 4.0
"""Workers' worth of capacity that the peak of the traffic asks for; with headroom, 5 workers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is installed, and what it sustains.

    Attributes:
        deployment: The LLMDeployment.
        instance_type: The type its only variant runs on.
        profile: Row of the performance model that the simulated engines run at.
        worker_rate: Requests per second that the operator will count on one worker to sustain.
        manifests: All objects to apply, in order.
    """

    deployment: LLMDeployment
    instance_type: InstanceType
    profile: PerfProfile
    worker_rate: float
    manifests: tuple[dict[str, Any], ...]

    @property
    def peak_rate(self) -> float:
        """Requests per logical second at the peak."""
        return PEAK_WORKERS * self.worker_rate

    @property
    def max_workers(self) -> int:
        """Most workers of the deployment."""
        scaling = self.deployment.spec.scaling
        return scaling.max if scaling is not None else self.deployment.spec.replicas or 0

    @property
    def worker_cost(self) -> float:
        """Dollars per hour of one worker."""
        spec, variant = self.instance_type.spec, self.deployment.spec.variants[0]
        return spec.price_per_hour * variant.accelerators / spec.accelerator.count


def plan(shape: Shape) -> Plan:
    """Reads the demo's manifests and asks the performance model.

    Raises:
        ValueError: The model has no row for them, or no rate within the objectives.
    """
    types = _documents("instancetypes.yaml")
    deployments = _documents("llmdeployment.yaml")
    deployment = LLMDeployment.model_validate(deployments[0])
    spec, variant = deployment.spec, deployment.spec.variants[0]
    parsed = [InstanceType.model_validate(document) for document in types]
    instance_type = next(t for t in parsed if t.metadata.name == variant.instance_type)
    dtype = "bf16" if spec.model.quantization == "none" else spec.model.quantization
    accelerator = instance_type.spec.accelerator.name
    name = spec.model.profile or spec.model.name
    profile = lookup(name, dtype, accelerator, variant.tensor_parallel)
    if profile is None:
        raise ValueError(f"the performance model has no row for {name} in {dtype} on {accelerator}")
    workload = Workload(shape.mean_input, shape.mean_output, EXPECTED_HIT_RATIO)
    records = {t.metadata.name: InstanceTypeRecord(t.metadata.name, "", 0, t.spec) for t in parsed}
    rate = rates(spec, records, workload)[variant.name]
    if not rate:
        raise ValueError(f"{profile.name} cannot meet the objectives of the demo's deployment at any rate")
    return Plan(deployment, instance_type, profile, rate, (*types, *deployments))


def _documents(name: str) -> list[dict[str, Any]]:
    text = files("warmfleet_cli.demo").joinpath("manifests", name).read_text(encoding="utf-8")
    return [document for document in yaml.safe_load_all(text) if document]
