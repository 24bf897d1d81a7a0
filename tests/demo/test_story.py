"""What the report says of a run is what the run holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from warmfleet_cli.demo import story
from warmfleet_cli.demo.chapters import chapters
from warmfleet_cli.demo.clairvoyant import demand_per_step, optimum
from warmfleet_cli.demo.timeline import Beside, Outlook, ScaleEvent, Timeline

Make = Callable[..., Timeline]


def test_what_is_bought_before_the_demand_is_there_is_ahead(make_run: Make) -> None:
    bought = story.purchases(make_run())
    rise = [p for p in bought if p.event.at < 2000.0]
    assert len(rise) >= 3
    assert all(p.ahead for p in rise)
    leads = [p.lead_s for p in rise if p.lead_s is not None]
    assert leads
    assert all(60.0 < lead < 600.0 for lead in leads)
    late = [p for p in bought if p.event.at > 4500.0]
    assert late, "the spike is bought for"
    assert not any(p.ahead for p in late)


def test_nothing_is_bought_ahead_without_a_trusted_forecast(make_run: Make) -> None:
    run = make_run(forecast=False)
    assert run.scalings("ScaledUp")
    assert not any(p.ahead for p in story.purchases(run)), "a margin is no forecast, whatever it buys"
    text = dict(chapters(run))["Buying ahead"]
    assert text.startswith("None of")


def test_the_other_fleets_events_are_not_this_ones(make_run: Make) -> None:
    run = make_run()
    run.events.append(ScaleEvent(100.0, "ScaledUp", "created 1 worker", "LLMDeployment/chat-without"))
    run.events.append(ScaleEvent(100.0, "DrainStarted", "x", "Pod/chat-without-l4-1"))
    assert all(event.object == "LLMDeployment/chat" for event in run.scalings("ScaledUp"))
    assert all(event.object == "LLMDeployment/chat-without" for event in run.scalings("ScaledDown", beside=True))
    assert not any("without" in event.object for event in run.own_events)


def test_hits_are_those_of_the_answers_and_of_each_fleet(make_run: Make) -> None:
    run = make_run()
    mine, other = story.retention(run), story.retention(run, beside=True)
    assert mine is not None
    assert other is not None
    assert (mine.before, mine.after, mine.lowest) == pytest.approx((0.88, 0.88, 0.88))
    assert other.before == pytest.approx(0.88)
    assert other.after is not None
    assert other.after < 0.8
    assert other.lowest == pytest.approx(0.68)
    assert story.hits(run)[-1] == pytest.approx(0.704)
    assert story.possible(run)[-1] == pytest.approx(0.8)
    none = {"prompt_tokens": 0, "cached_tokens": 0, "repeated_tokens": 0, "beside": Beside(3)}
    run.samples = [dataclasses.replace(s, **none) for s in run.samples]
    assert set(story.hits(run)) == set(story.possible(run)) == {None}
    assert "unknown" in dict(chapters(run))["Hand-over"]


def test_the_band_is_what_was_said_a_start_up_time_before(make_run: Make) -> None:
    run = make_run()
    run.outlooks = [
        Outlook(0.0, 0.0, True, "", ((300.0, 1.0, 2.0), (900.0, 3.0, 4.0))),
        Outlook(600.0, 600.0, True, "", ((300.0, 11.0, 12.0), (900.0, 13.0, 14.0))),
    ]
    said = dict(zip((s.at for s in run.samples), story.band(run), strict=True))
    assert said[200.0] is None, "nothing was said early enough"
    assert said[600.0] == pytest.approx((2.0, 3.0))
    assert said[940.0] is None, "the newest is not old enough, and the one before does not reach so far"
    assert said[960.0] == pytest.approx((11.2, 12.2))


def test_the_optimum_serves_the_same_requests_for_less(make_run: Make) -> None:
    run = make_run()
    demand = demand_per_step(run)
    assert demand.sum() == pytest.approx(sum(s.offered for s in run.samples) * 20.0, rel=0.02)
    best, cost = optimum(run), run.cost()
    assert best is not None
    assert cost is not None
    assert 0.5 * cost < best.cost < cost
    assert len(best.cost_per_hour) == len(demand)
    run.samples = []
    assert optimum(run) is None


def test_every_chapter_has_figures_of_the_run(make_run: Make) -> None:
    run = make_run()
    told = dict(chapters(run))
    assert list(told) == ["Buying ahead", "A machine goes", "Hand-over", "The spike", "The cost"]
    assert "88% before" in told["Hand-over"]
    assert "lowest 68%" in told["Hand-over"]
    assert "Machine l4-3 is taken away" in told["A machine goes"]
    assert "No requests failed" in told["A machine goes"]
    assert "up to 9 requests waited" in told["The spike"]
    assert f"${run.cost():.2f}" in told["The cost"]
    empty = dataclasses.replace(run.setup, spike=None)
    assert chapters(Timeline(empty)) == []
