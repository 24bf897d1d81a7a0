"""Limits hold at the moment of a create, whatever was decided before: two decisions may count on one machine."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from fleet import instance_type, llm_deployment
from warmfleet_contracts import labels
from warmfleet_contracts.api.instancetype import AcceleratorLimit
from warmfleet_operator.acting.diff import Create, Job
from warmfleet_operator.acting.workers import Tools, WorkerActor
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.settings import Settings
from warmfleet_operator.state import parse
from warmfleet_operator.state.records import Key, WorkerPhase, WorkerRecord
from warmfleet_operator.state.snapshot import FleetStore, Kind
from warmfleet_runtime.clock import ManualClock


def pod(name: str, version: int = 1, gpus: int = 1, **meta: Any) -> dict[str, Any]:
    mine = {
        labels.COMPONENT: labels.COMPONENT_WORKER,
        labels.DEPLOYMENT: "chat",
        labels.INSTANCE_TYPE: "h100",
        labels.VARIANT: "h100",
        labels.REVISION: "r",
    }
    whole = {"name": name, "namespace": "prod", "uid": f"u-{name}", "resourceVersion": str(version), "labels": mine}
    limits = {"nvidia.com/gpu": str(gpus)}
    containers = [{"name": labels.ENGINE_CONTAINER, "resources": {"limits": limits}}]
    return {"metadata": {**whole, **meta}, "spec": {"containers": containers}, "status": {"phase": "Running"}}


def new(name: str, accelerators: int = 1, namespace: str = "prod") -> WorkerRecord:
    phase = WorkerPhase.UNSCHEDULED
    return WorkerRecord(Key(namespace, name), "", "", "chat", "h100", "h100", "r", phase, accelerators, 0.0)


@pytest.fixture
def store() -> FleetStore:
    made = FleetStore(ManualClock(1000.0))
    for name in ("a", "b"):
        made.observe(Kind.POD, pod(name, gpus=2))
    return made


def test_pods_and_creates_without_an_answer_count(store: FleetStore) -> None:
    limit = AcceleratorLimit(accelerators=6)
    assert store.has_room(new("c", 2), limit)
    assert not store.has_room(new("c", 3), limit)
    store.expectations.creating(new("d", 2), 1000.0)
    assert not store.has_room(new("c"), limit)
    assert store.has_room(new("d", 2), limit), "itself, asked for once more"
    assert store.has_room(new("c", 100), AcceleratorLimit())


def test_a_namespace_has_a_limit_of_its_own(store: FleetStore) -> None:
    limit = AcceleratorLimit.model_validate({"namespaces": [{"namespace": "prod", "accelerators": 4}]})
    assert not store.has_room(new("c"), limit)
    assert store.has_room(new("c", namespace="other"), limit)


def test_what_is_gone_comes_free_however_that_was_learned(store: FleetStore) -> None:
    limit = AcceleratorLimit(accelerators=4)
    store.observe(Kind.POD, pod("a", 2, gpus=2, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert not store.has_room(new("c"), limit), "it is on its way out, and holds its own until then"
    store.observe(Kind.POD, pod("a", 3, gpus=2), deleted=True)
    assert store.has_room(new("c", 2), limit)
    store.prune(Kind.POD, {Key("prod", "b"): "u-b"}, "9")
    assert store.has_room(new("c", 4), limit)
    store.observe(Kind.POD, {**pod("c", 10, gpus=3), "metadata": {**pod("c", 10)["metadata"], "uid": "first"}})
    store.observe(Kind.POD, {**pod("c", 11, gpus=1), "metadata": {**pod("c", 11)["metadata"], "uid": "second"}})
    assert store.has_room(new("d", 3), limit)
    assert not store.has_room(new("d", 4), limit)


async def test_a_second_create_that_counted_on_the_same_machine_is_held_back() -> None:
    """Two fleets, each with a decision from before the other's worker was there."""
    clock, api = ManualClock(1000.0), AsyncMock()
    api.create.side_effect = lambda _, body, namespace: {
        **body,
        "metadata": {**body["metadata"], "namespace": namespace, "uid": "u", "resourceVersion": "7"},
    }
    store = FleetStore(clock)
    limited = instance_type()
    limited["metadata"] |= {"uid": "t", "resourceVersion": "5", "generation": 1}
    limited["spec"]["limit"] = {"accelerators": 1}
    kind = parse.instance_type_from(limited)
    assert kind is not None
    for name in ("first", "second"):
        body = llm_deployment(replicas=1)
        body["metadata"] |= {"name": name, "uid": f"d-{name}", "generation": 1, "resourceVersion": "5"}
        record = parse.deployment_from(body, None, 0.0)
        assert record is not None
        job = Job(record, None, (), clock.now())
        tools = Tools(api, AsyncMock(), store, Mock(), Metrics(), Settings())
        await WorkerActor(tools).carry_out(job, [Create("h100")], {kind.name: kind})
    assert [w.deployment for w in store.snapshot().workers] == ["first"]
    assert api.create.call_count == 1
