"""JSON of any depth: what is near the surface is read as ever, what lies below is null."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warmfleet_runtime.nesting import MOST_LEVELS, cut, decode

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(alphabet='a"\\[]{}\n\u00e9', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='"\\{[x', max_size=3), inner),
    max_leaves=20,
)


def shallow(value: Any, levels: int) -> Any:
    """The same by definition."""
    if isinstance(value, dict):
        return {k: shallow(v, levels - 1) for k, v in value.items()} if levels else None
    if isinstance(value, list):
        return [shallow(v, levels - 1) for v in value] if levels else None
    return value


@given(values, st.integers(0, 5), st.booleans())
def test_what_is_too_deep_is_null_and_nothing_else_changes(value: Any, levels: int, plain: bool) -> None:
    raw = json.dumps(value, ensure_ascii=plain).encode()
    assert json.loads(cut(raw, levels)) == shallow(value, levels)
    assert decode(raw) == value


@pytest.mark.parametrize("levels", [500, 5_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [('{"a":', "}"), ("[", "]")])
def test_no_depth_hides_what_stands_beside_it(levels: int, opening: str, closing: str) -> None:
    raw = f'{{"deep": {opening * levels}1{closing * levels}, "beside": "x"}}'.encode()
    found = decode(raw)
    assert found["beside"] == "x"
    deep, depth = found["deep"], 0
    while deep not in (None, 1):
        deep, depth = (deep["a"] if isinstance(deep, dict) else deep[0]), depth + 1
    assert depth == (levels if levels < 900 else MOST_LEVELS - 1)


@pytest.mark.parametrize("raw", [b"", b"{", b"[" * 5000, b'{"a": "' + b"[" * 5000, b"\xff", b"]" * 5000, b"nan"])
def test_what_is_no_json_is_an_error_of_one_kind(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(raw)
