"""Counters and histograms of the simulated engine that take many equal observations at once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
TTFT = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
ITERATION = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
SMALL = (1, 2, 3, 4, 5, 10, 20)
PARAMS_N = (1, 2, 5, 10, 20)


def one_two_five(maximum: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50 ... up to ``maximum``."""
    bounds, decade = [], 1
    while decade <= maximum:
        bounds += [m * decade for m in (1, 2, 5) if m * decade <= maximum]
        decade *= 10
    return tuple(bounds)


class Histogram:
    """A cumulative histogram.

    Args:
        bounds: Upper bounds without +Inf, ascending.
    """

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(float(b) for b in bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        """Observations."""
        return sum(self._counts)

    def observe(self, value: float, times: int = 1) -> None:
        """Count ``value``, ``times`` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, cumulative count), ending with +Inf."""
        running, result = 0, []
        for bound, count in zip([*self._bounds, float("inf")], self._counts, strict=True):
            running += count
            result.append(("+Inf" if bound == float("inf") else str(bound), float(running)))
        return result


@dataclass(slots=True)
class Statistics:
    """Everything that the scheduler counts, since the engine's start. Times in logical seconds."""

    max_model_len: int
    prompt_tokens: int = 0
    computed_tokens: int = 0
    hit_tokens: int = 0
    query_tokens: int = 0
    external_hit_tokens: int = 0
    external_query_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    rejections: int = 0
    finished: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("stop", "length", "abort", "error", "repetition"), 0)
    )
    ttft: Histogram = field(default_factory=lambda: Histogram(TTFT))
    inter_token: Histogram = field(default_factory=lambda: Histogram(PER_TOKEN))
    per_output_token: Histogram = field(default_factory=lambda: Histogram(PER_TOKEN))
    e2e: Histogram = field(default_factory=lambda: Histogram(LATENCY))
    queue: Histogram = field(default_factory=lambda: Histogram(LATENCY))
    inference: Histogram = field(default_factory=lambda: Histogram(LATENCY))
    prefill: Histogram = field(default_factory=lambda: Histogram(LATENCY))
    decode: Histogram = field(default_factory=lambda: Histogram(LATENCY))
    iteration_tokens: Histogram = field(default_factory=lambda: Histogram(ITERATION))
    request_preemptions: Histogram = field(default_factory=lambda: Histogram(SMALL))
    params_n: Histogram = field(default_factory=lambda: Histogram(PARAMS_N))
    request_prompt: Histogram = field(init=False)
    request_generation: Histogram = field(init=False)
    request_computed: Histogram = field(init=False)
    params_max_tokens: Histogram = field(init=False)
    max_generation: Histogram = field(init=False)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in any tier."""
        return self.hit_tokens + self.external_hit_tokens

    def __post_init__(self) -> None:
        bounds = one_two_five(self.max_model_len)
        self.request_prompt = Histogram(bounds)
        self.request_generation = Histogram(bounds)
        self.request_computed = Histogram(bounds)
        self.params_max_tokens = Histogram(bounds)
        self.max_generation = Histogram(bounds)
