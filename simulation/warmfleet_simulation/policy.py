"""What a policy sees, what it answers, and the one knob it declares.

A policy is run for several values of its knob at once, one *lane* each. Arrays that differ by lane have shape (L, D)
or (L, D, V): lanes, services, types. What is seen is causal: it was over before the step begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from warmfleet_contracts.traces import FloatArray

from warmfleet_simulation.fleet import Counts, Fleet

GRID = tuple(float(2.0 ** (k / 4)) for k in range(-5, 6))
"""Multiples of a knob's default that every policy is swept over: 0.42 to 2.38 in eleven equal ratios."""


@dataclass(frozen=True, slots=True)
class Knob:
    """The one thing that may be tuned.

    Attributes:
        name: What it is.
        default: Its documented default.
        more_is_safer: Whether a larger value means more workers.
        low: Least sensible value.
        high: Largest sensible value.
    """

    name: str
    default: float
    more_is_safer: bool
    low: float = 1e-6
    high: float = float("inf")

    def values(self, grid: tuple[float, ...] = GRID) -> FloatArray:
        """The knob's values on a grid of multiples, clipped, from cheap to safe, each once."""
        ratios = np.array(grid if self.more_is_safer else tuple(1.0 / g for g in grid))
        clipped = np.clip(self.default * ratios, self.low, self.high)
        _, first = np.unique(clipped, return_index=True)
        return np.asarray(clipped[np.sort(first)], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known at the beginning of a step.

    Attributes:
        time: Seconds since the start.
        arrivals: Requests/s over the last step, shape (D,).
        input_tokens: Mean prompt tokens over the last step, shape (D,).
        output_tokens: Mean generated tokens over the last step, shape (D,).
        queue: Requests waiting, shape (L, D).
        running: Requests in the workers' batches, shape (L, D).
        utilisation: Share of the capacity used over the last step, shape (L, D).
        kv_usage: Mean KV-cache use of ready workers, shape (L, D).
        ready: Workers that serve, shape (L, D, V).
        starting: Workers on their way, shape (L, D, V).
        refused: Workers that were wanted and not granted in the last step, shape (L, D, V).
    """

    time: float
    arrivals: FloatArray
    input_tokens: FloatArray
    output_tokens: FloatArray
    queue: FloatArray
    running: FloatArray
    utilisation: FloatArray
    kv_usage: FloatArray
    ready: Counts
    starting: Counts
    refused: Counts


class Stepper(Protocol):
    """A policy at work."""

    def step(self, seen: Observation) -> Counts | None:
        """Workers wanted, shape (L, D, V); None to leave what was wanted before."""

    def why(self, lane: int, service: int) -> str:
        """The reason of the last answer, in words."""


class Policy(Protocol):
    """A way to scale."""

    @property
    def name(self) -> str:
        """Short name."""

    @property
    def knob(self) -> Knob:
        """The one knob."""

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:
        """A stepper for the given knob values.

        Args:
            fleet: What is scaled.
            knobs: One value per lane, shape (L,).
            step_s: Length of a step, s.
            history: Work per second of the tuning days, shape (T, D); only for what is sized by hand beforehand.
        """


@dataclass(slots=True)
class Base:
    """What the rivals share: sizing in workers of the reference type, and spreading over the types.

    A rival without a notion of types is given the best simple one: the cheapest type per request first, the next one
    when a type's limit is reached.
    """

    fleet: Fleet
    knobs: FloatArray
    step_s: float
    capacity: FloatArray
    order: Counts
    lowest: Counts
    highest: Counts
    reason: str = ""

    @classmethod
    def of(cls, fleet: Fleet, knobs: FloatArray, step_s: float) -> Base:
        """For a fleet and knob values of shape (L,), which become (L, 1)."""
        capacity = fleet.capacity()
        per_request = np.divide(fleet.prices(), capacity, out=np.full(capacity.shape, np.inf), where=capacity > 0)
        return cls(
            fleet=fleet,
            knobs=knobs[:, None],
            step_s=step_s,
            capacity=capacity,
            order=np.argsort(per_request, axis=1, kind="stable"),
            lowest=np.array([s.min_workers for s in fleet.services]),
            highest=np.array([s.max_workers for s in fleet.services]),
        )

    @property
    def unit(self) -> FloatArray:
        """Requests/s of one worker of the reference type, shape (D,)."""
        return np.asarray(self.capacity[np.arange(len(self.capacity)), self.order[:, 0]], dtype=np.float64)

    @property
    def stride(self) -> FloatArray:
        """The least change, in workers of the reference type, that spreading never rounds away, shape (D,)."""
        return np.asarray(self.capacity.max(axis=1) / self.unit, dtype=np.float64)

    def workers(self, counts: Counts) -> FloatArray:
        """Counts by type, shape (L, D, V), in workers of the reference type, shape (L, D)."""
        if counts.shape[-1] == 1:
            return counts[..., 0].astype(np.float64)
        return np.asarray((counts * self.capacity).sum(axis=-1) / self.unit, dtype=np.float64)

    def spread(self, wanted: FloatArray) -> Counts:
        """Workers of the reference type, shape (L, D), as counts by type, shape (L, D, V)."""
        if len(self.fleet.types) == 1:
            whole = np.clip(np.ceil(wanted - 1e-9), self.lowest, self.highest)
            return whole[..., None].astype(np.int64)
        bounded = np.clip(wanted, self.lowest, self.highest)  # rounded once, by type
        out = np.zeros((*bounded.shape, len(self.fleet.types)), dtype=np.int64)
        free = np.array([[np.inf if t.limit is None else t.limit for t in self.fleet.types]])
        left = np.repeat(free, len(bounded), axis=0)
        for d in range(bounded.shape[1]):
            missing = bounded[:, d] * self.unit[d]
            for v in self.order[d]:
                if self.capacity[d, v] <= 0:
                    continue
                taken = np.minimum(np.ceil(np.maximum(missing, 0.0) / self.capacity[d, v] - 1e-9), left[:, v])
                out[:, d, v] = taken
                left[:, v] -= taken
                missing = missing - taken * self.capacity[d, v]
        return out

    def why(self, lane: int, service: int) -> str:  # noqa: ARG002  (one reason for all lanes)
        """The reason of the last answer, in words."""
        return self.reason
