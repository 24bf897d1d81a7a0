"""Plan and pods in, actions out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet import llm_deployment
from warmfleet_contracts import labels
from warmfleet_contracts.agent import Phase
from warmfleet_contracts.reasons import VictimReason
from warmfleet_operator.acting import diff
from warmfleet_operator.state import parse
from warmfleet_operator.state.decisions import DeploymentPlan, VariantPlan, Victim
from warmfleet_operator.state.records import DeploymentRecord, Key, WorkerPhase, WorkerRecord, WorkerTelemetry

NOW = 1000.0


def record(**changes: Any) -> DeploymentRecord:
    body = llm_deployment(replicas=1)
    body["metadata"] |= {"uid": "d", "generation": 1, "finalizers": [diff.FINALIZER]}
    found = parse.deployment_from(body, None, 0.0)
    assert found is not None
    return replace(found, **changes)


def worker(phase: WorkerPhase = WorkerPhase.READY, **changes: Any) -> WorkerRecord:
    return replace(
        WorkerRecord(Key("prod", "w"), "u", "1", "chat", "h100", "h100", "r", phase, 1, 0.0, routed=True), **changes
    )


def plan(**parts: Any) -> DeploymentPlan:
    return DeploymentPlan(Key("prod", "chat"), "d", 1, **parts)


def act(
    *workers: WorkerRecord, said: Phase | None = None, of: DeploymentRecord | None = None, **parts: Any
) -> list[diff.Action]:
    told = {"u": WorkerTelemetry(NOW, said)} if said is not None else {}
    return diff.actions(diff.Job(of or record(), plan(**parts), workers, NOW, telemetry=told))


def draining(since: float = NOW - 10, **changes: Any) -> WorkerRecord:
    return worker(drain_reason="LowestKvValue", drain_since=since, routed=False, **changes)


VICTIM = Victim(Key("prod", "w"), "u", VictimReason.LOWEST_KV_VALUE, drain=True)


def test_creates_come_with_a_finalizer() -> None:
    create = (VariantPlan("h100", "h100", 2, create=2),)
    assert act(of=record(finalizers=()), variants=create) == [
        diff.AddFinalizer(),
        diff.Create("h100"),
        diff.Create("h100"),
    ]


def test_a_victim_is_drained_once() -> None:
    assert act(worker(), victims=(VICTIM,)) == [diff.StartDrain(worker(), "LowestKvValue")]
    assert act(draining(), victims=(VICTIM,), said=Phase.SETTLING) == []


def test_a_person_s_mark_is_followed_like_the_operator_s_own() -> None:
    asked = replace(draining(), drain_reason=str(VictimReason.REQUESTED))
    assert act(asked, said=Phase.SERVING) == [diff.TellAgent(asked, "Requested")]
    assert act(asked, said=Phase.DRAINED) == [diff.Delete(asked, diff.Outcome.COMPLETED, "Requested")]


def test_a_victim_of_another_uid_is_left_alone() -> None:
    assert act(worker(uid="new"), victims=(VICTIM,)) == []


def test_a_plan_for_another_deployment_of_the_same_name_is_not_carried_out() -> None:
    job = diff.Job(record(uid="other"), plan(victims=(VICTIM,)), (worker(),), NOW)
    assert diff.actions(job) == []


@pytest.mark.parametrize(
    ("leaving", "said", "kind"),
    [
        (draining(), Phase.DRAINED, diff.Outcome.COMPLETED),
        (draining(phase=WorkerPhase.FAILED), None, diff.Outcome.NOT_SERVING),
        (draining(phase=WorkerPhase.STARTING), None, diff.Outcome.NOT_SERVING),
        (draining(since=NOW - 76), Phase.SETTLING, diff.Outcome.FORCED),
        (draining(since=NOW - 76), None, diff.Outcome.FORCED),
    ],
)
def test_how_a_drain_ends(leaving: WorkerRecord, said: Phase | None, kind: diff.Outcome) -> None:
    found = act(leaving, said=said)
    assert [(type(a), getattr(a, "outcome", None)) for a in found] == [(diff.Delete, kind)]


@pytest.mark.parametrize("said", [None, Phase.SERVING])
def test_an_agent_that_does_not_know_is_told_again(said: Phase | None) -> None:
    assert act(draining(), said=said) == [diff.TellAgent(draining(), "LowestKvValue")]


def test_drained_from_before_the_drain_does_not_count() -> None:
    late = draining(since=NOW + 1)
    assert not any(isinstance(a, diff.Delete) for a in act(late, said=Phase.DRAINED))


def test_a_needed_worker_is_brought_back() -> None:
    assert act(draining(), cancels=(Key("prod", "w"),), said=Phase.SETTLING) == [diff.CancelDrain(draining())]


def test_a_pod_deleted_by_somebody_else_is_taken_off_the_route_once() -> None:
    gone = worker(WorkerPhase.TERMINATING, first_ready=1.0)
    assert act(gone) == [diff.Unroute(gone)]
    assert act(replace(gone, routed=False)) == []
    assert act(replace(gone, first_ready=None)) == []


def test_a_deleted_deployment_drains_all_then_goes() -> None:
    leaving = record(deleting=True, deleting_since=NOW - 5)
    assert [type(a) for a in act(worker(), of=leaving)] == [diff.StartDrain]
    assert [type(a) for a in act(worker(WorkerPhase.STARTING), of=leaving)] == [diff.Delete]
    assert act(of=leaving) == [diff.RemoveFinalizer()]


@pytest.mark.parametrize(
    "changes",
    [
        {"namespace_terminating": True, "deleting_since": NOW},
        {"finalizers": (diff.FINALIZER, "orphan"), "deleting_since": NOW},
    ],
)
def test_nothing_is_waited_for_in_an_ending_namespace_or_when_children_are_orphaned(changes: dict[str, Any]) -> None:
    assert act(worker(), of=record(deleting=True, **changes)) == [diff.RemoveFinalizer()]


def test_a_worker_that_the_garbage_collector_orphaned_outlives_its_deployment() -> None:
    """The collector may be done, its finalizer gone, before the operator looks for the first time."""
    left = replace(worker(), orphaned=True)
    leaving = record(deleting=True, deleting_since=NOW)
    assert act(left, of=leaving) == [diff.RemoveFinalizer()]
    assert [type(a) for a in act(left, worker(), of=leaving)] == [diff.StartDrain]


def test_the_finalizer_never_hangs_for_good() -> None:
    stuck = worker(WorkerPhase.TERMINATING, routed=False)
    assert act(stuck, of=record(deleting=True, deleting_since=NOW - 100)) == []
    assert act(stuck, of=record(deleting=True, deleting_since=NOW - 60 - 15 - 30 - 91)) == [diff.RemoveFinalizer()]


def test_a_pause_holds_the_fleet_but_not_its_deletion() -> None:
    paused = record(annotations={labels.PAUSED: "true"})
    assert act(worker(), draining(), of=paused, victims=(VICTIM,)) == []
    assert act(of=replace(paused, deleting=True)) == [diff.RemoveFinalizer()]


def test_what_leaves_is_bounded_by_the_room_of_those_that_stay() -> None:
    names = ("a", "b", "c", "d", "u")
    there = [worker(key=Key("prod", n), uid=n) for n in names[:3]] + [draining(key=Key("prod", "d"), uid="d"), worker()]
    told = {n: WorkerTelemetry(NOW, Phase.SERVING, evicted_after=200.0) for n in names}
    job = diff.Job(record(), plan(victims=(VICTIM,)), tuple(there), NOW, telemetry=told)
    assert diff.room_for(job) == 0.5 * 200.0 * 3 / 5, "one leaves already, one is sent away now"
    assert diff.room_for(diff.Job(record(), None, tuple(there), NOW, telemetry={})) is None


def test_nothing_is_created_in_an_ending_namespace() -> None:
    create = (VariantPlan("h100", "h100", 2, create=2),)
    assert act(of=record(namespace_terminating=True), variants=create) == []
