"""``warmfleet simulate --engine requests``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from warmfleet_cli.main import main

pytestmark = pytest.mark.timeout(600)

BLOCK = 512


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    rng, rows = np.random.default_rng(1), []
    for user in range(12):
        at = float(rng.uniform(0.0, 60.0))
        for turn in range(1, 50):
            chain = [user * 1000 + i for i in range(turn)]
            rows.append((at, {"input_length": turn * BLOCK + 7, "output_length": 20, "hash_ids": chain}))
            at += float(rng.exponential(25.0))
    path = tmp_path / "talk.jsonl"
    rows.sort(key=lambda r: r[0])
    path.write_text("\n".join(json.dumps({"timestamp": int(at * 1000), **row}) for at, row in rows))
    return str(path)


def test_the_command_prints_figures_and_writes_a_report(
    trace_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    arguments = ["simulate", "--engine", "requests", "--trace", trace_file, "--arms", "naive,migrate"]
    assert main([*arguments, "--json", "-", "--report", str(out)]) == 0
    rows = {row["arm"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ["never", "survivors", "naive", "migrate"]
    assert rows["naive"]["retained"] < rows["migrate"]["retained"] <= 1.01
    text = out.read_text(encoding="utf-8")
    assert "TTFT p95" in text
    assert 'src="http' not in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--arms", "magic"], "--arms: unknown magic; choose from naive"),
        (["--accelerator", "abacus"], "no performance profile for"),
        (["--block-tokens", "0"], "--block-tokens"),
        (["--days", "0.001"], "too short"),
    ],
)
def test_the_command_names_what_it_cannot_use(
    trace_file: str, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--engine", "requests", "--trace", trace_file, *more]) == 2
    assert message in capsys.readouterr().err
