"""Bytes from beyond a trust line: whatever they are, they raise nothing unforeseen, cost little, hurt no other.

Trust lines: objects of tenants (LLMDeployment, TrafficForecast, ConfigMap, pods), answers of agents and routers, an
engine's KV events, trace files, settings. Two kinds of garbage: any JSON at all, and a good body with parts replaced.
"""

from __future__ import annotations

import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from odd_values import few, odd_numbers, spoiled, values
from warmfleet_contracts import labels
from warmfleet_contracts.agent import AgentState
from warmfleet_operator.acting.conditions import View
from warmfleet_operator.acting.status import build
from warmfleet_operator.adapters.agents import NoAnswerError, _parse
from warmfleet_operator.adapters.telemetry import parse_router
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state import checkpoint
from warmfleet_operator.state.memory import DeploymentMemory, FailedStarts, LearnedRate, PlannerMemory
from warmfleet_operator.state.readings import Readings
from warmfleet_operator.state.records import Key, RouterRecord, WorkerPhase, WorkerRecord
from warmfleet_operator.state.snapshot import FleetStore, Kind
from warmfleet_runtime.clock import ManualClock
from warmfleet_worker.kv.chains import HotChains
from warmfleet_worker.kv.events import decode
from warmfleet_worker.kv.hot import HEADS, HotHeads
from warmfleet_worker.kv.index import BlockIndex
from warmfleet_worker.kv.prewarm import HotNotes

SAMPLES = Path(__file__).resolve().parents[1] / "contracts" / "samples" / "valid"


def with_identity(body: Any, **meta: Any) -> Any:
    """The same with what the API server itself sets, and no tenant can forge."""
    whole = dict(body) if isinstance(body, dict) else {"spec": body}
    old = whole.get("metadata")
    fixed = {"name": "chat", "namespace": "prod", "uid": "u", "resourceVersion": "5", "generation": 2, **meta}
    whole["metadata"] = {**(old if isinstance(old, dict) else {}), **fixed}
    return whole


GOOD = [yaml.safe_load(p.read_text(encoding="utf-8")) for p in sorted(SAMPLES.glob("*.yaml"))]
FLEETS = [b for b in GOOD if b["kind"] == "LLMDeployment"]
TYPES = [b for b in GOOD if b["kind"] == "InstanceType"]
POD = {
    "metadata": {
        "labels": {labels.COMPONENT: "worker", labels.DEPLOYMENT: "chat"},
        "annotations": {},
        "ownerReferences": [{}],
    },
    "spec": {"nodeName": "n", "containers": [{"name": "engine", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "engine", "started": True, "state": {"waiting": {"reason": "x"}}}],
    },
}
NODE = {
    "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}
FORECAST = {
    "spec": {"target": {"name": "chat"}},
    "status": {
        "issuedAt": "2026-01-01T00:00:00Z",
        "validFor": "1800s",
        "trusted": True,
        "leadWindows": {
            "probabilities": [0.5, 0.9],
            "windows": [{"lead": "60s", "residuals": [0.1, 0.2]}, {"lead": "600s", "residuals": [0.3, 0.4]}],
            "shape": [1.0, 2.0],
            "peak": 10.0,
            "floor": 0.1,
        },
    },
}
BODIES = {
    Kind.DEPLOYMENT: FLEETS,
    Kind.INSTANCE_TYPE: TYPES,
    Kind.FORECAST: [FORECAST],
    Kind.POD: [POD],
    Kind.NODE: [NODE],
    Kind.NAMESPACE: [{"status": {"phase": "Active"}}],
    Kind.PRIORITY_CLASS: [{"value": 5, "globalDefault": True}],
}


@st.composite
def watched(draw: st.DrawFn) -> tuple[Kind, Any]:
    kind = draw(st.sampled_from(list(BODIES)))
    body = draw(spoiled(BODIES[kind]) | values)
    # The API server stamps name, UID and versions; the rest is the tenant's.
    return kind, with_identity(body, name="chat" if kind is not Kind.INSTANCE_TYPE else "h100")


def neighbour(store: FleetStore) -> None:
    """A fleet of somebody else, which must get its workers whatever happens beside it."""
    itype = copy.deepcopy(TYPES[0])
    itype["spec"].pop("limit", None)
    store.observe(Kind.INSTANCE_TYPE, with_identity(itype, name="other", namespace="", uid="t"))
    spec = copy.deepcopy(next(b for b in FLEETS if "replicas" in b["spec"]))
    spec["spec"]["replicas"] = 3
    spec["spec"]["variants"] = [{"name": "a", "instanceType": "other", "performance": {"requestsPerSecond": 1.0}}]
    store.observe(Kind.DEPLOYMENT, with_identity(spec, name="neighbour", namespace="calm", uid="n"))


BARE = with_identity(
    {"metadata": {"labels": {labels.COMPONENT: "worker", labels.DEPLOYMENT: "neighbour"}}, "status": POD["status"]},
    namespace="calm",
    name="forged",
)
"""A pod that claims to be somebody's worker and has nothing else."""


@few
@given(st.lists(watched(), max_size=5))
@example([(Kind.POD, BARE)])
def test_no_object_of_a_tenant_breaks_the_decision_or_takes_workers_from_another(
    bodies: list[tuple[Kind, Any]],
) -> None:
    clock = ManualClock(1000.0)
    store = FleetStore(clock)
    neighbour(store)
    for kind, body in bodies:
        store.observe(kind, body)
    memory = PlannerMemory()
    for _ in range(2):
        snapshot = store.snapshot()
        decided, memory = plan(snapshot, memory, clock.now())
        assert sum(v.create for v in decided.deployments[Key("calm", "neighbour")].variants) == 3
        for key, record in snapshot.deployments.items():
            mine = tuple(w for w in snapshot.workers if w.deployment_key == key)
            json.dumps(
                build(View(record, decided.deployments.get(key), mine, None, ()), snapshot.instance_types, "now")
            )
            json.dumps(checkpoint.dump(memory.deployments[key], clock.now()), allow_nan=False)
        clock.advance(5.0)


STATE = {
    "version": "v1",
    "podUid": "u",
    "phase": "Serving",
    "engine": {"ready": True, "running": 3, "waiting": 1, "kvUsage": 0.5, "readyAfterSeconds": 9.0},
    "counters": {
        "requests": 5,
        "promptTokens": 100,
        "generationTokens": 50,
        "cacheQueryTokens": 9,
        "cacheHitTokens": 3,
    },
    "latency": {"ttftCount": 5, "ttftWithinSlo": 4, "tpotCount": 5, "tpotWithinSlo": 4},
    "kv": {"heldTokens": 7, "hotTokens": 5, "sketch": "AAAAAAAAAAE="},
    "drain": {"reason": "x", "remainingSeconds": 4.0, "cancellable": True, "report": {"keptTokens": 4}},
}
WORKER = WorkerRecord(Key("prod", "w"), "u", "1", "chat", "a", "h100", "r", WorkerPhase.READY, 1, 0.0, first_ready=0.0)
ROUTER = RouterRecord(Key("prod", "r"), "ru", "chat", "10.0.0.2", ready=True)


def plausible(readings: Readings, now: float) -> None:
    """What came of the answers is finite, or unknown."""
    demand = readings.demand(Key("prod", "chat"), [WORKER], [ROUTER], now)
    for name in ("arrivals", "input_tokens", "output_tokens", "hit_ratio", "rejects", "slo_attainment"):
        value = getattr(demand, name)
        assert value is None or (math.isfinite(value) and value >= 0.0), name
    for name in ("hit_ratio", "slo_attainment"):
        assert (getattr(demand, name) or 0.0) <= 1.0


@few
@given(st.lists(spoiled([STATE]) | st.just(STATE) | values, max_size=5))
@example([STATE, {**STATE, "counters": {"requests": 2**53}}, STATE])
def test_no_answer_of_an_agent_is_believed_beyond_what_can_be(answers: list[Any]) -> None:
    readings = Readings(20.0, 300.0, 60.0)
    for index, answer in enumerate(answers):
        try:
            state: AgentState = _parse(json.dumps(answer).encode("utf-8", errors="surrogatepass"))
        except NoAnswerError:
            readings.agent_silent(WORKER, 5.0 * index)
        else:
            readings.agent_answered(WORKER, state, 5.0 * index)
        plausible(readings, 5.0 * index)


@few
@given(st.binary(max_size=300))
def test_no_bytes_of_an_agent_raise(raw: bytes) -> None:
    try:
        _parse(raw)
    except NoAnswerError:
        return


NAMES = ("vllm_router_processed_requests_total", "vllm_router_request_errors_total", "vllm_router_retries_total")
metric_lines = st.builds(
    lambda name, label, value: f'{name}{{worker="{label}",error_type="no_available_workers"}} {value}',
    st.sampled_from(NAMES),
    st.text(alphabet='ab\\"\n{}=, \u202e', max_size=6),
    st.sampled_from(["1", "-5", "NaN", "+Inf", "1e300", "9" * 400, "0x5", "", "1 2 3", "²"]),
)


@few
@given(st.lists(st.lists(metric_lines | st.text(max_size=20), max_size=4), max_size=4))
def test_no_metrics_of_a_router_are_believed_beyond_what_can_be(scrapes: list[list[str]]) -> None:
    readings = Readings(20.0, 300.0, 60.0)
    for index, lines in enumerate(scrapes):
        try:
            readings.router_answered(ROUTER, parse_router("\n".join(lines) + "\n"), 5.0 * index)
        except NoAnswerError:
            readings.router_silent(ROUTER, 5.0 * index)
        plausible(readings, 5.0 * index)


def test_a_router_that_shows_series_without_end_costs_little_and_is_not_remembered() -> None:
    readings = Readings(20.0, 300.0, 60.0)
    for turn in range(6):
        text = "".join(f'{NAMES[0]}{{worker="{turn}-{n}"}} 1\n' for n in range(60_000))
        begin = time.process_time()
        try:
            readings.router_answered(ROUTER, parse_router(text), 5.0 * turn)
        except NoAnswerError:
            readings.router_silent(ROUTER, 5.0 * turn)
        assert time.process_time() - begin < 0.7, "the decision waits for this"
    known = sum(len(c._last or {}) for e in readings._routers.values() for c in (e.dispatched, e.unserved, e.retries))
    assert known <= 10_000


event_values = st.none() | st.integers() | st.binary(max_size=8) | st.floats() | st.text(max_size=4)
hashes = st.lists(st.integers(-5, 2**64) | st.binary(max_size=8), max_size=4)
kv_events = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "Odd"]),
        "block_hashes": hashes | event_values,
    },
    optional={
        "block_size": st.sampled_from([0, 16, -1, 2**40]) | event_values,
        "medium": st.sampled_from(["GPU", "CPU", "STORAGE", "?", None]) | event_values,
        "group_idx": st.sampled_from([0, 1, -1, 2**40]) | event_values,
        "parent_block_hash": event_values,
        "token_ids": st.lists(st.integers(0, 99) | st.integers(), max_size=20) | event_values,
    },
)
batches = st.builds(lambda ts, events: [ts, events, None], odd_numbers | st.floats(), st.lists(kv_events, max_size=4))


def packed(value: Any) -> bytes | None:
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:  # msgpack has no such number
        return None


def stored(**fields: Any) -> bytes:
    """A batch that stores blocks in accelerator memory."""
    event = {"type": "BlockStored", "block_hashes": [b"a"], "block_size": 1, "medium": "GPU", **fields}
    return msgspec.msgpack.encode([1e9, [event], None])


DEEP = stored(odd=7).replace(b"odd\x07", b"odd" + b"\x91" * 5000 + b"\x07")


@few
@given(st.lists(batches.map(packed).filter(lambda b: b is not None) | st.binary(max_size=60), max_size=6))
@example([stored(token_ids=[-1])])
@example([stored(token_ids=[2**40])])
@example([stored(block_hashes=[], token_ids=[1])])
@example([DEEP])
def test_no_kv_event_breaks_what_follows_the_engine(payloads: list[bytes]) -> None:
    index, hot = BlockIndex(limit=64), HotHeads()
    chains = HotChains(index, budget=32)
    for payload in payloads:
        try:
            batch = decode(payload)
        except ValueError:
            index.miss()
            continue
        for taker in (index, chains, hot):
            taker.take(batch)
        assert len(index) <= 64
        assert chains.count <= 32
        index.hot_tokens(1e9)
        index.hot_sketch(1e9)
        heads = hot.hottest(1e9)
        assert len(heads) <= HEADS
        assert all(head.tokens for head in heads)
        assert all(min(chain.tokens) >= 0 for chain in chains.hottest(1e9))


NOTE = [{"tokens": [1, 2, 3], "heat": 2.0}]


@few
@given(notes=st.lists(spoiled([NOTE]).map(json.dumps).map(str.encode) | st.binary(max_size=60), max_size=3))
@example(notes=[b'[{"tokens":[1],"heat":1,"odd":' + b"[" * 5000])
@example(notes=[b'[{"tokens":[1],"heat":1,"odd":' + b"[" * 5000 + b"]" * 5000 + b"}]"])
def test_no_note_of_another_worker_keeps_a_new_one_from_what_the_others_noted(
    notes: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = tmp_path_factory.mktemp("store")
    (store / "hot").mkdir()
    for index, note in enumerate([*notes, json.dumps(NOTE).encode()]):
        (store / "hot" / f"{index}.json").write_bytes(note)
    found = HotNotes(store, "own").read(time.time())
    assert [1, 2, 3] in [head.tokens for head in found]
    assert all(0 <= token < 2**32 for head in found for token in head.tokens)


CHECKPOINT = checkpoint.dump(
    DeploymentMemory(
        "u",
        desired={"a": 3},
        wants=((1.0, 2),),
        steps=(1.0,),
        panic_until=9.0,
        low_since=1.0,
        failures={"a": FailedStarts({"x": 1.0}, 2, 1.0)},
        learned={"a": LearnedRate(0.1, 1.1, 1.0, 3)},
        startups={"a": ((1.0, 30.0),)},
        chosen={"x": 1.0},
    ),
    5.0,
)


@few
@given(spoiled([CHECKPOINT]))
def test_no_checkpoint_that_a_tenant_wrote_breaks_a_decision(data: Any) -> None:
    try:
        mine = checkpoint.load(data, 1000.0)
    except checkpoint.CheckpointError:
        return
    store = FleetStore(ManualClock(1000.0))
    neighbour(store)
    fleet = copy.deepcopy(FLEETS[0])
    store.observe(Kind.DEPLOYMENT, with_identity(fleet, uid=mine.uid))
    memory = PlannerMemory({Key("prod", "chat"): mine})
    for now in (1000.0, 1005.0):
        decided, memory = plan(store.snapshot(), memory, now)
        assert sum(v.create for v in decided.deployments[Key("calm", "neighbour")].variants) == 3
