"""Single steps of the planner."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace

import pytest
from planning_specs import itype, spec
from planning_world import START, traffic
from warmfleet_contracts.perfmodel import Workload
from warmfleet_operator.planning import capacity, demand, limits, startup
from warmfleet_operator.planning.demand import Grade
from warmfleet_operator.state import checkpoint
from warmfleet_operator.state.memory import DeploymentMemory, FailedStarts, LearnedRate, evolve

EMPTY = DeploymentMemory("u")


def _observe(memory: DeploymentMemory = EMPTY, now: float = START, **changes: object) -> demand.Traffic:
    return demand.observe(traffic(**changes), memory, routed=True, catch_up=100.0, now=now)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, -1.0, math.inf, None])
def test_arrivals_that_make_no_sense_are_no_data(value: float | None) -> None:
    seen = _observe(arrivals=value)
    assert (seen.grade, seen.rate) == (Grade.MISSING, None)


def test_a_queue_without_arrivals_is_a_lower_bound() -> None:
    seen = _observe(arrivals=None, queue=500)
    assert (seen.grade, seen.rate) == (Grade.PARTIAL, 5.0)


def test_token_means_follow_slowly_and_noise_changes_nothing() -> None:
    memory, seen = EMPTY, set()
    for i in range(200):
        sample = traffic(10.0, at=START + 5 * i, input_tokens=1000.0 * (1.2 if i % 2 else 0.8))
        found, memory = demand.observe(sample, memory, routed=True, catch_up=60.0, now=START + 5 * i)
        seen.add(found.workload)
    assert len(seen) <= 3, "from the first sample to the mean, and no further"
    assert found.workload.input_tokens == pytest.approx(1000, rel=0.1)


def test_the_same_window_counts_once() -> None:
    _, memory = demand.observe(traffic(1.0), EMPTY, routed=True, catch_up=60.0, now=START)
    _, again = demand.observe(traffic(1.0, input_tokens=9000.0), memory, routed=True, catch_up=60.0, now=START + 5)
    assert again == memory


def test_hits_of_leaving_workers_are_written_off() -> None:
    work = Workload(1000, 200, 0.6)
    assert demand.remaining_hits(work, 4, 1).hit_ratio == 0.45
    assert demand.remaining_hits(work, 1, 1).hit_ratio == 0.0


def test_a_measured_start_up_time_replaces_the_prior() -> None:
    kind = itype(startup=60.0)
    few = replace(kind, status={"startup": {"p50": "1m", "p90": "2m", "samples": 4}})
    many = replace(kind, status={"startup": {"p50": "1m", "p90": "2m", "samples": 5}})
    odd = replace(kind, status={"startup": {"p50": "1s", "p90": "soon", "samples": 5}})
    assert [startup.startup_lead(k) for k in (kind, few, many, odd, None)] == [60, 60, 120, 60, 300]


def test_the_engine_s_batch_limit_is_read_from_its_flags() -> None:
    kinds = {"h100": itype()}
    work = Workload(1020, 210)
    base = {"variants": [{"name": "a", "instanceType": "h100"}]}

    def rate(*args: str) -> float:
        engine = {"image": "x", "args": list(args)}
        return capacity.rates(spec(engine=engine, **base), kinds, work)["a"]

    assert rate("--max-num-seqs", "16") == rate("--max-num-seqs=16") < rate("--max-num-seqs=x") == rate()


def test_only_what_can_still_be_the_largest_is_remembered() -> None:
    wants: tuple[tuple[float, int], ...] = ()
    for i, want in enumerate((3, 5, 4, 4, 2)):
        wants = limits.remember_want(wants, want, float(i), 100.0)
    assert wants == ((1.0, 5), (3.0, 4), (4.0, 2))
    assert limits.stabilised(limits.remember_want(wants, 1, 102.0, 100.0)) == 4


def test_long_memory_is_thinned_towards_the_higher_count() -> None:
    wants: tuple[tuple[float, int], ...] = ()
    for i in range(500):
        wants = limits.remember_want(wants, 1000 - i, float(i), 1e6)
    assert len(wants) <= 64
    assert limits.stabilised(wants) == 1000
    assert [c for _, c in wants] == sorted((c for _, c in wants), reverse=True)


@pytest.mark.parametrize("jump", [-5000.0, 5000.0])
def test_unobserved_time_does_not_count(jump: float) -> None:
    memory = DeploymentMemory("u", wants=((START - 100, 7),), low_since=START - 90, at=START)
    moved = limits.rebase(memory, START + jump)
    passed = limits.MAX_GAP if jump > 0 else 0.0
    assert moved.wants == ((START + jump - 100 - passed, 7),)
    assert moved.at == START + jump


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (None, "object"),
        ({"version": 2}, "version"),
        ({"uid": 7}, "uid"),
        ({"wants": [[1, "x"]]}, "wants"),
        ({"wants": 3}, "wants"),
        ({"steps": [[float("nan"), 1]]}, "steps"),
        ({"desired": {"a": -1}}, "desired"),
        ({"means": [1, 2]}, "means"),
        ({"planned": [1, 2, 7]}, "planned"),
        ({"avoid": {"a": "b"}}, "avoid"),
        ({"panic": True}, "panic"),
        ({"failures": {"a": 3}}, "failures"),
        ({"failures": {"a": [1, 2, {"u": "x"}]}}, "failures"),
        ({"learned": {"a": [9, 1, 1, 1]}}, "learned"),
        ({"learned": {"a": [0, 7, 1, 1]}}, "learned"),
        ({"startups": {"a": [[1, -5]]}}, "startups"),
        ({"startups": {"a": [[float("inf"), 5]]}}, "startups"),
        ({"silentSince": "x"}, "silentSince"),
    ],
)
def test_a_corrupt_checkpoint_is_refused_by_name(change: dict[str, object] | None, field: str) -> None:
    data = checkpoint.dump(EMPTY, START) | change if change is not None else "junk"
    with pytest.raises(checkpoint.CheckpointError, match=field):
        checkpoint.load(data, 0.0)


def test_the_largest_checkpoint_stays_below_16_kb() -> None:
    names = {f"12345678-1234-1234-1234-{i:012d}": START - i for i in range(100)}
    memory = DeploymentMemory(
        "12345678-1234-1234-1234-123456789012",
        desired={f"{'v' * 60}{i}": 10_000 for i in range(16)},
        wants=tuple((START - i / 3, 10_000 - i) for i in range(64)),
        steps=tuple(START - i for i in range(2000)),
        panic_until=START + 60,
        planned=(1000.123456789, 200.123456789, 0.5),
        chosen=names,
        since=names,
        failures={"v": FailedStarts(dict(list(names.items())[:32]), 3, START)},
        learned={f"{'v' * 60}{i}@{'t' * 60}": LearnedRate(0.123456, 1.106, START - i, 10) for i in range(16)},
        startups={f"{'t' * 60}{i}": tuple((START - j, 123.456) for j in range(32)) for i in range(16)},
        avoid={f"{'t' * 60}{i}": START + i for i in range(16)},
    )
    assert len(json.dumps(checkpoint.dump(memory, START))) < 16384
    loaded = checkpoint.load(json.loads(json.dumps(checkpoint.dump(memory, START))), START)
    assert len(loaded.steps) == 2000
    assert loaded.wants[0][1] == 10_000


def test_a_memory_evolves_as_dataclasses_replace_would() -> None:
    before = DeploymentMemory("u", at=1.0, wants=((1.0, 2),))
    after = evolve(before, at=2.0, desired={"a": 1})
    assert after == dataclasses.replace(before, at=2.0, desired={"a": 1})
    assert (before.at, before.desired) == (1.0, {})
