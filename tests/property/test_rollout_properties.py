"""What holds of every rollout: never too few, bounded surge, drain first, and an end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from planning_specs import KEY, itype, spec
from planning_specs import deployment as simple
from planning_world import Cluster, told, traffic, worker, world
from warmfleet_contracts.reasons import Reason, VictimReason
from warmfleet_operator.state import checkpoint
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import WorkerPhase
from warmfleet_operator.state.revisions import revisions

TICK = 15.0
OLD, NEW = {"image": "vllm:1"}, {"image": "vllm:2"}


def _spec(engine: dict[str, Any], there: int, *, fixed: bool, surge: int) -> Any:
    size: dict[str, Any] = {"replicas": there}
    if not fixed:
        size = {"scaling": {"min": min(2, there), "max": 12, "scaleDown": {"stabilizationWindow": 60, "maxStep": 2}}}
    return spec(engine=engine, rollout={"maxSurge": surge, "progressDeadline": "5m"}, **size)


@settings(max_examples=max(10, settings.default.max_examples // 25))  # each is a quarter of an hour and more
@given(st.data())
def test_a_rollout_never_has_too_few_and_ends_in_the_new_or_the_last_good_revision(data: st.DataObject) -> None:
    there, surge = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    fixed, trouble = data.draw(st.booleans()), data.draw(st.sampled_from(["", "", "broken", "hanging"]))
    limit = data.draw(st.sampled_from([None, None, there, there + 1]))
    levels = data.draw(st.lists(st.floats(1.0, 60.0), min_size=1, max_size=3))
    restart = data.draw(st.integers(0, 60))
    before, after = (_spec(engine, there, fixed=fixed, surge=surge) for engine in (OLD, NEW))
    old, new = revisions(before)["main"], revisions(after)["main"]
    kind = itype(startup=30.0, limit={} if limit is None else {"accelerators": limit})
    people = [worker(f"w{i}", revision=old) for i in range(there)]
    record = simple(before, revisions=revisions(before))
    fleet = Cluster(world(people, None, record=record, types=[kind]), startup=30.0, drain=20.0)
    if trouble:
        getattr(fleet, trouble).add(new)

    def run(ticks: int, rate: float) -> None:
        for _ in range(ticks):
            answers = {w.uid: told() for w in fleet.snapshot.workers}
            fleet.snapshot = replace(fleet.snapshot, telemetry=answers)
            served = {w.uid for w in fleet.snapshot.workers if w.phase is WorkerPhase.READY}
            was = fleet.serving()
            fleet.tick(TICK, {KEY: traffic(rate, at=fleet.now + TICK)})
            made = fleet.last.deployments[KEY]
            assert not any(p.reason is Reason.OPERATOR_ERROR for p in made.problems)
            assert all(v.drain for v in made.victims if v.uid in served)
            outdated = [v for v in made.victims if v.reason is VictimReason.OUTDATED_REVISION and v.drain]
            assert len(outdated) <= surge
            if outdated:
                least = max(1, there - 1 if fixed else min(2, there))
                assert fleet.serving() >= min(least, was)
                assert fleet.serving() * 10.0 >= min(rate, was * 10.0 - 10.0 * len(outdated))
            if limit is not None:
                assert len(fleet.snapshot.workers) <= max(limit, there)

    run(20, levels[0])
    fleet.snapshot = replace(
        fleet.snapshot, deployments={KEY: replace(record, spec=after, revisions=revisions(after), generation=2)}
    )
    for i in range(5):
        run(15, levels[i % len(levels)])
        if restart // 15 == i:
            mine = fleet.memory.deployments[KEY]
            loaded = checkpoint.load(checkpoint.dump(mine, fleet.now), fleet.now)
            fleet.memory = PlannerMemory({KEY: checkpoint.with_template(loaded, checkpoint.template(mine))})
    run(100, levels[-1])
    staying = [w for w in fleet.snapshot.workers if not w.leaving]
    rolled = fleet.last.deployments[KEY].rollout
    assert rolled is not None
    if rolled.state is Reason.ROLLOUT_WAITING:
        assert limit is not None, "only a lack of accelerators may stop it here"
        return
    final = new if rolled.state is not Reason.ROLLED_BACK else old
    assert not trouble or final == old or not any(w.phase is WorkerPhase.READY for w in staying if w.revision == new)
    assert {w.revision for w in staying} <= {final}
    assert fleet.serving() >= (there if fixed else min(2, there))
