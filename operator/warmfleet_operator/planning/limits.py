"""When fewer workers may be wanted.

::

    window     = max(scaleDown.stabilizationWindow, p90 start-up)      the larger of the user's and ski rental's hold;
                 half a start-up where the need is a quantile of the time ahead (blend); WINDOW_S unless the user says
    stabilised = max of the counts wanted within the window
    may leave  = min(there - stabilised, maxStep - left in the last stepPeriod)      0 in panic, or on partial metrics

A worker bought back costs its start-up: so it is kept at least that long after it was last needed (ski rental).

Time that was not observed does not count: when the clock went back, or when nothing was decided for more than
``MAX_GAP``, everything remembered moves along with the clock. A restart or a jump may delay a scale-down, never
hasten it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from warmfleet_contracts import labels

from warmfleet_operator.state.memory import DeploymentMemory, evolve

WINDOW_S = 300.0
"""The window of the reactive rule where spec.scaling.scaleDown.stabilizationWindow is not set."""
HOLD_LEADS, LEAST_HOLD_S = 0.5, 60.0
"""The window where the need is a quantile of the time ahead, in start-up times, and seconds at least: that time says
already that a worker will not be missed, so this is about noise alone."""
MAX_GAP = 300.0
"""Most seconds between two decisions that count as observed."""
PANIC_SECONDS = 60.0
_MOST_WANTS = 64


@dataclass(frozen=True, slots=True)
class Pauses:
    """Pause annotations.

    Attributes:
        creates: No worker is added.
        victims: No worker is removed.
        named: Which annotation, for a person; empty when none is set.
    """

    creates: bool
    victims: bool
    named: str


def hold(startup_s: float, window_s: float | None, *, ahead: bool) -> float:
    """Seconds for which the need must have stayed lower before workers leave.

    Args:
        startup_s: Start-up time, seconds.
        window_s: spec.scaling.scaleDown.stabilizationWindow; None where it is not set.
        ahead: Whether the need is a quantile of the time ahead.
    """
    if ahead:
        return max(startup_s * HOLD_LEADS, LEAST_HOLD_S if window_s is None else window_s)
    return max(startup_s, WINDOW_S if window_s is None else window_s)


def pauses(annotations: Mapping[str, str]) -> Pauses:
    """Read the pause annotations."""
    notes = dict(annotations)
    everything = labels.is_true(notes, labels.PAUSED)
    grow = everything or labels.is_true(notes, labels.PAUSED_SCALE_OUT)
    shrink = everything or labels.is_true(notes, labels.PAUSED_SCALE_IN)
    if everything or (grow and shrink):
        named = labels.PAUSED
    else:
        named = labels.PAUSED_SCALE_OUT if grow else labels.PAUSED_SCALE_IN if shrink else ""
    return Pauses(grow, shrink, named)


def rebase(memory: DeploymentMemory, now: float) -> DeploymentMemory:
    """Move everything remembered by the time that was not observed."""
    if memory.at is None:
        return evolve(memory, at=now)
    passed = now - memory.at
    shift = passed - min(max(passed, 0.0), MAX_GAP)
    return evolve(memory, at=now) if not shift else moved(evolve(memory, at=now - shift), shift)


def moved(memory: DeploymentMemory, shift: float) -> DeploymentMemory:
    """The memory with every time moved by ``shift`` seconds."""

    def one(at: float | None) -> float | None:
        return None if at is None else at + shift

    def table(times: Mapping[str, float]) -> dict[str, float]:
        return {name: at + shift for name, at in times.items()}

    return evolve(
        memory,
        at=one(memory.at),
        wants=tuple((at + shift, count) for at, count in memory.wants),
        steps=tuple(at + shift for at in memory.steps),
        panic_until=one(memory.panic_until),
        low_since=one(memory.low_since),
        sampled_at=one(memory.sampled_at),
        chosen=table(memory.chosen),
        since=table(memory.since),
        failures={
            name: replace(known, times=table(known.times), attempted_at=one(known.attempted_at))
            for name, known in memory.failures.items()
        },
        avoid=table(memory.avoid),
        traffic=None if memory.traffic is None else replace(memory.traffic, at=memory.traffic.at + shift),
        forecast_since=one(memory.forecast_since),
        cheaper_since=one(memory.cheaper_since),
        swap_until=one(memory.swap_until),
        learned={name: replace(known, at=known.at + shift) for name, known in memory.learned.items()},
        startups={
            name: tuple((at + shift, seconds) for at, seconds in times) for name, times in memory.startups.items()
        },
        watched=one(memory.watched),
        looked_at=one(memory.looked_at),
        silent_since=one(memory.silent_since),
        rollout=memory.rollout.moved(shift),
        losses=tuple((at + shift, share) for at, share in memory.losses),
    )


def remember_want(
    wants: tuple[tuple[float, int], ...],
    want: int,
    now: float,
    window: float,
) -> tuple[tuple[float, int], ...]:
    """Add a wanted count. Only what can still be the largest of a coming window is kept."""
    kept = [(at, count) for at, count in wants if count > want and at > now - window]
    kept.append((now, want))
    while len(kept) > _MOST_WANTS:  # the lower of two neighbours is forgotten and the higher one holds longer
        index = min(range(len(kept) - 2), key=lambda i: kept[i][1] - kept[i + 1][1])
        kept[index : index + 2] = [(kept[index + 1][0], kept[index][1])]
    return tuple(kept)


def stabilised(wants: tuple[tuple[float, int], ...]) -> int:
    """The largest count wanted within the window."""
    return max((count for _, count in wants), default=0)


def recent_steps(steps: tuple[float, ...], now: float, period: float) -> tuple[float, ...]:
    """Departures that still count against the step limit."""
    return tuple(at for at in steps if at > now - period)
