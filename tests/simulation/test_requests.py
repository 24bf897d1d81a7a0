"""Single requests on engines with a prefix cache each.

They run in one process, interpreted or compiled: compiled once then, and kept on disk.
"""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from warmfleet_contracts.perfmodel import lookup, step_ms
from warmfleet_contracts.traces import RequestTrace, TraceError
from warmfleet_simulation.requests.arrays import DONE, GONE, SERVING, State
from warmfleet_simulation.requests.blocks import forget, insert
from warmfleet_simulation.requests.cluster import Run, simulate
from warmfleet_simulation.requests.planner import Planner
from warmfleet_simulation.requests.report import around, together
from warmfleet_simulation.requests.setup import Arm, Engine, concurrency, fresh_state, machine
from warmfleet_simulation.requests.trial import HALVED, TWO_OF_EIGHT, Pattern, in_windows, interval, trial
from warmfleet_simulation.requests.value import HOT_S, evicted_after
from warmfleet_simulation.requests.workload import Work, pack, repeated
from warmfleet_worker.engines.simulated.blocks import BlockPool
from warmfleet_worker.engines.simulated.histograms import Statistics
from warmfleet_worker.engines.simulated.scheduler import Limits, Request, Scheduler
from warmfleet_worker.kv.index import MEAN_BLOCKS

pytestmark = pytest.mark.timeout(600)

PROFILE = lookup("llama-3.1-8b", "bf16", "H100-SXM", 1)
ENGINE = Engine(PROFILE)
BLOCK = 512


def work_of(*requests: tuple[float, int, int, list[int]]) -> Work:
    """(arrival, prompt tokens, output tokens, hashes)."""
    arrival, inputs, outputs, hashes = zip(*requests, strict=True)
    return pack(
        RequestTrace(
            name="made",
            arrival_s=np.array(arrival, dtype=np.float64),
            input_tokens=np.array(inputs, dtype=np.int64),
            output_tokens=np.array(outputs, dtype=np.int64),
            session=None,
            hash_ids=tuple(np.array(h, dtype=np.int64) for h in hashes),
        ),
        block_tokens=BLOCK,
    )


def conversations(seed: int = 1, users: int = 24, turns: int = 8) -> Work:
    """Conversations that grow by two blocks a turn, each with its own beginning."""
    rng = np.random.default_rng(seed)
    made = []
    for user in range(users):
        at = float(rng.uniform(0.0, 30.0))
        for turn in range(1, turns + 1):
            chain = [user * 1000 + i for i in range(2 * turn)]
            made.append((at, 2 * turn * BLOCK + 7, 20, chain))
            at += float(rng.exponential(20.0))
    return work_of(*sorted(made, key=lambda r: r[0]))


def conserved(run: Run, blocks: int) -> None:
    """Every used block is resident or private, and none is pinned once all has ended."""
    st = run.state
    private = np.zeros(len(st.phase), dtype=np.int64)
    np.add.at(private, st.worker[st.private > 0], st.private[st.private > 0])
    assert (st.used == st.resident.sum(axis=1) + private).all()
    assert (st.used <= blocks).all()
    assert (st.idle == ((st.resident == 1) & (st.ref == 0)).sum(axis=1)).all()


def test_one_request_alone_takes_what_the_step_time_says() -> None:
    work = work_of((0.0, 3000, 5, [1, 2, 3, 4, 5]))
    run = simulate(work, ENGINE, Arm("plain"), [], workers=1)
    st, step = run.state, ENGINE.max_num_batched_tokens
    chunks = [(min(step, 3000 - done), done) for done in range(0, 3000, step)]
    ttft = sum(step_ms(PROFILE, 0, 0, [chunk]) for chunk in chunks)
    decode = sum(step_ms(PROFILE, 1, 3000 + k) for k in range(1, 5))
    assert st.first_token[0] * 1e3 == pytest.approx(ttft, rel=1e-9)
    assert st.finish[0] * 1e3 == pytest.approx(ttft + decode, rel=1e-9)
    assert st.prefill_s[0] * 1e3 == pytest.approx(ttft, rel=1e-9)
    assert st.hit[0] == 0
    conserved(run, PROFILE.kv_tokens // BLOCK)


def test_a_hit_is_the_leading_full_blocks_and_one_token_is_always_computed() -> None:
    work = work_of((0.0, 1536, 1, [1, 2, 3]), (60.0, 2000, 1, [1, 2, 9]), (120.0, 1536, 1, [1, 2, 3]))
    st = simulate(work, ENGINE, Arm("plain"), [], workers=1).state
    assert st.hit[:3].tolist() == [0, 1024, 1535]


def small(blocks: int) -> Engine:
    """An engine whose cache holds so many blocks."""
    return Engine(replace(PROFILE, kv_tokens=blocks * BLOCK))


def test_the_oldest_block_goes_first_and_of_one_prompt_its_end() -> None:
    # Room for 5: the second prompt pushes out the first one's last two blocks; one block is for its output.
    work = work_of((0.0, 1536, 1, [1, 2, 3]), (60.0, 1024, 1, [7, 8]), (120.0, 1536, 1, [1, 2, 3]))
    run = simulate(work, small(5), Arm("plain"), [], workers=1)
    assert run.state.hit[2] == 1024
    conserved(run, 5)


def test_what_runs_is_never_evicted() -> None:
    work = work_of((0.0, 1024, 3000, [1, 2]), (0.5, 1024, 1, [7, 8]), (1.0, 1024, 1, [1, 2]))
    engine = small(10)
    run = simulate(work, engine, Arm("plain"), [], workers=1)
    assert run.state.first_token[1] > run.state.finish[0], "it has to wait for room"
    assert run.state.hit[2] == 1023
    conserved(run, 10)
    st = fresh_state(work, 1, 4, 1)
    m = machine(work, small(1), Arm("plain"))
    assert insert(m, st, 0, 0, 0.0)
    st.ref[0, 0], st.idle[0] = 1, 0
    assert not insert(m, st, 0, 1, 0.0)
    assert st.resident[0, 0] == 1


def test_a_request_no_cache_can_hold_is_lost_alone() -> None:
    work = work_of((0.0, 9000, 1, []), (1.0, 600, 1, [1]))
    st = simulate(work, small(8), Arm("plain"), [], workers=1).state
    assert st.status[0] != DONE
    assert st.status[1] == DONE


SHRINK = [(60.0, 2), (120.0, 4)]


def test_a_drain_loses_and_repeats_nothing_and_frees_the_worker() -> None:
    work = conversations()
    run = simulate(work, ENGINE, Arm("victim"), SHRINK, workers=4)
    assert (run.state.status[: run.users] == DONE).all()
    assert run.retried == 0
    assert len(run.departures) == 2
    assert int((run.state.phase == SERVING).sum()) == 4
    assert (run.state.resident[run.state.phase == GONE] == 0).all()
    conserved(run, PROFILE.kv_tokens // BLOCK)


def test_a_cut_sends_what_ran_again() -> None:
    slow = work_of(*[(float(i) * 0.1, 1024, 2000, [i * 2, i * 2 + 1]) for i in range(8)])
    run = simulate(slow, ENGINE, Arm("naive", victims="newest", leaving="cut"), [(2.0, 2)], workers=4)
    assert run.retried == 4
    assert (run.state.status[: run.users] == DONE).all()
    conserved(run, PROFILE.kv_tokens // BLOCK)


def hits(run: Run) -> int:
    return int((run.state.hit + run.state.loaded)[: run.users].sum())


def test_what_is_handed_over_is_hit_again() -> None:
    work = conversations()
    store = Arm("store", handover="store", store_tokens=BLOCK * 4000)
    found = {
        arm.name: simulate(work, ENGINE, arm, SHRINK, workers=4)
        for arm in (Arm("none"), Arm("migrate", handover="migrate"), Arm("replay", handover="replay"), store)
    }
    never = simulate(work, ENGINE, Arm("never"), [], workers=4)
    assert hits(found["none"]) < hits(found["migrate"])
    assert hits(found["none"]) < hits(found["replay"])
    assert hits(found["migrate"]) == pytest.approx(hits(never), rel=0.02)
    assert hits(found["store"]) >= hits(never)
    for departure in found["store"].departures:
        assert departure.moved_tokens == departure.hot_tokens > 0, "it leaves when all of it is written"
    for departure in found["migrate"].departures:
        assert 0 < departure.moved_tokens <= departure.hot_tokens
    for run in found.values():
        conserved(run, PROFILE.kv_tokens // BLOCK)


def test_survivors_that_evict_get_only_what_is_young() -> None:
    work = conversations()
    arm = Arm("migrate", handover="migrate")
    roomy, full = (simulate(work, engine, arm, SHRINK, workers=4).departures for engine in (ENGINE, small(30)))
    shares = [sum(d.moved_tokens for d in of) / sum(d.hot_tokens for d in of) for of in (roomy, full)]
    assert shares[0] > 0.8, "but for what others have as well"
    assert 0.0 < shares[1] < 0.6, "most of it was used before the time that there is room for"


def test_the_age_of_what_leaves_is_a_mean_that_fades_as_the_agent_has_it() -> None:
    work = work_of((0.0, 4 * BLOCK, 1, [1, 2, 3, 4]))
    small = machine(work, ENGINE, Arm("small"))._replace(blocks=2)
    state = fresh_state(work, 1, 1, 1)
    insert(small, state, 0, 0, 0.0)
    insert(small, state, 0, 1, 10.0)
    assert evicted_after(state, 0, 99.0) is None, "there was room for both"
    insert(small, state, 0, 2, 100.0)
    assert evicted_after(state, 0, 100.0) == 100.0
    insert(small, state, 0, 3, 100.0)
    agents_blocks = BLOCK // 16
    assert evicted_after(state, 0, 100.0) == pytest.approx(100.0 - 10.0 * agents_blocks / (agents_blocks + MEAN_BLOCKS))
    assert evicted_after(state, 0, 101.0 + HOT_S) is None, "that was long ago"
    forget(state, 0)
    assert evicted_after(state, 0, 100.0) is None, "another worker is in its place"


def test_the_simulated_planner_is_told_after_how_long_workers_evict() -> None:
    state = fresh_state(work_of((0.0, 1024, 1, [1])), 4, 1, 1)
    state.phase[:] = SERVING
    state.evicted_at[:], state.evicted_age[:] = 100.0, (60.0, 400.0, 500.0, 400.0)
    hot, since = np.array([900, 100, 200, 300]), dict.fromkeys(range(4), 0.0)
    for handover in ("migrate", "replay", "store"):
        assert Planner(handover).leaving(state, range(4), since, hot, 3, 100.0) == [0], "it cannot keep what it has"
    assert Planner("migrate").leaving(state, range(4), since, hot, 3, 101.0 + HOT_S) == [1], "that was long ago"
    assert Planner("none").leaving(state, range(4), since, hot, 3, 100.0) == [1], "all that it has would be lost"


def test_a_narrow_link_hands_over_less() -> None:
    work = conversations()
    narrow = Arm("narrow", handover="migrate", link_gbit=0.05, deadline_s=10.0)
    moved = [
        sum(d.moved_tokens for d in simulate(work, ENGINE, arm, SHRINK, workers=4).departures)
        for arm in (narrow, Arm("wide", handover="migrate"))
    ]
    assert moved[0] < moved[1]


def test_the_same_input_gives_the_same_run() -> None:
    work = conversations()
    a, b = (simulate(work, ENGINE, Arm("migrate", handover="migrate"), SHRINK, workers=4).state for _ in range(2))
    for name in State._fields:
        assert np.array_equal(getattr(a, name), getattr(b, name), equal_nan=getattr(a, name).dtype.kind == "f"), name


def test_prefix_aware_routing_hits_more_than_routing_that_is_blind() -> None:
    work = conversations()
    aware, blind = (simulate(work, ENGINE, Arm(r, routing=r), [], workers=4) for r in ("cache_aware", "round_robin"))
    assert hits(aware) > 1.2 * hits(blind)
    assert blind.state.routed[:4].tolist() == [48, 48, 48, 48]


def test_a_trial_compares_with_fleets_that_never_scale() -> None:
    work = conversations(users=12, turns=40)
    pattern = Pattern("halved", 4, 300.0, 120.0)
    found = {one.arm: one for one in trial(work, ENGINE, pattern, 1)}
    assert found["never"].retained == 1.0
    assert found["never+store"].retained == 1.0
    assert found["store"].retained is not None
    assert found["store"].retained >= 0.99
    assert found["naive"].excess_s > found["migrate"].excess_s
    assert all(one.lost == 0 for one in found.values())
    later = trial(work, ENGINE, pattern, 1, arms=[Arm("migrate", handover="migrate")], known=list(found.values()))
    assert [one.arm for one in later] == ["migrate"], "the fleet that never scales is known"
    assert later[0].retained == pytest.approx(found["migrate"].retained)
    assert later[0].excess_s == found["migrate"].excess_s
    with pytest.raises(ValueError, match="different routers"):
        trial(work, ENGINE, pattern, 1, arms=(Arm("a"), Arm("b", routing="round_robin")))
    with pytest.raises(ValueError, match="too short"):
        trial(conversations(turns=2), ENGINE, HALVED, 1)


def test_windows_are_the_two_minutes_after_a_scale_down() -> None:
    work = work_of(*[(float(i) * 60.0, 600, 1, [i]) for i in range(8)])
    run = simulate(work, ENGINE, Arm("plain"), [], workers=1)
    assert in_windows(run, np.array([60.0, 300.0])).tolist() == [False, True, True, False, False, True, True, False]


def test_patterns_and_intervals() -> None:
    assert HALVED.schedule(1500.0) == [(600.0, 4), (900.0, 8), (1200.0, 4), (1500.0, 8)]
    assert TWO_OF_EIGHT.schedule(850.0) == [(600.0, 6), (660.0, 8), (720.0, 6), (780.0, 8)]
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert math.isnan(interval([1.0])[1])


def test_concurrency_is_what_a_cache_holds() -> None:
    work = work_of((0.0, 1000, 24, [1]))
    assert concurrency(work, small(10)) == 5
    assert concurrency(work, small(1)) == 1
    assert concurrency(work, small(100_000)) == 256


def test_workloads_that_cannot_be_packed_are_refused() -> None:
    one = np.array([0.0]), np.array([10]), np.array([1])
    with pytest.raises(TraceError, match="no common clock"):
        pack(RequestTrace("x", *one, session=("a",), hash_ids=None), block_tokens=64)


def test_host_memory_gives_back_what_the_cache_had_to_drop() -> None:
    # Room for 5 blocks: the second prompt pushes the first one's end out, host memory still has it.
    work = work_of((0.0, 1536, 1, [1, 2, 3]), (60.0, 1024, 1, [7, 8]), (120.0, 1536, 1, [1, 2, 3]))
    run = simulate(work, small(5), Arm("host", host_tokens=8 * BLOCK), [], workers=1)
    assert (run.state.hit[2], run.state.loaded[2]) == (1024, 511)
    seconds = machine(work, small(5), Arm("x")).block_bytes / (ENGINE.host_gbyte_s * 1e9)
    one_token = step_ms(PROFILE, 0, 0, [(1, 1535)]) / 1e3
    assert run.state.first_token[2] - 120.0 == pytest.approx(seconds + one_token, rel=1e-6)
    conserved(run, 5)
    assert int(run.state.host_used[0]) == int(run.state.hosted[0].sum()) == 5


def test_host_memory_is_bounded_and_keeps_what_was_used_last() -> None:
    work = work_of(
        (0.0, 1536, 1, [1, 2, 3]), (60.0, 1024, 1, [7, 8]), (120.0, 1024, 1, [11, 12]), (180.0, 1536, 1, [1, 2, 3])
    )
    run = simulate(work, small(4), Arm("host", host_tokens=4 * BLOCK), [], workers=1)
    assert run.state.hit[3] + run.state.loaded[3] == 0
    assert int(run.state.host_used[0]) == 4
    conserved(run, 4)


def test_what_lies_in_host_memory_is_migrated_too_and_lost_without() -> None:
    work, engine = conversations(users=40, turns=12), small(120)
    hosted = {
        name: simulate(work, engine, Arm(name, handover=name, host_tokens=4000 * BLOCK), SHRINK, workers=4)
        for name in ("none", "migrate")
    }
    never = simulate(work, engine, Arm("never", host_tokens=4000 * BLOCK), [], workers=4)
    assert hits(hosted["none"]) < hits(hosted["migrate"]) <= hits(never)
    assert hits(hosted["migrate"]) >= 0.97 * hits(never)
    for run in hosted.values():
        conserved(run, 120)
        assert (run.state.host_used == run.state.hosted.sum(axis=1)).all()


def test_ties_go_around_or_always_to_the_same_worker() -> None:
    work = work_of(*[(float(i) * 60.0, 600, 1, [i]) for i in range(8)])
    even, one = (simulate(work, ENGINE, Arm("x", even=e), [], workers=4).state.routed[:4] for e in (True, False))
    assert even.tolist() == [2, 2, 2, 2]
    assert one.tolist() == [8, 0, 0, 0]


def test_the_pieces_around_scale_downs_are_those_of_the_run() -> None:
    work = work_of(*[(float(i) * 60.0, 600, 1, [i // 2]) for i in range(20)])
    run = simulate(work, ENGINE, Arm("plain"), [], workers=1)
    found = together([around(run, [300.0])])
    assert found["at"][0] == -50.0
    asked = {at: rate for at, rate in zip(found["at"], found["hit_rate"], strict=True) if rate is not None}
    assert list(asked) == [-50.0 + 60.0 * i for i in range(10)]
    assert asked[10.0] == pytest.approx(512 / 600)
    assert asked[-50.0] == 0.0


def test_requests_again_and_again_are_the_same_ones_later() -> None:
    work = repeated(conversations(users=2, turns=2), 3)
    assert len(work.arrival_s) == 12
    assert (np.diff(work.arrival_s) >= 0).all()
    run = simulate(work, ENGINE, Arm("plain"), [], workers=1)
    assert run.state.hit[:4].sum() < run.state.hit[4:8].sum() == run.state.hit[8:12].sum()


def test_it_agrees_with_the_engine_of_the_local_cluster() -> None:
    """The same requests, token by token, through the scheduler that the simulated engine serves with."""
    rng = np.random.default_rng(7)
    arrivals = np.sort(rng.uniform(0.0, 20.0, size=60))
    rows = [(float(at), int(rng.integers(100, 6000)), int(rng.integers(2, 200)), []) for at in arrivals]
    work = work_of(*rows)
    run = simulate(work, ENGINE, Arm("plain"), [], workers=1)
    limits = Limits(max_num_seqs=ENGINE.max_num_seqs, max_num_batched_tokens=ENGINE.max_num_batched_tokens)
    pool = BlockPool(PROFILE.kv_tokens // 16, 16, caching=True)
    scheduler = Scheduler(PROFILE, pool, limits, Statistics(32768), 0.0)
    served = []
    for i, (at, inputs, outputs, _) in enumerate(rows):
        scheduler.advance(at)
        served.append(Request([i * 10_000 + n for n in range(inputs)], outputs, at))
        scheduler.add(served[-1])
    scheduler.advance(600.0)
    st, start = run.state, work.arrival_s[0] - rows[0][0]
    theirs = np.array([r.last_token_at - r.arrived for r in served])
    mine = (st.finish - st.arrival)[: run.users] + run.overhead_s
    assert start == -rows[0][0]
    assert np.all(np.abs(mine - theirs) <= 0.02 * theirs + 0.05), np.abs(mine / theirs - 1.0).max()


def test_it_is_about_as_far_from_measured_points_as_the_step_time_model(data_dir: Path) -> None:
    """Batches of equal requests: TPOT against measurements of vLLM (Llama-3.1-70B FP8 on H100, InferenceX)."""
    with (data_dir / "perf" / "measured_points.csv").open(encoding="utf-8") as file:
        of = ("Llama-3.1-70B", "fp8", "H100-SXM", "False")
        keys = ("model", "precision", "gpu", "excluded_from_score")
        points = [row for row in csv.DictReader(file) if tuple(row[key] for key in keys) == of]
    assert len(points) > 20
    errors = []
    for row in points:
        batch, inputs, outputs = (int(row[key]) for key in ("concurrency", "isl", "osl"))
        engine = Engine(lookup("llama-3.1-70b", "fp8", "H100-SXM", int(row["tp"])))
        work = work_of(*[(0.0, inputs, outputs, []) for _ in range(batch)])
        st = simulate(work, engine, Arm("x"), [], workers=1).state
        tpot = float(np.mean((st.finish - st.first_token)[:batch])) / (outputs - 1) * 1e3
        errors.append(abs(tpot / float(row["tpot_ms"]) - 1.0))
    assert float(np.median(errors)) < 0.15, errors
