"""The status of an LLMDeployment: what is there, what was decided, and why."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from warmfleet_contracts.api.base import ApiModel, Condition, LongText, Name, ShortText


class VariantStatus(ApiModel):
    """Workers of one variant."""

    name: Name
    """Name of the variant."""
    instance_type: ShortText
    """Name of its InstanceType."""
    desired: int = 0
    """Workers that the last decision wants."""
    starting: int = 0
    """Workers that are not ready yet."""
    stages: Annotated[dict[str, int], Field(max_length=8)] | None = None
    """How far these are: Scheduling (no node yet), Creating (images, volumes), then what their agents see: Starting,
    Downloading, Loading, Compiling, Prewarming."""
    ready: int = 0
    """Workers that take traffic."""
    draining: int = 0
    """Workers on their way out."""
    requests_per_second: float | None = None
    """What one worker is counted on to sustain within the SLO."""
    revision: Annotated[str, Field(max_length=63)] = ""
    """Template revision of new workers: value of their label warmfleet.dev/revision."""


class TraceStep(ApiModel):
    """One line of the chain from the demand to the workers that leave."""

    stage: Annotated[str, Field(max_length=32)]
    """Demand, Capacity, Blend, Mix, Limits or Victims."""
    message: LongText = ""
    """For a person, with figures."""
    figures: Annotated[dict[str, float], Field(max_length=32)] = Field(default_factory=dict)
    """The same figures by name."""


class ScalingStatus(ApiModel):
    """The last decision, explained."""

    now: float | None = None
    """Demand now, requests/s; absent while unknown."""
    queue: int | None = None
    """Requests waiting; absent while unknown."""
    forecast: float | None = None
    """Demand over the lead time that the forecast asks to serve, requests/s."""
    desired: int = 0
    """Workers wanted."""
    chosen_by: Annotated[str, Field(max_length=64)] = ""
    """Rule that decided: a reason from the fixed table."""
    message: LongText = ""
    """The decision in words, with figures."""
    trace: Annotated[
        tuple[TraceStep, ...], Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()
    """How it came about: demand, capacity, blend, mix, limits, victims. What ``warmfleet explain`` prints."""


class RolloutStatus(ApiModel):
    """How far the workers are on the template of the spec."""

    state: Annotated[str, Field(max_length=64)] = ""
    """Updated, RollingOut, Canary, RolloutWaiting or RolledBack."""
    revision: Annotated[str, Field(max_length=63)] = ""
    """Revision that workers are brought to: the spec's, or the last good one after a rollback."""
    updated: int = 0
    """Workers of this revision."""
    ready: int = 0
    """Of these, workers that take traffic."""
    total: int = 0
    """Workers of any revision that are not on their way out."""
    message: LongText = ""
    """The same in words, and what it waits for."""


class KvCacheStatus(ApiModel):
    """The prefix caches of the fleet."""

    hit_ratio: float | None = None
    """Prefix-cache hits per prompt token over the last minutes; absent while unknown."""
    retained: float | None = None
    """Share of the hit ratio that is left after workers went, by the planner's model; absent when none went lately."""


class LLMDeploymentStatus(ApiModel):
    """Observed state of an LLMDeployment."""

    observed_generation: int = -1
    """The generation that was last looked at; -1 before the first look."""
    replicas: int = 0
    """Worker pods, whatever their state."""
    ready_replicas: int = 0
    """Workers that take traffic."""
    desired_replicas: int = 0
    """Workers that the last decision wants."""
    selector: Annotated[str, Field(max_length=512)] = ""
    """Label selector of the worker pods."""
    endpoint: Annotated[str, Field(max_length=512)] = ""
    """URL of the OpenAI endpoint inside the cluster."""
    variants: Annotated[
        tuple[VariantStatus, ...],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = ()
    """Workers by variant."""
    scaling: ScalingStatus | None = None
    """The last decision, explained."""
    rollout: RolloutStatus | None = None
    """How far the workers are on the template of the spec."""
    kv_cache: KvCacheStatus | None = None
    """The prefix caches of the fleet."""
    cost_per_hour: float | None = None
    """US dollars per hour of all workers at list price; absent when a price is unknown."""
    saved_per_hour: float | None = None
    """US dollars per hour less than a fleet at scaling.max. In mode Advisory: what the advice would save,
    negative when it would buy."""
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = ()
    """Ready, Reconciling and Stalled as kstatus reads them, then ScalingActive, ScalingLimited, Draining, RollingOut,
    Paused."""
