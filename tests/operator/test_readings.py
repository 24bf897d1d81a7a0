"""Rates, demand and what is believed of agents and routers."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warmfleet_contracts.agent import AgentState
from warmfleet_contracts.sketch import sample
from warmfleet_operator.adapters.agents import NoAnswerError
from warmfleet_operator.adapters.telemetry import parse_router
from warmfleet_operator.state.plausible import implausible
from warmfleet_operator.state.rates import Counter, SeriesCounter, rate, ratio
from warmfleet_operator.state.readings import Readings, RouterSample
from warmfleet_operator.state.records import Demand, Key, RouterRecord, WorkerPhase, WorkerRecord

CHAT = Key("prod", "chat")


def worker(name: str = "w") -> WorkerRecord:
    return WorkerRecord(Key("prod", name), f"u-{name}", "1", "chat", "h", "h", "r", WorkerPhase.READY, 1, 0.0, ip="1")


ROUTER = RouterRecord(Key("prod", "r"), "u-r", "chat", "2", ready=True)


def state(requests: int = 0, running: int = 0, waiting: int = 0, **parts: Any) -> AgentState:
    return AgentState.model_validate(
        {
            "podUid": parts.get("uid", "u-w"),
            "phase": "Serving",
            "engine": {"ready": True, "running": running, "waiting": waiting},
            "counters": {"requests": requests, **parts.get("counters", {})},
            "latency": parts.get("latency", {}),
            **({"kv": parts["kv"]} if "kv" in parts else {}),
            **({"sent": parts["sent"]} if "sent" in parts else {}),
        }
    )


def readings() -> Readings:
    return Readings(rate_window=20.0, mean_window=300.0, stale_after=60.0)


def test_a_sketch_is_read_and_nonsense_makes_no_answer() -> None:
    book = readings()
    good = {"heldTokens": 320, "hotTokens": 160, "sketch": sample(range(10)).encode()}
    assert book.agent_answered(worker(), state(kv=good), 0.0) is None
    seen = book.telemetry(0.0)["u-w"]
    assert seen.hot_tokens == 160
    assert seen.hot_sketch is not None
    assert seen.hot_sketch.values == set(range(10))
    assert book.agent_answered(worker(), state(kv={**good, "sketch": "AAAA"}), 1.0) == "a sketch that cannot be read"


def test_one_reading_is_no_rate() -> None:
    counter = Counter(20.0)
    counter.add(0.0, 100.0)
    assert rate(counter.increase(0.0)) is None


def test_a_restart_counts_from_zero() -> None:
    counter = Counter(20.0)
    for at, value in ((0.0, 100.0), (5.0, 150.0), (10.0, 30.0)):
        counter.add(at, value)
    assert counter.increase(10.0) == (80.0, 10.0)


def test_a_counter_that_fell_silent_has_no_rate() -> None:
    counter = Counter(20.0)
    counter.add(0.0, 0.0)
    counter.add(5.0, 50.0)
    assert counter.increase(30.0) is None


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=30), st.floats(1.0, 9.0))
def test_a_steady_window_gives_the_mean_of_its_increases(steps: list[int], period: float) -> None:
    counter, total = Counter(1e9), 0
    counter.add(0.0, 0.0)
    for i, step in enumerate(steps, 1):
        total += step
        counter.add(i * period, total)
    assert rate(counter.increase(len(steps) * period)) == pytest.approx(total / (len(steps) * period))


def test_a_series_that_appears_later_started_at_zero() -> None:
    counter = SeriesCounter(20.0)
    counter.add(0.0, {})
    counter.add(10.0, {"a": 5.0})
    counter.add(20.0, {"a": 6.0, "b": 4.0})
    assert counter.increase(20.0) == (10.0, 20.0)


def test_a_ratio_of_nothing_is_unknown() -> None:
    assert ratio((0.0, 1.0), (0.0, 1.0)) is None
    assert ratio(None, (1.0, 1.0)) is None


def test_arrivals_at_the_router_are_attempts_minus_retries() -> None:
    taken = readings()
    taken.router_answered(ROUTER, RouterSample(), 0.0)
    sample = RouterSample(dispatched={"a": 60.0}, unserved={"x": 150.0}, retries={"x": 120.0})
    taken.router_answered(ROUTER, sample, 10.0)
    demand = taken.demand(CHAT, [], [ROUTER], 10.0)
    assert demand.arrivals == pytest.approx(9.0)
    assert demand.rejects == pytest.approx(9.0)
    assert demand.sources == ("router",)


def test_without_a_router_arrivals_are_what_was_finished_and_what_is_in_flight() -> None:
    taken = readings()
    taken.agent_answered(worker(), state(requests=100, running=4), 0.0)
    taken.agent_answered(worker(), state(requests=120, running=10, waiting=14), 10.0)
    demand = taken.demand(CHAT, [worker()], [], 10.0)
    assert demand.arrivals == pytest.approx(4.0)
    assert demand.queue == 14
    assert demand.sources == ("agents",)


def test_nobody_answering_is_unknown_and_not_zero() -> None:
    taken = readings()
    taken.agent_silent(worker(), 0.0)
    taken.router_silent(ROUTER, 0.0)
    demand = taken.demand(CHAT, [worker()], [ROUTER], 0.0)
    assert (demand.arrivals, demand.queue, demand.silent_workers) == (None, None, 1)


def test_zero_traffic_is_zero() -> None:
    taken = readings()
    for at in (0.0, 5.0, 10.0):
        taken.agent_answered(worker(), state(), at)
    assert taken.demand(CHAT, [worker()], [], 10.0).arrivals == 0.0


def test_a_worker_that_left_still_counts_in_the_window() -> None:
    taken = readings()
    taken.agent_answered(worker(), state(requests=0), 0.0)
    taken.agent_answered(worker(), state(requests=100), 10.0)
    taken.agent_answered(worker("v"), state(requests=0, uid="u-v"), 0.0)
    taken.agent_answered(worker("v"), state(requests=100, uid="u-v"), 10.0)
    assert taken.demand(CHAT, [worker("v")], [], 10.0).arrivals == pytest.approx(20.0)


def test_what_a_leaving_worker_sends_to_survivors_is_no_traffic() -> None:
    """Its prompts pass the router, are computed by a survivor, and are counted by both as if they were the users'."""
    leaving = replace(worker("v"), drain_reason="ScaleDown")
    own = {"requests": 80, "promptTokens": 80_000, "cachedTokens": 20_000}

    def seen(sender: WorkerRecord) -> Demand:
        taken = readings()
        taken.router_answered(ROUTER, RouterSample(), 0.0)
        taken.agent_answered(worker(), state(), 0.0)
        taken.agent_answered(sender, state(uid="u-v", sent={}), 0.0)
        taken.router_answered(ROUTER, RouterSample(dispatched={"a": 100.0}), 20.0)
        counters = {"promptTokens": 90_000, "generationTokens": 4080}
        counters |= {"cacheQueryTokens": 90_000, "cacheHitTokens": 22_500}
        taken.agent_answered(worker(), state(requests=100, counters=counters), 20.0)
        taken.agent_answered(sender, state(uid="u-v", sent=own), 20.0)
        return taken.demand(CHAT, [worker()], [ROUTER], 20.0)

    demand = seen(leaving)
    assert demand.arrivals == pytest.approx(1.0)
    assert (demand.input_tokens, demand.output_tokens, demand.hit_ratio) == (500.0, 200.0, 0.25)
    assert seen(worker("v")).arrivals == pytest.approx(5.0), "nobody asked this one to leave: it is not believed"


def test_what_was_sent_is_forgotten_no_sooner_than_what_arrived() -> None:
    taken = readings()
    leaving = replace(worker("v"), drain_reason="ScaleDown")
    arrived = 0.0
    for at in range(0, 90, 5):
        sent = min(100, 5 * at) if at < 30 else 100
        arrived = sent + at * 2.0
        taken.router_answered(ROUTER, RouterSample(dispatched={"a": arrived}), float(at))
        if at <= 30:  # its pod is gone then
            taken.agent_answered(leaving, state(uid="u-v", sent={"requests": sent}), float(at))
        demand = taken.demand(CHAT, [], [ROUTER], float(at))
        if at >= 20:
            assert demand.arrivals is not None
            assert 2.0 - 1e-9 <= demand.arrivals <= 7.0, at
    assert demand.arrivals == pytest.approx(2.0)


def test_means_hit_ratio_and_attainment() -> None:
    taken = readings()
    taken.agent_answered(worker(), state(), 0.0)
    counters = {"promptTokens": 5000, "generationTokens": 1000, "cacheQueryTokens": 5000, "cacheHitTokens": 2000}
    latency = {"ttftCount": 10, "ttftWithinSlo": 9, "tpotCount": 10, "tpotWithinSlo": 8}
    taken.agent_answered(worker(), state(requests=10, counters=counters, latency=latency), 10.0)
    demand = taken.demand(CHAT, [worker()], [], 10.0)
    assert (demand.input_tokens, demand.output_tokens, demand.hit_ratio) == (500.0, 100.0, 0.4)
    assert demand.slo_attainment == 0.8


@pytest.mark.parametrize(
    "lie",
    [
        state(running=10**6),
        state(counters={"cacheHitTokens": 5, "cacheQueryTokens": 4}),
        state(counters={"failedRequests": 5}),
        state(latency={"ttftWithinSlo": 2, "ttftCount": 1}),
    ],
)
def test_lies_are_recognised(lie: AgentState) -> None:
    assert implausible(lie)
    taken = readings()
    assert taken.agent_answered(worker(), lie, 0.0)
    assert taken.telemetry(0.0) == {}


def test_the_answer_of_another_pod_and_an_impossible_rate_are_thrown_away() -> None:
    taken = readings()
    assert taken.agent_answered(worker(), state(uid="u-old"), 0.0) == "answer of another pod"
    assert taken.agent_answered(worker(), state(requests=1), 1.0) is None
    assert "per second" in (taken.agent_answered(worker(), state(requests=10**9), 2.0) or "")


@given(st.text(max_size=200))
def test_any_text_of_a_router_is_parsed_or_refused(text: str) -> None:
    for body in (text, f"vllm_router_processed_requests_total{text}", f"vllm_router_retries_total {text}\n"):
        with contextlib.suppress(NoAnswerError):
            parse_router(body)


def test_a_routers_text_is_read_by_series() -> None:
    text = """
vllm_router_requests_total{route="/v1/completions"} 3
vllm_router_processed_requests_total{worker="http://a:8000"} 6
vllm_router_request_errors_total{route="/v1/completions",error_type="no_available_workers"} 15
vllm_router_request_errors_total{route="/v1/completions",error_type="timeout"} 2
vllm_router_retries_total{route="/v1/completions"} 12
"""
    sample = parse_router(text)
    assert sum(sample.dispatched.values()) == 6
    assert sum(sample.unserved.values()) == 15
    assert sum(sample.retries.values()) == 12


def test_what_a_worker_serves_is_known_once_the_window_is_full() -> None:
    seen = readings()
    for i in range(61):
        now = 5.0 * i
        latency = {"ttftCount": 20 * i, "ttftWithinSlo": 19 * i, "tpotCount": 20 * i, "tpotWithinSlo": 20 * i}
        failed = {"failedRequests": 2 * i}
        answer = state(requests=22 * i, running=6 if i % 2 else 10, counters=failed, latency=latency)
        assert seen.agent_answered(worker(), answer, now) is None
        told = seen.telemetry(now)["u-w"]
        if now < 250.0:
            assert (told.served, told.batches) == (None, None)
    assert told.served == pytest.approx(4.0), "without those that failed"
    assert told.batches is not None
    assert (told.batches[0], told.batches[-1]) == (6.0, 10.0)
    assert sum(told.batches) / 6 == pytest.approx(8.0, abs=0.2)
    assert told.attainment == pytest.approx(0.95)
    assert seen.agent_answered(worker(), state(requests=1500, running=9), 500.0) is None
    told = seen.telemetry(500.0)["u-w"]
    assert (told.served, told.batches) == (None, None), "nobody saw the time in between"
