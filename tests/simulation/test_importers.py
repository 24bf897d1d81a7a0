"""Raw formats: what is read, repaired and refused, with which words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from warmfleet_contracts.traces import RateTrace, RequestTrace, TraceError
from warmfleet_simulation.importers import detect, import_rates, import_trace, to_rates

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def write(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def requests(path: Path) -> tuple[RequestTrace, tuple[str, ...]]:
    found = import_trace(path)
    assert isinstance(found.trace, RequestTrace)
    return found.trace, found.repairs


def test_azure_2023_and_2024_times(tmp_path: Path) -> None:
    text = AZURE + "2023-11-16 23:59:59.9799600,374,44\n2023-11-17 00:00:01.4799600,10,0\n"
    trace, repairs = requests(write(tmp_path, "a.csv", text))
    assert trace.arrival_s == pytest.approx([0.0, 1.5])
    assert trace.input_tokens.tolist() == [374, 10]
    assert not repairs
    text = AZURE + "2024-05-10 00:00:00.009930+00:00,1,1\n2024-05-10T02:00:00.009930+02:00,1,1\n"
    assert requests(write(tmp_path, "b.csv", text))[0].arrival_s == pytest.approx([0.0, 0.0])


def test_rows_out_of_order_are_sorted_and_said(tmp_path: Path) -> None:
    trace, repairs = requests(write(tmp_path, "b.csv", BURST + "5,m,1,1,2,x\n3,m,7,1,8,x\n9,m,1,1,2,x\n"))
    assert trace.arrival_s.tolist() == [0.0, 2.0, 6.0]
    assert trace.input_tokens.tolist() == [7, 1, 1]
    assert "1 rows were out of order (first: row 1); sorted" in repairs[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", AZURE, "no rows"),
        ("a.csv", AZURE + "yesterday,1,1\n", r"row 0: TIMESTAMP is 'yesterday'; a date and time such as"),
        ("a.csv", AZURE + "2023-13-16 18:17:03,1,1\n", r"row 0: TIMESTAMP"),
        ("a.csv", AZURE + "2023-11-16 18:17:03,1,1\n2023-11-16 18:17:04,-3,1\n", r"row 1: ContextTokens is -3"),
        ("a.csv", AZURE + "2023-11-16 18:17:03,1.5,1\n", r"ContextTokens is 1.5; tokens are whole numbers"),
        ("a.csv", AZURE + "2023-11-16 18:17:03,99000000,1\n", r"more than any context; convert bytes"),
        ("a.csv", "TIMESTAMP,ContextTokens\n2023-11-16 18:17:03,1\n", "no column GeneratedTokens"),
        ("b.csv", BURST + "2023-11-16 18:17:03,m,1,1,2,x\n", "Timestamp is .*; seconds since the start"),
        ("b.csv", BURST + "-1,m,1,1,2,x\n", r"row 0: Timestamp is -1; it must be finite and not negative"),
        ("b.csv", BURST + "1700000000000,m,1,1,2,x\n", "row 0: Timestamp 1700000000000 is not in seconds; divide"),
        ("b.csv", BURST + "0,m,1,1,2,x\n90000000,m,1,1,2,x\n", "row 1: it is 1,042 days after the first"),
        ("m.jsonl", '{"timestamp": 0.5, "input_length": 1, "output_length": 1}', "multiply seconds by 1000"),
        ("m.jsonl", '{"timestamp": 5, "input_length": 1}', "row 0: no field output_length"),
        ("m.jsonl", "{", "row 0: not JSON"),
        ("m.jsonl", "", "no rows"),
        ("x.csv", "a,b\n1,2\n", "unknown format .*--format"),
    ],
)
def test_what_cannot_be_traffic_is_refused_with_row_and_fix(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        import_trace(write(tmp_path, name, text))


def test_mooncake_keeps_hashes_and_bins_into_minutes(tmp_path: Path) -> None:
    lines = [
        {"timestamp": 1000, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]},
        {"timestamp": 62_000, "input_length": 10, "output_length": 5, "hash_ids": [1]},
    ]
    trace, _ = requests(write(tmp_path, "m.jsonl", "\n".join(map(json.dumps, lines))))
    assert trace.hash_ids is not None
    assert trace.hash_ids[0].tolist() == [1, 2]
    rates = to_rates(trace)
    assert rates.requests is not None
    assert rates.requests.tolist() == [1.0, 1.0]


def prometheus(values: list[list[object]]) -> str:
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": [{"values": values}]}})


def test_prometheus_minutes_without_a_sample_are_gaps(tmp_path: Path) -> None:
    trace, repairs = import_rates(write(tmp_path, "p.json", prometheus([[600, "2"], [660, "3"], [780, "4"]])))
    assert trace.requests is not None
    assert trace.missing.tolist() == [False, False, True, False]
    assert trace.requests[[0, 1, 3]].tolist() == [120.0, 180.0, 240.0]
    assert "1 minutes without a sample" in repairs[0]


def test_prometheus_samples_five_minutes_apart_stand_for_five_minutes(tmp_path: Path) -> None:
    values: list[list[object]] = [[300 * i, str(i)] for i in (1, 2, 3, 5)]
    trace, repairs = import_rates(write(tmp_path, "p.json", prometheus(values)))
    assert trace.requests is not None
    known = trace.requests[~trace.missing] / 60.0
    assert known.tolist() == [1.0] * 5 + [2.0] * 5 + [3.0] * 5 + [5.0] * 5
    assert np.flatnonzero(trace.missing).tolist() == list(range(15, 20))
    assert "5 minutes apart" in repairs[0]
    with pytest.raises(TraceError, match="120 minutes apart; export with step=60"):
        import_rates(write(tmp_path, "p.json", prometheus([[7200 * i, "1"] for i in range(5)])))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            '{"status": "error", "error": "parse error at char 3"}',
            "Prometheus refused the query: parse error at char 3",
        ),
        (json.dumps({"data": {"resultType": "matrix", "result": []}}), "found no series; correct its labels"),
        (json.dumps({"data": {"resultType": "vector", "result": [1]}}), "range vector"),
        (prometheus([[60, "1"], [0, "1"]]), "row 1: time 0 goes back from 60"),
        (prometheus([[1.7e12, "1"]]), "divide milliseconds by 1000"),
        (prometheus([[60, "-1"]]), "row 0: value -1"),
        (prometheus([[60, None]]), "row 0: .* is no"),
        (prometheus([[60 * i, str(900 + 70 * i)] for i in range(40)]), "it is a counter; export rate"),
    ],
)
def test_prometheus_answers_that_are_no_rates_are_refused(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        import_trace(write(tmp_path, "p.json", body))


def servegen(tmp_path: Path, trace: str, dataset: object) -> Path:
    write(tmp_path, "chunk-7-trace.csv", trace)
    write(tmp_path, "chunk-7-dataset.json", json.dumps(dataset))
    return tmp_path


def test_servegen_rates_and_mean_lengths(tmp_path: Path) -> None:
    lengths = {"0": {"input_tokens": "{}", "output_tokens": "{}"}}
    lengths["21600"] = {"input_tokens": "{100: 0.5, 300: 0.5}", "output_tokens": "{10: 2.0}"}
    folder = servegen(tmp_path, "0,0,0,,0,0\n600,2.5,1,Gamma,1,1\n1800,1,1,Gamma,1,1\n", lengths)
    assert detect(folder) == "servegen"
    trace, repairs = import_rates(folder)
    assert trace.requests is not None
    assert trace.input_tokens is not None
    assert trace.requests[5] == 0.0
    assert trace.requests[10] == 150.0
    assert trace.input_tokens[10] == 150.0 * 200
    assert trace.missing[20:30].all()
    assert "1 windows" in repairs[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("5,1,1,Gamma,1,1\n", "no multiple of 600"),
        ("0,1,1,Gamma,1,1\n0,2,1,Gamma,1,1\n", "row 1: window 0 s occurs twice with different rates"),
        ("0,-1,1,Gamma,1,1\n", "row 0: rate is -1"),
        ("0\n", "row 0: window start and rate"),
    ],
)
def test_servegen_rows_that_make_no_sense_are_refused(tmp_path: Path, rows: str, message: str) -> None:
    folder = servegen(tmp_path, rows, {"0": {"input_tokens": "{1: 1}", "output_tokens": "{1: 1}"}})
    with pytest.raises(TraceError, match=message):
        import_trace(folder)


def test_a_request_trace_in_parquet_is_binned(data_dir: Path) -> None:
    trace, _ = import_rates(data_dir / "traces" / "mooncake_conversation.parquet")
    assert isinstance(trace, RateTrace)
    assert trace.requests is not None
    assert np.nansum(trace.requests) == 12_031
