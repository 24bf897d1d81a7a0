"""The protocol between operator and agent: JSON over HTTP on the pod's address, port :data:`labels.AGENT_PORT`.

==========================  =====================================================================================
``GET /v1/state``           200 :class:`AgentState`.
``POST /v1/drain``          Body :class:`DrainRequest`. 202 :class:`AgentState`. Repeating it only tightens the
                            deadline: the minimum of all that were given holds.
``DELETE /v1/drain``        Cancel. 200 :class:`AgentState`; 409 when the worker can no longer come back (its pod is
                            being deleted, or it is Drained and its engine has been told to stop).
``GET /v1/prestop``         The engine container's preStop hook: starts a final (not cancellable) drain and answers 200
                            when it ended. Query ``deadline`` in seconds, optional.
``GET /readyz``             The pod's readiness: 200 while the engine is ready and the phase is Serving, else 503.
``GET /healthz``            The agent's own liveness.
``GET /metrics``            Prometheus.
==========================  =====================================================================================

What is under ``/v1`` asks for ``Authorization: Bearer`` (:mod:`warmfleet_contracts.bearer`); without it, or with a
wrong one, the answer is 401. The preStop hook has a token of its own, because the kubelet sends what stands in the
pod.

All answers may come from a broken or hostile pod: the operator parses them through these models, which bound every
number and list, and treats what does not parse as no answer.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from warmfleet_contracts.sketch import MAX_TEXT
from warmfleet_contracts.wire import ApiModel

PROTOCOL_VERSION = "v1"
_MAX_COUNT = 2**53
Count = Annotated[int, Field(ge=0, le=_MAX_COUNT)]
Seconds = Annotated[float, Field(ge=0.0, le=1e9, allow_inf_nan=False)]


class Phase(StrEnum):
    """Where a worker is on its way out (DrainMachine)."""

    STARTING = "Starting"
    """The engine is not ready yet."""
    SERVING = "Serving"
    """The engine takes requests."""
    UNROUTING = "Unrouting"
    """Readiness is taken away; waiting until no router sends new requests."""
    SETTLING = "Settling"
    """Running and waiting requests finish."""
    HANDING_OVER = "HandingOver"
    """The KV cache is handed over."""
    DRAINED = "Drained"
    """Done; the pod may be deleted."""


class Strategy(StrEnum):
    """How a KV cache is handed over."""

    NONE = "none"
    STORE = "store"
    MIGRATE = "migrate"
    REPLAY = "replay"
    AUTO = "auto"
    """Asked for, never reported: those that follow it, in the order that break-even bandwidth and deadline give."""


class AgentModel(ApiModel):
    """Base of the protocol's messages."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class EngineState(AgentModel):
    """The engine beside the agent."""

    ready: bool
    """Whether it answers its health check and was not told to stop."""
    stage: Annotated[str, Field(max_length=64)] = ""
    """Start-up stage while it is not ready, such as loading-weights."""
    ready_after_seconds: Seconds | None = None
    """Time from the agent's start to the engine's first ready answer, logical seconds."""
    running: Count | None = None
    """Requests in a batch now; None while unknown."""
    waiting: Count | None = None
    """Requests in the engine's queue; None while unknown."""
    kv_usage: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Share of the KV cache that running requests hold."""
    kv_capacity_tokens: Count | None = None
    """Tokens that the KV cache holds."""


class EngineCounters(AgentModel):
    """Counters of the users' requests since the engine's start; a decrease means it restarted."""

    requests: Count = 0
    """Requests finished, whatever the outcome."""
    failed_requests: Count = 0
    """Of these, aborted or failed."""
    rejected_requests: Count = 0
    """Requests refused because the queue was full."""
    prompt_tokens: Count = 0
    """Prompt tokens of finished requests, cached ones included: over `requests` it is the mean prompt."""
    generation_tokens: Count = 0
    """Generated tokens of finished requests: over `requests` it is the mean answer, even while traffic rises."""
    cache_query_tokens: Count = 0
    """Prompt tokens looked up in the prefix cache."""
    cache_hit_tokens: Count = 0
    """Of these, found."""
    preemptions: Count = 0
    """Running requests put back into the queue for want of KV blocks."""


class LatencyState(AgentModel):
    """SLO latencies as cumulative counts since the engine's start."""

    ttft_count: Count = 0
    """Requests with a first token."""
    ttft_within_slo: Count = 0
    """Of these, within the objective."""
    tpot_count: Count = 0
    """Finished requests with a time per output token."""
    tpot_within_slo: Count = 0
    """Of these, within the objective."""


class KvValue(AgentModel):
    """What leaves the fleet if this worker leaves without a hand-over."""

    held_tokens: Count = 0
    """Tokens of prefix blocks held."""
    hot_tokens: Count = 0
    """Of these, used within the last minutes and not known to be in a shared store."""
    evicted_after_seconds: Seconds | None = None
    """How long ago the blocks that are evicted now were used last; None when none were within the last minutes."""
    complete: bool = True
    """False when KV events were missed and the figures are a lower bound."""
    sketch: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """Sample of the hot blocks (:mod:`warmfleet_contracts.sketch`); empty for none."""


class SentState(AgentModel):
    """What this agent's hand-overs have sent to survivors since its start; whoever counts traffic takes it away."""

    requests: Count = 0
    """Requests that were answered, each with one generated token."""
    prompt_tokens: Count = 0
    """Their prompt tokens."""
    cached_tokens: Count = 0
    """Of these, found in a cache by whoever answered, as far as it says so."""


class DrainReport(AgentModel):
    """What a drain did."""

    strategy: Strategy = Strategy.NONE
    """Hand-over strategy used."""
    kept_tokens: Count = 0
    """Tokens that stay in the fleet."""
    moved_tokens: Count = 0
    """Of these, moved by this drain."""
    dropped_tokens: Count = 0
    """Tokens that left the fleet."""
    aborted_requests: Count = 0
    """Requests still running at the deadline."""
    partial: bool = False
    """True when deadline or budget ended it early."""
    seconds: Seconds = 0.0
    """Length of the drain, logical seconds."""
    message: Annotated[str, Field(max_length=512)] = ""
    """The same in words."""


class DrainState(AgentModel):
    """A drain in progress or done."""

    reason: Annotated[str, Field(max_length=64)]
    """Why it was asked for."""
    remaining_seconds: Seconds
    """Time to the deadline, logical seconds."""
    cancellable: bool
    """Whether DELETE /v1/drain can still bring the worker back."""
    report: DrainReport | None = None
    """Set in phase Drained."""


class AgentState(AgentModel):
    """The answer of ``GET /v1/state``."""

    version: Annotated[str, Field(max_length=16)] = PROTOCOL_VERSION
    """Protocol version."""
    pod_uid: Annotated[str, Field(max_length=64)] = ""
    """UID of the agent's pod: an answer that comes from a reused address is thrown away."""
    phase: Phase
    """Where the worker is."""
    engine: EngineState
    """The engine."""
    counters: EngineCounters | None = None
    """None while the engine's metrics cannot be read."""
    latency: LatencyState | None = None
    """None while the engine's metrics cannot be read."""
    kv: KvValue | None = None
    """None without an index."""
    drain: DrainState | None = None
    """None while nobody asked for a drain."""
    sent: SentState | None = None
    """None where nothing is sent to survivors."""


class DrainRequest(AgentModel):
    """Body of ``POST /v1/drain``."""

    reason: Annotated[str, Field(min_length=1, max_length=64)]
    """Why: a VictimReason."""
    deadline_seconds: Annotated[float, Field(ge=0.0, le=86_400.0)]
    """Time until the worker must be Drained, logical seconds from now."""
    strategies: Annotated[tuple[Strategy, ...], Field(min_length=1, max_length=4)] = (Strategy.NONE,)
    """Hand-over strategies in order of preference."""
    budget_bytes: Count | None = None
    """Most bytes of KV cache that are brought to survivors; unset: as the agent was set up."""
    used_within_seconds: Seconds | None = None
    """Bring only what was used so many seconds ago or later to survivors, because they have no room for more; unset:
    all that is hot."""
    endpoint: Annotated[str, Field(max_length=256)] = ""
    """Where a replay may send prompts instead of to the endpoint the agent was set up with. Used only if it is a
    loopback address, which stands for a cluster on one machine: prompts are users' data, and whoever reaches the
    agent's port must not be able to have them sent to himself."""
