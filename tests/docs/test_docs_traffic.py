"""The documentation's ``warmfleet forecast`` and ``warmfleet simulate``, run as written on traffic made for them.

Two kinds are left out: what asks one's own Prometheus, and the replay of single requests, which compiles for a minute.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from test_docs import PAGES, ROOT, commands
from warmfleet_cli.main import main

START = datetime(2026, 1, 5, tzinfo=UTC)
ELSEWHERE = ("--prometheus", "--engine", "--help")
SHOWN = [
    words
    for page in PAGES
    for words in commands(page)
    if words[0] == "warmfleet" and words[1] in ("forecast", "simulate") and not set(words) & set(ELSEWHERE)
]


def rate(minute: int) -> float:
    """Requests/s, with a day in them."""
    return 6.0 + 4.0 * math.sin(2 * math.pi * minute / 1440)


def days(step: int) -> Iterator[tuple[str, int]]:
    """Four days of times and requests, a row every ``step`` minutes."""
    for minute in range(0, 4 * 1440, step):
        yield (START + timedelta(minutes=minute)).isoformat(), round(60 * step * rate(minute))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every file that the documentation takes for granted."""
    table = pd.DataFrame(days(10), columns=["timestamp", "requests"])
    table.to_parquet(tmp_path / "requests.parquet")
    table.to_csv(tmp_path / "requests.csv", index=False)
    table.set_axis(["timestamp", "input_tokens"], axis=1).to_parquet(tmp_path / "tokens.parquet")
    table.set_axis(["when", "hits"], axis=1).to_csv(tmp_path / "load.csv", index=False)
    single = [START + timedelta(seconds=30 * number) for number in range(4 * 2880)]
    pd.DataFrame({"arrived": [at.isoformat() for at in single]}).to_csv(tmp_path / "access.csv", index=False)
    minutes = range(40)
    tokens = {"input_tokens": 30_000.0, "output_tokens": 6_000.0, "missing": False}
    per_minute = [round(60 * rate(20 * minute)) for minute in minutes]
    pd.DataFrame({"minute": minutes, "requests": per_minute, **tokens}).to_parquet(tmp_path / "t.parquet")
    rows = [f"{5 * number},m,500,100,600,x" for number in range(500)]
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    (tmp_path / "t.csv").write_text("\n".join([head, *rows]))
    values = [[START.timestamp() + 60 * minute, str(rate(20 * minute))] for minute in minutes]
    answer = {"resultType": "matrix", "result": [{"metric": {}, "values": values}]}
    (tmp_path / "prometheus.json").write_text(json.dumps({"status": "success", "data": answer}))
    shutil.copy(ROOT / "examples" / "quickstart.yaml", tmp_path / "fleet.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_something_to_run() -> None:
    assert {words[1] for words in SHOWN} == {"forecast", "simulate"}
    assert len(SHOWN) >= 7


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_what_the_documentation_shows_works(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words[1:]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    if words[-2:] in (["-o", "json"], ["--json", "-"]):
        assert json.loads(said)
    else:
        assert ("fitted in" if words[1] == "forecast" else "warmfleet-reactive") in said
    for flag, file in itertools.pairwise(words):
        if flag in ("--plot", "--report"):
            assert (folder / file).stat().st_size > 1000
