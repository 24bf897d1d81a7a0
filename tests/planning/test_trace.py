"""The chain of a decision: every step, in order, with the figures that were decided on."""

from __future__ import annotations

from dataclasses import replace

from planning_specs import deployment, spec, variant
from planning_world import START, decide, settled, traffic, workers, world
from warmfleet_operator.planning import draft as drafts
from warmfleet_operator.planning import plan as planner
from warmfleet_operator.planning import trace
from warmfleet_operator.planning.blend import Basis
from warmfleet_operator.planning.mix import Short
from warmfleet_operator.state.decisions import DeploymentPlan, Note, Stage


def _lines(made: DeploymentPlan, stage: Stage) -> list[Note]:
    return [note for note in made.trace() if note.stage is stage]


def test_the_chain_of_a_fleet_that_grows() -> None:
    body = spec(variants=[variant(), variant("small", "l40s")])
    made = decide(world(workers(2), traffic(34.0, queue=60), record=deployment(body)), settled(2))
    order = [note.stage for note in made.trace()]
    assert order == sorted(order, key=list(Stage).index)
    assert set(order) == set(Stage)
    (demand,) = _lines(made, Stage.DEMAND)
    assert demand.figures["demand_rps"] == 34.0 + 60 / 60.0
    assert "60 wait" in demand.text
    assert [n.figures.get("worker_rps") for n in _lines(made, Stage.CAPACITY)] == [10.0, 10.0]
    (mix,) = _lines(made, Stage.MIX)
    assert mix.figures["create"] == sum(v.create for v in made.variants) == 3
    assert "create 3 main" in mix.text
    (limits,) = _lines(made, Stage.LIMITS)
    assert limits.figures["desired"] == made.desired
    assert str(made.chosen_by) in limits.text
    assert [n.text for n in _lines(made, Stage.VICTIMS)] == ["nobody leaves"]


def test_the_chain_names_those_who_leave_and_counts_the_rest() -> None:
    crowd = workers(30)
    made = decide(world(crowd, traffic(0.0), record=deployment(spec(replicas=2))), settled(30))
    named = _lines(made, Stage.VICTIMS)
    assert len(made.victims) == 28
    assert len(named) == 9
    assert named[0].text.startswith(f"{made.victims[0].pod.name} drains, {made.victims[0].reason}")
    assert named[-1].text == "and 20 more"


def test_unknown_figures_are_left_out() -> None:
    made = decide(world(workers(2)), settled(2))
    (demand,) = _lines(made, Stage.DEMAND)
    assert "demand_rps" not in demand.figures
    assert demand.text.startswith("unknown")
    assert _lines(made, Stage.BLEND)[0].figures == {}


def test_a_step_s_own_line_takes_the_place_of_the_plain_one(monkeypatch) -> None:
    prepare = drafts.prepare

    def with_a_note(*arguments: object) -> drafts.Draft:
        found = prepare(*arguments)  # type: ignore[arg-type]
        return replace(found, notes=[Note(Stage.BLEND, "97 % of the time", {"p": 0.97})])

    monkeypatch.setattr(planner, "prepare", with_a_note)
    made = decide(world(workers(2), traffic(5.0, at=START)), settled(2))
    assert [n.text for n in _lines(made, Stage.BLEND)] == ["97 % of the time"]


def test_every_reason_to_stop_buying_has_words() -> None:
    assert set(trace._SHORT) == set(Short)
    assert set(trace.BASIS_WORDS) == set(Basis) - {Basis.REACTIVE}
