"""Which answers of agents cannot be true, although they parse. Pure."""

from __future__ import annotations

from warmfleet_contracts.agent import AgentState
from warmfleet_contracts.sketch import decode

MAX_IN_FLIGHT = 100_000
"""Requests that one engine could possibly hold."""
MAX_RATE = 10_000.0
"""Requests per second that one engine could possibly finish."""


def implausible(state: AgentState) -> str | None:
    """Why an answer that parses cannot be true; None when it can."""
    engine, counters, latency = state.engine, state.counters, state.latency
    if max(engine.running or 0, engine.waiting or 0) > MAX_IN_FLIGHT:
        return f"more than {MAX_IN_FLIGHT} requests in flight"
    if counters is not None and counters.cache_hit_tokens > counters.cache_query_tokens:
        return "more prefix-cache hits than lookups"
    if counters is not None and counters.failed_requests > counters.requests:
        return "more failed requests than requests"
    if latency is not None and (
        latency.ttft_within_slo > latency.ttft_count or latency.tpot_within_slo > latency.tpot_count
    ):
        return "more requests within the objective than requests"
    return None if state.kv is None or _readable(state.kv.sketch) else "a sketch that cannot be read"


def _readable(sketch: str) -> bool:
    try:
        return not sketch or decode(sketch) is not None
    except ValueError:
        return False
