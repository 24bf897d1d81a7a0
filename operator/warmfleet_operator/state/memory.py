"""What the planner remembers from one decision to the next, and its checkpoint form.

Every time is an *age* in the checkpoint (seconds before the checkpoint was written), because the process clock starts
anew with each process. Loading adds nothing to the ages: a restart may delay a scale-down, never hasten one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from warmfleet_operator.state.records import Key


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


@dataclass(frozen=True, slots=True)
class PlannerMemory:
    """Memory of all deployments."""

    deployments: Mapping[Key, DeploymentMemory] = field(default_factory=dict)
