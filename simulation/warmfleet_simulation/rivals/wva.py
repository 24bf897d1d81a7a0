"""llm-d Workload Variant Autoscaler, saturation analyzer v2.

Formula (llm-d-workload-variant-autoscaler, internal/engines/analyzers/saturation_v2), in KV caches of a worker::

    supply = n * 0.80            demand D = KV tokens of running and queued requests
    required = D / up - supply, starting workers counted;  spare = supply - D / down, of ready workers
    up by ceil(required / 0.80), cheapest per capacity first; down by floor(spare / 0.80) when nothing is required

Defaults: loop 30 s, up 0.85, down 0.70, then an HPA on the result with 300 s damping downwards; no scale-down while
workers are starting. Knob: the up threshold; the down threshold keeps its ratio to it.
"""

from __future__ import annotations

import numpy as np
from warmfleet_contracts.traces import FloatArray

from warmfleet_simulation.fleet import Counts, Fleet
from warmfleet_simulation.policy import Base, Knob, Observation, Stepper
from warmfleet_simulation.rivals.windows import Highest, every

_LOOP_S, _DAMPING_S, _KV_SHARE, _UP, _DOWN = 30.0, 300.0, 0.80, 0.85, 0.70


class _Wva:
    def __init__(self, base: Base) -> None:
        self._base = base
        self._window = Highest(int(_DAMPING_S / max(_LOOP_S, base.step_s)))

    def step(self, seen: Observation) -> Counts | None:
        """See the module's formula."""
        base = self._base
        if not every(seen.time, _LOOP_S, base.step_s):
            return None
        ready, starting = base.workers(seen.ready), base.workers(seen.starting)
        have = ready + starting
        per_request = base.fleet.kv_at_capacity / base.fleet.batch_at_capacity
        demand = (seen.running + seen.queue) * per_request
        required = demand / base.knobs - have * _KV_SHARE
        spare = ready * _KV_SHARE - demand / (base.knobs * (_DOWN / _UP))
        up = have + np.ceil(np.maximum(required, 0.0) / _KV_SHARE)
        down = have - np.where(starting > 0, 0.0, np.floor(np.maximum(spare, 0.0) / _KV_SHARE))
        wanted = np.where(required > 0, up, down)
        kept = self._window.add(wanted)
        base.reason = "KV tokens in use and queued against the saturation thresholds"
        return base.spread(np.where(wanted >= have, wanted, np.minimum(kept, have)))

    def why(self, lane: int, service: int) -> str:
        """See :class:`Stepper`."""
        return self._base.why(lane, service)


class LlmdWva:
    """llm-d's WVA."""

    name = "llmd-wva"
    knob = Knob("scale-up saturation threshold", _UP, more_is_safer=False)

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:  # noqa: ARG002
        """See :class:`Policy`."""
        return _Wva(Base.of(fleet, knobs, step_s))
