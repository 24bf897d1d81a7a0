from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from warmfleet_cli.demo import command, traffic
from warmfleet_cli.demo.conversations import Shape
from warmfleet_cli.demo.run import SCALE, WARM_UP, Options, Result, _arrivals, _history, _whole_minute
from warmfleet_cli.demo.sizing import PEAK_RATE, plan
from warmfleet_cli.main import main
from warmfleet_runtime.clock import ScaledClock

MOST_RUNNING = 6
"""``engine.maxNumSeqs`` of the demo's deployment."""
BUSY = 0.75
"""Utilisation of a worker, mostly."""


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_the_last_line_is_one_json_object() -> None:
    line = command.result_line(Result(requests=900, failed=0, scale_ups=5, scale_downs=4, report=Path("out/r.html")))
    assert "\n" not in line
    assert json.loads(line) == {
        "requests": 900,
        "failed": 0,
        "scale_ups": 5,
        "scale_downs": 4,
        "report": "out/r.html",
    }


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (1, 1)])
def test_the_exit_code_says_whether_a_request_failed(
    failed: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def ran(options: object) -> Result:
        return Result(requests=10, failed=failed, scale_ups=2, scale_downs=2, report=tmp_path / "r.html")

    monkeypatch.setattr(command, "run_demo", ran)
    monkeypatch.setattr(sys, "platform", "linux")
    assert main(["demo", "--minutes", "10", "--out", str(tmp_path)]) == code
    assert json.loads(capsys.readouterr().out)["failed"] == failed


def test_elsewhere_than_on_linux_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert main(["demo"]) == 2
    assert "needs Linux" in capsys.readouterr().err


def test_a_wrong_trace_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--trace", str(tmp_path / "none.parquet"), "--out", str(tmp_path)]) == 2
    assert "no such file" in capsys.readouterr().err


def test_minutes_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--minutes", "999"]) == 2
    assert "error: --minutes 999: write a number from 5 to 100" in capsys.readouterr().err


def test_without_a_trace_the_pattern_is_generated() -> None:
    pattern = command.choose_pattern(parse())
    assert (pattern.generated, pattern.requests.shape) == (True, (100,))
    assert command.choose_pattern(parse("--minutes", "60")).requests.shape == (60,)


def test_the_demo_fits_its_machine() -> None:
    """Enough traffic for the promise, little enough for two cores, and answers that are short beside a user's pause."""
    sized, shape = plan(Shape()), Shape()
    assert 10.0 < PEAK_RATE * SCALE < 20.0, "requests a real second and fleet"
    assert shape.pause_max < 900.0, "replay sends what was used in the last quarter of an hour"
    for kind in sized.kinds:
        longest = shape.output_max / shape.mean_output * MOST_RUNNING / kind.rate
        assert longest < 0.4 * shape.pause_min, "few come back while their worker drains"
        growing = BUSY * kind.rate * (shape.mean_output + 500.0)
        cache = 2 * kind.profile.kv_tokens  # fp8
        assert growing * (shape.pause_max + longest) < cache, "what a user comes back for is still there"
    most = max(PEAK_RATE / kind.rate for kind in sized.kinds)
    assert 4.0 < most < sized.max_workers - 1


def test_both_fleets_are_the_same_but_for_the_hand_over() -> None:
    sized = plan(Shape())
    mine, other = sized.deployment.spec, sized.beside.spec
    assert (mine.kv_cache.handover, other.kv_cache.handover) == (("migrate",), ("none",))
    kept = other.kv_cache.model_copy(update={"handover": mine.kv_cache.handover})
    assert other.model_copy(update={"kv_cache": kept}) == mine


def test_there_are_two_types_and_neither_is_better_at_any_size() -> None:
    large, small = plan(Shape()).kinds
    assert large.accelerator != small.accelerator
    assert large.rate / large.cost > small.rate / small.cost, "cheaper per request"
    assert small.cost < large.cost, "cheaper per worker"


def test_the_history_ends_where_the_traffic_begins() -> None:
    pattern, clock = traffic.generated(minutes=100), ScaledClock(SCALE)
    start = _whole_minute(clock, 900.0)
    past, end = _history(pattern, clock, start)
    wall = clock.wall().timestamp() + start - clock.now()
    assert wall == pytest.approx(round(wall / 60.0) * 60.0, abs=1.0), "cells of history begin at whole minutes"
    missing = len(pattern.history) - len(past)
    assert end + missing * 60.0 == pytest.approx(wall, abs=1.0)
    assert np.allclose(past, pattern.past(PEAK_RATE)[: len(past)])
    assert 13 <= missing <= 16


def test_the_warm_up_is_the_traffic_before_the_window(tmp_path: Path) -> None:
    options = Options(pattern=traffic.generated(minutes=100), seed=1, folder=tmp_path)
    arrivals = _arrivals(options, WARM_UP + 0.7)
    before = options.pattern.past(PEAK_RATE)[-WARM_UP:]
    assert arrivals[0] >= -WARM_UP * 60.0
    assert (arrivals < 0).sum() == pytest.approx(before.sum() * 60.0, abs=2)
