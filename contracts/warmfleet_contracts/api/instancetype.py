"""InstanceType: one kind of GPU machine that workers may be placed on, what it costs and how many there are."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from warmfleet_contracts.api.base import (
    ApiModel,
    Conditions,
    Duration,
    LongText,
    Name,
    NonNegative,
    ObjectMeta,
    Rule,
    ShortText,
)


class CapacityType(StrEnum):
    """How the capacity is bought."""

    ON_DEMAND = "on-demand"
    SPOT = "spot"


class Accelerator(ApiModel):
    """The accelerators of one instance."""

    name: ShortText
    """Accelerator model as the performance model names it, such as H100-SXM, A100-80GB or L40S."""
    count: Annotated[int, Field(ge=1, le=64)] = 1
    """Accelerators of one instance (one node). A worker of tensorParallel x pipelineParallel accelerators uses that
    share of the instance."""
    resource_name: ShortText = "nvidia.com/gpu"
    """Extended resource that the device plugin publishes."""


class Price(ApiModel):
    """US dollars per hour of one whole instance (all its accelerators)."""

    on_demand: NonNegative
    """On-demand price of one instance, US dollars per hour."""
    spot: NonNegative | None = None
    """Spot price of one instance, US dollars per hour."""


class NamespaceLimit(ApiModel):
    """A namespace's share of the accelerators of this type."""

    namespace: Name
    """Namespace the limit holds for."""
    accelerators: Annotated[int, Field(ge=0, le=1_000_000)]
    """Most accelerators of this type that workers of the namespace may hold together."""


class AcceleratorLimit(ApiModel):
    """How many accelerators of this type warmfleet may use."""

    accelerators: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Most accelerators of this type over all namespaces; unset: as many as the cluster gives."""
    namespaces: Annotated[
        tuple[NamespaceLimit, ...],
        Field(
            max_length=64,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["namespace"]},
        ),
    ] = ()
    """Limits of single namespaces, below the overall one."""


class Toleration(ApiModel):
    """A ``core/v1`` toleration."""

    key: Annotated[str, Field(max_length=317)] | None = None
    """Taint key; unset with operator Exists matches all taints."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists or Equal."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """Taint value for operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; unset matches all effects."""
    toleration_seconds: int | None = None
    """How long NoExecute is tolerated."""


class WorkerResources(ApiModel):
    """CPU and memory that one accelerator's share of a worker asks for."""

    cpu: Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?m?$")] | None = None
    """CPU request per accelerator, as a Kubernetes quantity."""
    memory: Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|K|M|G|T)?$")] | None = None
    """Memory request per accelerator, as a Kubernetes quantity."""


class StartupPrior(ApiModel):
    """How long a worker takes from its pod's creation to its first request, before any was measured."""

    p50: Duration = 180.0
    """Median start-up time."""
    p90: Duration = 300.0
    """90th percentile of the start-up time: the lead at which capacity is bought."""


class InstanceTypeSpec(ApiModel):
    """Desired state of an InstanceType."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.capacityType != 'spot' || has(self.price.spot)",
            "price.spot is required when capacityType is spot: set the spot price in US dollars per hour",
            lambda s: s.capacity_type is not CapacityType.SPOT or s.price.spot is not None,
        ),
    )

    accelerator: Accelerator
    """The accelerators of one instance."""
    node_selector: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)] = Field(
        default_factory=dict
    )
    """Labels of the nodes of this type; a worker's pod carries them as its nodeSelector."""
    tolerations: Annotated[
        tuple[Toleration, ...], Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()
    """Tolerations that a worker's pod needs on these nodes."""
    resources: WorkerResources = WorkerResources()
    """CPU and memory per accelerator."""
    price: Price
    """What one instance costs."""
    capacity_type: CapacityType = CapacityType.ON_DEMAND
    """Which of the prices is paid."""
    limit: AcceleratorLimit = AcceleratorLimit()
    """How many accelerators of this type may be used."""
    startup: StartupPrior = StartupPrior()
    """Start-up time until enough starts were measured."""

    @property
    def spot(self) -> bool:
        """Whether the provider may take the capacity back."""
        return self.capacity_type is CapacityType.SPOT

    @property
    def price_per_hour(self) -> float:
        """What one whole instance costs as it is bought, US dollars per hour."""
        return self.price.spot if self.spot and self.price.spot is not None else self.price.on_demand


class MeasuredStartup(ApiModel):
    """Start-up times seen on this type."""

    p50: Duration
    """Median."""
    p90: Duration
    """90th percentile."""
    samples: int
    """How many starts are behind it."""


class InstanceTypeStatus(ApiModel):
    """Observed state of an InstanceType."""

    observed_generation: int = -1
    """The generation that was last looked at; -1 before the first look."""
    used_accelerators: int = 0
    """Accelerators held by worker pods now."""
    workers: int = 0
    """Worker pods of this type now."""
    startup: MeasuredStartup | None = None
    """Measured start-up time."""
    stocked_out: bool | None = None
    """Whether a fleet holds new workers of this type back because its recent ones found no node."""
    message: LongText = ""
    """What is going on, for a person."""
    conditions: Conditions = ()
    """Conditions: Ready; Stalled where the spec cannot be used."""


class InstanceType(ApiModel):
    """One kind of GPU machine: what it carries, what it costs, how many there may be, how long it takes to start."""

    api_version: str = "warmfleet.dev/v1alpha1"
    kind: str = "InstanceType"
    metadata: ObjectMeta = ObjectMeta()
    spec: InstanceTypeSpec
    """Desired state."""
    status: InstanceTypeStatus | None = None
    """Observed state."""

    crd: ClassVar[dict[str, Any]] = {
        "plural": "instancetypes",
        "singular": "instancetype",
        "shortNames": ["itype", "itypes"],
        "categories": ["warmfleet"],
        "scope": "Cluster",
        "columns": [
            ("Accelerator", "string", ".spec.accelerator.name", "Accelerator model.", 0),
            ("Count", "integer", ".spec.accelerator.count", "Accelerators of one instance.", 0),
            (
                "Price/H",
                "number",
                ".spec.price.onDemand",
                "On-demand price of one instance in US dollars per hour.",
                0,
            ),
            ("Used", "integer", ".status.usedAccelerators", "Accelerators held by workers now.", 0),
            ("Limit", "integer", ".spec.limit.accelerators", "Most accelerators that may be used.", 0),
            (
                "Startup-P90",
                "string",
                ".status.startup.p90",
                "Measured 90th percentile of the start-up time.",
                1,
            ),
            (
                "Stocked-Out",
                "boolean",
                ".status.stockedOut",
                "Whether new workers are held back for want of nodes.",
                0,
            ),
            ("Age", "date", ".metadata.creationTimestamp", "Time since creation.", 0),
        ],
    }
