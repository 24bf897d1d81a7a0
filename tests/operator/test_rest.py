"""What not every round does: acting for fleets at rest, deciding in a storm; and what does not wait for a round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet import llm_deployment
from warmfleet_contracts.agent import AgentState
from warmfleet_contracts.reasons import ChosenBy, Reason, VictimReason
from warmfleet_operator.acting import diff
from warmfleet_operator.acting.rest import REST_SECONDS, Assignment, rests, share_of
from warmfleet_operator.loop import Rest
from warmfleet_operator.state import parse
from warmfleet_operator.state.decisions import DeploymentPlan, Problem, RolloutPlan, VariantPlan, Victim
from warmfleet_operator.state.fleetsamples import FleetSample
from warmfleet_operator.state.readings import Readings, RouterSample
from warmfleet_operator.state.records import Demand, Key, RouterRecord, WorkerPhase, WorkerRecord

KEY = Key("prod", "chat")
BODY = llm_deployment(replicas=1)
BODY["metadata"] |= {"uid": "d", "generation": 1}
RECORD = parse.deployment_from(BODY, None, 0.0)
WORKER = WorkerRecord(Key("prod", "w"), "u-w", "1", "chat", "h", "h", "r", WorkerPhase.READY, 1, 0.0, ip="1")
ROUTER = RouterRecord(Key("prod", "r"), "u-r", "chat", "2", ready=True)
PLAN = DeploymentPlan(KEY, "d", 1, variants=(VariantPlan("h", "h", 1, requests_per_second=4.0),), desired=1)
VICTIM = Victim(WORKER.key, WORKER.uid, VictimReason.LOWEST_KV_VALUE, drain=True)


def assignment(at: float = 0.0, demand: Demand | None = None, **changes: Any) -> Assignment:
    assert RECORD is not None
    plan = replace(PLAN, **changes.pop("plan", {}))
    job = diff.Job(changes.pop("record", RECORD), plan, changes.pop("workers", (WORKER,)), at)
    return Assignment(job, demand or Demand(at, 5.0, sources=("agents",)), {})


def test_a_fleet_that_only_has_other_figures_is_left_alone_for_a_while() -> None:
    done = assignment()
    moved = {"demand": 9.0, "message": "9 now", "figures": {"x": 1.0}}
    assert rests(done, assignment(5.0, Demand(5.0, 9.0, hit_ratio=0.5, sources=("agents",)), plan=moved))
    assert rests(done, assignment(REST_SECONDS[0] - 0.1))
    assert not rests(done, assignment(REST_SECONDS[1]))


@pytest.mark.parametrize(
    "new",
    [
        assignment(5.0, Demand(5.0, None, sources=("agents",))),
        assignment(5.0, Demand(5.0, 5.0, sources=("agents",), silent_workers=1)),
        assignment(5.0, workers=()),
        assignment(5.0, workers=(replace(WORKER),)),
        assignment(5.0, record=replace(RECORD, resource_version="9")),  # type: ignore[type-var]
        assignment(5.0, plan={"desired": 2}),
        assignment(5.0, plan={"chosen_by": ChosenBy.PANIC}),
        assignment(5.0, plan={"limited": Reason.TOO_MANY_REPLICAS}),
        assignment(5.0, plan={"victims": (VICTIM,)}),
        assignment(5.0, plan={"cancels": (WORKER.key,)}),
        assignment(5.0, plan={"problems": (Problem(Reason.NO_CAPACITY, "x"),)}),
        assignment(5.0, plan={"variants": (VariantPlan("h", "h", 1, create=1),)}),
        assignment(5.0, plan={"rollout": RolloutPlan(Reason.ROLLING_OUT, "r", 0, 0, 1)}),
    ],
)
def test_whatever_is_new_is_acted_on(new: Assignment) -> None:
    assert not rests(assignment(), new)


@pytest.mark.parametrize("worker", [replace(WORKER, phase=WorkerPhase.STARTING), replace(WORKER, drain_reason="x")])
def test_a_worker_under_way_is_looked_at_in_every_round(worker: WorkerRecord) -> None:
    assert not rests(assignment(workers=(worker,)), assignment(5.0, workers=(worker,)))


def test_what_falls_due_does_so_at_other_times_for_others() -> None:
    shares = [share_of(Key("team", f"fleet-{n}")) for n in range(1000)]
    assert shares[0] == share_of(Key("team", "fleet-0"))
    assert all(60 < sum(low <= share < low + 0.1 for share in shares) < 140 for low in (0.0, 0.3, 0.6, 0.9))


def test_one_long_decision_needs_no_rest_and_a_storm_of_them_leaves_half_of_the_time() -> None:
    rest, now, spent = Rest(), 0.0, 0.0
    rest.spent(0.0, 4.0)
    assert rest.wanted(4.0) == 0.0
    rest = Rest()
    while now < 300.0:
        now += rest.wanted(now)
        rest.spent(now, now + 2.0)
        now, spent = now + 2.0, spent + 2.0
    assert spent == pytest.approx(150.0, abs=6.0)


def test_no_decision_however_long_is_rested_after_for_longer_than_five_seconds() -> None:
    rest = Rest()
    rest.spent(0.0, 60.0)
    assert rest.wanted(60.0) == 5.0
    assert rest.wanted(63.0) == 2.0


def state(requests: int, running: int = 0, phase: str = "Serving") -> AgentState:
    engine = {"ready": True, "running": running, "waiting": 0}
    return AgentState.model_validate({"phase": phase, "engine": engine, "counters": {"requests": requests}})


def told(*answers: AgentState) -> list[bool]:
    readings, found = Readings(20.0, 300.0, 60.0), []
    for number, answer in enumerate(answers):
        assert readings.agent_answered(WORKER, answer, 5.0 * number) is None
        found.append(readings.news())
    return found


def test_a_surge_at_one_worker_is_news_and_chance_is_not() -> None:
    assert told(state(0), state(5), state(12), state(15), state(26)) == [False] * 5
    assert told(state(0), state(5), state(10), state(15, running=60)) == [False, False, False, True]


def test_another_phase_is_news_and_a_first_answer_is_not() -> None:
    assert told(state(0, phase="Settling"), state(0, phase="Settling"), state(0, phase="Drained")) == [
        False,
        False,
        True,
    ]


def test_the_first_requests_that_find_no_worker_are_news() -> None:
    readings, found = Readings(20.0, 300.0, 60.0), []
    for at, unserved in ((0.0, 0.0), (5.0, 0.0), (10.0, 3.0), (15.0, 6.0)):
        readings.router_answered(ROUTER, RouterSample(unserved={"x": unserved}), at)
        found.append(readings.news())
    assert found == [False, False, True, False]


@pytest.mark.parametrize(
    ("sample", "news"),
    [
        (FleetSample(arrivals=10.0), False),
        (FleetSample(arrivals=13.0), False),
        (FleetSample(arrivals=20.0), True),
        (FleetSample(arrivals=10.0, queue=1.0), True),
        (FleetSample(arrivals=10.0, rejects=0.5), True),
        (FleetSample(), False),
    ],
)
def test_a_fleet_that_has_more_to_do_is_news_until_it_is_decided_on(sample: FleetSample, news: bool) -> None:
    readings = Readings(20.0, 300.0, 60.0)
    readings.fleets_answered({KEY: FleetSample(arrivals=10.0, queue=0.0)}, 0.0)
    assert not readings.news()
    readings.decided_on()
    for at in (2.0, 4.0):
        readings.fleets_answered({KEY: sample}, at)
        assert readings.news() is news
    readings.decided_on()
    readings.fleets_answered({KEY: sample}, 6.0)
    assert not readings.news()
