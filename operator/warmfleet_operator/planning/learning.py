"""What a worker sustains, corrected by what workers show.

::

    speed     = served / mean of the model's rate over the batches that ran        of one worker over the last minutes
    ratio     = speed * capacity(SLO * speed) / capacity(SLO)   step times 1/speed as long: so is what the SLO leaves
    late      : requests wait and the SLO is missed at a load below what is counted on:  ratio <= load
    fine      : the SLO is met at a load above it:                                       ratio >= load
    log r'    = log r + clip(gain * (log median(ratio) - log r), +-0.1)    gain = max(1 / (n + 1), 0.2)
    applied   = r on a grid of 2.5 %, once it is 8 % away from what is applied;  within [0.5, 2];  from 3 observations

A worker says something when it is loaded (60 % of its rate) or late, and has been ready for ten minutes: cold caches
and compilation are not its speed. At least half of the variant's warm workers must say something, and the median of
them counts, so that one bad machine does not judge the others. One observation is made per window, which is the time
over which the figures are means. After seven days without one the model holds again. A rate that a person set is
never exceeded, only lowered.
"""

from __future__ import annotations

import math
import statistics
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.perfmodel import Workload

from warmfleet_operator.planning import capacity
from warmfleet_operator.planning.capacity import MOST_RATIO, RATIO_BELOW, Yardstick, learned_key
from warmfleet_operator.state.memory import DeploymentMemory, LearnedRate, evolve
from warmfleet_operator.state.records import InstanceTypeRecord, WorkerPhase, WorkerRecord, WorkerTelemetry

WARM_AFTER = 600.0
"""Seconds of readiness before a worker's figures count; the first minutes of it are in no window then."""
LOOK = 60
"""Seconds between two looks at a fleet."""
EVERY = 300.0
"""Seconds between two observations of a variant."""
REMEMBERED = 7 * 24 * 3600.0
LOADED = 0.6
"""Share of its rate from which a worker's load says something."""
MIN_COUNT = 3
LEAST_GAIN = 0.2
STEP = 0.1
GRID = 0.025
STRAY = 0.08
"""Within so much the model is right: requests of unequal length alone make a worker look 5 to 8 % slower."""
ABSURD = 4.0
"""A worker that seems so many times faster or slower than the model is not believed at all."""


@dataclass(frozen=True, slots=True)
class _Bench:
    """What one variant is measured against."""

    yardstick: Yardstick
    counted_on: float
    target: float


def observe(
    spec: LLMDeploymentSpec,
    types: Mapping[str, InstanceTypeRecord],
    workload: Workload,
    workers: Sequence[WorkerRecord],
    *,
    telemetry: Mapping[str, WorkerTelemetry],
    memory: DeploymentMemory,
    now: float,
) -> DeploymentMemory:
    """Learn from the workers of one deployment.

    Args:
        spec: The deployment.
        types: InstanceTypes by name.
        workload: The mean request that capacities are computed from.
        workers: Its workers.
        telemetry: Last agent answers by pod UID.
        memory: Its memory.
        now: Logical seconds.
    """
    if memory.looked_at is None:  # the fleets do not all look at the same moment
        return evolve(memory, looked_at=now - zlib.crc32(memory.uid.encode()) % LOOK)
    if 0.0 <= now - memory.looked_at < LOOK:
        return memory
    memory = evolve(memory, looked_at=now)
    learned = {key: known for key, known in memory.learned.items() if now - known.at < REMEMBERED}
    changed = len(learned) != len(memory.learned)
    for variant in spec.variants:
        key = learned_key(variant)
        known = learned.get(key)
        if known is not None and 0.0 <= now - known.at < EVERY:
            continue
        warm = [w for w in workers if w.variant == variant.name and _warm(w, variant.instance_type, now)]
        told = [t for w in warm if (t := telemetry.get(w.uid)) is not None and t.served is not None]
        if not told or 2 * len(told) < len(warm):
            continue
        yardstick = capacity.yardstick(spec, variant, types, workload)
        if yardstick is None:
            continue
        bench = _Bench(yardstick, known.applied if known is not None else 1.0, spec.slo.attainment)
        shown = [ratio for t in told if (ratio := evidence(t, bench)) is not None]
        if shown and 2 * len(shown) >= len(warm):
            learned[key] = _updated(known, statistics.median(shown), now)
            changed = True
    return evolve(memory, learned=learned) if changed else memory


def _warm(worker: WorkerRecord, instance_type: str, now: float) -> bool:
    return (
        worker.phase is WorkerPhase.READY
        and not worker.leaving
        and worker.instance_type == instance_type
        and worker.first_ready is not None
        and now - worker.first_ready >= WARM_AFTER
    )


def evidence(told: WorkerTelemetry, bench: _Bench) -> float | None:
    """Capacity of one worker over the modelled one; None when it says nothing."""
    served = told.served
    if served is None or not math.isfinite(served) or served <= 0:
        return None
    load = served / bench.yardstick.rate
    fine = told.attainment is not None and told.attainment >= bench.target
    late = bool(told.waiting) and told.attainment is not None and told.attainment < bench.target
    ratio = None
    if load >= LOADED * bench.counted_on or late:
        ratio = _by_speed(served, told.batches, bench.yardstick)
    if late and load < bench.counted_on:
        ratio = load if ratio is None else min(ratio, load)
    elif fine and load > bench.counted_on:
        ratio = load if ratio is None else max(ratio, load)
    if ratio is None or not 1.0 / ABSURD <= ratio <= ABSURD:
        return None
    top = 1.0 if bench.yardstick.given else MOST_RATIO
    return min(top, max(RATIO_BELOW, ratio))


def _by_speed(served: float, batches: Sequence[float] | None, yardstick: Yardstick) -> float | None:
    if not batches or not all(math.isfinite(batch) and batch >= 0.0 for batch in batches) or max(batches) < 1.0:
        return None
    # The rate grows slower than the batch: at the mean batch it would be too high, and every burst look like slowness.
    rates = [yardstick.at_batch(batch) for batch in batches]
    known = [rate for rate in rates if rate is not None]
    expected = sum(known) / len(batches)
    if len(known) < len(batches) or expected <= 0:
        return None
    speed = served / expected
    if not 1.0 / ABSURD <= speed <= ABSURD:
        return None
    return yardstick.at_speed(speed) / yardstick.rate


def _updated(known: LearnedRate | None, ratio: float, now: float) -> LearnedRate:
    """The memory with one more observation."""
    before = known if known is not None else LearnedRate(0.0, 1.0, now, 0)
    gain = max(1.0 / (before.count + 1), LEAST_GAIN)
    step = gain * (math.log(ratio) - before.log_ratio)
    mean = before.log_ratio + min(STEP, max(-STEP, step))
    mean = min(math.log(MOST_RATIO), max(math.log(RATIO_BELOW), mean))
    count, applied = min(before.count + 1, 10**6), before.applied
    if count >= MIN_COUNT and abs(math.exp(mean) / applied - 1.0) > STRAY:
        applied = min(MOST_RATIO, max(RATIO_BELOW, round(math.exp(GRID * round(mean / GRID)), 3)))
    return LearnedRate(mean, applied, now, count)
