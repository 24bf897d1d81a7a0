from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from warmfleet_cli.demo.client import Outcome, Tally
from warmfleet_cli.demo.observed import Blend, EventCounter, HitWindow, Worker, capacity, outlook
from warmfleet_cli.demo.recorder import Recorder
from warmfleet_cli.demo.timeline import Beside, Setup, Timeline, Variant
from warmfleet_contracts import labels
from warmfleet_contracts.agent import AgentState
from warmfleet_contracts.api.llmdeployment_status import LLMDeploymentStatus
from warmfleet_operator.planning.blend import Basis
from warmfleet_operator.planning.trace import BASIS_WORDS
from warmfleet_runtime.clock import ManualClock
from warmfleet_runtime.kubeclient import Event, KubeClient


def pod(*, ready: bool = True, draining: str | None = None, deleting: bool = False) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "chat-l4-1", "uid": "u1", "labels": {labels.VARIANT: "l4"}}
    if draining:
        metadata["annotations"] = {labels.DRAINING: draining}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"metadata": metadata, "status": {"podIP": "127.1.2.3", "conditions": conditions}}


def state(*, uid: str = "u1", running: int = 7, queried: int = 0, hit: int = 0, phase: str = "Serving") -> AgentState:
    return AgentState.model_validate(
        {
            "podUid": uid,
            "phase": phase,
            "engine": {"ready": True, "running": running, "waiting": 1},
            "counters": {"cacheQueryTokens": queried, "cacheHitTokens": hit},
        }
    )


def test_a_worker_is_what_its_pod_and_agent_say() -> None:
    worker = Worker.of_pod(pod())
    assert (worker.phase, worker.streams) == ("Pending", None)
    worker.answered(state())
    assert (worker.phase, worker.streams, worker.sample().running) == ("Serving", 8, 7)
    worker.update(pod(deleting=True))
    assert worker.phase == "Terminating"
    assert worker.leaving


def test_an_answer_of_another_pod_on_the_same_address_is_thrown_away() -> None:
    worker = Worker.of_pod(pod())
    worker.answered(state(uid="u0"))
    assert worker.state is None


def test_hit_ratios_are_of_the_window_and_survive_a_restart() -> None:
    window = HitWindow()
    assert window.change == (0, 0)
    window.add(1000, 0)
    window.add(2000, 900)
    assert window.change == (1000, 900)
    window.add(10, 5)
    assert window.change == (0, 0), "the engine restarted: its counters start anew"
    worker = Worker.of_pod(pod())
    assert worker.sample().hit_ratio is None
    worker.answered(state(queried=100, hit=10))
    worker.answered(state(queried=200, hit=90))
    assert worker.sample().hit_ratio == 0.8


def test_capacity_is_unknown_rather_than_zero() -> None:
    variant = {"name": "l4", "instanceType": "l4", "ready": 3}
    known = LLMDeploymentStatus.model_validate({"variants": [{**variant, "requestsPerSecond": 0.1}]})
    assert capacity(known) == 0.1 * 3 + 0.0
    assert capacity(LLMDeploymentStatus.model_validate({"variants": [variant]})) is None


def test_repeated_events_count_as_often_as_they_happened() -> None:
    counter = EventCounter()
    event = {
        "metadata": {"uid": "e"},
        "reason": "ScaledUp",
        "message": "2 -> 3",
        "involvedObject": {"kind": "LLMDeployment", "name": "chat"},
        "count": 1,
    }
    assert [e.object for e in counter.occurrences(event, at=1.0)] == ["LLMDeployment/chat"]
    assert counter.occurrences(event, at=2.0) == []
    assert len(counter.occurrences({**event, "count": 3}, at=3.0)) == 2
    assert counter.occurrences({**event, "metadata": {"uid": "f"}, "reason": "Pulled"}, at=4.0) == []


def blended(message: str) -> LLMDeploymentStatus:
    step = {"stage": "Blend", "message": message, "figures": {"need_up_rps": 0.31}}
    return LLMDeploymentStatus.model_validate({"scaling": {"trace": [{"stage": "Demand"}, step]}})


@pytest.mark.parametrize("basis", list(BASIS_WORDS))
def test_what_a_need_rests_on_is_read_off_the_plans_own_words(basis: Basis) -> None:
    status = blended(f"up to 0.3 req/s until a new worker serves, {BASIS_WORDS[basis]}: 0.31 req/s are needed")
    found = Blend.of(status)
    assert (found.trusted, found.need) == (basis is Basis.FORECAST, 0.31)
    assert Blend.of(LLMDeploymentStatus()) == Blend()


def test_a_forecast_is_placed_in_the_traffics_time() -> None:
    status = {
        "issuedAt": "2026-01-01T00:10:00Z",
        "trusted": True,
        "message": "better",
        "near": [{"offset": "5m", "q50": 0.2, "q90": 0.3}],
    }
    epoch = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    found = outlook({"status": status}, at=700.0, epoch=epoch)
    assert found is not None
    assert (found.issued, found.trusted, found.points) == (600.0, True, ((300.0, 0.2, 0.3),))
    assert outlook({"status": {"trusted": False}}, at=0.0, epoch=epoch) is None, "none was issued"
    assert outlook({}, at=0.0, epoch=epoch) is None


SETUP = Setup(
    source="generated",
    generated=True,
    start_minute=0,
    minutes=10,
    scale=40.0,
    fleet="chat",
    beside="chat-without",
    model="m",
    variants=(Variant("l4", "1 x L4", 0.7, 0.1, 360.0, 3),),
    ttft_slo=5.0,
    attainment=0.95,
    max_workers=3,
)


async def test_the_recorder_samples_what_changed_since_the_last_time() -> None:
    clock, out = ManualClock(), io.StringIO()
    async with KubeClient.for_server("http://127.0.0.1:1") as kube:
        recorder = Recorder(kube, Timeline(SETUP), namespace="default", clock=clock, out=out)
        tally, other = Tally(sent=2), Tally()
        recorder.begin({"chat": tally, "chat-without": other}, start=0.0)
        tally.sent, tally.in_flight = 14, 9
        tally.outcomes += [Outcome(0.0, 5.0, 1.5, 10, None, 100, 80, 90), Outcome(0.0, 6.0, None, 0, "cut off")]
        other.outcomes += [Outcome(0.0, 5.0, 1.5, 10, None, 100, 60, 90)]
        recorder._pod(Event("ADDED", pod()))
        clock.advance(10.0)
        first = recorder._sample()
        assert (first.at, first.offered, first.served, first.failed, first.ttft) == (10.0, 1.4, 0.1, 1, (1.5,))
        assert (first.queue, first.demand, first.cost_per_hour) == (None, None, None), "unknown is not zero"
        assert [worker.phase for worker in first.workers] == ["Pending"]
        assert (first.prompt_tokens, first.cached_tokens, first.repeated_tokens) == (100, 80, 90)
        assert first.beside == Beside(serving=0, prompt_tokens=100, cached_tokens=60, repeated_tokens=90)
        clock.advance(10.0)
        assert recorder._sample().offered == 0.0


async def test_a_drain_is_noted_once_with_its_streams() -> None:
    clock, out = ManualClock(), io.StringIO()
    async with KubeClient.for_server("http://127.0.0.1:1") as kube:
        recorder = Recorder(kube, Timeline(SETUP), namespace="default", clock=clock, out=out)
        recorder.begin({"chat": Tally(in_flight=21), "chat-without": Tally()}, start=0.0)
        recorder._pod(Event("ADDED", pod()))
        recorder.workers["u1"].answered(state(running=6))
        recorder._pod(Event("MODIFIED", pod(draining="FewestRunning")))
        recorder._pod(Event("MODIFIED", pod(draining="FewestRunning", ready=False)))
        recorder._pod(Event("MODIFIED", pod(draining="FewestRunning", ready=False, deleting=True)))
        for task in list(recorder._background):
            await task
        (drain,) = recorder.timeline.drains
        assert (drain.reason, drain.streams, drain.fleet_streams) == ("FewestRunning", 7, 21)
        assert '"kind":"drain"' in out.getvalue()
