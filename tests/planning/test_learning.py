"""What is learned from observation: rates, start-up times, silence, failed starts; and advice that is only given."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
from planning_specs import KEY, deployment, itype, scaling, spec, variant
from planning_world import START, Cluster, created, decide, settled, told, traffic, worker, workers, world
from warmfleet_contracts.perfmodel import Workload
from warmfleet_contracts.reasons import ChosenBy, Reason
from warmfleet_operator.planning import capacity, learning, startup
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state import checkpoint
from warmfleet_operator.state.memory import DeploymentMemory, LearnedRate, PlannerMemory
from warmfleet_operator.state.records import Key, WorkerPhase, WorkerRecord, WorkerTelemetry

EMPTY = DeploymentMemory("u")
TYPES = {"h100": itype()}
MODELLED = spec(variants=[variant(rps=None)])
WORK = Workload(1000.0, 200.0, 0.0)
YARD = capacity.yardstick(MODELLED, MODELLED.variants[0], TYPES, WORK)
assert YARD is not None
NAME = "main@h100"


def _serving(speed: float, load: float, **changes: object) -> WorkerTelemetry:
    """A worker of a certain speed asked for a share of its modelled rate, and the batch at which it serves that."""
    assert YARD is not None
    most = speed * (YARD.at_batch(YARD.limits.sequences) or 0.0)
    served, low, high = min(most, YARD.rate * load), 1.0, float(YARD.limits.sequences)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if speed * (YARD.at_batch(middle) or 0.0) < served else (low, middle)
    return replace(told(served=served, batches=(low,), attainment=1.0, waiting=0), **changes)  # type: ignore[arg-type]


def _learn(
    answers: list[WorkerTelemetry], rounds: int = 20, memory: DeploymentMemory = EMPTY, **changes: object
) -> DeploymentMemory:
    people = [worker(f"w{i}", **changes) for i in range(len(answers))]
    telemetry = {w.uid: t for w, t in zip(people, answers, strict=True)}
    for i in range(rounds):
        memory = learning.observe(
            MODELLED, TYPES, WORK, people, telemetry=telemetry, memory=memory, now=START + 300.0 * i
        )
    return memory


def _ratio(memory: DeploymentMemory) -> float:
    return memory.learned[NAME].applied if NAME in memory.learned else 1.0


@pytest.mark.parametrize("speed", [0.75, 0.9, 1.15])
def test_the_capacity_of_slower_and_faster_workers_is_found(speed: float) -> None:
    assert YARD is not None
    true = YARD.at_speed(speed) / YARD.rate
    dice = random.Random(1)
    memory = EMPTY
    for i in range(30):
        counted = _ratio(memory)
        noisy = [_serving(speed * dice.uniform(0.93, 1.07), dice.uniform(0.65, 0.85) * counted) for _ in range(4)]
        people = workers(4)
        telemetry = {w.uid: t for w, t in zip(people, noisy, strict=True)}
        memory = learning.observe(
            MODELLED, TYPES, WORK, people, telemetry=telemetry, memory=memory, now=START + 300.0 * i
        )
    assert _ratio(memory) == pytest.approx(true, rel=0.09)


def test_a_worker_as_modelled_teaches_nothing() -> None:
    assert _ratio(_learn([_serving(1.0, 0.8)] * 3)) == 1.0


def test_what_is_learned_is_bounded_and_slow() -> None:
    slow = [_serving(0.4, 0.3, waiting=9, attainment=0.2)] * 3
    assert _ratio(_learn(slow, rounds=2)) == 1.0, "two observations are not enough"
    assert _ratio(_learn(slow, rounds=4)) >= 0.65
    assert 0.5 <= _ratio(_learn(slow, rounds=200)) <= 0.54
    assert _ratio(_learn([_serving(1.0, 3.5)] * 3, rounds=200)) <= 2.0


@pytest.mark.parametrize(
    "changes",
    [
        {"first_ready": START + 5700.0},
        {"phase": WorkerPhase.NOT_READY},
        {"drain_reason": "LowestKvValue"},
        {"instance_type": "l40s"},
    ],
)
def test_workers_that_warm_up_or_leave_teach_nothing(changes: dict[str, object]) -> None:
    assert _learn([_serving(0.7, 0.6)] * 3, **changes).learned == {}


@pytest.mark.parametrize(
    "answer",
    [
        _serving(0.7, 0.3),
        _serving(0.7, 0.3, attainment=0.1),
        told(),
        told(served=math.nan, batches=(5.0,)),
        told(served=1e12, batches=(5.0,), attainment=1.0),
        told(served=1e-9, batches=(300.0,), waiting=5, attainment=0.0),
    ],
)
def test_idle_and_absurd_workers_teach_nothing(answer: WorkerTelemetry) -> None:
    assert _learn([answer] * 3).learned == {}


def test_one_bad_machine_does_not_judge_the_others() -> None:
    good, bad = _serving(1.0, 0.8), _serving(0.6, 0.55, waiting=20, attainment=0.3)
    assert _ratio(_learn([bad, good, good, good])) == 1.0
    idle = _serving(1.0, 0.2)
    assert _learn([bad, idle, idle, idle]).learned == {}


def test_what_was_learned_is_forgotten_after_a_week_and_survives_a_restart() -> None:
    memory = replace(_learn([_serving(0.75, 0.6)] * 3), at=START)
    ratio, end = _ratio(memory), memory.learned[NAME].at
    assert ratio < 0.85
    loaded = checkpoint.load(json.loads(json.dumps(checkpoint.dump(memory, end + 100))), 5.0)
    assert _ratio(loaded) == ratio
    assert loaded.learned[NAME].at == pytest.approx(-95.0, abs=0.2)

    def later(seconds: float) -> DeploymentMemory:
        return learning.observe(MODELLED, TYPES, WORK, [], telemetry={}, memory=memory, now=end + seconds)

    assert _ratio(later(6 * 86_400.0)) == ratio
    assert _ratio(later(7 * 86_400.0)) == 1.0


def test_a_rate_that_a_person_set_is_lowered_but_never_exceeded() -> None:
    body = spec()

    def learned(**figures: object) -> float:
        people, memory = workers(3), EMPTY
        telemetry = {w.uid: told(**figures) for w in people}  # type: ignore[arg-type]
        for i in range(20):
            now = START + 300.0 * i
            memory = learning.observe(body, TYPES, WORK, people, telemetry=telemetry, memory=memory, now=now)
        return _ratio(memory)

    assert learned(served=14.0, attainment=1.0) == 1.0
    assert learned(served=8.0, waiting=5, attainment=0.5) == pytest.approx(0.8, rel=0.09)
    assert learned(served=8.0, waiting=0, attainment=1.0) == 1.0


def test_a_learned_rate_buys_more_and_is_explained() -> None:
    learned = {NAME: LearnedRate(math.log(0.8), 0.8, START, 9)}
    busy = world(workers(3), traffic(25.0))
    usual, corrected = decide(busy, settled(3)), decide(busy, settled(3, learned=learned))
    assert (usual.desired, corrected.desired) == (3, 4)
    assert [v.requests_per_second for v in corrected.variants] == [8.0]
    assert "0.8 x the model, learned" in corrected.message
    assert any(note.figures.get("learned_ratio") == 0.8 for note in corrected.trace())


def test_bursts_are_not_taken_for_slowness() -> None:
    assert YARD is not None
    batches = (4.0, 20.0, 60.0, 100.0, 160.0, 240.0)
    served = sum(YARD.at_batch(batch) or 0.0 for batch in batches) / len(batches)
    assert served < 0.9 * (YARD.at_batch(sum(batches) / len(batches)) or 0.0)
    assert _ratio(_learn([told(served=served, batches=batches, attainment=1.0, waiting=0)] * 3)) == 1.0


# -- start-up times ------------------------------------------------------------------------------------------------


def _started(memory: DeploymentMemory, name: str, begun: float, took: float, **changes: object) -> DeploymentMemory:
    first = worker(name, WorkerPhase.STARTING, first_seen=begun, **changes)
    memory = startup.observe(memory, [first], TYPES, begun + took / 2)
    clean = replace(first, failure_reason="", failure="", unschedulable_since=None)
    done = replace(clean, phase=WorkerPhase.READY, first_ready=begun + took)
    return startup.observe(memory, [done], TYPES, begun + took)


def _watching() -> DeploymentMemory:
    return startup.observe(EMPTY, [], TYPES, START)


def test_own_starts_replace_the_prior_one_by_one() -> None:
    memory, leads = _watching(), []
    for i in range(12):
        memory = _started(memory, f"n{i}", START + 10 + i, 20.0 + i % 3)
        leads.append(startup.startup_lead(TYPES["h100"], memory))
    assert leads[0] == 60.0
    assert leads[4:] == [22.0] * 8
    assert startup.startup_lead(TYPES["h100"], memory, quantile=0.5) == 21.0
    memory = _started(memory, "slow", START + 100, 500.0)
    assert startup.startup_lead(TYPES["h100"], memory) == 22.0, "far above the median: left out"


@pytest.mark.parametrize(
    "changes",
    [
        {"failure_reason": "ErrImagePull", "failure": "no such image"},
        {"phase": WorkerPhase.UNSCHEDULED, "unschedulable_since": START - 500},
        {"first_seen": START - 1},
    ],
)
def test_starts_that_went_wrong_or_were_not_seen_whole_do_not_count(changes: dict[str, object]) -> None:
    begun = worker("n", **({"phase": WorkerPhase.STARTING, "first_seen": START + 1} | changes))
    memory = startup.observe(_watching(), [begun], TYPES, START + 50)
    fixed = replace(begun, phase=WorkerPhase.STARTING, failure_reason="", failure="", unschedulable_since=None)
    memory = startup.observe(memory, [fixed], TYPES, START + 60)
    done = replace(fixed, phase=WorkerPhase.READY, first_ready=START + 90)
    assert startup.observe(memory, [done], TYPES, START + 90).startups == {}


def test_a_fleet_learns_its_lead_while_it_runs_and_keeps_it_over_a_restart() -> None:
    fleet = Cluster(world((), traffic(0.0), record=deployment(spec(scaling=scaling(1, 60, maxStep=60)))), startup=25.0)
    for i in range(40):
        fleet.tick(5.0, {KEY: traffic(10.0 * i, at=fleet.now + 5.0)})
    lead = startup.startup_lead(itype(), fleet.memory.deployments[KEY])
    assert 20.0 <= lead <= 30.0
    text = json.dumps(checkpoint.dump(fleet.memory.deployments[KEY], fleet.now))
    loaded = checkpoint.load(json.loads(text), 0.0)
    assert startup.startup_lead(itype(), loaded) == lead
    assert loaded.watched is None


# -- failed starts, silence ----------------------------------------------------------------------------------------


def test_a_variant_that_fails_to_start_keeps_no_other_from_being_bought() -> None:
    body = spec(variants=[variant("cheap"), variant("dear", "l40s")])
    kinds = [itype(price=8.0), itype("l40s", "L40S", price=80.0)]
    failed = [
        worker(f"f{i}", WorkerPhase.FAILED, variant="cheap", first_seen=START - 50, failure="crash") for i in range(4)
    ]
    made = decide(world(failed, traffic(16.0), record=deployment(body), types=kinds))
    assert {v.name: v.create for v in made.variants} == {"cheap": 0, "dear": 2}
    assert any(p.reason is Reason.WORKER_START_FAILED for p in made.problems)
    alone = decide(world(failed, traffic(16.0), record=deployment(spec(variants=[variant("cheap")]))))
    assert (created(alone), alone.chosen_by) == (0, ChosenBy.HOLD)
    assert "next attempt in" in alone.message


def test_a_silent_agent_does_not_block_a_scale_down_for_ever() -> None:
    assert _quiet(500.0, silent=1, reporting=7) == 8
    assert _quiet(800.0, silent=1, reporting=7) == math.ceil(10.0 * 8 / 7 / 0.7 / 10.0)
    assert _quiet(5000.0, silent=5, reporting=3) == 8, "most are silent: the fleet is held"


def _quiet(seconds: float, *, silent: int, reporting: int) -> int:
    """Workers wanted some time after some agents have fallen silent, where agents alone say what arrives."""
    body = spec(scaling=scaling(1, 20, stabilizationWindow="60s", maxStep=20), routing={"mode": "service"})
    people: list[WorkerRecord] = workers(silent + reporting)
    snapshot = world(people, record=deployment(body))
    memory, now = settled(len(people)), START
    while now <= START + seconds:
        seen = traffic(10.0, at=now, silent_workers=silent, reporting_workers=reporting, sources=("agents",))
        made, memory = plan(replace(snapshot, demand={KEY: seen}), memory, now)
        now += 5.0
    return made.deployments[KEY].desired


def test_a_checkpoint_that_somebody_forged_holds_a_fleet_back_for_an_hour_at_most() -> None:
    data = checkpoint.dump(DeploymentMemory(deployment().uid, generation=1), 0.0) | {
        "wants": [[-1e9, 9]],
        "panic": 1e9,
        "avoid": {"h100": 1e9},
        "failures": {"main": [10, -1e9, {f"u{i}": -1e9 for i in range(9)}]},
        "startups": {"h100": [[-1e9, 1e9]] * 20},
        "learned": {"main@h100": [0.6, 2.0, -1e9, 10**9]},
        "silentSince": -1e9,
    }
    fleet = Cluster(world(record=deployment(spec(scaling=scaling(1, 9, maxStep=9)))))
    fleet.memory = PlannerMemory({KEY: checkpoint.load(json.loads(json.dumps(data)), START)})
    for _ in range(240):
        fleet.tick(5.0, {KEY: traffic(40.0, at=fleet.now + 5.0)})
    assert fleet.serving() >= 3
    for _ in range(1700):
        fleet.tick(5.0, {KEY: traffic(1.0, at=fleet.now + 5.0)})
    assert fleet.serving() == 1


# -- advice --------------------------------------------------------------------------------------------------------


def _advised(people: list[WorkerRecord], rate: float, memory: PlannerMemory | None = None, **changes: object):
    body = spec(scaling={"min": 1, "max": 20, "mode": "Advisory"} | changes)
    return plan(world(people, traffic(rate), record=deployment(body)), memory or settled(len(people)), START)


def test_advice_buys_nothing_and_says_what_it_would_buy() -> None:
    made, _ = _advised(workers(2), 60.0)
    one = made.deployments[KEY]
    assert (one.acts, one.desired, created(one), one.victims) == (False, 8, 0, ())
    assert one.message.startswith("advice, nothing is done: ")
    assert one.chosen_by is ChosenBy.REACTIVE_UP


def test_advice_sends_nobody_away_and_is_not_held_up_by_steps() -> None:
    memory, now = settled(10), START
    body = spec(scaling={"min": 1, "max": 20, "mode": "Advisory", "scaleDown": {"stabilizationWindow": "60s"}})
    for _ in range(30):
        made, memory = plan(world(workers(10), traffic(20.0, at=now), record=deployment(body)), memory, now)
        now += 5.0
    one = made.deployments[KEY]
    assert (one.desired, one.victims, one.cancels) == (3, (), ())
    assert memory.deployments[KEY].steps == ()
    assert memory.deployments[KEY].chosen == {}


def test_a_fleet_under_advice_that_lacks_its_minimum_says_what_to_do() -> None:
    made, _ = _advised([], 0.0)
    (problem,) = made.deployments[KEY].problems
    assert (problem.reason, problem.stalled) == (Reason.ADVISORY, True)
    assert "scaling.mode" in problem.message


def test_advice_takes_nothing_from_those_that_act() -> None:
    first = Key("team-a", "a")
    body = spec(scaling={"min": 1, "max": 20, "mode": "Advisory"})
    records = [deployment(body, key=first), deployment()]
    limited = itype(limit={"accelerators": 4})
    snapshot = world((), types=[limited])
    snapshot = replace(
        snapshot,
        deployments={r.key: r for r in records},
        demand={r.key: traffic(30.0) for r in records},
    )
    made, _ = plan(snapshot, PlannerMemory(), START)
    assert created(made.deployments[KEY]) == 4
    assert made.deployments[first].desired == 0
