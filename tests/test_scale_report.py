"""The scale page: what is said of a curve follows from its figures."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))  # that folder is no package

import scale_agents
import scale_operator
from scale_report import Point, Report, limits, write_page


def point(fleets: int, cold: float | None, tick: float | None, peak: float | None) -> Point:
    return Point(fleets, 20 * fleets, 2000, cold_start_s=cold, tick_s=tick, peak_mb=peak, phases_s={"act": 0.1})


def test_what_breaks_first_lies_on_the_line_through_the_last_two_steps() -> None:
    points = [point(10, 9.0, 9.0, 9.0), point(250, 10.0, 1.0, 200.0), point(1000, 40.0, 4.0, 200.0)]
    found = {limit.name: limit.fleets for limit in limits(points)}
    assert list(found) == ["tick_s", "cold_start_s", "rss_mb"]
    assert found == {"tick_s": pytest.approx(1250), "cold_start_s": pytest.approx(1500), "rss_mb": None}


def test_a_step_that_was_not_measured_is_passed_over_and_one_step_is_no_line() -> None:
    assert limits([point(10, 1.0, None, None)]) == []
    found = limits([point(10, 1.0, None, None), point(20, None, None, None), point(30, 3.0, None, None)])
    assert [(limit.name, limit.fleets) for limit in found] == [("cold_start_s", pytest.approx(600))]


def test_the_page_says_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- scale: written by make bench-scale -->\nfrom before\n<!-- /scale -->\nb\n")
    write_page(Report("two cores", [point(250, 10.0, 1.0, 200.0), point(1000, 40.0, 4.0, 200.0)]), page)
    text = page.read_text()
    assert "from before" not in text
    assert "at 1,250 fleets (tick_s 5); at 1,500 fleets (cold_start_s 60); nowhere (rss_mb 600)" in text


async def test_the_stand_in_for_agents_says_how_many_it_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scale_agents.Agents()
    server = await asyncio.start_server(lambda r, w: scale_agents.control(made, r, w), "127.0.0.1", 0)
    monkeypatch.setattr(scale_operator, "CONTROL", server.sockets[0].getsockname()[1])
    for _ in range(3):
        made.state("10.244.8.1")
    assert await scale_operator.answers() == 3
    server.close()
    await server.wait_closed()
