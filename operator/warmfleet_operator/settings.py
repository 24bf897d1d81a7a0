"""What a person may set about the operator itself: few keys, from a YAML file and ``WARMFLEET_*`` variables.

Variables win over the file. The file is named by ``WARMFLEET_CONFIG``; its keys are the field names below in camelCase,
the variables are the field names in upper case after ``WARMFLEET_``, such as ``WARMFLEET_TICK_SECONDS``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from warmfleet_runtime.settings import load

_POSITIVE = Field(gt=0, le=86_400)


class Settings(BaseModel):
    """Settings of one operator process. Durations are logical seconds unless they say real."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    namespace: Annotated[str, Field(max_length=63)] = ""
    """Watch only this namespace; empty: the whole cluster."""
    tick_seconds: Annotated[float, _POSITIVE] = 5.0
    """Longest time between two decisions."""
    telemetry_seconds: Annotated[float, _POSITIVE] = 4.0
    """Time between two rounds of measuring; less than a tick, so that what has changed is seen and decided on within a
    tick and a second. Half of it with ``prometheus_url``, whose answer costs the same for any number of workers."""
    prometheus_url: Annotated[str, Field(max_length=512, pattern="^(https?://.+)?$")] = ""
    """Prometheus that scrapes the engines through the chart's PodMonitors: asked about whole fleets instead of every
    serving worker's agent, for fleets of thousands. Empty: the agents are asked."""
    prometheus_window_seconds: Annotated[float, _POSITIVE] = 60.0
    """Window of the arrival rate in Prometheus; at least two of its scrapes."""
    rate_window_seconds: Annotated[float, _POSITIVE] = 20.0
    """Window of the arrival rate."""
    mean_window_seconds: Annotated[float, _POSITIVE] = 300.0
    """Window of token means, hit ratio and SLO attainment."""
    audit_seconds: Annotated[float, _POSITIVE] = 60.0
    """Time between two comparisons of what was watched with a fresh list."""
    checkpoint_seconds: Annotated[float, _POSITIVE] = 300.0
    """Least time between two checkpoints of a deployment's memory."""
    unroute_seconds: Annotated[float, Field(ge=0, le=300)] = 3.0
    """How long a leaving worker keeps serving after its readiness was taken away."""
    engine_shutdown_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """The engine's ``--shutdown-timeout``; never 0, which would drop streams."""
    agent_poll_seconds: Annotated[float, _POSITIVE] = 1.0
    """How often an agent reads its engine."""
    agent_authentication: bool = True
    """Agents answer only whoever holds the key of their namespace, the Secret ``warmfleet-agents``."""
    agent_key_rotation_seconds: Annotated[float, Field(ge=0, le=315_360_000)] = 2_592_000.0
    """Age at which that key and the metrics' token are replaced; 0: only when somebody takes them away."""
    metrics_authentication: bool = False
    """Ask whoever reads ``/metrics`` of the operator and of agents for the token in the Secret ``warmfleet-metrics``
    of the operator's namespace, which must be there and is filled by the operator; the chart turns it on."""
    kv_link_gbit: Annotated[float, Field(ge=0, le=10_000)] = 25.0
    """Network of a worker's node, Gbit/s, which hand-over by auto weighs against prefill; 0: unknown."""
    agent_image: Annotated[str, Field(min_length=1, max_length=512)] = "ghcr.io/warmfleet/agent:0.1.0"
    """Image of the worker agent."""
    router_image: Annotated[str, Field(min_length=1, max_length=512)] = "ghcr.io/warmfleet/router:0.1.0"
    """Default image of the router (vllm-router)."""
    agent_command: tuple[str, ...] = ("warmfleet-agent",)
    """Command of the agent container."""
    engine_command: tuple[str, ...] = ("vllm", "serve")
    """Command of the engine container, before the model."""
    router_command: tuple[str, ...] = ("vllm-router",)
    """Command of the router container."""
    listen_address: str = "0.0.0.0"  # noqa: S104 - probes and metrics come from outside the pod
    """Address on which probes and metrics are served."""
    listen_port: Annotated[int, Field(ge=0, le=65_535)] = 8081
    """Port on which probes and metrics are served; 0: any free one."""
    stale_seconds: Annotated[float, _POSITIVE] = 120.0
    """Age of the last decision, round of measuring or watch sign at which the process counts as unhealthy."""
    require_matching_crds: bool = True
    """Refuse to start on CRDs with more or fewer fields than this release; false: only say so."""
    leader_election: bool = True
    """Take a Lease before acting."""
    lease_namespace: Annotated[str, Field(max_length=63)] = ""
    """Namespace of the Lease; empty: ``namespace``, else POD_NAMESPACE, else warmfleet-system."""
    lease_name: Annotated[str, Field(min_length=1, max_length=63)] = "warmfleet-operator"
    """Name of the Lease."""
    lease_duration_seconds: Annotated[float, Field(ge=1, le=600)] = 15.0
    """Real seconds after which another replica may take over."""
    lease_retry_seconds: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Real seconds between renewals."""
    identity: Annotated[str, Field(max_length=253)] = ""
    """Name of this process in the Lease; empty: host name and process id."""
    kube_rate: Annotated[float, Field(gt=0, le=10_000)] = 50.0
    """Writes per real second to the API server, on average."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """Least severe level that is logged."""

    def resolved_lease_namespace(self, environ: Mapping[str, str]) -> str:
        """Namespace of the Lease."""
        return self.lease_namespace or self.namespace or environ.get("POD_NAMESPACE") or "warmfleet-system"

    def resolved_identity(self) -> str:
        """Name of this process in the Lease."""
        return self.identity or f"{socket.gethostname()}-{os.getpid()}"


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Settings of this process.

    Raises:
        SettingsError: A key or value is wrong.
    """
    return load(Settings, environ)
