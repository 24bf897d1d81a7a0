"""``warmfleet forecast`` on files, and the files it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from warmfleet_cli.main import main
from warmfleet_forecasting.history.files import Columns, HistoryFileError, load

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
    assert load(file).start - load(file, Columns(time_zone="Europe/Berlin")).start == 7200.0
    # the hour that the clock skips does not exist and still is no crash
    load(written(tmp_path, HEAD + "2026-03-29 02:30,1\n2026-03-29 03:31,1\n"), Columns(time_zone="Europe/Berlin"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("when,requests\n1,2\n", "no column timestamp or minute .it has when, requests.; .* --time-column"),
        ("timestamp,hits\n1,2\n", "--column"),
        (HEAD + "noon,2\n", "row 0: 'noon' is not a time"),
        (
            HEAD + "2026-03-01T12:00:00Z,two\n2026-03-01T12:01:00Z,2\n",
            "column requests: row 0: 'two' is not a number; leave empty",
        ),
        (HEAD + "2026-03-01T12:00:00Z,2\n", "two or more times"),
        (HEAD + "1,2\n,2\n", "row 1: timestamp is empty"),
        (HEAD, "no rows"),
        ("timestamp,user\n1,2\n", "it has timestamp, user.*--per-request"),
        ("minute,requests\n0,1\n1,1\n2,1\n3,1\n99999999999,1\n", "cells"),
        ("minute,requests\n0,1\n99999,1\n", "an hour apart"),
        ("", "CSV with a header"),
        ("minute,requests,input_tokens\n0,,5\n1,,6\n", "column requests is empty; name another by --column"),
        ("minute,client,requests\n" + "".join(f"{m},{c},1\n" for m in range(9) for c in "ab"), "row 1: 9 of 18 rows"),
        ("minute,requests\n" + "".join(f"{m},{5 * m}\n" for m in range(200)), "only ever grows, so it is a counter"),
        ("minute,requests,missing\n0,1,no\n1,1,yes\n", "column missing: row 0: 'no' is neither true nor false"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_fault(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(HistoryFileError, match=words):
        load(written(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "Timestamp;Requests\n1772366400;60\n1772366460;120\n",
        "time\trps\n2026-03-01T12:00:00Z\t1\n2026-03-01T12:01:00Z\t2\n",
        "ds,y,RATE\n1772366400000000,9,1\n1772366460000000,9,2\n",
        "note,ts,qps\nx,1772366400000000000,1\ny,1772366460000000000,2\n",
    ],
)
def test_columns_are_known_by_their_usual_names(tmp_path: Path, text: str) -> None:
    series = load(written(tmp_path, text))
    assert (series.start, series.values.tolist()) == (1772366400.0, [1.0, 2.0])


def test_a_row_that_says_missing_is_a_gap(tmp_path: Path) -> None:
    text = "minute,requests,missing\n0,60,false\n1,60,true\n2,60,\n3,,false\n4,-1,false\n"
    series = load(written(tmp_path, text))
    assert series.values.tolist() == pytest.approx([1.0] + [np.nan] * 4, nan_ok=True)
    assert series.rejected == 1, "the one below zero; what is empty or missing was never a figure"


def test_the_hour_that_a_clock_repeats_is_no_second_series(tmp_path: Path) -> None:
    clock = [f"2026-10-25 {h:02d}:{m:02d}" for h in (0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11) for m in range(0, 60, 5)]
    series = load(written(tmp_path, HEAD + "".join(f"{t},300\n" for t in clock)), Columns(time_zone="Europe/Berlin"))
    assert len(series) == 13 * 12
    assert np.isnan(series.values).sum() == 12
    assert np.nanmax(series.values) == 1.0


def test_columns_may_be_named_and_an_index_is_a_column(tmp_path: Path) -> None:
    file = written(tmp_path, "when,hits\n2026-03-01T12:00:00Z,60\n2026-03-01T12:01:00Z,120\n")
    assert load(file, Columns("hits", "when")).values.tolist() == [1.0, 2.0]
    table = pd.read_csv(file, parse_dates=["when"]).rename(columns={"when": "time", "hits": "requests"})
    table.set_index("time").to_parquet(tmp_path / "history.parquet")
    assert load(tmp_path / "history.parquet").values.tolist() == [1.0, 2.0]


def test_a_row_per_request_is_counted_and_a_minute_without_any_is_zero(tmp_path: Path) -> None:
    file = written(tmp_path, "arrival_s\n59\n70\n61\n115\n180\n200\n250\n")
    series = load(file, Columns(time="arrival_s", per_request=True))
    assert (series.start, (series.values * 60).tolist()) == (60.0, [3.0, 0.0, 2.0])


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
    for option, value, words in (
        ("--time-zone", "Mars/Base", "'Mars/Base' is not an IANA zone"),
        ("--plot", str(tmp_path / "none" / "a.png"), "in a folder that exists"),
        ("--plot", str(tmp_path), "name a file"),
        ("--plot", str(tmp_path / "a.svg"), "end in .png"),
        ("--days", "0", "--days 0"),
        ("--lead", "soon", "'soon' is not a duration"),
    ):
        assert main(["forecast", "--history", str(file), option, value]) == 2
        assert words in capsys.readouterr().err
    assert main(["forecast", "--history", str(file)]) == 2
    assert "empty" in capsys.readouterr().err
