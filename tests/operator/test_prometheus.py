"""Fleets measured through Prometheus: what is read, what counts as no answer, and who is still asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from warmfleet_operator.adapters.agents import NoAnswerError
from warmfleet_operator.adapters.prometheus import DEPLOYMENT, parse, queries
from warmfleet_operator.state.fleetsamples import FleetSample
from warmfleet_operator.state.readings import Readings
from warmfleet_operator.state.records import Key, WorkerPhase, WorkerRecord

CHAT = Key("prod", "chat")


def vector(*values: tuple[Mapping[str, str], str]) -> bytes:
    result: list[Any] = [{"metric": dict(labels), "value": [1.5, value]} for labels, value in values]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


def worker(name: str, phase: WorkerPhase = WorkerPhase.READY) -> WorkerRecord:
    return WorkerRecord(Key("prod", name), name, "1", "chat", "a", "h100", "r", phase, 1, 0.0)


def test_what_is_no_number_or_below_zero_is_not_known() -> None:
    chat, nan, below = ({"namespace": "prod", DEPLOYMENT: name} for name in ("chat", "nan", "below"))
    assert parse(vector((chat, "4.5"), (nan, "NaN"), (below, "-1"))) == {CHAT: 4.5}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"data":{"result":[{"metric":{},"value":["x"]}]}}', b"\xff", b'{"data":1}']
)
def test_nonsense_is_no_answer(body: bytes) -> None:
    with pytest.raises(NoAnswerError):
        parse(body)


def test_every_field_has_a_query() -> None:
    assert queries(60, 300).keys() == FleetSample.__dataclass_fields__.keys()


def test_a_sample_stands_for_the_agents_until_it_is_too_old() -> None:
    readings = Readings(20, 300, stale_after=60)
    readings.fleets_answered({CHAT: FleetSample(arrivals=4.0, queue=2.0, reporting=1.0)}, 100.0)
    workers = [worker("a"), worker("b"), worker("c", WorkerPhase.STARTING)]
    demand = readings.demand(CHAT, workers, (), 120.0)
    assert (demand.at, demand.arrivals, demand.queue, demand.sources) == (100.0, 4.0, 2, ("prometheus",))
    assert (demand.reporting_workers, demand.silent_workers) == (1, 1)
    assert demand.input_tokens is None
    assert readings.demand(Key("prod", "other"), workers, (), 120.0).arrivals is None
    assert readings.demand(CHAT, workers, (), 161.0).arrivals is None
