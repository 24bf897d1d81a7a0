"""Traces: what is loaded, what is refused and with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from warmfleet_contracts.traces import TraceError, load_rates, load_requests


def write(tmp_path: Path, **columns: Any) -> Path:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_a_gap_is_kept_apart_from_zero(tmp_path: Path) -> None:
    path = write(tmp_path, minute=[0, 1, 2], requests=[5, None, 0], missing=[False, True, False])
    trace = load_rates(path)
    assert trace.requests is not None
    assert np.isnan(trace.requests[1])
    assert trace.requests[2] == 0
    assert trace.missing.tolist() == [False, True, False]
    assert trace.input_tokens is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"requests": [1]}, "no column minute"),
        ({"minute": [0, 1]}, "neither requests nor input_tokens"),
        ({"minute": [0, 2, 1], "requests": [1, 1, 1]}, r"row 2: minute 1 goes back from 2; sort"),
        ({"minute": [0, 1, 1], "requests": [1, 1, 1]}, r"row 2: minute 1 repeats 1"),
        ({"minute": [-1, 1], "requests": [1, 1]}, "row 0: minute -1 is negative"),
        ({"minute": [0, 1], "requests": [1, -3]}, r"row 1: requests is -3"),
        ({"minute": [0], "requests": ["many"]}, "column requests holds string"),
        ({"minute": [0, None], "requests": [1, 1]}, "row 1: minute is empty; every row needs its minute"),
        ({"minute": [0.0, 1e12], "requests": [1, 1]}, r"row 1: minute is 1e\+12"),
        ({"minute": [0.0, 0.5], "requests": [1, 1]}, r"row 1: minute is 0\.5; minutes are whole numbers"),
        (
            {"minute": [0, 60, 120, 180], "requests": [1, 1, 1, 1]},
            "row 1: minute goes up by 60 .* divide seconds by 60",
        ),
        ({"minute": [0], "requests": [1], "missing": ["no such word"]}, "column missing holds string; true or false"),
        ({"minute": pa.array([], pa.int32()), "requests": pa.array([], pa.int32())}, "no rows"),
    ],
)
def test_a_bad_rate_trace_is_refused_with_row_and_fix(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        load_rates(write(tmp_path, **columns))


def test_minutes_of_which_nothing_is_known_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, minute=[1, 2, 3, 6], requests=[5, None, 0, 1], missing=[0, 0, 1, 0])
    assert load_rates(path).gaps() == 5  # 0, 2, 3, 4, 5


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_text("minute,requests\n0,1\n")
    with pytest.raises(TraceError, match="not a Parquet file"):
        load_rates(path)
    with pytest.raises(TraceError, match="no such file"):
        load_rates(tmp_path / "absent.parquet")


def test_a_request_trace_without_arrivals_needs_sessions(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no column arrival_s, session_id"):
        load_requests(write(tmp_path, input_tokens=[1], output_tokens=[1]))
    path = write(
        tmp_path, session_id=["a", "b"], session_offset_s=[5.0, 0.0], input_tokens=[9, 9], output_tokens=[1, 1]
    )
    assert load_requests(path).session == ("a", "b")


def test_request_times_that_go_back_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="row 1: arrival_s goes back"):
        load_requests(write(tmp_path, arrival_s=[2.0, 1.0], input_tokens=[1, 1], output_tokens=[1, 1]))


def test_the_reference_rate_traces_load(data_dir: Path) -> None:
    paths = sorted((data_dir / "traces").glob("*.rate_1m.parquet"))
    assert len(paths) >= 5
    for path in paths:
        trace = load_rates(path)
        assert len(trace.minutes) >= 1440, path.name


def test_the_reference_request_traces_load(data_dir: Path) -> None:
    conversation = load_requests(data_dir / "traces" / "mooncake_conversation.parquet")
    assert len(conversation.arrival_s) == 12_031
    assert conversation.hash_ids is not None
    agentic = load_requests(data_dir / "traces" / "weka_agentic.parquet")
    assert agentic.session is not None
    assert len(set(agentic.session)) == 515
