"""What a demo run leaves behind: a typed time series, scale events and drains, and their JSON Lines form.

All times are logical seconds since the traffic's start. What was not known at a moment is None, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TextIO


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
        hit_ratio: Prefix-cache hits per prompt token of all workers since the last sample.
        cost_per_hour: Dollars per hour of all workers, from the status.
        ttft: Times to first token of the requests that ended since the last sample, logical seconds.
        failed: Requests failed so far.
        workers: All workers.
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
    hit_ratio: float | None
    cost_per_hour: float | None
    ttft: tuple[float, ...] = ()
    failed: int = 0
    workers: tuple[WorkerSample, ...] = ()

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
class Setup:
    """What does not change during a run.

    Attributes:
        source: Name of the trace, or ``generated``.
        generated: Whether no trace is behind the traffic.
        start_minute: First trace minute.
        minutes: Length of the traffic, trace minutes.
        scale: Logical seconds per real second.
        model: Model name.
        worker: What one worker is, for a person.
        ttft_slo: Objective for the time to first token, seconds.
        max_workers: Most workers.
        worker_cost: Dollars per hour of one worker.
        trace_share: Requests sent per request of the trace; None for a generated pattern.
    """

    source: str
    generated: bool
    start_minute: int
    minutes: int
    scale: float
    model: str
    worker: str
    ttft_slo: float
    max_workers: int
    worker_cost: float
    trace_share: float | None = None


@dataclass(slots=True)
class Timeline:
    """A whole run."""

    setup: Setup
    samples: list[Sample] = field(default_factory=list)
    events: list[ScaleEvent] = field(default_factory=list)
    drains: list[Drain] = field(default_factory=list)

    def scale_events(self, reason: Literal["ScaledUp", "ScaledDown"]) -> int:
        """How many decisions of this kind fell into the traffic."""
        return sum(event.reason == reason and event.at >= 0 for event in self.events)

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

    def cost_at_max(self) -> float:
        """Dollars over the same time with the largest fleet."""
        if not self.samples:
            return 0.0
        span = self.samples[-1].at - self.samples[0].at
        return self.setup.max_workers * self.setup.worker_cost * span / 3600.0


Record = Setup | Sample | ScaleEvent | Drain
_KINDS: dict[str, type[Record]] = {"setup": Setup, "sample": Sample, "event": ScaleEvent, "drain": Drain}


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
    return Timeline(
        setup,
        samples=[record for record in records if isinstance(record, Sample)],
        events=[record for record in records if isinstance(record, ScaleEvent)],
        drains=[record for record in records if isinstance(record, Drain)],
    )


def _records(path: Path) -> Iterable[Record]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                fields: dict[str, Any] = json.loads(line)
                cls = _KINDS[fields.pop("kind")]
                if cls is Sample:
                    fields["workers"] = tuple(WorkerSample(**worker) for worker in fields["workers"])
                    fields["ttft"] = tuple(fields["ttft"])
                yield cls(**fields)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path.name}: line {number} is no record: {error!r}") from error
