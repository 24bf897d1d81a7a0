"""Rules, runbooks, dashboards and the metrics page are what the code says, and by the conventions of the field."""

from __future__ import annotations

import json
import re

import observe
import pytest
import yaml
from warmfleet_cli.main import parser

SUFFIXES = ("_seconds", "_ratio", "_total", "_per_second", "_workers", "_requests", "_dollars_per_hour")
BARE = {"leader", "limited", "stalled", "workers", "assigned", "trusted", "watched_version", "phase", "ready"}
"""Counts and flags without unit."""
ROW = re.compile(r"^\| `(warmfleet_(?:operator|forecaster|agent)_(\w+))` \| (\w+) \| (.*?) \| (.+) \|$", re.MULTILINE)
BOUNDED = {
    "namespace", "deployment", "variant", "phase", "reason", "result", "resource", "verb", "code", "source", "cause",
    "outcome", "direction", "when", "problem", "kind", "horizon_seconds",
}  # fmt: skip


def test_generated_files_are_current() -> None:
    for path, content in observe.files().items():
        assert path.read_text(encoding="utf-8") == content, f"{path.name}: run `python deploy/observe.py`"
    runbooks = set(observe.RUNBOOKS.iterdir()) - set(observe.files())
    assert not runbooks, "pages of alerts that are no more"


def test_metrics_are_named_by_convention() -> None:
    rows = ROW.findall(observe.metrics_page())
    assert len(rows) > 35
    for name, stem, kind, labels, text in rows:
        assert stem in BARE or name.endswith(SUFFIXES), name
        assert (kind == "counter") == name.endswith("_total"), name
        assert text.endswith("."), name
        assert set(re.findall(r"`(\w+)`", labels)) <= BOUNDED, name


def queries() -> list[tuple[str, str]]:
    boards = [json.loads(text) for path, text in observe.files().items() if path.suffix == ".json"]
    found = [(f"{b['title']}: {p['title']}", t["expr"]) for b in boards for p in b["panels"] for t in p["targets"]]
    rules = next(text for path, text in observe.files().items() if path.parent.name == "rules")
    return found + [(r["alert"], r["expr"]) for r in yaml.safe_load(rules)["groups"][0]["rules"]]


def test_every_query_asks_for_metrics_that_exist() -> None:
    known = {name for name, *_ in ROW.findall(observe.metrics_page())}
    known |= {f"{name}{suffix}" for name in known for suffix in ("_bucket", "_count", "_sum")}
    asked = {(where, name) for where, query in queries() for name in re.findall(r"warmfleet_\w+", query)}
    assert len(asked) > 40
    assert {(where, name) for where, name in asked if name not in known} == set()


@pytest.mark.parametrize("path", sorted(p for p in observe.files() if p.suffix == ".json"), ids=lambda p: p.stem)
def test_dashboards_are_whole(path: observe.Path) -> None:
    board = json.loads(observe.files()[path])
    assert board["uid"] == path.stem
    names = {v["name"] for v in board["templating"]["list"]}
    for panel in board["panels"]:
        assert panel["targets"]
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= names, panel["title"]
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len(set(places)) == len(places)


COMMAND = re.compile(r"`kubectl warmfleet ([^`]+)`")


def test_commands_in_runbooks_exist() -> None:
    pages = [text for path, text in observe.files().items() if path.parent == observe.RUNBOOKS]
    commands = {c.replace("NAMESPACE", "prod").replace("NAME", "chat") for text in pages for c in COMMAND.findall(text)}
    assert len(commands) >= 3
    for command in commands:
        parser(command.split()).parse_args(command.split())
