"""Trace files from anywhere: whatever is in them, nothing is raised but their own error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_values import few
from warmfleet_contracts.traces import TraceError
from warmfleet_simulation.importers import import_trace


@few
@given(
    data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode),
    name=st.sampled_from(["t.csv", "t.jsonl", "t.json", "t.parquet"]),
)
def test_no_trace_file_raises_anything_but_its_own_error(
    data: bytes, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    try:
        import_trace(path)
    except TraceError as error:
        said = str(error)
    else:
        return
    assert "t." in said


TRACES: dict[str, tuple[str, Callable[[list[str]], str]]] = {
    "azure": ("t.csv", lambda rows: "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"{r}\n" for r in rows)),
    "burstgpt": (
        "t.csv",
        lambda rows: (
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "".join(f"{r}\n" for r in rows)
        ),
    ),
}
cells = st.sampled_from(
    ["2023-11-16 18:15:46.6805900", "5", "-5", "nan", "inf", "1e400", "9" * 40, "", "x", "\u202e", "ChatGPT"]
)


@few
@given(form=st.sampled_from(sorted(TRACES)), rows=st.lists(st.lists(cells, max_size=7).map(",".join), max_size=4))
def test_no_row_of_a_trace_raises_anything_but_its_own_error(
    form: str, rows: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    name, made = TRACES[form]
    path = tmp_path_factory.getbasetemp() / name
    path.write_text(made(rows), encoding="utf-8")
    try:
        import_trace(path, form)
    except TraceError:
        return
