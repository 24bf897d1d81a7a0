"""What the drain machine takes in (events) and gives out (instructions)."""

from __future__ import annotations

from dataclasses import dataclass

from warmfleet_contracts.agent import DrainReport, Strategy


@dataclass(frozen=True, slots=True)
class EngineReady:
    """The engine answers its health check."""


@dataclass(frozen=True, slots=True)
class EngineLost:
    """The engine does not answer, or not as it should."""


@dataclass(frozen=True, slots=True)
class EngineExited:
    """Nothing listens at the engine's port: whatever it ran is over."""


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """The operator wants the worker drained.

    Attributes:
        reason: Why.
        deadline: When it must be Drained.
        strategies: Hand-over strategies in order of preference.
        choice: Why in this order, for the report.
    """

    reason: str
    deadline: float
    strategies: tuple[Strategy, ...] = (Strategy.NONE,)
    choice: str = ""


@dataclass(frozen=True, slots=True)
class DrainCancelled:
    """The operator wants the worker back."""


@dataclass(frozen=True, slots=True)
class Terminating:
    """The pod is being deleted, or its engine restarted: final.

    Attributes:
        deadline: When it must be Drained.
        strategies: Hand-over strategies in order of preference, if nobody has asked for a drain before.
        choice: Why in this order, for the report.
    """

    deadline: float
    strategies: tuple[Strategy, ...] = (Strategy.NONE,)
    choice: str = ""


@dataclass(frozen=True, slots=True)
class LoadObserved:
    """The engine's load.

    Attributes:
        running: Requests in the batch; None while unknown.
        waiting: Requests in the queue; None while unknown.
        held_tokens: Tokens in the prefix cache; None while unknown.
        own: At most so many of those in the batch are the hand-over's.
    """

    running: int | None
    waiting: int | None
    held_tokens: int | None = None
    own: int = 0


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class HandoverProgress:
    """Tokens that a hand-over has brought to safety so far.

    Attributes:
        moved_tokens: Moved by this drain.
        kept_tokens: Known to stay in the fleet, these included.
    """

    moved_tokens: int
    kept_tokens: int = 0


@dataclass(frozen=True, slots=True)
class HandoverFinished:
    """A hand-over ended by itself.

    Attributes:
        kept_tokens: Tokens that stay in the fleet, moved or held elsewhere already.
        moved_tokens: Of these, moved by this drain.
        dropped_tokens: Tokens that leave the fleet.
        partial: It was not complete.
        message: The same in words.
    """

    kept_tokens: int
    moved_tokens: int
    dropped_tokens: int
    partial: bool = False
    message: str = ""


@dataclass(frozen=True, slots=True)
class HandoverFailed:
    """A hand-over broke; the next strategy is tried.

    Attributes:
        message: Why.
    """

    message: str


Event = (
    EngineReady
    | EngineLost
    | EngineExited
    | DrainRequested
    | DrainCancelled
    | Terminating
    | LoadObserved
    | Tick
    | HandoverProgress
    | HandoverFinished
    | HandoverFailed
)


@dataclass(frozen=True, slots=True)
class SetReady:
    """Set the pod's readiness."""

    ready: bool


@dataclass(frozen=True, slots=True)
class StartHandover:
    """Begin a hand-over; one that was begun ahead by the same strategy goes on.

    Attributes:
        strategy: How.
        budget: Logical seconds it may take.
        ahead: Users' requests still run: only what is not in use, and it does not end before this is told again
            without.
    """

    strategy: Strategy
    budget: float
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class StopHandover:
    """End the hand-over now."""


@dataclass(frozen=True, slots=True)
class Release:
    """The preStop hook may return: the engine is told to stop."""


@dataclass(frozen=True, slots=True)
class Report:
    """The drain has ended."""

    report: DrainReport


Instruction = SetReady | StartHandover | StopHandover | Release | Report
