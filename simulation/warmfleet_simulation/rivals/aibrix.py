"""AIBrix APA on KV-cache use.

Formula (aibrix, pkg/controller/podautoscaler/algorithm/apa.go)::

    n = ceil(ready * use / target)  only when use/target is outside [1 - 0.1, 1 + 0.1];   ready / 2 <= n <= 2 * ready

Defaults: resync 10 s, tolerances 0.1, rates 2 and 2, up cool-down 0 s, down cool-down 300 s, metric window 60 s; target
0.5 of the KV cache (docs/source/features/autoscaling). Starting workers count as there: nothing is asked for twice.
Knob: the target.
"""

from __future__ import annotations

import numpy as np
from warmfleet_contracts.traces import FloatArray

from warmfleet_simulation.fleet import Counts, Fleet
from warmfleet_simulation.policy import Base, Knob, Observation, Stepper
from warmfleet_simulation.rivals.windows import Highest, Mean

_DOWN_S, _WINDOW_S = 300.0, 60.0


class _Apa:
    def __init__(self, base: Base) -> None:
        self._base = base
        self._mean = Mean(int(_WINDOW_S / base.step_s))
        self._highest = Highest(int(_DOWN_S / base.step_s))

    def step(self, seen: Observation) -> Counts | None:
        """See the module's formula."""
        base = self._base
        ready = np.maximum(base.workers(seen.ready), 1.0)
        have = ready + base.workers(seen.starting)
        ratio = self._mean.add(seen.kv_usage) / base.knobs
        wanted = np.clip(np.ceil(ready * ratio - 1e-9), np.floor(ready / 2), 2 * ready)
        wanted = np.where(np.abs(ratio - 1.0) <= 0.1, have, wanted)
        kept = self._highest.add(wanted)
        base.reason = "KV-cache use against the target"
        down = np.where(ratio < 0.9, np.minimum(kept, have), have)
        return base.spread(np.where(wanted >= have, wanted, down))

    def why(self, lane: int, service: int) -> str:
        """See :class:`Stepper`."""
        return self._base.why(lane, service)


class AibrixApa:
    """AIBrix's APA."""

    name = "aibrix-apa"
    knob = Knob("target KV-cache use", 0.5, more_is_safer=False, high=1.0)

    def start(self, fleet: Fleet, knobs: FloatArray, step_s: float, history: FloatArray) -> Stepper:  # noqa: ARG002
        """See :class:`Policy`."""
        return _Apa(Base.of(fleet, knobs, step_s))
