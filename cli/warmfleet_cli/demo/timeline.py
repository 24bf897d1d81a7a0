"""What a demo run leaves behind: a typed time series, scale events and drains, and their JSON Lines form.

All times are logical seconds since the traffic's start. What was not known at a moment is None, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class WorkerSample:
    """A worker at one moment.

    Attributes:
        name: Its pod's name.
        variant: Its variant.
        phase: Its agent's phase; Pending before an agent answers, Terminating once its pod is being deleted.
        running: Requests in its batch; None while unknown.
        waiting: Requests in its queue; None while unknown.
        kv_usage: Share of its KV cache in use; None while unknown.
        hit_ratio: Prefix-cache hits per prompt token over its last HIT_WINDOW samples; None while unknown.
    """

    name: str
    variant: str
    phase: str
    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    hit_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Beside:
    """The fleet without hand-over, which gets the same requests, at one moment.

    Attributes:
        serving: Workers that take traffic.
        prompt_tokens: Prompt tokens of the requests that ended since the last sample.
        cached_tokens: Of these, tokens that were in a worker's prefix cache.
        cost_per_hour: Dollars per hour of all workers, from the status.
        failed: Requests failed so far.
        repeated_tokens: Of the prompt tokens, those that were asked before.
    """

    serving: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cost_per_hour: float | None = None
    failed: int = 0
    repeated_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """The fleet and its clients at one moment.

    Attributes:
        at: Logical seconds since the traffic's start.
        offered: Requests/s that arrived since the last sample.
        served: Requests/s that were answered whole since the last sample.
        demand: Demand as the operator sees it, requests/s.
        capacity: What the ready workers are counted on to sustain, requests/s.
        desired: Workers that the last decision wants.
        chosen_by: The rule that decided.
        in_flight: Requests that wait for (the rest of) their answer.
        queue: Requests that wait in the engines.
        cost_per_hour: Dollars per hour of all workers, from the status.
        ttft: Times to first token of the requests that ended since the last sample, logical seconds.
        failed: Requests failed so far.
        workers: All workers.
        prompt_tokens: Prompt tokens of the requests that ended since the last sample.
        cached_tokens: Of these, tokens that were in a worker's prefix cache, as the answers say.
        repeated_tokens: Of these, tokens that were asked before: what a cache that forgets nothing would have.
        forecast: Highest demand that the decision expects until a worker bought now would serve, requests/s.
        need: Capacity that the decision wants ready or starting, requests/s.
        blend: How the decision came to that, in its own words.
        trusted: Whether these say that it rests on the TrafficForecast, not on the built-in margin.
        beside: The fleet without hand-over.
    """

    at: float
    offered: float
    served: float
    demand: float | None
    capacity: float | None
    desired: int | None
    chosen_by: str
    in_flight: int
    queue: int | None
    cost_per_hour: float | None
    ttft: tuple[float, ...] = ()
    failed: int = 0
    workers: tuple[WorkerSample, ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    repeated_tokens: int = 0
    forecast: float | None = None
    need: float | None = None
    blend: str = ""
    trusted: bool = False
    beside: Beside | None = None

    def count(self, *phases: str) -> int:
        """Workers in one of ``phases``."""
        return sum(worker.phase in phases for worker in self.workers)


@dataclass(frozen=True, slots=True)
class ScaleEvent:
    """Something the operator did, as its Kubernetes event tells it.

    Attributes:
        at: Logical seconds since the traffic's start.
        reason: The event's reason, such as ScaledUp.
        message: The event's message.
        object: What it is about, such as LLMDeployment/chat.
    """

    at: float
    reason: str
    message: str
    object: str


@dataclass(frozen=True, slots=True)
class Drain:
    """A worker that began to leave.

    Attributes:
        at: Logical seconds since the traffic's start.
        worker: Its pod's name.
        reason: Why this one.
        streams: Requests in flight on it then; None when its agent did not say.
        fleet_streams: Requests in flight in the whole fleet then.
    """

    at: float
    worker: str
    reason: str
    streams: int | None
    fleet_streams: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """A forecast as the TrafficForecast tells it.

    Attributes:
        at: When it was seen, logical seconds since the traffic's start.
        issued: When it was made.
        trusted: Whether the planner may buy on it.
        message: Why, in the forecaster's words.
        points: Seconds after ``issued``, median and 90th percentile of the demand then, requests/s.
    """

    at: float
    issued: float
    trusted: bool
    message: str
    points: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class FaultStep:
    """Something that was done to the cluster, or became of it.

    Attributes:
        at: Logical seconds since the traffic's start.
        text: What, for a person.
    """

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Optimum:
    """The cheapest plan for the same demand of somebody who knew it in advance.

    Attributes:
        cost: Dollars.
        attainment: Share of the requests that it had to serve.
        cost_per_hour: Dollars per hour in each minute, shape (n,).
    """

    cost: float
    attainment: float
    cost_per_hour: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """What a worker of one variant is.

    Attributes:
        name: Its name.
        accelerators: For a person, such as ``1 x L40S``.
        cost: Dollars per hour of a worker.
        rate: Requests/s that a worker is counted on to sustain.
        lead_s: Start-up time, 90th percentile, seconds.
        limit: Most workers.
    """

    name: str
    accelerators: str
    cost: float
    rate: float
    lead_s: float
    limit: int


@dataclass(frozen=True, slots=True)
class Setup:
    """What does not change during a run.

    Attributes:
        source: Name of the trace, or ``generated``.
        generated: Whether no trace is behind the traffic.
        start_minute: First trace minute.
        minutes: Length of the traffic, trace minutes.
        scale: Logical seconds per real second.
        fleet: Name of the LLMDeployment.
        beside: Name of the one without hand-over.
        model: Model name.
        variants: What the workers are.
        ttft_slo: Objective for the time to first token, seconds.
        attainment: Share of the requests that must keep the objectives.
        max_workers: Most workers.
        history_minutes: Length of the past that the forecaster had.
        trace_share: Requests sent per request of the trace; None for a generated pattern.
        spike: Start and end of a spike that nothing announced, seconds; None without.
    """

    source: str
    generated: bool
    start_minute: int
    minutes: int
    scale: float
    fleet: str
    beside: str
    model: str
    variants: tuple[Variant, ...]
    ttft_slo: float
    attainment: float
    max_workers: int
    history_minutes: int = 0
    trace_share: float | None = None
    spike: tuple[float, float] | None = None

    @property
    def lead_s(self) -> float:
        """Longest start-up time, seconds."""
        return max((variant.lead_s for variant in self.variants), default=0.0)


@dataclass(slots=True)
class Timeline:
    """A whole run."""

    setup: Setup
    samples: list[Sample] = field(default_factory=list)
    events: list[ScaleEvent] = field(default_factory=list)
    drains: list[Drain] = field(default_factory=list)
    outlooks: list[Outlook] = field(default_factory=list)
    fault: list[FaultStep] = field(default_factory=list)
    optimum: Optimum | None = None

    def add(self, record: Record) -> None:
        """Takes in one record."""
        if isinstance(record, Optimum):
            self.optimum = record
        elif not isinstance(record, Setup):
            lists: dict[type[Any], list[Any]] = {
                Sample: self.samples,
                ScaleEvent: self.events,
                Drain: self.drains,
                Outlook: self.outlooks,
                FaultStep: self.fault,
            }
            lists[type(record)].append(record)

    def scalings(self, reason: ScaleReason, *, beside: bool = False) -> list[ScaleEvent]:
        """Decisions of this kind that fell into the traffic, of the fleet or of the one without hand-over."""
        name = self.setup.beside if beside else self.setup.fleet
        return [e for e in self.events if e.reason == reason and e.at >= 0 and e.object == f"LLMDeployment/{name}"]

    @property
    def own_events(self) -> list[ScaleEvent]:
        """Events that are not about the fleet without hand-over or its workers."""
        return [e for e in self.events if not e.object.partition("/")[2].startswith(self.setup.beside)]

    def spent(self) -> list[float | None]:
        """Dollars since the first sample, one value per sample (the trapezoidal rule).

        None until a price is known; intervals without one add nothing.
        """
        total: float | None = None
        spent: list[float | None] = [None] if self.samples else []
        for before, after in pairwise(self.samples):
            if before.cost_per_hour is not None and after.cost_per_hour is not None:
                mean = (before.cost_per_hour + after.cost_per_hour) / 2
                total = (total or 0.0) + mean * (after.at - before.at) / 3600.0
            spent.append(total)
        return spent

    def cost(self) -> float | None:
        """Dollars over the run; None when a price was never known."""
        return next(reversed(self.spent()), None)

    @property
    def largest_cost(self) -> float | None:
        """Dollars per hour of the fleet at its dearest; None when a price was never known."""
        return max((s.cost_per_hour for s in self.samples if s.cost_per_hour is not None), default=None)

    def cost_at_largest(self) -> float | None:
        """Dollars over the same time of a fleet that always is as large as this one was at its largest."""
        if not self.samples or self.largest_cost is None:
            return None
        return self.largest_cost * (self.samples[-1].at - self.samples[0].at) / 3600.0


ScaleReason = Literal["ScaledUp", "ScaledDown"]
Record = Setup | Sample | ScaleEvent | Drain | Outlook | FaultStep | Optimum
_KINDS: dict[str, type[Record]] = {
    "setup": Setup,
    "sample": Sample,
    "event": ScaleEvent,
    "drain": Drain,
    "outlook": Outlook,
    "fault": FaultStep,
    "optimum": Optimum,
}


def hit_ratios(counts: Sequence[tuple[int, int]], width: int) -> list[float | None]:
    """Cached over prompt tokens within each moment and up to ``width - 1`` before it; None without a prompt."""
    found: list[float | None] = []
    for i in range(len(counts)):
        window = counts[max(0, i + 1 - width) : i + 1]
        prompts = sum(prompt for prompt, _ in window)
        found.append(sum(cached for _, cached in window) / prompts if prompts else None)
    return found


def write_record(out: TextIO, record: Record) -> None:
    """Appends one line of JSON."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(record, cls))
    out.write(json.dumps({"kind": kind, **asdict(record)}, separators=(",", ":")) + "\n")
    out.flush()


def read_timeline(path: Path) -> Timeline:
    """Reads what `write_record` wrote.

    Raises:
        ValueError: A line is no record, or there is no setup record; the message names the line.
    """
    records = list(_records(path))
    setup = next((record for record in records if isinstance(record, Setup)), None)
    if setup is None:
        raise ValueError(f"{path.name}: no setup record; it is the first line of a run")
    run = Timeline(setup)
    for record in records:
        run.add(record)
    return run


def _records(path: Path) -> Iterable[Record]:
    adapters = {name: TypeAdapter(cls) for name, cls in _KINDS.items()}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                fields: dict[str, Any] = json.loads(line)
                yield adapters[fields.pop("kind")].validate_python(fields, strict=False)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path.name}: line {number} is no record: {error!r}") from error
