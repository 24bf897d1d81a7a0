"""``warmfleet forecast`` on files, and the files it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from warmfleet_cli.main import main
from warmfleet_forecasting.history.files import HistoryFileError, load

HEAD = "timestamp,requests\n"


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "history.csv"
    file.write_text(text)
    return file


def test_rows_become_rates_on_a_grid(tmp_path: Path) -> None:
    rows = ["2026-03-01T12:00:00Z,600", "2026-03-01T13:02:00+01:00,0", "2026-03-01T12:03:00Z,300"]
    series = load(written(tmp_path, HEAD + "\n".join(rows)))
    # the median distance is 90 s: cells of two minutes
    assert series.start == 1772366400.0
    assert load(written(tmp_path, "minute,requests\n0,60\n1,\n2,0\n4,120\n")).values.tolist() == pytest.approx(
        [1.0, np.nan, 0.0, np.nan, 2.0], nan_ok=True
    )
    millis = load(written(tmp_path, "timestamp,rate\n1772366400000,5\n1772366460000,6\n"))
    assert (millis.start, millis.values.tolist()) == (1772366400.0, [5.0, 6.0])


def test_a_timestamp_without_zone_is_in_the_zone_given(tmp_path: Path) -> None:
    file = written(tmp_path, HEAD + "2026-07-01 12:00,1\n2026-07-01 12:01,1\n")
    assert load(file).start - load(file, time_zone="Europe/Berlin").start == 7200.0
    # the hour that the clock skips does not exist and still is no crash
    load(written(tmp_path, HEAD + "2026-03-29 02:30,1\n2026-03-29 03:31,1\n"), time_zone="Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("when,requests\n1,2\n", "neither a column timestamp nor minute"),
        ("timestamp,hits\n1,2\n", "--column"),
        (HEAD + "noon,2\n", "row 0: timestamp 'noon'"),
        (HEAD + "2026-03-01T12:00:00Z,two\n2026-03-01T12:01:00Z,2\n", "column requests"),
        (HEAD + "2026-03-01T12:00:00Z,2\n", "two or more times"),
        (HEAD + "1,2\n,2\n", "row 1: timestamp is empty"),
        (HEAD, "two or more times"),
        ("minute,requests\n0,1\n1,1\n2,1\n3,1\n99999999999,1\n", "cells"),
        ("minute,requests\n0,1\n99999,1\n", "an hour apart"),
        ("", "No columns"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_fault(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(HistoryFileError, match=words):
        load(written(tmp_path, text))


def test_the_command_shows_skill_band_and_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    minutes = np.arange(0, 4 * 1440, 5)
    counts = 300 * (60 + 50 * np.sin(2 * np.pi * minutes / 1440)) + 100 * np.random.default_rng(1).random(len(minutes))
    file = written(tmp_path, "minute,requests\n" + "\n".join(f"{m},{c}" for m, c in zip(minutes, counts, strict=True)))
    plot = tmp_path / "out.png"
    assert main(["forecast", "--history", str(file), "--start", "2026-03-01T00:00:00Z", "--plot", str(plot)]) == 0
    shown = capsys.readouterr().out
    for words in ("2026-03-05T00:00:00Z", "trusted", "10 min", "30 min", "60 min", "median", "requests/s"):
        assert words in shown
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert main(["forecast", "--history", str(file), "-o", "json", "--days", "1"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [s["horizonSeconds"] for s in figures["skill"]] == [600.0, 1800.0, 3600.0]
    assert (figures["history"]["gaps"], figures["history"]["cells"]) == (0, 288)
    inside = next(point for point in figures["curve"] if point["offsetSeconds"] == 3600.0)
    assert inside["q10"] <= inside["q50"] <= inside["q90"]


def test_what_the_command_cannot_use_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", "--history", str(tmp_path / "none.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err
    assert main(["forecast", "--prometheus", "http://127.0.0.1:1"]) == 2
    assert "--query" in capsys.readouterr().err
    assert main(["forecast", "--prometheus", "http://127.0.0.1:1", "--deployment", "prod/chat"]) == 2
    assert "Prometheus at http://127.0.0.1:1" in capsys.readouterr().err
    file = written(tmp_path, "minute,requests\n0,\n1,\n")
    assert main(["forecast", "--history", str(file)]) == 2
    assert "empty" in capsys.readouterr().err
