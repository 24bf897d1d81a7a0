"""What the planner remembers from one decision to the next, and its checkpoint form.

Every time is an *age* in the checkpoint (seconds before the checkpoint was written), because the process clock starts
anew with each process. Loading adds nothing to the ages: a restart may delay a scale-down, never hasten one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from warmfleet_contracts.leadwindow import TrafficState

from warmfleet_operator.state.records import Key


@dataclass(frozen=True, slots=True)
class Steering:
    """How far the attainment reached is off the objective (see ``planning.steering``).

    Attributes:
        error: Missed budgets of the SLO minus unused ones, in days' budgets.
        mean: Mean arrivals with a memory of a day, requests/s; None before the first.
    """

    error: float = 0.0
    mean: float | None = None


@dataclass(frozen=True, slots=True)
class DeploymentMemory:
    """Memory of one deployment.

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
        failures: Time by UID of recent failed starts.
        attempts: Creates since starts began to fail repeatedly.
        attempted_at: Time of the last of them.
        avoid: Time by InstanceType name until which nothing is created on it, because pods found no node.
        traffic: Summary of the arrivals; None before the first.
        steering: What steers the quantile by the attainment reached.
        peak: Highest arrivals seen, slowly forgotten, requests/s.
        usual: Arrivals while no declared event was on, requests/s; None before the first.
        forecast_since: Since when a usable forecast was there without a break; None while there is none.
        cheaper_since: Since when a cheaper mix has been worth the change; None while none is.
        swap_until: Until when workers that were bought for a cheaper mix may take to start; None without any.
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
    failures: Mapping[str, float] = field(default_factory=dict)
    attempts: int = 0
    attempted_at: float | None = None
    avoid: Mapping[str, float] = field(default_factory=dict)
    traffic: TrafficState | None = None
    steering: Steering = Steering()
    peak: float = 0.0
    usual: float | None = None
    forecast_since: float | None = None
    cheaper_since: float | None = None
    swap_until: float | None = None


@dataclass(frozen=True, slots=True)
class PlannerMemory:
    """Memory of all deployments."""

    deployments: Mapping[Key, DeploymentMemory] = field(default_factory=dict)
