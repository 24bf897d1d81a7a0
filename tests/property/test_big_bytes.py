"""As much as fits through a trust line, of each kind: what it costs in time, at its peak in memory, and what stays.

An object of a tenant is at most what etcd takes, an answer at most what its reader reads (`read_bounded`), a message of
an engine what it sends in one; all below are as big as that. Bounds are far above what is measured on a slow machine,
and far below what would starve the others: the time is the time of one decision of a thousand fleets.
"""

from __future__ import annotations

import copy
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_bad_bytes import FLEETS, FORECAST, POD, STATE, neighbour, packed, with_identity
from warmfleet_contracts.traces import TraceError
from warmfleet_operator.adapters.agents import MAX_BYTES, NoAnswerError, _parse
from warmfleet_operator.adapters.prometheus import DEPLOYMENT
from warmfleet_operator.adapters.prometheus import parse as parse_vector
from warmfleet_operator.adapters.telemetry import MAX_ROUTER_BYTES, parse_router
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import Key
from warmfleet_operator.state.snapshot import FleetStore, Kind
from warmfleet_runtime.clock import ManualClock
from warmfleet_simulation.importers import import_trace
from warmfleet_worker.kv.events import decode
from warmfleet_worker.kv.index import BlockIndex

OBJECT = 1_400_000
"""Bytes of the largest object that etcd takes, about."""
MIB = 1024 * 1024


def measured(work: Callable[[], object]) -> tuple[float, float, float]:
    """(CPU seconds, MiB at the peak, MiB that stay with the result); measured apart, as one slows the other."""
    begin = time.process_time()
    work()
    seconds = time.process_time() - begin
    tracemalloc.start()
    try:
        kept = work()
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del kept
    return seconds, peak / MIB, current / MIB


def fleet(**spec: Any) -> Any:
    body = copy.deepcopy(FLEETS[0])
    body["spec"] |= spec
    return with_identity(body)


def many(item: Any, size: int = OBJECT) -> list[Any]:
    return [item] * (size // (len(json.dumps(item)) + 1))


def deep(levels: int) -> Any:
    """An object in an object in an object: Python's own decoders take some 990 levels, the API server 10,000."""
    body: Any = {}
    for _ in range(levels):
        body = {"a": body}
    return body


def forecast(**table: Any) -> Any:
    body = copy.deepcopy(FORECAST)
    body["status"]["leadWindows"] |= table  # type: ignore[index]
    return with_identity(body)


def pod(**parts: Any) -> Any:
    body = copy.deepcopy(POD)
    for key, value in parts.items():
        body[key] |= value
    return with_identity(body)


VARIANT = {"name": "a", "instanceType": "h100", "performance": {"requestsPerSecond": 1.0}}
SCHEDULE = {"name": "x", "cron": "* * * * *", "duration": "1h", "min": 1}
OBJECTS: dict[str, Callable[[], tuple[Kind, Any]]] = {
    "variants": lambda: (Kind.DEPLOYMENT, fleet(variants=many(VARIANT))),
    "other variants": lambda: (
        Kind.DEPLOYMENT,
        fleet(variants=[{**VARIANT, "name": f"v{n}"} for n in range(OBJECT // 90)]),
    ),
    "env": lambda: (Kind.DEPLOYMENT, fleet(engine={"image": "x", "env": many({"name": "A", "value": "b"})})),
    "schedules": lambda: (Kind.DEPLOYMENT, fleet(scaling={"min": 1, "max": 2, "schedules": many(SCHEDULE)})),
    "annotations of a fleet": lambda: (
        Kind.DEPLOYMENT,
        with_identity(FLEETS[0], annotations={f"a{n}": "x" * 50 for n in range(20_000)}),
    ),
    "a text": lambda: (Kind.DEPLOYMENT, fleet(model={"name": "x" * OBJECT})),
    "levels": lambda: (Kind.DEPLOYMENT, fleet(engine={"image": "x", "podTemplate": {"spec": deep(900)}})),
    "residuals": lambda: (
        Kind.FORECAST,
        forecast(windows=[{"lead": "60s", "residuals": many(0.123456)}, {"lead": "600s", "residuals": many(1)}]),
    ),
    "windows": lambda: (Kind.FORECAST, forecast(windows=many({"lead": "60s", "residuals": [0.1, 0.2]}))),
    "shape": lambda: (Kind.FORECAST, forecast(shape=many(1.5))),
    "containers": lambda: (Kind.POD, pod(spec={"containers": many({"name": "engine", "image": "x"})})),
    "conditions": lambda: (Kind.POD, pod(status={"conditions": many({"type": "Ready", "status": "True"})})),
    "labels of a pod": lambda: (
        Kind.POD,
        pod(metadata={"labels": {**POD["metadata"]["labels"], **{f"a{n}": "x" * 50 for n in range(20_000)}}}),  # type: ignore[index]
    ),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_no_object_starves_the_decision_of_others(name: str) -> None:
    """Of a pod, of which a tenant may have thousands, next to nothing stays."""
    kind, body = OBJECTS[name]()

    def taken() -> FleetStore:
        store = FleetStore(ManualClock(1000.0))
        neighbour(store)
        store.observe(kind, body)
        decided, _ = plan(store.snapshot(), PlannerMemory(), 1000.0)
        assert sum(v.create for v in decided.deployments[Key("calm", "neighbour")].variants) == 3
        return store

    seconds, peak, kept = measured(taken)
    assert seconds < 1.5
    assert peak < 60
    assert kept < (0.2 if kind is Kind.POD else 25)


def answers() -> dict[str, tuple[Callable[[bytes], object], bytes]]:
    """Reader and bytes."""
    series = {"metric": {"namespace": "n", DEPLOYMENT: "d", **{f"l{n}": "x" for n in range(20)}}, "value": [1.0, "5"]}
    vector = json.dumps({"data": {"result": many(series, 8 * MIB)}}).encode()
    line = b'vllm_router_processed_requests_total{worker="%d"} 1\n'
    return {
        "agent: depth": (_parse, b'{"engine":' + b"[" * (MAX_BYTES - 20)),
        "agent: fields": (_parse, json.dumps({**STATE, **{f"f{n}": n for n in range(4000)}}).encode()),
        "agent: sketch": (_parse, json.dumps({**STATE, "kv": {"sketch": "A" * (MAX_BYTES - 900)}}).encode()),
        "router: series": (lambda raw: parse_router(raw.decode()), b"".join(line % n for n in range(75_000))),
        "router: one line": (lambda raw: parse_router(raw.decode()), b"x" * MAX_ROUTER_BYTES),
        "Prometheus: series": (parse_vector, vector),
        "Prometheus: depth": (parse_vector, b'{"data":' + b"[" * MIB),
    }


@pytest.mark.parametrize("name", answers())
def test_no_answer_costs_more_than_a_decision(name: str) -> None:
    read, raw = answers()[name]

    def taken() -> object:
        try:
            return read(raw)
        except NoAnswerError:
            return None

    seconds, peak, _ = measured(taken)
    assert seconds < (0.1 if name.startswith("agent") else 1.5)
    assert peak < max(2.0, 12 * len(raw) / MIB)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "BlockStored", "block_hashes": list(range(200_000)), "block_size": 16, "medium": "GPU"},
        {"type": "BlockStored", "block_hashes": [b"x" * MIB, b"y" * MIB], "block_size": 16, "medium": "GPU"},
        {"type": "BlockStored", "block_hashes": [1], "token_ids": list(range(200_000)), "block_size": 16},
        {"type": "x" * MIB, "block_hashes": []},
    ],
    ids=["hashes", "long hashes", "tokens", "type"],
)
def test_no_message_of_an_engine_makes_the_index_larger_than_its_limit(event: dict[str, Any]) -> None:
    payload = packed([1.0, [event], None])
    assert payload is not None

    def taken() -> BlockIndex:
        index = BlockIndex(limit=10_000)
        try:
            index.take(decode(payload))
        except ValueError:
            index.miss()
        assert len(index) <= 10_000
        return index

    seconds, peak, kept = measured(taken)
    assert seconds < 1.5
    assert peak < 80
    assert kept < 6


def test_a_message_that_ends_nowhere_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(b"\x91" * 500_000)
    assert msgspec.msgpack.decode(b"\x90") == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("t.jsonl", b'{"timestamp": ' + b"[" * MIB),
        ("t.jsonl", b'{"timestamp": 1, "x": "' + b"x" * (8 * MIB) + b'"}\n'),
        ("t.csv", b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + b"9" * (8 * MIB)),
        ("t.csv", b"TIMESTAMP,ContextTokens,GeneratedTokens" + b"," * MIB + b"\n"),
    ],
    ids=["depth", "a long text", "a long number", "columns"],
)
def test_no_line_of_a_trace_costs_more_than_a_few_times_its_length(name: str, line: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(line)

    def taken() -> object:
        try:
            return import_trace(path)
        except TraceError as error:
            return str(error)

    seconds, peak, _ = measured(taken)
    assert seconds < 3.0
    assert peak < 30 + 12 * len(line) / MIB
