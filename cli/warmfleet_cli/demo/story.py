"""What a run shows, as figures: hits with and without hand-over, what was bought ahead, what the forecast had said."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from warmfleet_cli.demo.timeline import Outlook, Sample, ScaleEvent, Timeline, hit_ratios

HIT_SAMPLES = 12
"""Samples behind one point of a hit ratio: four minutes."""
DEMAND_SAMPLES = 9
"""Samples behind one point of a rate: three minutes, as the operator measures it."""
AFTERMATH_S = 600.0
"""How long after the last departure its users are still coming back, seconds."""
_AHEAD_WITHIN_S = 1800.0
_WORKING = ("Pending", "Starting", "Serving")


def hits(run: Timeline, *, beside: bool = False) -> list[float | None]:
    """Prefix-cache hits per prompt token by sample, as the answers told them, of the fleet or of the one beside it."""
    return hit_ratios([_counts(sample, beside=beside) for sample in run.samples], HIT_SAMPLES)


def possible(run: Timeline) -> list[float | None]:
    """What a cache that forgets nothing would hit per prompt token, by sample."""
    return hit_ratios([(sample.prompt_tokens, sample.repeated_tokens) for sample in run.samples], HIT_SAMPLES)


def retained(run: Timeline, *, beside: bool = False) -> list[float | None]:
    """Hits over those that were possible, by sample."""
    return hit_ratios([_kept(sample, beside=beside) for sample in run.samples], HIT_SAMPLES)


def _counts(sample: Sample, *, beside: bool) -> tuple[int, int]:
    of = sample.beside if beside else sample
    return (of.prompt_tokens, of.cached_tokens) if of is not None else (0, 0)


def _kept(sample: Sample, *, beside: bool) -> tuple[int, int]:
    of = sample.beside if beside else sample
    return (of.repeated_tokens, of.cached_tokens) if of is not None else (0, 0)


@dataclass(frozen=True, slots=True)
class Retention:
    """Hits over the possible ones before workers left, and from the first departure until their users had come back.

    Attributes:
        before: Before; None where nothing was asked for again.
        after: From then on.
        lowest: The lowest point of the curve from then on.
    """

    before: float | None
    after: float | None
    lowest: float | None


def departures(run: Timeline) -> tuple[float, float] | None:
    """From the first scale-down until the last worker's users are back, or a spike comes; None without scale-downs."""
    both = [*run.scalings("ScaledDown"), *run.scalings("ScaledDown", beside=True)]
    spike = run.setup.spike[0] if run.setup.spike is not None else float("inf")
    before = [event.at for event in both if event.at < spike]
    return (min(before), min(spike, max(before) + AFTERMATH_S)) if before else None


def retention(run: Timeline, *, beside: bool = False) -> Retention | None:
    """See :class:`Retention`; None when nobody left."""
    window = departures(run)
    if window is None:
        return None
    start, end = window

    def ratio(first: float, last: float) -> float | None:
        counts = [_kept(s, beside=beside) for s in run.samples if first <= s.at < last]
        return hit_ratios(counts, len(counts))[-1] if counts else None

    points = zip(run.samples, retained(run, beside=beside), strict=True)
    curve = [v for s, v in points if start <= s.at < end and v is not None]
    return Retention(ratio(start - AFTERMATH_S, start), ratio(start, end), min(curve, default=None))


@dataclass(frozen=True, slots=True)
class Purchase:
    """A decision for more workers.

    Attributes:
        event: The event that told it.
        ahead: Whether it was made on the forecast while the demand was below what was there or starting.
        lead_s: How long after it the demand reached that; None when it did not within half an hour.
        blend: How the planner came to the capacity it wanted, in its own words.
    """

    event: ScaleEvent
    ahead: bool
    lead_s: float | None
    blend: str


def purchases(run: Timeline) -> list[Purchase]:
    """The fleet's decisions for more workers, in order."""
    offered = smoothed([sample.offered for sample in run.samples], DEMAND_SAMPLES)
    found = []
    for event in run.scalings("ScaledUp"):
        index = _index(run.samples, event.at)
        if index is None:
            continue
        sample = run.samples[index]
        there = capacity_there(run, run.samples[max(0, index - 1)])
        asked = max(offered[index], sample.demand or 0.0)
        ahead = sample.trusted and asked < min(there, sample.forecast or 0.0)
        later = range(index, len(run.samples))
        reached = next((run.samples[i].at - event.at for i in later if offered[i] >= there), None)
        lead = reached if reached is not None and reached <= _AHEAD_WITHIN_S else None
        found.append(Purchase(event, ahead, lead if ahead else None, sample.blend))
    return found


def capacity_there(run: Timeline, sample: Sample) -> float:
    """Requests/s of the workers that serve or start, at the planned rates."""
    rates = {variant.name: variant.rate for variant in run.setup.variants}
    return sum(rates.get(worker.variant, 0.0) for worker in sample.workers if worker.phase in _WORKING)


def band(run: Timeline) -> list[tuple[float, float] | None]:
    """By sample, median and 90th percentile for that moment in the newest forecast that was a start-up time old."""
    return [_said(run.outlooks, sample.at, run.setup.lead_s) for sample in run.samples]


def _said(outlooks: Sequence[Outlook], at: float, lead_s: float) -> tuple[float, float] | None:
    known = [o for o in outlooks if o.at <= at - lead_s and o.points]
    if not known:
        return None
    last = known[-1]
    offset = at - last.issued
    points = last.points
    place = bisect_right([p[0] for p in points], offset)
    if place == 0 or place == len(points):
        return None
    (x0, a0, b0), (x1, a1, b1) = points[place - 1], points[place]
    share = (offset - x0) / (x1 - x0)
    return a0 + share * (a1 - a0), b0 + share * (b1 - b0)


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """The mean of each value and up to ``width - 1`` before it."""
    found, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - width] if i >= width else 0.0)
        found.append(total / min(i + 1, width))
    return found


def attained(run: Timeline) -> float | None:
    """Share of the requests whose first token came within the objective; None without any."""
    ttft = [t for sample in run.samples for t in sample.ttft]
    return sum(t <= run.setup.ttft_slo for t in ttft) / len(ttft) if ttft else None


def _index(samples: Sequence[Sample], at: float) -> int | None:
    """The first sample at or after a moment, else the last one."""
    if not samples:
        return None
    return next((i for i, sample in enumerate(samples) if sample.at >= at), len(samples) - 1)
