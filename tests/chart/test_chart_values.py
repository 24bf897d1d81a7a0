"""Values that nobody meant: Helm refuses them with words, or what it renders is still what the chart makes."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CHART = Path(__file__).resolve().parents[2] / "charts" / "warmfleet"
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
INJECTION = 'a\n---\napiVersion: v1\nkind: Evil\nmetadata: {name: "x"}\n'
odd = st.sampled_from(
    [
        None,
        True,
        -1,
        2**40,
        1e300,
        "",
        "\u202e\U0001f4a5",
        "x" * 5000,
        "{{ .Values }}",
        INJECTION,
        '"',
        "a: b",
        "#",
        [],
        {},
    ]
)
texts = st.sampled_from(["x y", "{{ .Values }}", INJECTION, '"', "a: b", "#", "- a", "yes", "0x1F", "\u202e", "a" * 60])
numbers = st.sampled_from([0, 1, 3, 65_536, -1])
values = st.recursive(
    odd, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
)


def places(body: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = body.items() if isinstance(body, dict) else ()
    return [path, *(p for key, value in inner for p in places(value, (*path, key)))]


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, Any]:
    """The default values with one to three places replaced."""
    body = copy.deepcopy(DEFAULTS)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([p for p in places(body) if p]))
        where = body
        for key in path[:-1]:
            where = where[key]
        old = where[path[-1]]
        fitting = texts if isinstance(old, str) else numbers if type(old) is int else values
        where[path[-1]] = draw(fitting if draw(st.integers(0, 3)) else values)
    return body


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(given_values=spoiled())
def test_values_are_refused_with_words_or_rendered_whole(given_values: dict[str, Any], helm: str) -> None:
    done = subprocess.run(
        [helm, "template", "release", str(CHART), "--namespace=system", "--values=-"],
        input=json.dumps(given_values, ensure_ascii=False),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        assert "nil pointer" not in done.stderr
        assert "panic" not in done.stderr
        assert "YAML parse error" not in done.stderr, "the schema let in what breaks a template"
    else:
        kinds = {body.get("kind") for body in yaml.safe_load_all(done.stdout) if body}
        assert "Evil" not in kinds
        assert None not in kinds
