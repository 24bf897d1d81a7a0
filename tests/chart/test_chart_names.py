"""Names and labels of what the chart renders: short enough for the longest release, and no key twice."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import generate
import pytest
import yaml


@pytest.mark.parametrize(
    "name", ["a" * 53, f"{'a' * 34}-{'b' * 18}", f"warmfleet-{'c' * 43}", f"warmfleet-{'c' * 34}-d"]
)
def test_the_longest_names_of_releases_make_names_of_objects(helm: str, name: str) -> None:
    command = [helm, "template", name, str(generate.CHART), "--namespace=n", "--set=metrics.dashboards.enabled=true"]
    done = subprocess.run([*command, "--set=replicas=2"], capture_output=True, text=True, check=True)
    bodies = [body for body in yaml.safe_load_all(done.stdout) if body]
    names = {b["metadata"]["name"] for b in bodies if b["kind"] in {"Service", "Deployment", "StatefulSet"}}
    assert len(names) == 4, "none is cut down to the name of another"
    for each in names:  # labels of DNS; a StatefulSet's pods carry its name and a hash of 11 in a label
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", each), each


class NoTwice(yaml.SafeLoader):
    """Refuses what PyYAML lets pass: a key that a mapping has twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"twice in one mapping: {sorted(map(str, keys))}"
        return super().construct_mapping(node, deep)


NoTwice.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, lambda loader, node: loader.construct_mapping(node, deep=True)
)


def test_no_mapping_has_a_key_twice(helm: str) -> None:
    parts = ("podMonitor", "prometheusRule", "dashboards")
    switches = [f"--set=metrics.{part}.enabled=true,metrics.{part}.labels.team=here" for part in parts]
    more = ["--set=commonLabels.team=all", "--set=podLabels.team=all", "--set=podAnnotations.team=all"]
    command = [helm, "template", "warmfleet", str(generate.CHART), "--namespace=n", *switches, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    bodies = [body for body in yaml.load_all(done.stdout, NoTwice) if body]
    found = {b["metadata"]["labels"].get("team") for b in bodies if b["kind"] in {"PodMonitor", "PrometheusRule"}}
    assert found == {"here"}
    with pytest.raises(AssertionError, match="twice"):
        yaml.load("{a: 1, a: 2}", NoTwice)
