"""Fit: memory, cache and rate of a worker; what is refused, and what is named instead; what fields do to capacity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from planning_specs import deployment, itype, spec, variant
from planning_world import world
from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.engineversion import engine_problems, engine_version
from warmfleet_contracts.perfmodel import Trust, Workload, lookup
from warmfleet_contracts.quantized import weight_bytes
from warmfleet_contracts.reasons import Reason
from warmfleet_operator.planning import capacity, modelled
from warmfleet_operator.planning.fit import Fit, best, fit, tried
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import InstanceTypeRecord

WORK = Workload(1000, 250)
TYPES = {
    "l4": itype("l4", "L4", count=1, price=0.8),
    "h100": itype("h100", "H100-SXM", count=8, price=55.0),
    "h200": itype("h200", "H200-SXM", count=8, price=63.0),
}


def model(name: str = "llama-3.1-8b", **changes: Any) -> dict[str, Any]:
    return {"name": name, "source": {"hf": {"repo": "x/y"}}, **changes}


def asked(name: str = "llama-3.1-8b", engine: dict[str, Any] | None = None, **changes: Any) -> LLMDeploymentSpec:
    image = {"image": "vllm/vllm-openai:v0.32.0", **(engine or {})}
    parts = {key: changes.pop(key) for key in ("kvCache", "slo", "variants") if key in changes}
    return spec(model=model(name, **changes), engine=image, **parts)


def on(record: InstanceTypeRecord, body: LLMDeploymentSpec, tensor_parallel: int = 1) -> Fit:
    assert record.spec is not None
    found = {f.tensor_parallel: f for f in tried(body, record.name, record.spec, WORK)}
    return found[tensor_parallel]


def test_memory_cache_rate_and_price_of_a_worker() -> None:
    found = on(TYPES["h100"], asked(maxModelLen=16384))
    row = lookup("llama-3.1-8b", "bf16", "H100-SXM", 1)
    assert row is not None
    assert (found.weight_bytes, found.kv_tokens, found.problem) == (row.weight_bytes, row.kv_tokens, "")
    assert found.serves
    assert found.rate is not None
    assert found.dollars_per_million == pytest.approx(55.0 / 8 / (3600 * found.rate * 1250) * 1e6)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (asked("llama-3.1-70b"), "weights of llama-3.1-70b in bf16 (141 GB) do not fit 1 x L4"),
        (asked(maxModelLen=131_072), "maxModelLen 131072 is more than the 9056 tokens"),
        (asked(maxModelLen=131_072, kvCache={"dtype": "fp8"}), "more than the 18112 tokens"),
    ],
)
def test_what_does_not_fit_says_why(body: LLMDeploymentSpec, words: str) -> None:
    found = on(TYPES["l4"], body)
    assert words in found.problem
    assert (found.serves, found.rate, found.dollars_per_million) == (False, None, None)


@pytest.mark.parametrize(
    ("memory", "accelerators", "fits"),
    [("64Gi", 1, False), ("65Gi", 1, True), ("33Gi", 2, True), ("68G", 1, False), ("69G", 1, True), (None, 1, True)],
)
def test_a_tier_in_host_memory_must_fit_the_share_of_the_node(
    memory: str | None, accelerators: int, *, fits: bool
) -> None:
    record = TYPES["h100"]
    assert record.spec is not None
    resources = record.spec.resources.model_copy(update={"memory": memory})
    roomy = replace(record, spec=record.spec.model_copy(update={"resources": resources}))
    found = on(roomy, asked(kvCache={"tiers": [{"medium": "cpu", "size": "64Gi"}]}), accelerators)
    assert ("the cpu tier of kvCache (64Gi) does not fit" in found.problem) is not fits
    assert on(roomy, asked(), accelerators).problem == "", "without a tier nobody asks"


def test_a_refused_variant_names_what_would_fit_cheapest_token_first() -> None:
    body = asked("llama-3.1-70b", maxModelLen=8192, variants=[variant("a", "l4", rps=None)])
    made, _ = plan(world([], record=deployment(body), types=list(TYPES.values())), PlannerMemory(), 10_000.0)
    (one,) = made.deployments.values()
    (problem,) = one.problems
    assert (problem.reason, problem.stalled) == (Reason.VARIANT_CANNOT_FIT, True)
    one_type = {n: best(tried(body, n, r.spec, WORK)) for n, r in TYPES.items() if r.spec is not None}
    assert one_type["l4"] is None
    served = sorted((f.dollars_per_million or 0.0, f.label) for f in one_type.values() if f is not None)
    assert problem.message.endswith("; what would fit: " + ", ".join(label for _, label in served))
    assert on(TYPES["l4"], body).problem in problem.message, "the command and the operator use the same words"


def test_nothing_that_there_is_would_fit() -> None:
    types = {"l4": TYPES["l4"]}
    body = asked("llama-3.1-70b", variants=[variant("a", "l4", rps=None)])
    _, problems = capacity.survey(body, types, WORK, needs_rates=True)
    assert problems[0].message.endswith("; no InstanceType that there is would fit")


@pytest.mark.parametrize(("name", "published"), [("llama-3.1-8b", 5.7e9), ("llama-3.1-70b", 39.8e9)])
def test_four_bit_weights_are_as_large_as_published_checkpoints(name: str, published: float) -> None:
    full = modelled.weights(name, "bf16")
    assert full is not None
    assert weight_bytes(name, "w4a16", full) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("quantization", [{"quantization": "awq"}, {"quantization": "gptq", "scheme": "w8a16"}])
def test_quantized_weights_leave_room_and_are_read_faster_but_are_not_trusted(quantization: dict[str, str]) -> None:
    quick = {"tpot": "8ms"}  # a small batch, whose steps wait for the weights
    plain, small = (on(TYPES["h100"], asked(maxModelLen=8192, slo=quick, **q)) for q in ({}, quantization))
    assert plain.kv_tokens is not None
    assert small.kv_tokens is not None
    assert plain.rate is not None
    assert small.rate is not None
    assert small.kv_tokens > plain.kv_tokens
    assert small.rate > plain.rate
    assert small.trust == Trust.LOW


def test_a_sparse_checkpoint_is_smaller_where_an_engine_runs_it() -> None:
    of = {"quantization": "compressed-tensors", "scheme": "w8a8-fp8", "maxModelLen": 8192}
    dense, sparse = (on(TYPES["h100"], asked(**of, **more)) for more in ({}, {"sparsity": "2:4"}))
    assert dense.weight_bytes is not None
    assert sparse.weight_bytes is not None
    assert dense.kv_tokens is not None
    assert sparse.kv_tokens is not None
    assert 0.5 * dense.weight_bytes < sparse.weight_bytes < 0.8 * dense.weight_bytes
    assert sparse.kv_tokens > dense.kv_tokens
    assert sparse.trust == Trust.LOW
    assert engine_problems(asked(**of, sparsity="2:4", engine={"version": "0.18.1"})) == ()


def test_a_checkpoint_of_unknown_scheme_is_not_guessed() -> None:
    body = asked(quantization="compressed-tensors", variants=[variant("a", rps=None)])
    _, (problem,) = capacity.survey(body, TYPES, WORK, needs_rates=True)
    assert problem.reason is Reason.NO_PERFORMANCE_DATA
    assert "compressed-tensors without model.scheme" in problem.message
    assert not on(TYPES["h100"], body).known
    assert on(TYPES["h100"], asked(quantization="compressed-tensors", scheme="w8a8-fp8")).trust == "high"


def test_fields_of_the_engine_are_known_to_capacity() -> None:
    def rate(ratio: float = 0.0, **engine: Any) -> float:
        body = asked(engine=engine, variants=[variant("a", rps=None)])
        return capacity.rates(body, TYPES, WORK._replace(hit_ratio=ratio))["a"]

    assert rate(maxNumSeqs=16) == rate(args=["--max-num-seqs", "16"]) < rate()
    assert rate(0.8, prefixCaching=False) == rate() < rate(0.8)
    long = Workload(30_000, 250)
    one_step = modelled.within_slo
    row = lookup("llama-3.1-8b", "bf16", "H100-SXM", 1)
    assert row is not None
    chunked, whole = (one_step(row, 1, long, 9.0, 0.05, modelled.Limits(256, n))[0].ttft_ms for n in (2048, 1 << 24))
    assert whole < chunked
    assert modelled.limits(asked(engine={"chunkedPrefill": False})).step_tokens > 1_000_000
    assert modelled.limits(asked(engine={"maxNumBatchedTokens": 2048})).step_tokens == 2048


@pytest.mark.parametrize(
    ("image", "version", "found"),
    [
        ("vllm/vllm-openai:v0.32.0", None, (0, 32)),
        ("reg.example:5000/vllm:0.18.1-cu128", None, (0, 18)),
        ("reg.example:5000/vllm", None, None),
        ("vllm:latest@sha256:00", None, None),
        ("mine:42", "v0.23.1", (0, 23)),
    ],
)
def test_the_version_is_declared_or_the_tag(image: str, version: str | None, found: tuple[int, int] | None) -> None:
    engine = {"image": image} | ({"version": version} if version else {})
    assert engine_version(asked(engine=engine)) == found


@pytest.mark.parametrize(
    ("version", "changes", "words"),
    [
        ("0.17.0", {}, "--shutdown-timeout) needs vLLM 0.18 or newer"),
        ("0.24.0", {"engine": {"maxQueuedRequests": 9}}, "engine.maxQueuedRequests needs vLLM 0.29"),
        (
            "0.32.0",
            {"quantization": "compressed-tensors", "scheme": "w8a8-fp8", "sparsity": "2:4"},
            "sparsity 2:4 was removed from vLLM in 0.19",
        ),
        (
            "0.22.0",
            {
                "kvCache": {
                    "tiers": [{"medium": "cpu", "size": "1Gi"}, {"medium": "fs", "size": "1Gi", "claimName": "c"}]
                }
            },
            "kvCache.tiers with an fs tier needs vLLM 0.23",
        ),
        ("0.31.0", {"kvCache": {"handover": ["migrate"]}}, "kvCache.handover: migrate needs vLLM 0.32"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(version: str, changes: dict[str, Any], words: str) -> None:
    engine = {"version": version, **changes.pop("engine", {})}
    body = asked(engine=engine, variants=[variant("a")], **changes)
    offers, problems = capacity.survey(body, TYPES, WORK, needs_rates=True)
    assert not offers[0].buy
    assert (problems[0].reason, problems[0].stalled) == (Reason.ENGINE_UNSUITABLE, True)
    assert words in problems[0].message
    assert engine_problems(asked(engine={"image": "mine:latest"})) == ()


def test_a_given_rate_is_believed_and_its_cache_too() -> None:
    body = asked(maxModelLen=8192, variants=[variant("a", performance={"requestsPerSecond": 3, "kvCacheTokens": 4096})])
    record = TYPES["h100"]
    assert record.spec is not None
    found = fit(body, body.variants[0], "h100", record.spec, WORK)
    assert "more than the 4096 tokens" in found.problem
