"""Rollouts: surge, drain, canary, rollback, and all of it while the traffic moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from planning_specs import KEY, itype, scaling, spec, variant
from planning_specs import deployment as simple
from planning_world import START, Cluster, traffic, worker, world
from warmfleet_contracts import labels
from warmfleet_contracts.reasons import ChosenBy, Reason, VictimReason
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state import checkpoint
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import WorkerPhase
from warmfleet_operator.state.revisions import revisions

TICK = 10.0
OLD, NEW = {"image": "vllm:1"}, {"image": "vllm:2"}


def revision(engine: dict[str, Any]) -> str:
    return revisions(spec(engine=engine))["main"]


class Fleet(Cluster):
    """A cluster whose template changes while it runs; every tick checks what always holds."""

    lowest = 10**9
    highest = 0

    def apply(self, **changes: Any) -> None:
        body = spec(**{"engine": OLD, **changes})
        record = self.snapshot.deployments[KEY]
        fresh = replace(record, spec=body, revisions=revisions(body), generation=record.generation + 1)
        self.snapshot = replace(self.snapshot, deployments={KEY: fresh})

    def run(self, seconds: float, rate: float | Callable[[float], float] = 25.0, until: Reason | None = None) -> None:
        end = self.now + seconds
        while self.now < end:
            demand = rate(self.now - START) if callable(rate) else rate
            at = self.now + TICK
            telemetry: dict[str, Any] = {}
            self.snapshot = replace(self.snapshot, telemetry=telemetry)
            self.tick(TICK, {KEY: traffic(demand, at=at)})
            self.lowest = min(self.lowest, self.serving())
            self.highest = max(self.highest, sum(w.phase is not WorkerPhase.FAILED for w in self.snapshot.workers))
            for victim in self.made.victims:
                assert victim.message
            if until is not None and self.state is until:
                return
        assert until is None, f"{until} was not reached: {self.made.rollout}"

    @property
    def made(self) -> Any:
        return self.last.deployments[KEY]

    @property
    def state(self) -> Reason | None:
        return self.made.rollout.state

    def on(self, engine: dict[str, Any]) -> int:
        return sum(w.revision == revision(engine) and not w.leaving for w in self.snapshot.workers)


def fleet(there: int = 3, *, limit: int | None = None, startup: float = 60.0, **changes: Any) -> Fleet:
    """A fleet at rest on the old template, proven."""
    kind = itype(startup=startup, limit={"accelerators": limit} if limit is not None else {})
    body = spec(**{"engine": OLD, **changes})
    people = [worker(f"w{i}", revision=revision(OLD)) for i in range(there)]
    made = Fleet(world(people, None, record=simple(body, revisions=revisions(body)), types=[kind]), startup=startup)
    made.run(300.0)
    assert made.memory.deployments[KEY].rollout.good is not None
    assert (made.created, made.removed, made.state) == (0, 0, None)
    made.lowest, made.highest = 10**9, 0
    return made


def test_each_worker_is_replaced_by_surge_and_drain_and_never_one_too_few_serves() -> None:
    fleets = fleet()
    fleets.apply(engine=NEW)
    fleets.run(TICK)
    assert (fleets.state, fleets.made.chosen_by) == (Reason.ROLLING_OUT, ChosenBy.ROLLOUT)
    fleets.run(1200.0)
    assert (fleets.on(NEW), fleets.on(OLD), fleets.state) == (3, 0, None)
    assert (fleets.lowest, fleets.highest) == (3, 4)
    assert (fleets.created, fleets.removed) == (3, 3)
    assert fleets.memory.deployments[KEY].rollout.good_revisions == {"main": revision(NEW)}
    assert not fleets.memory.deployments[KEY].rollout.sizes


def test_max_surge_counts_those_that_drain_and_makes_it_faster() -> None:
    slow, fast = fleet(6, replicas=6), fleet(6, replicas=6)
    for one, surge in ((slow, 1), (fast, 3)):
        one.apply(engine=NEW, replicas=6, rollout={"maxSurge": surge})
        took = one.now
        while one.on(OLD):
            one.run(TICK)
        one.startup = one.now - took
        assert (one.lowest, one.highest) == (6, 6 + surge)
    assert fast.startup < slow.startup / 2


def test_an_upgrade_of_the_operator_replaces_nobody() -> None:
    fleets = fleet()
    strange = [replace(w, revision="0123456789") for w in fleets.snapshot.workers]
    fleets.snapshot = replace(fleets.snapshot, workers=tuple(strange))
    fleets.run(300.0)
    fleets.apply(slo={"ttft": "3s"}, scaling={"min": 1, "max": 30})
    fleets.run(300.0)
    assert (fleets.created, fleets.removed, fleets.state) == (0, 0, None)


@pytest.mark.parametrize(("rollout", "new", "promoted"), [({"canary": "20%"}, 1, {}), ({"partition": 3}, 2, {})])
def test_a_canary_stays_until_it_is_promoted(rollout: dict[str, Any], new: int, promoted: dict[str, Any]) -> None:
    fleets = fleet(5, replicas=5)
    fleets.apply(engine=NEW, replicas=5, rollout=rollout)
    fleets.run(600.0, until=Reason.CANARY)
    fleets.run(600.0)
    assert (fleets.on(NEW), fleets.on(OLD), fleets.state) == (new, 5 - new, Reason.CANARY)
    assert fleets.memory.deployments[KEY].rollout.good_revisions == {"main": revision(OLD)}
    fleets.apply(engine=NEW, replicas=5, rollout=promoted)
    fleets.run(1200.0)
    assert (fleets.on(NEW), fleets.state, fleets.lowest) == (5, None, 5)


def test_a_canary_keeps_its_share_when_the_fleet_grows_and_shrinks() -> None:
    down = {"maxStep": 5, "stabilizationWindow": "60s"}
    fleets = fleet(4, scaling=scaling(1, 20, **down))
    fleets.apply(engine=NEW, scaling=scaling(1, 20, **down), rollout={"canary": "25%"})
    fleets.run(600.0, until=Reason.CANARY)
    fleets.run(300.0, rate=100.0)
    assert (fleets.on(OLD), fleets.on(NEW)) == (9, 3)
    fleets.run(600.0, rate=25.0)
    assert fleets.on(NEW) == 1
    assert fleets.on(OLD) == 3


@pytest.mark.parametrize("trouble", ["broken", "hanging"])
def test_a_template_that_does_not_come_up_is_rolled_back_and_that_ends(trouble: str) -> None:
    fleets = fleet()
    getattr(fleets, trouble).add(revision(NEW))
    fleets.apply(engine=NEW, rollout={"progressDeadline": "5m"})
    fleets.run(900.0, until=Reason.ROLLED_BACK)
    fleets.run(300.0)
    rolled = fleets.made.rollout
    assert rolled.state is Reason.ROLLED_BACK
    assert rolled.spec.engine.image == "vllm:1"
    assert rolled.revision == revision(OLD)
    assert (fleets.on(NEW), fleets.on(OLD), fleets.lowest) == (0, 3, 3)
    (problem,) = [p for p in fleets.made.problems if p.reason is Reason.ROLLED_BACK]
    assert problem.stalled
    assert ("ImagePullBackOff" if trouble == "broken" else "progressDeadline 300 s") in problem.message
    done = fleets.created, fleets.removed
    fleets.run(300.0)
    assert (fleets.created, fleets.removed) == done

    fleets.run(120.0, rate=40.0)
    assert fleets.on(OLD) == 5, "it grows with the last good template"
    fleets.broken, fleets.hanging = set(), set()
    fleets.apply(engine={"image": "vllm:3"})
    fleets.run(1500.0, rate=40.0)
    assert (fleets.on({"image": "vllm:3"}), fleets.state) == (5, None)


def test_workers_that_fail_after_they_were_ready_cost_one_old_worker_at_most() -> None:
    fleets = fleet()
    fleets.apply(engine=NEW)
    for _ in range(90):
        fleets.run(TICK)
        people = [
            replace(w, phase=WorkerPhase.FAILED, failure="CrashLoopBackOff")
            if w.revision == revision(NEW) and w.first_ready is not None and fleets.now - w.first_ready >= 40.0
            else w
            for w in fleets.snapshot.workers
        ]
        fleets.snapshot = replace(fleets.snapshot, workers=tuple(people))
    assert fleets.state is Reason.ROLLED_BACK
    assert "CrashLoopBackOff" in fleets.made.rollout.message
    assert (fleets.on(NEW), fleets.on(OLD)) == (0, 3)
    assert fleets.lowest == 2, "one was let go before the first new one failed"


@pytest.mark.parametrize("ticks", [1, 2, 3])
def test_fewer_workers_in_the_middle_of_a_failing_rollout_do_not_stop_it(ticks: int) -> None:
    """Found by the soak: the one too many was to be replaced by what fails, and so nothing was bought any more."""
    fleets = fleet(3, replicas=3, startup=20.0)
    fleets.broken = {revision(NEW)}
    fleets.apply(engine=NEW, replicas=3)
    fleets.run(ticks * TICK)
    fleets.apply(engine=NEW, replicas=2)
    fleets.run(600.0, until=Reason.ROLLED_BACK)
    fleets.run(600.0)
    assert (fleets.on(OLD), fleets.serving(), fleets.lowest) == (2, 2, 2)


def test_the_rejection_outlives_a_restart_with_its_template() -> None:
    fleets = fleet()
    fleets.broken.add(revision(NEW))
    fleets.apply(engine=NEW)
    fleets.run(900.0, until=Reason.ROLLED_BACK)
    mine = fleets.memory.deployments[KEY]
    data, template = checkpoint.dump(mine, fleets.now), checkpoint.template(mine)
    loaded = checkpoint.with_template(checkpoint.load(data, 5.0), template)
    assert loaded.rollout.good == mine.rollout.good
    assert loaded.rollout.rejected == mine.rollout.rejected
    forged = {**(template or {}), "engine": {"image": "evil:1"}}
    for other in (None, forged, {"nonsense": 1}, 7):
        assert checkpoint.with_template(checkpoint.load(data, 5.0), other).rollout.good is None
    fleets.memory = PlannerMemory({KEY: replace(loaded, at=None)})
    made, _ = plan(fleets.snapshot, fleets.memory, fleets.now)
    rolled = made.deployments[KEY].rollout
    assert rolled is not None
    assert rolled.state is Reason.ROLLED_BACK


def test_without_a_good_template_nothing_is_rolled_back() -> None:
    body = spec(engine=NEW)
    fleets = Fleet(world([], None, record=simple(body, revisions=revisions(body)), types=[itype()]))
    fleets.broken.add(revision(NEW))
    fleets.run(900.0)
    assert fleets.state is None
    assert any(p.stalled and p.reason is Reason.WORKER_START_FAILED for p in fleets.made.problems)


def test_it_goes_on_while_the_fleet_grows_and_shrinks() -> None:
    window = {"maxStep": 3, "stabilizationWindow": "60s"}
    fleets = fleet(scaling=scaling(1, 20, **window))
    fleets.apply(engine=NEW, scaling=scaling(1, 20, **window))
    begun = fleets.now - START
    for _ in range(12):
        fleets.run(100.0, rate=lambda at: 25.0 if at - begun < 150 else 70.0 if at - begun < 700 else 12.0)
        need = {True: 2, False: 3}[fleets.now - START - begun > 700]
        assert fleets.serving() >= need
    assert (fleets.on(OLD), fleets.state) == (0, None)
    assert fleets.on(NEW) == 2


def test_when_no_accelerator_is_left_one_is_drained_first_if_the_others_carry_the_demand() -> None:
    fleets = fleet(4, limit=4, scaling=scaling(1, 4))
    fleets.apply(engine=NEW, scaling=scaling(1, 4))
    fleets.run(1500.0, rate=25.0)
    assert (fleets.on(NEW), fleets.on(OLD), fleets.lowest, fleets.highest) == (4, 0, 3, 4)


@pytest.mark.parametrize("changes", [{"scaling": scaling(1, 4)}, {"scaling": scaling(4, 8)}])
def test_when_none_can_be_spared_it_waits_and_says_so(changes: dict[str, Any]) -> None:
    fleets = fleet(4, limit=4, **changes)
    fleets.apply(engine=NEW, **changes)
    rate = 33.0 if changes["scaling"]["min"] == 1 else 20.0
    fleets.run(900.0, rate=rate)
    assert (fleets.on(OLD), fleets.removed, fleets.state) == (4, 0, Reason.ROLLOUT_WAITING)
    (problem,) = [p for p in fleets.made.problems if p.reason is Reason.ROLLOUT_WAITING]
    assert "raise the InstanceType's limit" in problem.message
    assert not problem.stalled


@pytest.mark.parametrize("note", [labels.PAUSED_SCALE_IN, labels.PAUSED_SCALE_OUT, labels.PAUSED])
def test_a_pause_stops_a_rollout_where_it_is(note: str) -> None:
    fleets = fleet()
    fleets.apply(engine=NEW)
    fleets.run(100.0)
    record = fleets.snapshot.deployments[KEY]
    fleets.snapshot = replace(fleets.snapshot, deployments={KEY: replace(record, annotations={note: "true"})})
    fleets.run(60.0)
    done = fleets.created, fleets.removed
    fleets.run(600.0)
    assert (fleets.created, fleets.removed) == done
    assert fleets.state is Reason.ROLLOUT_WAITING
    assert note in fleets.made.rollout.message
    fleets.snapshot = replace(fleets.snapshot, deployments={KEY: record})
    fleets.run(1200.0)
    assert (fleets.on(NEW), fleets.on(OLD), fleets.state) == (3, 0, None)


def test_a_protected_worker_is_left_and_named() -> None:
    fleets = fleet(2, replicas=2)
    people = [replace(w, protected=i == 0) for i, w in enumerate(fleets.snapshot.workers)]
    fleets.snapshot = replace(fleets.snapshot, workers=tuple(people))
    fleets.apply(engine=NEW, replicas=2)
    fleets.run(900.0)
    assert (fleets.on(NEW), fleets.on(OLD), fleets.state) == (1, 1, Reason.ROLLOUT_WAITING)
    assert "do-not-drain" in fleets.made.rollout.message


def test_another_type_for_a_variant_is_a_new_revision_too() -> None:
    fleets = fleet(2, replicas=2)
    kinds = {k.name: k for k in (itype(), itype("l40s", "L40S"))}
    fleets.snapshot = replace(fleets.snapshot, instance_types=kinds)
    fleets.apply(replicas=2, variants=[variant("main", "l40s")])
    fleets.run(900.0)
    assert [w.instance_type for w in fleets.snapshot.workers if not w.leaving] == ["l40s", "l40s"]
    assert fleets.lowest == 2


def test_who_leaves_for_a_rollout_is_not_called_back() -> None:
    fleets = fleet()
    fleets.drain = 300.0
    fleets.apply(engine=NEW)
    while not fleets.made.victims:
        fleets.run(TICK)
    (victim,) = fleets.made.victims
    assert (victim.reason, victim.drain) == (VictimReason.OUTDATED_REVISION, True)
    fleets.run(60.0, rate=60.0)
    assert not any(one.cancels for one in fleets.last.deployments.values())
