"""What was observed, as frozen records: deployments, instance types, workers, nodes and telemetry.

All times are logical seconds of the process clock (:class:`warmfleet_runtime.clock.Clock`), taken when something was
first seen; Kubernetes timestamps play no part in any decision, but for the moment a forecast was made, which is turned
into the process clock when it arrives. What is not known is None, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from warmfleet_contracts.agent import DrainReport, Phase
from warmfleet_contracts.api import InstanceTypeSpec, LLMDeploymentSpec
from warmfleet_contracts.leadwindow import LeadWindowTable
from warmfleet_contracts.sketch import Sketch


class Key(NamedTuple):
    """Namespace and name of a namespaced object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """An LLMDeployment as the operator sees it.

    Attributes:
        key: Namespace and name.
        uid: Object UID.
        generation: metadata.generation.
        resource_version: metadata.resourceVersion of the last event.
        spec: The parsed spec; None when it cannot be parsed.
        spec_error: Why the spec cannot be parsed, for a person; None when it can.
        annotations: Its annotations.
        deleting: Whether deletionTimestamp is set.
        namespace_terminating: Whether its namespace is being deleted.
        deleting_since: When the operator first saw deletionTimestamp, logical seconds; None otherwise.
        finalizers: metadata.finalizers.
        status: The status as last seen, raw; compared before it is written again.
        revisions: Template revision by variant that the spec asks for; empty when nobody computed it, and then no
            worker is outdated.
    """

    key: Key
    uid: str
    generation: int
    resource_version: str
    spec: LLMDeploymentSpec | None
    spec_error: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    deleting: bool = False
    namespace_terminating: bool = False
    deleting_since: float | None = None
    finalizers: tuple[str, ...] = ()
    status: Mapping[str, Any] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InstanceTypeRecord:
    """An InstanceType; ``spec`` is None and ``spec_error`` says why when it cannot be parsed."""

    name: str
    uid: str
    generation: int
    spec: InstanceTypeSpec | None
    spec_error: str | None = None
    status: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ForecastRecord:
    """A TrafficForecast, as far as a decision can use it.

    Attributes:
        key: Namespace and name.
        uid: Object UID.
        target: Name of the LLMDeployment it is for, in the same namespace.
        issued_at: When it was made, on the process clock, logical seconds (negative before the process began); None
            when the status does not say.
        valid_for: How long after that it may be used, seconds.
        trusted: What its forecaster says of it.
        table: The lead-window table; None when there is none that makes sense.
        fault: Why it cannot be used at all, for a person; empty when it can.
    """

    key: Key
    uid: str
    target: str
    issued_at: float | None = None
    valid_for: float = 0.0
    trusted: bool = False
    table: LeadWindowTable | None = None
    fault: str = ""


class WorkerPhase(StrEnum):
    """What a worker pod is doing, from its Kubernetes status alone."""

    UNSCHEDULED = "Unscheduled"
    """No node yet."""
    STARTING = "Starting"
    """On a node, not ready yet."""
    READY = "Ready"
    """Takes traffic."""
    NOT_READY = "NotReady"
    """Was ready before and is not now (draining, or its engine is failing)."""
    TERMINATING = "Terminating"
    """deletionTimestamp is set."""
    FAILED = "Failed"
    """Ended, or cannot start: image, crash loop, configuration."""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker's pod.

    Attributes:
        key: Namespace and name of the pod.
        uid: Pod UID.
        resource_version: Of the last event; destructive acts carry it.
        deployment: Name of its LLMDeployment.
        variant: Variant name (label).
        instance_type: InstanceType name (label).
        revision: Template revision (label).
        phase: See WorkerPhase.
        accelerators: Accelerators it requests.
        node: Node name, empty while unscheduled.
        ip: Pod address, empty while unknown.
        first_seen: When the operator first saw it, logical seconds.
        first_ready: When the operator first saw it ready; None before.
        unschedulable_since: When it was first seen unschedulable; None otherwise.
        failure: Why it does not start, for a person (waiting reason and message); empty otherwise.
        failure_reason: The kubelet's reason, such as ImagePullBackOff or CrashLoopBackOff; empty otherwise.
        drain_reason: Value of the draining annotation; None when it was not told to drain.
        drain_since: When the operator first saw the draining annotation; None otherwise.
        terminating_since: When the operator first saw deletionTimestamp; None otherwise.
        routed: Whether the route label is set.
        protected: Whether the do-not-drain annotation is set.
        orphaned: Whether it has no owner any more: it survives its deployment.
    """

    key: Key
    uid: str
    resource_version: str
    deployment: str
    variant: str
    instance_type: str
    revision: str
    phase: WorkerPhase
    accelerators: int
    first_seen: float
    node: str = ""
    ip: str = ""
    first_ready: float | None = None
    unschedulable_since: float | None = None
    failure: str = ""
    failure_reason: str = ""
    drain_reason: str | None = None
    drain_since: float | None = None
    terminating_since: float | None = None
    routed: bool = False
    protected: bool = False
    orphaned: bool = False

    @property
    def deployment_key(self) -> Key:
        """Key of its LLMDeployment."""
        return Key(self.key.namespace, self.deployment)

    @property
    def leaving(self) -> bool:
        """Whether it is on its way out: told to drain, or being deleted."""
        return self.drain_reason is not None or self.phase is WorkerPhase.TERMINATING

    @property
    def pending(self) -> bool:
        """Whether it was never ready and may still become so."""
        return self.phase in (WorkerPhase.UNSCHEDULED, WorkerPhase.STARTING)


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node, as far as it says whether its workers must leave.

    Attributes:
        name: Node name.
        first_seen: Logical seconds.
        leaving: Why its pods must leave (cordoned, a disruption taint, not ready); None otherwise.
    """

    name: str
    first_seen: float
    leaving: str | None = None


@dataclass(frozen=True, slots=True)
class PriorityClassRecord:
    """A PriorityClass.

    Attributes:
        name: Its name.
        value: Its value; the larger, the more important.
        default: Whether it holds for who names none (globalDefault).
    """

    name: str
    value: int
    default: bool = False


@dataclass(frozen=True, slots=True)
class WorkerTelemetry:
    """The last good answer of a worker's agent.

    Attributes:
        at: When it was taken, logical seconds.
        phase: The agent's phase.
        running: Requests in a batch; None while unknown.
        waiting: Requests queued in the engine; None while unknown.
        kv_usage: Share of KV cache held by running requests.
        hot_tokens: Tokens of hot prefixes held; None without an index.
        hot_sketch: Sample of these; None without one.
        evicted_after: How long ago the blocks that it evicts now were used last, seconds; None while it evicts none.
        cancellable: Whether a drain in progress can be cancelled; None when none is in progress.
        startup_seconds: Agent start to engine ready; None before.
        drain_report: What the finished drain did; None before the end of one.
        served: Requests per second that it finished whole over the last minutes; None before they are full.
        batches: Numbers of requests running over the same time, as the means of six equal shares of it in ascending
            order; None before they are full.
        attainment: Share of its recent requests within the SLO; None while unknown.
        stage: How far its start is, as the agent says; empty when it has started, or does not say.
    """

    at: float
    phase: Phase
    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    hot_tokens: int | None = None
    hot_sketch: Sketch | None = None
    evicted_after: float | None = None
    cancellable: bool | None = None
    startup_seconds: float | None = None
    drain_report: DrainReport | None = None
    served: float | None = None
    batches: tuple[float, ...] | None = None
    attainment: float | None = None
    stage: str = ""


@dataclass(frozen=True, slots=True)
class RouterRecord:
    """A router's pod.

    Attributes:
        key: Namespace and name of the pod.
        uid: Pod UID.
        deployment: Name of its LLMDeployment.
        ip: Pod address, empty while unknown.
        ready: Whether the pod is Ready and not being deleted.
    """

    key: Key
    uid: str
    deployment: str
    ip: str
    ready: bool

    @property
    def deployment_key(self) -> Key:
        """Key of its LLMDeployment."""
        return Key(self.key.namespace, self.deployment)


@dataclass(frozen=True, slots=True)
class Demand:
    """Traffic of one deployment over a recent window.

    Attributes:
        at: End of the window, logical seconds.
        arrivals: Requests per second, refused ones included; None while unknown.
        input_tokens: Mean prompt tokens of a request; None while unknown.
        output_tokens: Mean generated tokens of a request; None while unknown.
        hit_ratio: Prefix-cache hits per prompt token; None while unknown.
        queue: Requests waiting in router and engines; None while unknown.
        rejects: Requests per second refused or failed for want of a worker; None while unknown.
        slo_attainment: Share of recent requests within the SLO; None while unknown.
        sources: Which sources answered: ``router``, ``agents``.
        silent_workers: Ready workers whose agents gave no usable answer.
        reporting_workers: Ready workers whose agents did.
    """

    at: float
    arrivals: float | None
    input_tokens: float | None = None
    output_tokens: float | None = None
    hit_ratio: float | None = None
    queue: int | None = None
    rejects: float | None = None
    slo_attainment: float | None = None
    sources: tuple[str, ...] = ()
    silent_workers: int = 0
    reporting_workers: int = 0


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """Everything a decision is made from, at one moment.

    Attributes:
        deployments: By key.
        instance_types: By name.
        workers: All worker pods, in order of key. Pods that were asked for but not seen yet are included as
            UNSCHEDULED records (expectations), so that nothing is created twice.
        nodes: By name.
        telemetry: Last agent answers by pod UID.
        demand: By deployment key; absent when nothing was ever measured.
        forecasts: TrafficForecasts by key of the deployment they are for.
        wall_epoch: Wall time of this moment, seconds since 1970 (UTC); None when it is not known. For what people
            write in wall time (events, schedules), never for durations.
        priorities: Values of PriorityClasses by name; under the empty name the cluster's default, where there is one.
    """

    deployments: Mapping[Key, DeploymentRecord] = field(default_factory=dict)
    instance_types: Mapping[str, InstanceTypeRecord] = field(default_factory=dict)
    workers: tuple[WorkerRecord, ...] = ()
    nodes: Mapping[str, NodeRecord] = field(default_factory=dict)
    telemetry: Mapping[str, WorkerTelemetry] = field(default_factory=dict)
    demand: Mapping[Key, Demand] = field(default_factory=dict)
    forecasts: Mapping[Key, tuple[ForecastRecord, ...]] = field(default_factory=dict)
    wall_epoch: float | None = None
    priorities: Mapping[str, int] = field(default_factory=dict)
