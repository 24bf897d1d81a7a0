from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
from warmfleet_cli.demo import command, traffic
from warmfleet_cli.demo.conversations import Shape
from warmfleet_cli.demo.run import Result
from warmfleet_cli.demo.sizing import PEAK_WORKERS, plan
from warmfleet_cli.main import main


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
    assert main(["demo", "--generated", "--minutes", "10", "--out", str(tmp_path)]) == code
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
    assert "--minutes must be between 5 and 150" in capsys.readouterr().err


def test_without_a_trace_the_pattern_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "find_trace", lambda: None)
    assert command.choose_pattern(parse()).generated
    assert command.choose_pattern(parse("--generated", "--minutes", "60")).requests.shape == (60,)


def test_the_demo_fits_its_machine() -> None:
    """Enough traffic for the promise, little enough for two cores, and long streams on every busy worker."""
    sized, shape = plan(Shape()), Shape()
    real_per_second = sized.peak_rate * 60.0
    assert 10.0 < real_per_second < 32.0
    seconds = shape.mean_output * sized.deployment.spec.slo.tpot
    assert 300.0 < seconds < 700.0
    assert sized.worker_rate * seconds > 18, "streams on a busy worker"
    assert sized.max_workers > PEAK_WORKERS / 0.85
    assert sized.worker_cost == pytest.approx(1.861)
