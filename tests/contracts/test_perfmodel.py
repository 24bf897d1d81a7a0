"""The performance model against measurements, the derived capacity table, and its own laws."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warmfleet_contracts.perfmodel import (
    Limit,
    Trust,
    Workload,
    capacity,
    lookup,
    operating_point,
    profiles,
    resolve_profile_name,
    step_ms,
)

_ALL = sorted(profiles().values(), key=lambda p: p.name)
_SHAPES = {
    "chat": (Workload(1020, 210), 0.050),
    "chat25": (Workload(1020, 210), 0.025),
    "code": (Workload(1930, 30), 0.100),
    "long": (Workload(8192, 512), 0.050),
}


def _rows(data_dir: Path, name: str) -> list[dict[str, str]]:
    with (data_dir / "perf" / name).open() as file:
        return list(csv.DictReader(file))


def _measured_ratios(data_dir: Path) -> dict[tuple[str, str, str], list[float]]:
    ratios = defaultdict(list)
    for row in _rows(data_dir, "measured_points.csv"):
        dtype = {"fp4": "mxfp4"}.get(row["precision"], row["precision"])
        profile = lookup(row["model"], dtype, row["gpu"], int(row["tp"]))
        if profile is None or row["excluded_from_score"] == "True":
            continue
        work = Workload(float(row["isl"]), float(row["osl"]))
        tpot = operating_point(profile, work, int(row["concurrency"])).tpot_ms
        ratios[profile.model, dtype, profile.accelerator].append(tpot / float(row["tpot_ms"]) - 1)
    return ratios


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (("llama-3.1-70b", "fp8", "H100-SXM"), 0.055),
        (("llama-3.1-70b", "fp8", "H200-SXM"), 0.055),
        (("gpt-oss-120b", "mxfp4", "H100-SXM"), 0.075),
        (("gpt-oss-120b", "mxfp4", "H200-SXM"), 0.04),
        (("qwen3-32b", "bf16", "H100-SXM"), 0.15),
    ],
)
def test_tpot_is_as_close_to_measurements_as_stated(row: tuple[str, str, str], error: float, data_dir: Path) -> None:
    errors = _measured_ratios(data_dir)[row]
    assert len(errors) > 30
    assert sum(map(abs, errors)) / len(errors) < error


@pytest.mark.parametrize("model", [("llama-3.1-70b", "fp8"), ("gpt-oss-120b", "mxfp4")])
def test_correction_takes_the_bias_off_b200(model: tuple[str, str], data_dir: Path) -> None:
    assert abs(median(_measured_ratios(data_dir)[*model, "B200-SXM"])) < 0.03


@pytest.mark.parametrize("name", _SHAPES)
def test_capacity_agrees_with_the_derived_table(name: str, data_dir: Path) -> None:
    workload, tpot_s = _SHAPES[name]
    seen = 0
    for row in _rows(data_dir, "capacity.csv"):
        profile = lookup(row["model"], row["dtype"], row["gpu"], int(row["tp"]))
        assert profile is not None
        if profile.accelerator == "B200-SXM":  # the table is without the correction
            continue
        # for some rows the table was made with a larger KV cache than the coefficients' file states
        profile = replace(profile, kv_tokens=int(row["kv_tokens"]))
        found = capacity(profile, workload, ttft_s=1e6, tpot_s=tpot_s)
        table = float(row[f"{name}_rps"] or 0)
        if not table:
            assert found.requests_per_second == 0, profile.name
            continue
        seen += 1
        at_table = operating_point(profile, workload, int(row[f"{name}_batch"]))
        assert at_table.requests_per_second == pytest.approx(table, rel=2e-3), profile.name
        assert at_table.tpot_ms == pytest.approx(float(row[f"{name}_tpot_ms"]), rel=2e-3)
        # the table's batches lie on a coarse grid, ours are exact
        assert found.batch >= at_table.batch
        assert found.requests_per_second >= table * 0.995
    assert seen > 100


def test_every_row_is_there_and_doubtful_rows_say_so() -> None:
    assert len(_ALL) == 216
    assert all(
        p.trust is Trust.LOW for p in _ALL if p.accelerator in {"L40S", "RTX-PRO-6000"} and p.tensor_parallel >= 4
    )
    assert {p.trust for p in _ALL} == set(Trust)


@given(
    st.sampled_from(_ALL),
    st.builds(Workload, st.integers(1, 16_000), st.integers(1, 2000), st.floats(0, 1)),
    st.floats(0.05, 10),
    st.floats(0.005, 0.2),
)
def test_capacity_is_the_largest_batch_within_objectives(profile, workload, ttft_s, tpot_s) -> None:
    found = capacity(profile, workload, ttft_s=ttft_s, tpot_s=tpot_s)
    if found.batch:
        assert found.requests_per_second > 0
        assert found.tpot_ms <= tpot_s * 1000
        assert found.ttft_ms <= ttft_s * 1000
        assert found.batch * (workload.input_tokens + workload.output_tokens) <= profile.kv_tokens
    else:
        assert found.requests_per_second == 0
    one_more = operating_point(profile, workload, found.batch + 1)
    broken = {
        Limit.TPOT: one_more.tpot_ms > tpot_s * 1000,
        Limit.TTFT: one_more.ttft_ms > ttft_s * 1000,
        Limit.KV_TOKENS: one_more.batch * (workload.input_tokens + workload.output_tokens) > profile.kv_tokens,
        Limit.MAX_NUM_SEQS: one_more.batch > 256,
    }
    assert broken[found.limited_by]


def test_cache_hits_raise_capacity_and_a_tight_ttft_lowers_it() -> None:
    profile = lookup("meta-llama/Llama-3.1-8B-Instruct", "bf16", "H100-SXM", 1)
    assert profile is not None
    cold = capacity(profile, Workload(4000, 100), ttft_s=2, tpot_s=0.05)
    warm = capacity(profile, Workload(4000, 100, 0.8), ttft_s=2, tpot_s=0.05)
    assert warm.requests_per_second > 1.5 * cold.requests_per_second
    assert capacity(profile, Workload(4000, 100), ttft_s=0.01, tpot_s=0.05).limited_by is Limit.TTFT
    small = replace(profile, kv_tokens=4000)
    assert capacity(small, Workload(4000, 100), ttft_s=2, tpot_s=0.05).limited_by is Limit.KV_TOKENS


def test_step_time_counts_each_part() -> None:
    profile = lookup("gpt-oss-120b", "mxfp4", "H100-SXM", 1)
    assert profile is not None
    base = step_ms(profile, 1, 0)
    assert step_ms(profile, 1, 10_000) - base == pytest.approx(profile.c_ms * 10_000)
    experts = step_ms(profile, 64, 0) - base
    assert experts > profile.a1_ms * 63  # more tokens touch more experts
    deep = step_ms(profile, 0, 0, [(1000, 5000)]) - step_ms(profile, 0, 0, [(1000, 0)])
    assert deep == pytest.approx(profile.p2_ms * 1000 * 5000)


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3-8B", "llama-3.1-8b"),
        ("RedHatAI/Meta-Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b"),
        ("/models/Llama-3.3-70B-Instruct/", "llama-3.1-70b"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("llama-3.1-8b", "llama-3.1-8b"),
        ("openai/gpt-oss-20b", None),
        ("Qwen/Qwen3-8B", None),
        ("", None),
    ],
)
def test_model_names_resolve_to_profiles(name: str, profile: str | None) -> None:
    assert resolve_profile_name(name) == profile


@pytest.mark.parametrize("workload", [Workload(0, 1), Workload(1, 0), Workload(1, 1, 1.1), Workload(float("nan"), 1)])
def test_impossible_workloads_are_refused(workload: Workload) -> None:
    with pytest.raises(ValueError, match="workload"):
        capacity(_ALL[0], workload, ttft_s=1, tpot_s=1)
