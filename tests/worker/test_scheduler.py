"""Continuous batching: right against the model, independent of how time is cut, bounded by blocks and limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warmfleet_contracts.perfmodel import Workload, lookup, operating_point, step_ms
from warmfleet_worker.engines.simulated.blocks import BlockPool
from warmfleet_worker.engines.simulated.histograms import Histogram, Statistics, one_two_five
from warmfleet_worker.engines.simulated.scheduler import Limits, QueueFull, Request, Scheduler, _steps_within

PROFILE = lookup("llama-3.1-8b", "bf16", "H100-SXM", 1)
assert PROFILE is not None


def make(blocks: int = 4000, *, size: int = 16, caching: bool = True, **limits) -> Scheduler:
    return Scheduler(PROFILE, BlockPool(blocks, size, caching=caching), Limits(**limits), Statistics(32768), 0.0)


def prompt(start: int, length: int) -> list[int]:
    return list(range(start, start + length))


def test_one_request_takes_the_time_of_its_steps() -> None:
    scheduler = make()
    request = Request(prompt(0, 1000), 3, 0.0)
    scheduler.add(request)
    overhead = PROFILE.ttft_overhead_ms / 1000
    first = overhead + step_ms(PROFILE, 0, 0, [(1000, 0)]) / 1000
    scheduler.advance(first - 1e-6)
    assert request.tokens == 0
    scheduler.advance(first + 1e-6)
    assert request.tokens == 1
    end = first + (step_ms(PROFILE, 1, 1001) + step_ms(PROFILE, 1, 1002)) / 1000
    scheduler.advance(end + 1e-6)
    assert request.finished
    assert request.last_token_at == pytest.approx(end)
    assert scheduler.statistics.ttft.total == pytest.approx(first)
    assert scheduler.statistics.finished["length"] == 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 900), st.integers(1, 120)), min_size=1, max_size=12),
    st.lists(st.floats(0.001, 3), min_size=1, max_size=30),
    st.integers(80, 400),
)
def test_the_result_does_not_depend_on_how_time_is_cut(arrivals, cuts, blocks) -> None:
    def play(looks: list[float]) -> list[tuple[float, int]]:
        scheduler = make(blocks, max_num_seqs=6, max_num_batched_tokens=512)
        requests = [Request(prompt(i * 7, n), m, at) for i, (at, n, m) in enumerate(sorted(arrivals))]
        moments = sorted([(r.arrived, r) for r in requests] + [(t, None) for t in looks], key=lambda x: x[0])
        for at, request in moments:
            if request is None:
                scheduler.advance(at)
            else:
                scheduler.add(request)
        scheduler.advance(1e4)
        assert not scheduler.busy
        assert scheduler.pool.held == 0
        return [(r.last_token_at, r.tokens) for r in requests]

    moments, now = [], 0.0
    for cut in cuts:
        now += cut
        moments.append(now)
    for (a, m), (b, n) in zip(play([]), play(moments), strict=True):
        assert m == n
        assert a == pytest.approx(b, rel=1e-6, abs=1e-6)


def test_steady_state_meets_the_capacity_model() -> None:
    workload, batch = Workload(1000, 200), 32
    expected = operating_point(PROFILE, workload, batch)
    scheduler = make(27000, caching=False)
    scheduler_requests = [Request(prompt(0, 1000), 200, i * 0.05) for i in range(batch)]
    done = 0
    for request in scheduler_requests:
        scheduler.add(request)
    now = 0.0
    while now < 120:
        now += 0.01
        scheduler.advance(max(now, 1.6))
        while len(scheduler.running) + len(scheduler.waiting) < batch:
            scheduler.add(Request(prompt(0, 1000), 200, max(now, 1.6)))
    done = scheduler.statistics.finished["length"]
    tpot = scheduler.statistics.per_output_token
    assert done / 120 == pytest.approx(expected.requests_per_second, rel=0.12)
    assert tpot.total / tpot.count * 1000 == pytest.approx(expected.tpot_ms, rel=0.12)


def test_prefixes_are_found_and_save_time_but_never_the_last_token() -> None:
    scheduler = make()
    cold, warm = Request(prompt(0, 1600), 1, 0.0), Request(prompt(0, 1600), 1, 10.0)
    scheduler.add(cold)
    scheduler.advance(10.0)
    scheduler.add(warm)
    scheduler.advance(20.0)
    assert (cold.cached, warm.cached) == (0, 1584)
    assert warm.last_token_at - warm.arrived < cold.last_token_at - cold.arrived
    statistics = scheduler.statistics
    assert (statistics.query_tokens, statistics.hit_tokens) == (3200, 1584)
    assert statistics.prompt_tokens == statistics.computed_tokens + statistics.hit_tokens


def test_a_conversation_finds_the_response_too() -> None:
    from warmfleet_worker.engines.simulated.tokens import expected_text, tokenize

    scheduler = make()
    first = Request(prompt(0, 160), 101, 0.0)
    scheduler.add(first)
    scheduler.advance(50.0)
    follow = [*first.prompt, *tokenize(expected_text(first.prompt, 101)), *prompt(10_000, 50)]
    second = Request(follow, 1, 50.0)
    scheduler.add(second)
    scheduler.advance(60.0)
    assert second.cached == 256  # 160 + 100 tokens have KV (the last one does not): 16 full blocks


def test_chunked_prefill_keeps_decodes_going() -> None:
    scheduler = make(max_num_batched_tokens=256)
    early, late = Request(prompt(0, 16), 400, 0.0), Request(prompt(500, 4000), 1, 0.5)
    scheduler.add(early)
    scheduler.add(late)
    before = early.tokens
    scheduler.advance(5.0)
    assert late.finished
    assert early.tokens - before > 15
    buckets = dict(scheduler.statistics.iteration_tokens.buckets())
    assert buckets["256.0"] == buckets["+Inf"]


def test_batch_and_queue_limits() -> None:
    scheduler = make(max_num_seqs=2, max_num_queued=3)
    for i in range(3):
        scheduler.add(Request(prompt(i * 100, 50), 1000, 0.0))
    scheduler.advance(1.0)
    assert (len(scheduler.running), len(scheduler.waiting)) == (2, 1)
    scheduler.add(Request(prompt(0, 5), 5, 1.0))
    scheduler.add(Request(prompt(0, 5), 5, 1.0))
    with pytest.raises(QueueFull):
        scheduler.add(Request(prompt(0, 5), 5, 1.0))
    assert scheduler.statistics.rejections == 1


def test_preemption_when_blocks_run_out_loses_nothing() -> None:
    scheduler = make(40, size=16)
    requests = [Request(prompt(i * 1000, 160), 300, 0.0) for i in range(3)]
    for request in requests:
        scheduler.add(request)
    scheduler.advance(200.0)
    assert all(r.tokens == 300 for r in requests)
    assert scheduler.statistics.preemptions > 0
    assert scheduler.statistics.generation_tokens == 900
    assert scheduler.pool.held == 0


def test_abort_frees_everything() -> None:
    scheduler = make(max_num_seqs=1)
    running, waiting = Request(prompt(0, 50), 1000, 0.0), Request(prompt(0, 50), 10, 0.0)
    scheduler.add(running)
    scheduler.add(waiting)
    scheduler.advance(1.0)
    scheduler.abort(waiting, 1.0)
    scheduler.abort(running, 1.0)
    scheduler.abort(running, 2.0)
    assert not scheduler.busy
    assert scheduler.pool.held == 0
    assert scheduler.statistics.finished["abort"] == 2
    late = Request(prompt(0, 50), 2, 3.0)
    scheduler.add(late)
    scheduler.advance(9.0)
    assert late.finished


@given(st.floats(0, 1e4), st.floats(1e-3, 1), st.floats(0, 1e-3))
def test_steps_within_is_the_largest_that_fits(seconds, first, growth) -> None:
    k = _steps_within(seconds, first, growth)

    def needed(n: int) -> float:
        return n * first + growth * n * (n - 1) / 2

    assert needed(k) <= seconds * (1 + 1e-9) + 1e-9
    assert needed(k + 1) > seconds * (1 - 1e-9) - 1e-9


def test_a_simulated_day_costs_little() -> None:
    import time

    scheduler = make(27000)
    began, at = time.process_time(), 0.0
    for i in range(2000):
        at += 0.1
        scheduler.add(Request(prompt(i * 50, 500), 100, at))
    scheduler.advance(at + 100)
    assert not scheduler.busy
    assert time.process_time() - began < 4.0


def test_histograms_count_in_bulk() -> None:
    one, many = Histogram((1, 2)), Histogram((1, 2))
    for _ in range(5):
        one.observe(1.5)
    many.observe(1.5, 5)
    assert one.buckets() == many.buckets() == [("1.0", 0.0), ("2.0", 5.0), ("+Inf", 5.0)]
    assert (many.count, many.total) == (5, 7.5)
    assert one_two_five(2048) == (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


def test_profile_in_use_is_the_one_given() -> None:
    slow = replace(PROFILE, h_ms=1000.0)
    scheduler = Scheduler(slow, BlockPool(10, 16), Limits(), Statistics(100), 0.0)
    request = Request(prompt(0, 5), 2, 0.0)
    scheduler.add(request)
    scheduler.advance(1.9)
    assert request.tokens == 1
