"""What was decided, as frozen records: counts, victims and one reason per decision, with the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.reasons import ChosenBy, Reason, VictimReason

from warmfleet_operator.state.records import Key


class Stage(StrEnum):
    """The steps of a decision, in the order in which they are taken."""

    DEMAND = "Demand"
    """What the traffic asks for."""
    CAPACITY = "Capacity"
    """What one worker of a variant sustains."""
    BLEND = "Blend"
    """How much capacity is needed: forecast, reactive rule and margin."""
    MIX = "Mix"
    """Which variants are bought."""
    LIMITS = "Limits"
    """What min, max, stock, time and pauses left of it."""
    VICTIMS = "Victims"
    """Who leaves, and why this one."""


@dataclass(frozen=True, slots=True)
class Note:
    """One line of a decision's trace.

    Attributes:
        stage: The step it belongs to.
        text: For a person, with figures.
        figures: The same figures by name, for a program; what is unknown is left out.
    """

    stage: Stage
    text: str
    figures: Mapping[str, float] = field(default_factory=dict)


Trace = Callable[[], tuple[Note, ...]]
"""The chain of one decision in the order of :class:`Stage`; made when it is asked for, so that it costs the decision
nothing."""


def untraced() -> tuple[Note, ...]:
    """The trace of a decision that went through no step."""
    return ()


@dataclass(frozen=True, slots=True)
class Victim:
    """A worker that shall leave.

    Attributes:
        pod: Its pod.
        uid: UID of the pod that was meant.
        reason: Why this one.
        drain: True to drain it first; False to delete it at once because it never served or cannot.
        message: The same with figures.
    """

    pod: Key
    uid: str
    reason: VictimReason
    drain: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class VariantPlan:
    """What is wanted of one variant.

    Attributes:
        name: Variant name.
        instance_type: InstanceType name.
        desired: Workers wanted.
        create: Workers to create now.
        requests_per_second: What one worker is counted on to sustain within the SLO; None while unknown.
        cost_per_hour: Dollars per hour of one worker; None when the price is unknown.
        revision: Template revision of new workers; empty while unknown.
        create_previous: Of the workers to create, those that are made from the previous template (canary).
    """

    name: str
    instance_type: str
    desired: int
    create: int = 0
    requests_per_second: float | None = None
    cost_per_hour: float | None = None
    revision: str = ""
    create_previous: int = 0


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """How far the workers are on the template that is wanted.

    Attributes:
        state: RollingOut, Canary, RolloutWaiting or RolledBack; None when all are on it.
        revision: The revision that is wanted.
        updated: Workers of it.
        ready: Of these, workers that take traffic.
        total: Workers that are not on their way out.
        message: The same in words.
        spec: What new workers are made from; None for the deployment's own spec.
        previous: What the workers that a canary keeps are made from; None when it is not known.
    """

    state: Reason | None
    revision: str
    updated: int
    ready: int
    total: int
    message: str = ""
    spec: LLMDeploymentSpec | None = None
    previous: LLMDeploymentSpec | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a deployment from being planned or brought up.

    Attributes:
        reason: From the fixed table.
        message: For a person: the field and the fix.
        stalled: True when nothing will progress without a person.
    """

    reason: Reason
    message: str
    stalled: bool = True


@dataclass(frozen=True, slots=True)
class DeploymentPlan:
    """The decision for one deployment.

    Attributes:
        key: The deployment.
        uid: UID of the deployment that was meant.
        generation: Generation of the spec it was made from.
        variants: Per variant, in the order of the spec.
        victims: Workers that shall leave now, in order.
        cancels: Pods whose drain shall be cancelled, because they are needed again.
        desired: Workers wanted over all variants.
        unlimited: Workers that would have been wanted without limits.
        chosen_by: The rule that decided.
        limited: The limit that bound, if one did.
        demand: Demand the decision was made on, requests/s; None while unknown.
        queue: Requests waiting; None while unknown.
        forecast: Demand over the start-up lead that a forecast asks to serve, requests/s; None while none is used.
        message: The decision in words, with figures.
        problems: What keeps it from being planned or brought up.
        figures: Figures by name, for ``explain``, metrics and events.
        acts: False when it is advice only: ``desired`` is what would be wanted, and nothing is created or removed.
        trace: The chain of figures from the demand to the victims.
        rollout: How far the workers are on the wanted template; None when revisions are not known.
    """

    key: Key
    uid: str
    generation: int
    variants: tuple[VariantPlan, ...] = ()
    victims: tuple[Victim, ...] = ()
    cancels: tuple[Key, ...] = ()
    desired: int = 0
    unlimited: int = 0
    chosen_by: ChosenBy = ChosenBy.HOLD
    limited: Reason | None = None
    demand: float | None = None
    queue: int | None = None
    forecast: float | None = None
    message: str = ""
    problems: tuple[Problem, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    acts: bool = True
    trace: Trace = field(default=untraced, compare=False, repr=False)
    rollout: RolloutPlan | None = None


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """The decision for all deployments.

    Attributes:
        at: When it was made, logical seconds.
        deployments: By key.
    """

    at: float
    deployments: Mapping[Key, DeploymentPlan] = field(default_factory=dict)
