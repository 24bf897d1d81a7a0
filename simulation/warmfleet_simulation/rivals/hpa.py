"""HorizontalPodAutoscaler, on the queue and on KV-cache use.

Formula (kubernetes, pkg/controller/podautoscaler; Pods metric with unready pods counted as 0 on the way up)::

    ratio = sum over ready pods of metric / (target * pods counted);   |ratio - 1| <= 0.1: nothing
    n     = ceil(ratio * pods counted)          up: ready and starting, and held when that turns the direction
    up at most max(100 %, 4 pods) per 15 s, no stabilization; down to the highest recommendation of 300 s

Defaults: sync 15 s, tolerance 0.1, stabilization 300 s down and 0 s up (autoscaling/v2). Queue: waiting requests as an
AverageValue, n = ceil(queue / target) within the tolerance, target 5 (guides use 3 to 10).
KV use: target 0.8 (the level vLLM deployments commonly alert on). Knob: the target.
"""

from __future__ import annotations

import numpy as np
from warmfleet_contracts.traces import FloatArray

from warmfleet_simulation.fleet import Counts, Fleet
from warmfleet_simulation.policy import Base, Knob, Observation, Stepper
from warmfleet_simulation.rivals.windows import Highest, every

_SYNC_S = 15.0
_TOLERANCE = 0.1
_DOWN_WINDOW_S = 300.0


class _Hpa:
    """A HorizontalPodAutoscaler at work."""

    def __init__(self, base: Base, *, on_queue: bool) -> None:
        self._base, self._on_queue = base, on_queue
        self._window = Highest(int(_DOWN_WINDOW_S / max(_SYNC_S, base.step_s)))

    def step(self, seen: Observation) -> Counts | None:
        """See the module's formula."""
        base = self._base
        if not every(seen.time, _SYNC_S, base.step_s):
            return None
        ready, starting = base.workers(seen.ready), base.workers(seen.starting)
        have = ready + starting
        wanted = self._queue(seen, have) if self._on_queue else self._kv(seen, ready, have)
        wanted = np.minimum(wanted, np.maximum(have * 2.0, have + 4.0))
        kept = self._window.add(wanted)
        return base.spread(np.where(wanted >= have, wanted, np.minimum(kept, have)))

    def _queue(self, seen: Observation, have: FloatArray) -> FloatArray:
        wanted = np.ceil(seen.queue / self._base.knobs)
        near = np.abs(seen.queue / (self._base.knobs * np.maximum(have, 1.0)) - 1.0) <= _TOLERANCE
        self._base.reason = "waiting requests per pod against the target"
        return np.asarray(np.where(near, have, wanted), dtype=np.float64)

    def _kv(self, seen: Observation, ready: FloatArray, have: FloatArray) -> FloatArray:
        ratio = seen.kv_usage / self._base.knobs
        counted = ratio * ready / np.maximum(have, 1.0)
        up = np.where(counted > 1.0, np.ceil(counted * have - 1e-9), have)
        wanted = np.where(ratio > 1.0, up, np.ceil(ratio * ready - 1e-9))
        self._base.reason = "KV-cache use against the target"
        return np.asarray(np.where(np.abs(ratio - 1.0) <= _TOLERANCE, have, wanted), dtype=np.float64)

    def why(self, lane: int, service: int) -> str:
        """See :class:`Stepper`."""
        return self._base.why(lane, service)


class HpaQueue:
    """HPA on waiting requests."""

    name = "hpa-queue"
    knob = Knob("waiting requests per pod", 5.0, more_is_safer=False)

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:  # noqa: ARG002
        """See :class:`Policy`."""
        return _Hpa(Base.of(fleet, knobs, step_s), on_queue=True)


class HpaKv:
    """HPA on KV-cache use."""

    name = "hpa-kv"
    knob = Knob("target KV-cache use", 0.8, more_is_safer=False, high=1.0)

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:  # noqa: ARG002
        """See :class:`Policy`."""
        return _Hpa(Base.of(fleet, knobs, step_s), on_queue=False)
