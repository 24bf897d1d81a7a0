from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from warmfleet_cli.demo import plots, report, view
from warmfleet_cli.demo.timeline import Timeline, read_timeline, write_record

TOTALS = report.Totals(requests=2100, failed=0, tokens=4_200_000)


Make = Callable[..., Timeline]


def save(run: Timeline, path: Path) -> Path:
    with path.open("w") as out:
        for record in (run.setup, *run.samples, *run.events, *run.drains, *run.outlooks, *run.fault):
            write_record(out, record)
        if run.optimum is not None:
            write_record(out, run.optimum)
    return path


def test_a_run_survives_its_file(tmp_path: Path, make_run: Make) -> None:
    run = make_run(minutes=60)
    assert read_timeline(save(run, tmp_path / "run.jsonl")) == run


@pytest.mark.parametrize("line", ['{"kind":"sample"}', "nonsense", '{"kind":"other"}', "[]"])
def test_a_bad_line_is_named(tmp_path: Path, line: str, make_run: Make) -> None:
    path = save(make_run(minutes=5), tmp_path / "run.jsonl")
    path.write_text(path.read_text() + line + "\n")
    number = len(path.read_text().splitlines())
    with pytest.raises(ValueError, match=f"line {number}"):
        read_timeline(path)


def test_the_page_has_every_series_every_event_and_nothing_from_outside(tmp_path: Path, make_run: Make) -> None:
    run = read_timeline(save(make_run(), tmp_path / "run.jsonl"))
    page = report.render(run, TOTALS)
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=", markup)
    for title in plots.PANELS:
        assert title in page
    assert "2,100" in page
    assert "4,200,000 tokens checked" in page
    rows = len(run.own_events) + len(run.drains) + len(run.scalings("ScaledUp")) + len(run.fault)
    assert page.count('<tr><td class="when">') == rows
    assert "generated traffic" in page
    assert "chat-without" in page


def test_the_plots_hold_what_was_recorded(make_run: Make) -> None:
    run = make_run()
    figure = plots.figure(run)
    traces = {trace.name: trace for trace in figure.data}
    expected = {"capacity", "offered", "serving l4", "starting", "leaving", "wanted", "waiting", "p50", "p99"}
    expected |= {"with hand-over", "without hand-over", "optimum", "planned for, on the forecast"}
    assert expected | {"warmfleet", "always at its largest", "ScaledUp", "ScaledDown"} <= set(traces)
    assert list(traces["capacity"].y) == [sample.capacity for sample in run.samples]
    assert list(traces["ScaledUp"].text) == [event.message for event in run.scalings("ScaledUp")]
    assert list(traces["planned for, on the forecast"].y) == [sample.need for sample in run.samples]
    assert set(traces["planned for, without it"].y) == {None}
    assert len(traces["worker leaves"].x) == len(run.scalings("ScaledDown"))


def test_a_need_by_the_built_in_margin_is_not_drawn_as_the_forecasts(make_run: Make) -> None:
    run = make_run(forecast=False)
    traces = {trace.name: trace for trace in plots.figure(run).data}
    assert set(traces["planned for, on the forecast"].y) == {None}
    assert list(traces["planned for, without it"].y) == [sample.need for sample in run.samples]


def test_unknown_figures_stay_unknown(make_run: Make) -> None:
    run = make_run(minutes=20)
    blind: dict[str, Any] = {
        "demand": None,
        "capacity": None,
        "queue": None,
        "cost_per_hour": None,
        "ttft": (),
        "need": None,
    }
    blind |= {"prompt_tokens": 0, "cached_tokens": 0, "beside": None}
    run.samples = [dataclasses.replace(sample, **blind) for sample in run.samples]
    page = report.render(run, TOTALS)
    assert page.count("<b>unknown</b>") == 2
    assert run.cost() is None


def test_text_from_the_cluster_is_escaped(make_run: Make) -> None:
    run = make_run(minutes=60)
    run.events = [dataclasses.replace(event, message="<script>alert(1)</script>") for event in run.events]
    rows = report.render(run, TOTALS).partition('id="events"')[2]
    assert run.events
    assert "<script>alert" not in rows
    assert "&lt;script&gt;alert" in rows


def test_failures_are_listed(make_run: Make) -> None:
    totals = dataclasses.replace(TOTALS, failed=3, failures=(("StreamError: cut off", 3),))
    assert "StreamError: cut off" in report.render(make_run(minutes=10), totals)


def test_an_empty_run_still_gives_a_page(make_run: Make) -> None:
    run = make_run(minutes=5)
    run.samples, run.events, run.drains, run.outlooks, run.fault, run.optimum = [], [], [], [], [], None
    assert "<h1>" in report.render(run, TOTALS)


def test_the_view_shows_fleet_events_and_totals(make_run: Make) -> None:
    run = make_run(minutes=60)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(view.render(run, requests=2100, failed=0, kubeconfig="out/kc", width=120))
        text = console.export_text()
    parts = ("export KUBECONFIG=out/kc", "2100", "ScaledDown", run.samples[-1].workers[0].name, "generated", "1 x L4")
    for part in (*parts, "by its forecast", "hits, with hand-over", "the same without", "Fault"):
        assert part in text
    assert all(len(line) <= 120 for line in text.splitlines())
    line = view.plain_line(run, requests=2100, failed=0)
    assert "failed 0" in line
    assert "day 8, 08:30" in line


def test_the_view_says_when_no_forecast_was_used(make_run: Make) -> None:
    run = make_run(minutes=20, forecast=False)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(view.render(run, requests=1, failed=0, kubeconfig="kc", width=120))
    assert "by the built-in margin" in console.export_text()


def test_a_sparkline_scales_and_leaves_gaps() -> None:
    assert view.sparkline([0, None, 7], width=3, top=7) == "▁ █"
    assert view.sparkline([], width=4, top=1) == "    "
    assert len(view.sparkline(list(range(300)), width=40, top=300)) == 40
