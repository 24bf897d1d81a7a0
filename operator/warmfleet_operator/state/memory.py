"""What the planner remembers from one decision to the next, and its checkpoint form.

Every time is an *age* in the checkpoint (seconds before the checkpoint was written), because the process clock starts
anew with each process. Loading adds nothing to the ages: a restart may delay a scale-down, never hasten one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.trafficstate import TrafficState

from warmfleet_operator.state.records import Key

__all__ = [
    "Coming",
    "DeploymentMemory",
    "FailedStarts",
    "LearnedRate",
    "PlannerMemory",
    "Rehearsal",
    "RolloutMemory",
    "Start",
    "Trial",
    "evolve",
]


Coming = tuple[tuple[float, int], ...]
"""(time of readiness, workers) of those that start, soonest first."""


class Trial(NamedTuple):
    """A fleet that exists in numbers alone (see ``planning.rehearsal``).

    Attributes:
        ready: Workers that serve.
        coming: Those that start.
        queue: Requests that wait.
        since: When the present half of the hold began.
        before: Most workers that were wanted in the half before.
        most: Most workers that were wanted in this one.
    """

    ready: int
    coming: Coming
    queue: float
    since: float
    before: int
    most: int


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What every margin would have cost and missed, and which one is taken (see ``planning.rehearsal``).

    Attributes:
        at: Time of the last step; None before the first, and after a restart.
        trials: A fleet per margin; not in the checkpoint.
        late: Late requests per margin, with the memory of the rehearsal.
        cost: Seconds of workers per margin, likewise.
        requests: Requests, likewise.
        seconds: Time, likewise.
        missed: Requests that were late in fact, likewise.
        rehearsed: Requests that were late with the margin that was taken, likewise.
        position: Position of the margin that is taken, from the boldest one.
        held: The highest rate known, requests/s.
        raised_until: Until when a new record may make requests late.
    """

    at: float | None = None
    trials: tuple[Trial, ...] = ()
    late: tuple[float, ...] = ()
    cost: tuple[float, ...] = ()
    requests: float = 0.0
    seconds: float = 0.0
    missed: float = 0.0
    rehearsed: float = 0.0
    position: float = 10.0
    held: float = 0.0
    raised_until: float = -1e18


@dataclass(frozen=True, slots=True)
class FailedStarts:
    """Failed starts of one variant.

    Attributes:
        times: Time by UID of recent ones.
        attempts: Creates since they began to repeat.
        attempted_at: Time of the last of these creates.
    """

    times: Mapping[str, float] = field(default_factory=dict)
    attempts: int = 0
    attempted_at: float | None = None


@dataclass(frozen=True, slots=True)
class LearnedRate:
    """What the workers of a variant on a type have shown about the rate that they sustain.

    Attributes:
        log_ratio: Natural logarithm of observed over modelled speed, smoothed.
        applied: Ratio that the planner counts with: the smoothed one on a grid, with hysteresis.
        at: When the last observation was made.
        count: Observations behind it.
    """

    log_ratio: float
    applied: float
    at: float
    count: int


@dataclass(frozen=True, slots=True)
class Start:
    """A start that is under way.

    Attributes:
        instance_type: InstanceType of the worker.
        spoiled: Whether it says nothing about the next ones: its pod found no node for long, or its image failed, or
            nobody saw it begin.
    """

    instance_type: str
    spoiled: bool = False


@dataclass(frozen=True, slots=True)
class RolloutMemory:
    """What is remembered of template revisions.

    Attributes:
        good: Spec of the last template whose workers all served; None before the first.
        good_revisions: Its revision by variant.
        target: Revision (all variants) that was last worked towards.
        rejected: Revisions that did not come up; the good template is used while the spec asks for one of them.
        why: Why they were rejected, for a person.
        strikes: Time by UID of workers of the target that failed.
        waited: Seconds for which workers of the target had a node and none became ready.
        seen_at: When this was last brought up to date.
        sizes: Workers by variant that the fleet shall have while some are being replaced; empty otherwise.
    """

    good: LLMDeploymentSpec | None = None
    good_revisions: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    rejected: tuple[str, ...] = ()
    why: str = ""
    strikes: Mapping[str, float] = field(default_factory=dict)
    waited: float = 0.0
    seen_at: float | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)

    def moved(self, shift: float) -> RolloutMemory:
        """With every time moved by ``shift`` seconds."""
        strikes = {uid: at + shift for uid, at in self.strikes.items()}
        return replace(self, strikes=strikes, seen_at=None if self.seen_at is None else self.seen_at + shift)


@dataclass(frozen=True)
class DeploymentMemory:
    """Memory of one deployment. Without slots: :func:`evolve` copies it a dozen times per decision.

    Attributes:
        uid: UID of the deployment it belongs to; another UID means another deployment of the same name.
        desired: The last decision by variant.
        wants: Recent (time, unlimited desired) decisions within the stabilization window, oldest first, thinned.
        steps: Times at which workers were chosen to leave, within the step period.
        panic_until: No scale-down before this time.
        low_since: Since when the need has stayed below what is there; None while it is not.
        input_tokens: Smoothed mean prompt tokens; None before the first data.
        output_tokens: Smoothed mean generated tokens; None before the first data.
        hit_ratio: Smoothed prefix hit ratio; None before the first data.
        at: When this was last brought up to date; None before the first decision.
        generation: Generation of the spec it was last brought up to date with.
        sampled_at: End of the last window of traffic that went into the means; None before the first.
        planned: (prompt tokens, generated tokens, hit ratio) that capacities are computed from: the means on a coarse
            grid with hysteresis, so that noise changes nothing; None before the first data.
        chosen: Time by UID at which workers were chosen to leave that are not seen leaving yet.
        since: Time by UID since which a worker is not ready any more, or its node is leaving.
        failures: Recent failed starts by variant.
        avoid: Time by InstanceType name until which nothing is created on it, because pods found no node.
        traffic: Summary of the arrivals; None before the first.
        rehearsal: What every margin would have cost and missed.
        peak: Highest arrivals seen, slowly forgotten, requests/s.
        usual: Arrivals while no declared event was on, requests/s; None before the first.
        misfit: Share of the last hours in which the forecast's table did not fit the demand that was there.
        forecast_since: Since when a usable forecast was there without a break; None while there is none.
        cheaper_since: Since when a cheaper mix has been worth the change; None while none is.
        swap_until: Until when workers that were bought for a cheaper mix may take to start; None without any.
        learned: What workers have shown about their rate, by ``variant@type``.
        startups: Measured start-up times by InstanceType, (time of readiness, seconds), oldest first.
        starts: Starts under way by UID; not in the checkpoint, because nobody saw the time in between.
        watched: Since when this process has seen the deployment; not in the checkpoint.
        looked_at: When what workers show was last looked at; not in the checkpoint.
        silent_since: Since when some ready workers do not report; None while all do.
        rollout: Template revisions.
        losses: (time, share of the fleet's cached prefixes) of workers that left and whose hits may not have come back.
        hits_before: Prefix hit ratio before the first of them left.
    """

    uid: str
    desired: Mapping[str, int] = field(default_factory=dict)
    wants: tuple[tuple[float, int], ...] = ()
    steps: tuple[float, ...] = ()
    panic_until: float | None = None
    low_since: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    hit_ratio: float | None = None
    at: float | None = None
    generation: int | None = None
    sampled_at: float | None = None
    planned: tuple[float, float, float] | None = None
    chosen: Mapping[str, float] = field(default_factory=dict)
    since: Mapping[str, float] = field(default_factory=dict)
    failures: Mapping[str, FailedStarts] = field(default_factory=dict)
    avoid: Mapping[str, float] = field(default_factory=dict)
    traffic: TrafficState | None = None
    rehearsal: Rehearsal = Rehearsal()
    peak: float = 0.0
    usual: float | None = None
    misfit: float = 0.0
    forecast_since: float | None = None
    cheaper_since: float | None = None
    swap_until: float | None = None
    learned: Mapping[str, LearnedRate] = field(default_factory=dict)
    startups: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    starts: Mapping[str, Start] = field(default_factory=dict)
    watched: float | None = None
    looked_at: float | None = None
    silent_since: float | None = None
    rollout: RolloutMemory = RolloutMemory()
    losses: tuple[tuple[float, float], ...] = ()
    hits_before: float | None = None


if TYPE_CHECKING:
    from dataclasses import replace as evolve
else:

    def evolve(memory: DeploymentMemory, **changes: object) -> DeploymentMemory:
        """``dataclasses.replace`` for this one class, many times as fast: all fields are copied at once."""
        made = object.__new__(DeploymentMemory)
        made.__dict__.update(memory.__dict__, **changes)
        return made


@dataclass(frozen=True, slots=True)
class PlannerMemory:
    """Memory of all deployments."""

    deployments: Mapping[Key, DeploymentMemory] = field(default_factory=dict)
