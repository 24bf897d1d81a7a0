"""What the recorder knows at a moment, from watches and agents; without I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from warmfleet_contracts import labels
from warmfleet_contracts.agent import AgentState
from warmfleet_contracts.api.base import parse_duration
from warmfleet_contracts.api.llmdeployment_status import LLMDeploymentStatus
from warmfleet_contracts.api.trafficforecast import TrafficForecastStatus
from warmfleet_contracts.reasons import EventReason
from warmfleet_operator.planning.blend import Basis
from warmfleet_operator.planning.trace import BASIS_WORDS
from warmfleet_operator.state.decisions import Stage

from warmfleet_cli.demo.timeline import Outlook, ScaleEvent, WorkerSample

HIT_WINDOW = 10
"""Samples over which hit ratios are taken."""
_REASONS = frozenset(EventReason)


@dataclass(slots=True)
class HitWindow:
    """Prefix-cache hits over the last samples of one worker or a fleet, from counters that only grow."""

    points: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=HIT_WINDOW + 1))

    def add(self, queried: int, hit: int) -> None:
        """The counters now (tokens); a decrease means an engine restarted and starts the window anew."""
        if self.points and (queried < self.points[-1][0] or hit < self.points[-1][1]):
            self.points.clear()
        self.points.append((queried, hit))

    @property
    def change(self) -> tuple[int, int]:
        """Tokens queried and tokens hit within the window."""
        if not self.points:
            return 0, 0
        first, last = self.points[0], self.points[-1]
        return last[0] - first[0], last[1] - first[1]


@dataclass(slots=True)
class Worker:
    """A worker pod as last seen."""

    name: str
    uid: str
    variant: str
    address: str = ""
    ready: bool = False
    deleting: bool = False
    drain_reason: str | None = None
    state: AgentState | None = None
    hits: HitWindow = field(default_factory=HitWindow)

    @classmethod
    def of_pod(cls, pod: Mapping[str, Any]) -> Worker:
        """A new worker from its pod."""
        metadata = pod["metadata"]
        worker = cls(metadata["name"], metadata["uid"], (metadata.get("labels") or {}).get(labels.VARIANT, ""))
        worker.update(pod)
        return worker

    def update(self, pod: Mapping[str, Any]) -> None:
        """Takes a newer version of the pod."""
        metadata, status = pod["metadata"], pod.get("status") or {}
        self.address = status.get("podIP") or ""
        self.ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or [])
        self.deleting = metadata.get("deletionTimestamp") is not None
        self.drain_reason = (metadata.get("annotations") or {}).get(labels.DRAINING)

    @property
    def leaving(self) -> bool:
        """Whether it is on its way out."""
        return self.deleting or self.drain_reason is not None

    def answered(self, state: AgentState) -> None:
        """Takes an agent's answer, unless it comes from another pod on a reused address."""
        if state.pod_uid and state.pod_uid != self.uid:
            return
        self.state = state
        if state.counters is not None:
            self.hits.add(state.counters.cache_query_tokens, state.counters.cache_hit_tokens)

    @property
    def phase(self) -> str:
        """The agent's phase; Pending before its first answer, Terminating once the pod is being deleted."""
        if self.deleting:
            return "Terminating"
        return "Pending" if self.state is None else self.state.phase.value

    @property
    def streams(self) -> int | None:
        """Requests on it; None while unknown."""
        if self.state is None or self.state.engine.running is None:
            return None
        return self.state.engine.running + (self.state.engine.waiting or 0)

    def sample(self) -> WorkerSample:
        """Its part of a sample."""
        engine = self.state.engine if self.state is not None else None
        queried, hit = self.hits.change
        return WorkerSample(
            name=self.name,
            variant=self.variant,
            phase=self.phase,
            running=engine.running if engine else None,
            waiting=engine.waiting if engine else None,
            kv_usage=engine.kv_usage if engine else None,
            hit_ratio=hit / queried if queried else None,
        )


def capacity(status: LLMDeploymentStatus) -> float | None:
    """Requests/s that the ready workers are counted on to sustain; None while one of the figures is unknown."""
    total = 0.0
    for variant in status.variants:
        if variant.ready and variant.requests_per_second is None:
            return None
        total += variant.ready * (variant.requests_per_second or 0.0)
    return total


@dataclass(frozen=True, slots=True)
class Blend:
    """How the last decision came to the capacity it wants; see `Sample`."""

    text: str = ""
    need: float | None = None
    trusted: bool = False

    @classmethod
    def of(cls, status: LLMDeploymentStatus) -> Blend:
        """What the status says of it."""
        steps = status.scaling.trace if status.scaling is not None else ()
        step = next((step for step in steps if step.stage == Stage.BLEND), None)
        if step is None:
            return cls()
        return cls(step.message, step.figures.get("need_up_rps"), BASIS_WORDS[Basis.FORECAST] in step.message)


def outlook(forecast: Mapping[str, Any], *, at: float, epoch: float) -> Outlook | None:
    """The forecast that a TrafficForecast publishes; None while it has none.

    Args:
        forecast: The object.
        at: Logical seconds since the traffic's start.
        epoch: Logical seconds since the epoch at the traffic's start.
    """
    try:
        status = TrafficForecastStatus.model_validate(forecast["status"])
        issued = datetime.fromisoformat(status.issued_at or "").timestamp() - epoch
    except (KeyError, ValueError):
        return None
    points = tuple((parse_duration(p.offset), p.q50, p.q90) for p in status.near)
    return Outlook(at, issued, status.trusted, status.message, points)


def parse_status(deployment: Mapping[str, Any]) -> LLMDeploymentStatus | None:
    """The status of an LLMDeployment; None before there is a readable one."""
    try:
        return LLMDeploymentStatus.model_validate(deployment["status"])
    except (KeyError, ValidationError):
        return None


class EventCounter:
    """Turns Kubernetes events, which count repetitions in place, into one `ScaleEvent` per occurrence."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def occurrences(self, event: Mapping[str, Any], *, at: float) -> list[ScaleEvent]:
        """What is new in this version of an event; nothing for events that are not the operator's.

        Args:
            event: A core/v1 Event.
            at: Logical seconds since the traffic's start.
        """
        reason, uid = event.get("reason") or "", event["metadata"]["uid"]
        if reason not in _REASONS:
            return []
        about = event.get("involvedObject") or {}
        count = int((event.get("series") or {}).get("count") or event.get("count") or 1)
        fresh = count - self._seen.get(uid, 0)
        self._seen[uid] = max(count, self._seen.get(uid, 0))
        record = ScaleEvent(at, reason, event.get("message") or "", f"{about.get('kind', '')}/{about.get('name', '')}")
        return [record] * max(0, fresh)
