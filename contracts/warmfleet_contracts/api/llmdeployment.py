"""LLMDeployment: one model served by a fleet of workers on one or more instance types."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from warmfleet_contracts.api.base import (
    ApiModel,
    CountOrShare,
    Duration,
    Name,
    ObjectMeta,
    Ratio,
    Rule,
    ShortText,
)
from warmfleet_contracts.api.engine import Engine, EnvVar, given, one_place
from warmfleet_contracts.api.llmdeployment_status import LLMDeploymentStatus
from warmfleet_contracts.api.model import Model, ModelSource
from warmfleet_contracts.api.scaling import Scaling
from warmfleet_contracts.api.unsupported import unsupported_rules

MAX_NAME_LENGTH = 40
"""Longest metadata.name: pod, service and label names are derived from it."""


class PerformanceOverride(ApiModel):
    """What one worker of a variant sustains, where the performance model has no row or is wrong."""

    requests_per_second: Annotated[float, Field(gt=0, le=1_000_000)]
    """Requests per second within the SLO, for the traffic mix of the deployment."""
    kv_cache_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens that the worker's KV cache holds."""


class Placement(ApiModel):
    """On which nodes the workers of a variant run, beyond the node selector of their InstanceType."""

    node_labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=16)] = Field(
        default_factory=dict
    )
    """Labels that a node must have besides those of the InstanceType, such as the one that says that its accelerators
    are linked among each other: what a worker with tensorParallel above 1 wants."""
    pack_by: ShortText | None = None
    """Node label of a topology domain, such as topology.kubernetes.io/rack; workers prefer a domain that has others of
    their deployment, which is near for a cache that is handed over."""
    spread_by: ShortText = "topology.kubernetes.io/zone"
    """Node label of a failure domain, over which workers of the deployment are spread as evenly as nodes allow."""


class Variant(ApiModel):
    """One way to run a worker: an instance type and a parallelism."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.max) || self.min <= self.max",
            "variants: min must not be above max; lower min or raise max",
            lambda s: s.max is None or s.min <= s.max,
        ),
        *unsupported_rules("Variant"),
    )

    name: Name
    """Name of the variant, unique in the deployment."""
    instance_type: ShortText
    """Name of an InstanceType."""
    role: Literal["both", "prefill", "decode"] = "both"
    """What its workers do."""
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    """Accelerators that share each layer."""
    pipeline_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    """Stages of layers, one after the other."""
    min: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Fewest workers of this variant."""
    max: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Most workers of this variant; unset: bounded by the deployment and the instance type."""
    performance: PerformanceOverride | None = None
    """Measured performance of one worker, instead of the performance model."""
    placement: Placement | None = None
    """Nodes of its workers; unset: those of the InstanceType, spread over zones."""

    @property
    def accelerators(self) -> int:
        """Accelerators of one worker."""
        return self.tensor_parallel * self.pipeline_parallel


class Slo(ApiModel):
    """The latency objective."""

    ttft: Duration = 2.0
    """Time to first token."""
    tpot: Duration = 0.05
    """Time per output token."""
    attainment: Annotated[float, Field(ge=0.5, le=0.9999)] = 0.99
    """Share of requests that must meet both."""


class KvTier(ApiModel):
    """A place besides GPU memory where KV blocks are kept."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(self.medium == 'fs') == has(self.claimName)",
            "tiers: an fs tier needs claimName (a ReadWriteMany claim), and no other tier has one",
            lambda s: (s.medium == "fs") == (s.claim_name is not None),
        ),
    )

    medium: Literal["cpu", "fs"]
    """Host memory or a shared file system."""
    size: Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(Mi|Gi|Ti)$")]
    """Capacity."""
    claim_name: ShortText | None = None
    """PersistentVolumeClaim (ReadWriteMany) of an fs tier."""


class KvCache(ApiModel):
    """How the KV cache is held and handed over."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.tiers) || size(self.tiers) == 0 || (self.tiers[0].medium == 'cpu' && size(self.tiers) <= 2 && "
            "self.tiers.exists_one(t, t.medium == 'cpu'))",
            "tiers: list one cpu tier, then at most one fs tier: blocks reach the file system through host memory",
            lambda s: (
                not s.tiers
                or (s.tiers[0].medium == "cpu" and len(s.tiers) <= 2 and sum(t.medium == "cpu" for t in s.tiers) == 1)
            ),
        ),
        Rule(
            "!has(self.handover) || !self.handover.exists(s, s == 'store') || "
            "(has(self.tiers) && self.tiers.exists(t, t.medium == 'fs'))",
            "handover: store needs an fs tier; add one to tiers or use auto",
            lambda s: "store" not in s.handover or any(t.medium == "fs" for t in s.tiers),
        ),
        *unsupported_rules("KvCache"),
    )

    dtype: Literal["auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"] = "auto"
    """Data type of the cache; auto is the model's."""
    tiers: Annotated[
        tuple[KvTier, ...], Field(max_length=4, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()
    """Tiers below GPU memory, fastest first."""
    handover: Annotated[
        tuple[Literal["auto", "store", "migrate", "replay", "none"], ...],
        Field(min_length=1, max_length=4, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = ("none",)
    """Hand-over strategies in order of preference; auto: store, if there is an fs tier, and those listed after
    auto, in the order that break-even bandwidth and deadline give. migrate needs an engine image with NIXL; migrate and
    replay need a routing.mode other than none."""
    min_retained_hit_ratio: Ratio | None = None
    """Slow scale-downs and rollouts so that the prefix hit ratio keeps at least this share of what it was. Where one
    worker holds more than that, one leaves at a time, and the next once the hits have come back."""
    handover_budget: Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(Mi|Gi|Ti)$")] | None = None
    """Most KV cache that one leaving worker has brought to survivors by migrate or replay, the hottest first; unset:
    4 million tokens. What a store holds is not counted: it was written while the worker served."""
    drain_deadline: Annotated[Duration, Field(ge=0)] = 300.0
    """Longest drain of a worker: finishing its requests and handing its cache over."""


class Routing(ApiModel):
    """How requests reach the workers."""

    mode: Literal["router", "service", "none"] = "router"
    """router: a prefix-aware router with one OpenAI endpoint; service: a plain Service; none: neither."""
    replicas: Annotated[int, Field(ge=1, le=16)] = 1
    """Router replicas."""
    policy: Literal["cache_aware", "power_of_two", "round_robin", "random", "consistent_hash"] = "cache_aware"
    """Routing policy of the router."""
    image: Annotated[str, Field(max_length=512)] | None = None
    """Router image; unset: the operator's default."""
    args: Annotated[
        tuple[Annotated[str, Field(max_length=4096)], ...],
        Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = ()
    """Further router flags."""


class Rollout(ApiModel):
    """How a changed template replaces workers: each is drained once a new one serves in its place."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.canary) || self.partition == 0",
            "rollout: set canary (workers on the new revision) or partition (workers kept on the old one), not both",
            lambda s: s.canary is None or s.partition == 0,
        ),
    )

    max_surge: Annotated[int, Field(ge=1, le=1000)] = 1
    """Most workers beyond the desired count while workers are replaced; those that drain are counted."""
    partition: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Workers kept on the old revision until this is lowered."""
    canary: CountOrShare | None = None
    """Workers on the new revision, a number or a percentage of the fleet, until this is removed; 0 replaces none."""
    progress_deadline: Annotated[Duration, Field(gt=0)] = 1800.0
    """Time in which some new worker must become ready, else the rollout is rolled back; time in which new workers wait
    for a node does not count."""


class LLMDeploymentSpec(ApiModel):
    """Desired state of an LLMDeployment."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.replicas) != has(self.scaling)",
            "set exactly one of replicas (a fixed fleet) and scaling (an autoscaled one)",
            lambda s: (s.replicas is None) != (s.scaling is None),
        ),
        Rule(
            "!has(self.scaling) || self.variants.exists(v, !has(v.max)) || "
            "self.variants.map(v, v.max).sum() >= self.scaling.min",
            "scaling.min is above the sum of the variants' max; raise a variant's max or lower scaling.min",
            lambda s: (
                s.scaling is None
                or any(v.max is None for v in s.variants)
                or sum(v.max for v in s.variants) >= s.scaling.min
            ),
        ),
        Rule(
            "!has(self.scaling) || self.variants.map(v, v.min).sum() <= self.scaling.max",
            "the sum of the variants' min is above scaling.max; lower a variant's min or raise scaling.max",
            lambda s: s.scaling is None or sum(v.min for v in s.variants) <= s.scaling.max,
        ),
        one_place(
            "model.maxModelLen",
            "--max-model-len",
            args="self.engine",
            test="has(self.model.maxModelLen)",
            holds=lambda s: s.model.max_model_len is None or not given(s.engine.args, "--max-model-len"),
        ),
        one_place(
            "model.quantization",
            "--quantization",
            args="self.engine",
            test="has(self.model.quantization) && self.model.quantization != 'none'",
            holds=lambda s: s.model.quantization == "none" or not given(s.engine.args, "--quantization"),
        ),
        one_place(
            "kvCache.dtype",
            "--kv-cache-dtype",
            args="self.engine",
            test="has(self.kvCache) && has(self.kvCache.dtype) && self.kvCache.dtype != 'auto'",
            holds=lambda s: s.kv_cache.dtype == "auto" or not given(s.engine.args, "--kv-cache-dtype"),
        ),
        Rule(
            "!has(self.engine.prefixCaching) || self.engine.prefixCaching || !has(self.kvCache) || "
            "((!has(self.kvCache.tiers) || size(self.kvCache.tiers) == 0) && (!has(self.kvCache.handover) || "
            "self.kvCache.handover.all(h, h == 'none')))",
            "engine.prefixCaching: false leaves nothing that kvCache.tiers or kvCache.handover could keep; remove them "
            "or leave prefix caching on",
            lambda s: (
                s.engine.prefix_caching is not False
                or (not s.kv_cache.tiers and all(h == "none" for h in s.kv_cache.handover))
            ),
        ),
        Rule(
            "!has(self.engine.chunkedPrefill) || self.engine.chunkedPrefill || !has(self.model.maxModelLen) || "
            "!has(self.engine.maxNumBatchedTokens) || self.engine.maxNumBatchedTokens >= self.model.maxModelLen",
            "engine.maxNumBatchedTokens must be at least model.maxModelLen when engine.chunkedPrefill is false: a "
            "prompt is computed in one step; raise it or leave chunked prefill on",
            lambda s: (
                s.engine.chunked_prefill is not False
                or s.model.max_model_len is None
                or s.engine.max_num_batched_tokens is None
                or s.engine.max_num_batched_tokens >= s.model.max_model_len
            ),
        ),
    )

    model: Model
    """The model that is served."""
    engine: Engine
    """The inference engine of a worker."""
    variants: Annotated[
        tuple[Variant, ...],
        Field(
            min_length=1,
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]
    """Ways to run a worker; the planner chooses the cheapest mix."""
    slo: Slo = Slo()
    """The latency objective."""
    replicas: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Fixed number of workers; excludes scaling."""
    scaling: Scaling | None = None
    """Autoscaling; excludes replicas."""
    kv_cache: KvCache = KvCache()
    """How the KV cache is held and handed over."""
    routing: Routing = Routing()
    """How requests reach the workers."""
    priority_class_name: Annotated[str, Field(max_length=253)] | None = None
    """PriorityClass of the workers; also decides who is short when accelerators are."""
    rollout: Rollout = Rollout()
    """How a changed template replaces workers."""


class LLMDeployment(ApiModel):
    """A model served by a fleet of workers that is sized, placed, drained and replaced by warmfleet."""

    api_version: str = "warmfleet.dev/v1alpha1"
    kind: str = "LLMDeployment"
    metadata: ObjectMeta = ObjectMeta()
    spec: LLMDeploymentSpec
    """Desired state."""
    status: LLMDeploymentStatus | None = None
    """Observed state."""

    crd: ClassVar[dict[str, Any]] = {
        "plural": "llmdeployments",
        "singular": "llmdeployment",
        "shortNames": ["llmd"],
        "categories": ["all", "warmfleet"],
        "scope": "Namespaced",
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
        "rules": [
            (
                f"size(self.metadata.name) <= {MAX_NAME_LENGTH}",
                f"metadata.name must be at most {MAX_NAME_LENGTH} characters: pod names are derived from it",
            ),
        ],
        "columns": [
            ("Model", "string", ".spec.model.name", "Model that is served.", 0),
            ("Ready", "integer", ".status.readyReplicas", "Workers that take traffic.", 0),
            ("Desired", "integer", ".status.desiredReplicas", "Workers that the last decision wants.", 0),
            ("Cost/H", "number", ".status.costPerHour", "US dollars per hour of all workers.", 0),
            (
                "Reason",
                "string",
                '.status.conditions[?(@.type=="Ready")].reason',
                "Reason of the Ready condition.",
                0,
            ),
            ("Chosen-By", "string", ".status.scaling.chosenBy", "Rule that decided the desired count.", 0),
            ("Min", "integer", ".spec.scaling.min", "Fewest workers.", 1),
            ("Max", "integer", ".spec.scaling.max", "Most workers.", 1),
            ("Now", "number", ".status.scaling.now", "Demand now, in requests per second.", 1),
            ("Queue", "integer", ".status.scaling.queue", "Requests waiting.", 1),
            ("Hit-Ratio", "number", ".status.kvCache.hitRatio", "Prefix-cache hits per prompt token.", 1),
            ("Age", "date", ".metadata.creationTimestamp", "Time since creation.", 0),
        ],
    }


__all__ = [
    "Engine",
    "EnvVar",
    "KvCache",
    "KvTier",
    "LLMDeployment",
    "LLMDeploymentSpec",
    "Model",
    "ModelSource",
    "PerformanceOverride",
    "Placement",
    "Rollout",
    "Routing",
    "Slo",
    "Variant",
]
