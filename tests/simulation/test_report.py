"""The report of ``warmfleet simulate``: what its plots and its log show."""

from __future__ import annotations

import re

import numpy as np
import pytest
from warmfleet_simulation.fleet import Fleet, Load, make_load
from warmfleet_simulation.foreknown import Foreknown
from warmfleet_simulation.ours import Ours, Reactive, nothing
from warmfleet_simulation.report import COLOURS, colour, page, pareto, waterfall
from warmfleet_simulation.rivals import RIVALS
from warmfleet_simulation.scenarios import synthetic
from warmfleet_simulation.sweep import Result, sweep


@pytest.fixture(scope="module")
def made(one_type: Fleet) -> tuple[Result, Load]:
    rate = 20.0 + 12.0 * np.sin(np.arange(720) * 2 * np.pi / 240)
    load = make_load((synthetic("<waves>", rate),), one_type, seed=3, step_s=30.0, tune_days=0.25)
    policies = [RIVALS["static-peak"], RIVALS["hpa-kv"], RIVALS["dynamo-planner"], Ours(nothing)]
    return sweep("<waves>", one_type, load, policies, seed=3, grid=(0.7, 1.0, 1.4)), load


def test_the_pareto_plot_has_each_policys_curve_and_marks_what_was_tuned(made: tuple[Result, Load]) -> None:
    result, _ = made
    lines = {line.name: line for line in pareto(result).data}
    assert list(lines) == ["static-peak", "hpa-kv", "dynamo-planner", "warmfleet"]
    for curve in result.curves:
        line = lines[curve.policy]
        assert len(line.x) == len(curve.lanes)
        at = list(line.marker.symbol).index("star")
        assert line.x[at] == pytest.approx(curve.tuned.score.cost / result.optimum)
        assert line.y[at] == pytest.approx(100 * curve.tuned.score.attainment)


def test_the_waterfall_falls_from_the_static_peak_to_the_optimum(made: tuple[Result, Load]) -> None:
    result, _ = made
    figure = waterfall(result)
    assert figure is not None
    (fall,) = figure.data
    assert sum(fall.y[:-1]) == pytest.approx(result.optimum)
    assert fall.y[-1] == result.optimum
    by_name = {curve.policy: curve for curve in result.curves}
    assert fall.y[0] == by_name["static-peak"].tuned.score.cost
    ours = list(fall.x).index("warmfleet")
    assert sum(fall.y[: ours + 1]) == pytest.approx(by_name["warmfleet"].tuned.score.cost)
    assert all(re.fullmatch(r"-?\$[\d,]+", text) for text in fall.text)


def test_the_page_has_the_log_with_reasons_and_marks_who_is_late(made: tuple[Result, Load]) -> None:
    result, load = made
    text = page(result, load, ["a note & more"])
    log = text[text.index("<details><summary>warmfleet: ") :]
    assert re.search(r"<td>\d\.\d{4}<td class=t>chat<td>\d+<td>\d+<td class=t>Reactive(Up|Down): ", log)
    assert "<td class=t>KV-cache use against the target" in text
    assert "<h1>&lt;waves&gt;</h1>" in text
    assert "a note &amp; more" in text
    assert '<script src="http' not in text
    for curve in result.curves:
        row = text[text.index(f"<tr><td>{curve.policy}<td") :].split("</tr>")[0]
        assert (" !" in row) == (curve.tuned.score.attainment < result.objective)


def test_no_two_policies_have_one_colour(one_type: Fleet) -> None:
    load = make_load((synthetic("flat", np.full(60, 9.0)),), one_type, seed=1, tune_days=0.01)
    names = [*RIVALS, Reactive.name, Ours.name, Foreknown(load).name]
    assert len({colour(name, i) for i, name in enumerate(names)}) == len(names)
    assert len(set(COLOURS)) == len(COLOURS)
