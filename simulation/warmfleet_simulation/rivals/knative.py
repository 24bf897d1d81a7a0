"""Knative pod autoscaler (KPA) on concurrency.

Formula (knative serving, pkg/autoscaler)::

    n = ceil(mean concurrency over 60 s / target);  panic: n = ceil(mean over 6 s / target)
    panic when the short n >= 2 * ready pods; while it lasts (60 s after the last) n never falls
    ready / 2 <= n <= 1000 * ready

Defaults: tick 2 s, stable window 60 s, panic window 10 %, threshold 200 %, max up 1000, max down 2, target 70 % of the
container's concurrency. The concurrency of a worker is its batch at capacity; steps coarser than the panic window stand
for it. Knob: the target utilisation of the concurrency.
"""

from __future__ import annotations

import numpy as np
from warmfleet_contracts.traces import FloatArray

from warmfleet_simulation.fleet import Counts, Fleet
from warmfleet_simulation.policy import Base, Knob, Observation, Stepper
from warmfleet_simulation.rivals.windows import Mean

_STABLE_S, _PANIC_S, _PANIC_AT = 60.0, 6.0, 2.0


class _Kpa:
    def __init__(self, base: Base) -> None:
        self._base = base
        self._stable = Mean(int(_STABLE_S / base.step_s))
        self._short = Mean(int(_PANIC_S / base.step_s))
        self._until: FloatArray | None = None
        self._floor: FloatArray | None = None

    def step(self, seen: Observation) -> Counts | None:
        """See the module's formula."""
        base = self._base
        ready = np.maximum(base.workers(seen.ready), 1.0)
        concurrency = seen.running + seen.queue
        target = base.knobs * base.fleet.batch_at_capacity
        stable = np.ceil(self._stable.add(concurrency) / target)
        panic = np.ceil(self._short.add(concurrency) / target)
        if self._until is None or self._floor is None:
            self._until, self._floor = np.full(ready.shape, -1.0), np.zeros(ready.shape)
        self._until = np.where(panic >= _PANIC_AT * ready, seen.time + _STABLE_S, self._until)
        panicking = seen.time < self._until
        wanted = np.clip(np.where(panicking, np.maximum(panic, stable), stable), np.floor(ready / 2), 1000 * ready)
        self._floor = np.where(panicking, np.maximum(self._floor, wanted), 0.0)
        base.reason = "concurrency against the target"
        return base.spread(np.maximum(wanted, self._floor))

    def why(self, lane: int, service: int) -> str:
        """See :class:`Stepper`."""
        return self._base.why(lane, service)


class KnativeKpa:
    """Knative's KPA."""

    name = "knative-kpa"
    knob = Knob("target share of the concurrency", 0.7, more_is_safer=False, high=1.0)

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:  # noqa: ARG002
        """See :class:`Policy`."""
        return _Kpa(Base.of(fleet, knobs, step_s))
