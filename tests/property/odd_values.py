"""Garbage of two kinds: any JSON at all, and a good body with parts replaced."""

from __future__ import annotations

import copy
import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

few = settings(max_examples=settings.default.max_examples // 10)
"""In `make test` all of this takes seconds; the thorough profile has seven times as many."""

odd_numbers = st.sampled_from([math.nan, math.inf, -math.inf, -1, 0, 1e308, -1e308, 2**63, -(2**70), 10**30, 0.1])
odd_texts = st.sampled_from(
    ["", "\u202e\U0001f4a5", "\x00", "9" * 40, "x" * 5000, "1e999s", "-5s", "²", "../..", "NaN"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | odd_numbers | odd_texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def places(body: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [path, *(p for key, value in inner for p in places(value, (*path, key)))]


@st.composite
def spoiled(draw: st.DrawFn, bodies: list[Any]) -> Any:
    """A good body with up to three places replaced, removed or doubled."""
    body = copy.deepcopy(draw(st.sampled_from(bodies)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(body)))
        if not path:
            continue
        where = body
        for key in path[:-1]:
            where = where[key]
        if isinstance(where, dict) and draw(st.booleans()):
            where[draw(st.text(max_size=5))] = draw(values)
        else:
            where[path[-1]] = draw(values)
    return body
