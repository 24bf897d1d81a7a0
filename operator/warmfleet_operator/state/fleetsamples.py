"""What a Prometheus says about whole fleets, in place of asking thousands of agents."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FleetSample:
    """One fleet, summed over its workers. None: Prometheus did not say.

    Attributes:
        arrivals: Requests per second.
        input_tokens: Mean prompt tokens of a finished request.
        output_tokens: Mean generated tokens of a finished request.
        hit_ratio: Prefix-cache hits per prompt token.
        queue: Requests waiting.
        rejects: Requests per second refused by full queues.
        reporting: Workers whose metrics it has.
    """

    arrivals: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    hit_ratio: float | None = None
    queue: float | None = None
    rejects: float | None = None
    reporting: float | None = None
