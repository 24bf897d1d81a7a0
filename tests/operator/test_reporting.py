"""Conditions, status and events: what they say, and when they are silent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet import instance_type, llm_deployment
from warmfleet_contracts import labels
from warmfleet_contracts.agent import Phase
from warmfleet_contracts.api.llmdeployment_status import LLMDeploymentStatus
from warmfleet_contracts.reasons import ChosenBy, EventReason, Reason
from warmfleet_operator.acting.conditions import View, conditions
from warmfleet_operator.acting.events import EventRecorder, about_deployment
from warmfleet_operator.acting.executor import rollout_news
from warmfleet_operator.acting.instancetypes import build as instance_type_status
from warmfleet_operator.acting.instancetypes import measured, stocked_out
from warmfleet_operator.acting.status import StatusWriter, build, significant
from warmfleet_operator.state import parse
from warmfleet_operator.state.decisions import DeploymentPlan, Problem, RolloutPlan, VariantPlan
from warmfleet_operator.state.memory import DeploymentMemory, PlannerMemory
from warmfleet_operator.state.records import (
    Demand,
    InstanceTypeRecord,
    Key,
    WorkerPhase,
    WorkerRecord,
    WorkerTelemetry,
)
from warmfleet_runtime.clock import ManualClock

STAMP = "2026-01-01T00:00:00Z"


def worker(phase: WorkerPhase = WorkerPhase.READY, name: str = "w", **changes: Any) -> WorkerRecord:
    base = WorkerRecord(Key("prod", name), f"u-{name}", "1", "chat", "h100", "h100", "r", phase, 1, 0.0, node="n")
    return replace(base, **changes)


def view(
    *workers: WorkerRecord,
    demand: Demand | None = None,
    annotations: dict[str, str] | None = None,
    status: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    problems: tuple[Problem, ...] = (),
    **parts: Any,
) -> View:
    body = llm_deployment(**(spec or {"scaling": {"min": 1, "max": 4}}))
    body["metadata"] |= {"uid": "d", "generation": 2, "annotations": annotations or {}}
    record = parse.deployment_from({**body, "status": status or {}}, None, 0.0)
    assert record is not None
    variants = (VariantPlan("h100", "h100", 1, cost_per_hour=4.0, requests_per_second=10.0),)
    plan = DeploymentPlan(record.key, "d", 2, variants=variants, desired=1, **parts)
    return View(record, plan, workers, demand, problems)


def said(shown: View) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in conditions(shown, STAMP)}


def test_the_status_says_how_far_starting_workers_are() -> None:
    starts = WorkerPhase.STARTING
    people = [worker(WorkerPhase.UNSCHEDULED, "a", node=""), worker()]
    people += [worker(starts, name) for name in ("b", "c", "d", "e")]
    told = {
        "u-c": WorkerTelemetry(0.0, Phase.STARTING, stage="downloading-weights"),
        "u-d": WorkerTelemetry(0.0, Phase.STARTING, stage="compiling"),
        "u-e": WorkerTelemetry(0.0, Phase.STARTING, stage="<script>"),
    }
    (variant,) = build(replace(view(*people), telemetry=told), {}, STAMP)["variants"]
    assert variant["starting"] == 5
    assert variant["stages"] == {"Compiling": 1, "Creating": 1, "Downloading": 1, "Scheduling": 1, "Starting": 1}
    assert "stages" not in build(view(worker()), {}, STAMP)["variants"][0]


def test_a_serving_fleet() -> None:
    found = said(view(worker(), demand=Demand(0.0, 5.0, sources=("router",), reporting_workers=1)))
    assert found == {
        "Ready": ("True", "Serving"),
        "ScalingActive": ("True", "MetricsAvailable"),
        "ScalingLimited": ("False", "WithinLimits"),
    }


@pytest.mark.parametrize(
    ("workers", "reason"),
    [
        ([], "WaitingForWorkers"),
        ([worker(WorkerPhase.STARTING)], "WaitingForWorkers"),
        ([worker(WorkerPhase.UNSCHEDULED, unschedulable_since=1.0)], "NoCapacity"),
        ([worker(WorkerPhase.FAILED, failure_reason="ImagePullBackOff", failure="no image")], "ImagePullFailed"),
        ([worker(WorkerPhase.FAILED, failure_reason="CrashLoopBackOff", failure="crash")], "WorkerStartFailed"),
    ],
)
def test_why_a_fleet_is_not_ready(workers: list[WorkerRecord], reason: str) -> None:
    found = said(view(*workers))
    assert found["Ready"] == ("False", reason)
    assert found["Reconciling"] == ("True", "Provisioning")


def test_losing_workers_later_is_not_reconciling() -> None:
    before = {"observedGeneration": 2, "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 2}]}
    assert "Reconciling" not in said(view(status=before))


def test_what_needs_a_person_is_stalled() -> None:
    found = said(view(problems=(Problem(Reason.UNKNOWN_INSTANCE_TYPE, "no such type"),)))
    assert found["Stalled"] == ("True", "UnknownInstanceType")
    assert found["Ready"] == ("False", "UnknownInstanceType")
    assert "Reconciling" not in found


def test_an_invalid_spec_is_said_without_a_plan() -> None:
    shown = view(spec={"scaling": {"min": 5, "max": 4}})
    found = said(View(shown.record, None, ()))
    assert found["Ready"] == ("False", "InvalidSpec")
    assert found["Stalled"] == ("True", "InvalidSpec")


def test_missing_metrics_are_said_and_do_not_touch_readiness() -> None:
    found = said(view(worker(), chosen_by=ChosenBy.NO_DATA))
    assert found["ScalingActive"] == ("False", "MetricsMissing")
    assert found["Ready"][0] == "True"
    partly = said(view(worker(), demand=Demand(0.0, 5.0, silent_workers=1)))
    assert partly["ScalingActive"] == ("True", "MetricsPartial")


def test_limits_pauses_drains_and_zero() -> None:
    found = said(
        view(worker(drain_reason="x"), annotations={labels.PAUSED_SCALE_IN: ""}, limited=Reason.TOO_MANY_REPLICAS)
    )
    assert found["ScalingLimited"] == ("True", "TooManyReplicas")
    assert found["Paused"] == ("True", "PausedByAnnotation")
    assert found["Draining"] == ("True", "WorkersDraining")
    assert said(view(spec={"replicas": 0}))["Ready"] == ("True", "ScaledToZero")


def rolled(state: Reason | None, updated: int = 1, total: int = 3) -> RolloutPlan:
    return RolloutPlan(state, "t1-abc", updated, updated, total, "the message")


@pytest.mark.parametrize(
    ("plan", "rolling", "reconciling"),
    [
        (rolled(None, 3), None, None),
        (rolled(Reason.ROLLING_OUT), ("True", "RollingOut"), ("True", "RollingOut")),
        (rolled(Reason.CANARY), ("True", "Canary"), None),
        (rolled(Reason.ROLLOUT_WAITING), ("True", "RolloutWaiting"), None),
        (rolled(Reason.ROLLED_BACK), ("True", "RolledBack"), None),
        (rolled(Reason.ROLLED_BACK, 3), ("False", "RolledBack"), None),
    ],
)
def test_a_rollout_is_a_condition_while_it_lasts(
    plan: RolloutPlan, rolling: tuple[str, str] | None, reconciling: tuple[str, str] | None
) -> None:
    shown = view(worker(), rollout=plan)
    found = said(shown)
    assert found["Ready"][0] == "True"
    assert (found.get("RollingOut"), found.get("Reconciling")) == (rolling, reconciling)
    status = build(shown, types(), STAMP)["rollout"]
    assert status["state"] == (str(plan.state) if plan.state else "Updated")
    assert (status["revision"], status["updated"], status["total"]) == ("t1-abc", plan.updated, plan.total)


@pytest.mark.parametrize(
    ("before", "now", "news"),
    [
        ("", None, None),
        ("", Reason.ROLLING_OUT, None),
        ("Updated", Reason.ROLLING_OUT, EventReason.ROLLOUT_STARTED),
        ("RollingOut", Reason.CANARY, None),
        ("RollingOut", Reason.ROLLED_BACK, EventReason.ROLLED_BACK),
        ("RolledBack", Reason.ROLLED_BACK, None),
        ("Canary", None, EventReason.ROLLOUT_COMPLETED),
        ("Updated", None, None),
    ],
)
def test_each_turn_of_a_rollout_is_told_once(before: str, now: Reason | None, news: EventReason | None) -> None:
    shown = view(worker(), rollout=rolled(now), status={"rollout": {"state": before, "revision": "t1-abc"}})
    assert rollout_news(shown, rolled(now)) is news


def test_a_transition_time_changes_only_with_the_status() -> None:
    old = "2025-01-01T00:00:00Z"
    before = {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": old}]}
    times = {c["type"]: c["lastTransitionTime"] for c in conditions(view(worker(), status=before), STAMP)}
    assert (times["Ready"], times["ScalingActive"]) == (old, STAMP)


def types() -> dict[str, InstanceTypeRecord]:
    body = instance_type()
    body["metadata"]["uid"] = "i"
    record = parse.instance_type_from(body)
    assert record is not None
    return {"h100": record}


def test_the_status_counts_and_prices() -> None:
    shown = view(worker(), worker(name="v", drain_reason="x"), worker(WorkerPhase.UNSCHEDULED, name="p", node=""))
    status = build(shown, types(), STAMP)
    LLMDeploymentStatus.model_validate(status)
    assert (status["replicas"], status["readyReplicas"], status["desiredReplicas"]) == (3, 1, 1)
    assert (status["costPerHour"], status["savedPerHour"]) == (8.0, 8.0)
    variant = status["variants"][0]
    assert (variant["starting"], variant["ready"], variant["draining"]) == (1, 1, 1)


class Api:
    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def patch(self, *args: Any, **_: Any) -> dict[str, Any]:
        self.bodies.append(args[2])
        return args[2]

    async def create(self, *args: Any, **_: Any) -> dict[str, Any]:
        self.bodies.append(args[1])
        return args[1]


async def test_a_status_is_written_for_news_at_once_and_for_figures_once_a_minute() -> None:
    api = Api()
    writer = StatusWriter(api, lambda _: None)  # type: ignore[arg-type]

    async def figures(now: float, demand: float, *more: WorkerRecord) -> bool:
        shown = view(worker(), *more, demand=Demand(0.0, 5.0, sources=("router",)))
        assert shown.plan is not None
        return await writer.write(replace(shown, plan=replace(shown.plan, demand=demand)), types(), STAMP, now)

    assert await figures(0.0, 5.0)
    assert not await figures(10.0, 9.0)
    assert not await figures(70.0, 5.01)
    assert await figures(75.0, 9.0)
    assert await figures(76.0, 9.0, worker(name="v"))
    assert len(api.bodies) == 3


async def test_a_restarted_operator_does_not_repeat_a_status() -> None:
    api = Api()
    status = build(view(worker()), types(), STAMP)
    writer = StatusWriter(api, lambda _: None)  # type: ignore[arg-type]
    assert not await writer.write(view(worker(), status=status), types(), "2027-01-01T00:00:00Z", 5.0)


async def test_the_same_event_is_said_once_in_two_minutes() -> None:
    api, clock = Api(), ManualClock()
    recorder = EventRecorder(api, clock)  # type: ignore[arg-type]
    subject = about_deployment(view().record)
    assert recorder.emit(subject, EventReason.STALLED, "a")
    assert not recorder.emit(subject, EventReason.STALLED, "b")
    assert recorder.emit(subject, EventReason.STALLED, "c", dedupe="other")
    clock.advance(121)
    assert recorder.emit(subject, EventReason.STALLED, "a")
    await recorder.flush()
    assert [b["type"] for b in api.bodies] == ["Warning"] * 3


def test_the_status_of_a_type_pools_the_starts_of_all_fleets() -> None:
    def fleet(*seconds: float, **changes: Any) -> DeploymentMemory:
        return DeploymentMemory("u", startups={"h100": tuple((float(i), s) for i, s in enumerate(seconds))}, **changes)

    memory = PlannerMemory({Key("a", "a"): fleet(10, 11, 12, 13, 14), Key("b", "b"): fleet(15, 16, 17, 18, 9000)})
    found = measured(memory, "h100")
    assert found is not None
    assert (found.p50, found.p90, found.samples) == (14.0, 18.0, 9), "one of 9000 s is left out"
    assert measured(memory, "l40s") is None
    assert measured(PlannerMemory({Key("a", "a"): fleet(10, 11)}), "h100") is None
    assert not stocked_out(memory, "h100", 50.0)
    out = PlannerMemory({Key("a", "a"): fleet(avoid={"h100": 60.0})})
    assert stocked_out(out, "h100", 50.0)
    assert not stocked_out(out, "h100", 60.0)


def test_advice_is_reported_as_advice() -> None:
    shown = view(worker(), worker(name="x"), demand=Demand(0.0, 5.0, sources=("router",)), acts=False)
    assert said(shown)["ScalingActive"] == ("False", "Advisory")
    body = instance_type()
    body["metadata"]["uid"] = "t"
    record = parse.instance_type_from(body)
    assert record is not None
    status = build(shown, {"h100": record}, STAMP)
    assert status["savedPerHour"] == status["costPerHour"] - 4.0, "two are there, one would do"


@pytest.mark.parametrize(("value", "result"), [(None, None), (0.0, 0.0), (123.4, 120.0), (0.0567, 0.057)])
def test_figures_have_two_significant_digits(value: float | None, result: float | None) -> None:
    assert significant(value) == result


def test_an_instance_type_that_cannot_be_read_is_stalled_until_it_can() -> None:
    body = instance_type()
    body["metadata"] |= {"uid": "i", "generation": 2}
    good = parse.instance_type_from(body)
    bad = parse.instance_type_from({**body, "spec": {**body["spec"], "accelerator": {"name": ""}}})
    assert good is not None
    assert bad is not None

    def told(record: InstanceTypeRecord, stamp: str) -> dict[str, dict[str, Any]]:
        return {c["type"]: c for c in instance_type_status(record, (), None, stamp)["conditions"]}

    first = told(bad, STAMP)
    assert {kind: (c["status"], c["reason"]) for kind, c in first.items()} == {
        "Ready": ("False", "InvalidSpec"),
        "Stalled": ("True", "InvalidSpec"),
    }
    assert "accelerator" in first["Stalled"]["message"]
    later = told(replace(bad, status={"conditions": list(first.values())}), "2026-01-02T00:00:00Z")
    assert {c["lastTransitionTime"] for c in later.values()} == {STAMP}
    mended = told(replace(good, status={"conditions": list(first.values())}), "2026-01-02T00:00:00Z")
    assert {kind: (c["status"], c["lastTransitionTime"]) for kind, c in mended.items()} == {
        "Ready": ("True", "2026-01-02T00:00:00Z")
    }
