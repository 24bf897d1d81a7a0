"""``warmfleet simulate``: output, keys, and refusals without a traceback."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from warmfleet_cli.main import main
from warmfleet_simulation.manifests import FleetError, load_fleet
from warmfleet_simulation.scenarios import synthetic

KEYS = ["policy", "cost", "optimum", "over_provisioning", "slo_attainment", "lost_requests", "scale_actions"]
ROOT = Path(__file__).resolve().parents[2]


def call(*args: str) -> int:
    return main(["simulate", *args])


@pytest.fixture
def trace(tmp_path: Path) -> str:
    rows = [f"{i * 2},m,500,50,550,x" for i in range(1200)]
    path = tmp_path / "burst.csv"
    path.write_text("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "\n".join(rows))
    return str(path)


def test_json_on_standard_output_has_the_documented_keys(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        call("--trace", trace, "--policy", "warmfleet,hpa-kv", "--untuned", "--json", "-", "--peak-workers", "4") == 0
    )
    rows = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in rows] == ["warmfleet", "hpa-kv"]
    for row in rows:
        assert row["cost"] > 0
        assert row["optimum"] > 0
        assert 0.0 <= row["slo_attainment"] <= 1.0
        assert list(row)[:7] == KEYS
        assert set(row["untuned"]) == {"knob_value", "cost", "over_provisioning", "slo_attainment"}


def test_the_report_is_one_file_that_fetches_nothing(trace: str, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    args = ["--trace", trace, "--policy", "warmfleet,static-peak", "--report", str(out), "--peak-workers", "4"]
    assert call(*args) == 0
    text = out.read_text(encoding="utf-8")
    assert "clairvoyant" in text
    assert "Savings" in text
    assert 'src="http' not in text


def test_manifests_are_simulated_as_they_are_applied(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = str(ROOT / "examples" / "quickstart.yaml")
    assert call("--trace", trace, "--fleet", fleet, "--policy", "warmfleet", "--untuned", "--json", "-") == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["slo_attainment"] > 0.9


def test_two_deployments_share_types_and_have_their_priorities(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "quickstart.yaml").read_text(encoding="utf-8")
    chat = next(part for part in text.split("---") if "kind: LLMDeployment" in part)
    urgent = chat.replace("name: chat", "name: urgent", 1).replace("spec:", "spec:\n  priorityClassName: high", 1)
    ranked = "kind: PriorityClass\nmetadata: {name: high}\nvalue: 1000\n"
    path = tmp_path / "two.yaml"
    path.write_text("---\n".join([text, urgent + "\n", ranked]), encoding="utf-8")
    traces = (synthetic("a", np.full(9, 5.0), np.full(9, 1000.0), np.full(9, 200.0)),) * 2
    fleet = load_fleet(path, traces)
    assert [(s.name, s.priority) for s in fleet.services] == [("chat", 0), ("urgent", 1000)]
    assert {t.name: t.limit for t in fleet.types} == {"h100": 16, "l40s": None}
    assert fleet.services[0].capacity == fleet.services[1].capacity
    assert min(fleet.services[0].capacity) > 0
    with pytest.raises(FleetError, match="2 LLMDeployments need as many --trace options, not 1"):
        load_fleet(path, traces[:1])
    path.write_text(path.read_text().replace("value: 1000", "value: high"))
    with pytest.raises(FleetError, match="document 4: value: a PriorityClass needs"):
        load_fleet(path, traces)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--trace", "absent.csv"], "no such file"),
        (["--policy", "magic"], "unknown magic; choose from"),
        (["--step", "7"], "does not divide a minute"),
        (["--step", "0"], "--step 0: write a number from 1 to 60"),
        (["--step", "nan"], "--step nan: write a number from"),
        (["--fleet", "absent.yaml"], "no such file"),
        (["--peak-workers", "0"], "--peak-workers 0: write a number from 1 to 10000"),
        (["--startup", "-5"], "--startup -5: write a number from"),
        (["--tune-days", "-1"], "--tune-days -1: write a number from"),
        (["--days", "0"], "--days 0: write a number from"),
        (["--seed", "-1"], "--seed -1: write a number from"),
        (["--share", "2"], "--share 2: write a number from"),
        (["--policy", ","], "--policy: unknown none; choose from"),
        (["--report", "absent/r.html"], "--report: there is no folder absent; create it"),
        (["--report", "/"], "--report: / is a folder; name a file"),
        (["--json", "absent/r.json"], "--json: there is no folder absent; create it"),
    ],
)
def test_mistakes_are_said_without_a_traceback(
    trace: str, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = args if args[0] == "--trace" else ["--trace", trace, *args]
    assert call(*given) == 2
    assert message in capsys.readouterr().err


def test_a_fleet_that_cannot_be_planned_names_the_field(
    trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "examples" / "quickstart.yaml").read_text(encoding="utf-8")
    path = tmp_path / "f.yaml"
    path.write_text(text.replace("scaling: {min: 1, max: 8}", "scaling: {min: 9, max: 8}"), encoding="utf-8")
    assert call("--trace", trace, "--fleet", str(path)) == 2
    assert "min must not be above max" in capsys.readouterr().err


def test_gaps_are_said_and_a_trace_of_zeros_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    minutes = np.array([*range(60), *range(70, 120)])
    requests = np.where(minutes == 80, np.nan, 60.0)
    holes, zeros = tmp_path / "holes.parquet", tmp_path / "zeros.parquet"
    pq.write_table(pa.table({"minute": minutes, "requests": requests}), holes)
    pq.write_table(pa.table({"minute": minutes, "requests": requests * 0}), zeros)
    assert call("--trace", str(holes), "--policy", "static-peak", "--untuned", "--step", "60") == 0
    assert "holes: 11 minutes of gaps are not scored" in capsys.readouterr().err
    assert call("--trace", str(zeros), "--policy", "static-peak", "--untuned", "--step", "60") == 2
    assert "nothing but zeros" in capsys.readouterr().err


def test_traffic_is_thinned_and_superposed(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    from warmfleet_cli import simulate

    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)

    def total(*args: str) -> float:
        traces, _ = simulate._traces(parser.parse_args(["--trace", trace, *args]))
        assert len(traces) == 1
        assert traces[0].requests is not None
        return float(traces[0].requests.sum())

    assert total() == 1200
    assert 250 < total("--share", "0.25") < 350
    assert total("--trace", trace, "--superpose") == 2400
    assert call("--trace", trace, "--trace", trace) == 2
    assert "or --superpose" in capsys.readouterr().err
