"""The CRDs as a real API server judges them, and what kubectl makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import ControlPlane
from objects import get

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "tests" / "contracts" / "samples"
_MARK = "# refused: "


def samples(kind: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted((SAMPLES / kind).glob("*.yaml"))]


@pytest.mark.parametrize(
    "path", [*samples("valid"), *(pytest.param(p, id=p.stem) for p in sorted((ROOT / "examples").glob("*.yaml")))]
)
def test_a_valid_sample_is_taken(controlplane: ControlPlane, path: Path) -> None:
    controlplane.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", str(path))


@pytest.mark.parametrize("path", samples("invalid"))
def test_an_invalid_sample_is_refused_with_the_message_it_names(controlplane: ControlPlane, path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(_MARK), "an invalid sample starts with '# refused: <message>'"
    kubectl = [controlplane.kubectl_path, "apply", "--server-side", "--dry-run=server", "-f", str(path)]
    done = controlplane.run(kubectl, check=False)
    assert done.returncode == 1
    assert first.removeprefix(_MARK) in done.stderr
    assert "Internal error" not in done.stderr


def test_an_unknown_field_is_named(controlplane: ControlPlane) -> None:
    body = yaml.safe_load((SAMPLES / "valid" / "fixed-replicas.yaml").read_text(encoding="utf-8"))
    body["spec"]["replica"] = 3
    with pytest.raises(AssertionError, match=r'unknown field "spec.replica"'):
        controlplane.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body))


@pytest.mark.parametrize("kind", ["llmdeployments", "instancetypes", "trafficforecasts"])
def test_the_schema_is_structural_and_its_names_accepted(controlplane: ControlPlane, kind: str) -> None:
    found = get(controlplane, "crd", f"{kind}.warmfleet.dev")
    status = {c["type"]: c["status"] for c in found["status"]["conditions"]}
    assert (status["NamesAccepted"], status["Established"]) == ("True", "True")
    assert "NonStructuralSchema" not in status


def test_kubectl_explain_knows_the_fields(controlplane: ControlPlane) -> None:
    text = controlplane.kubectl("explain", "llmd.spec.scaling")
    for field in ("min\t<integer>", "max\t<integer> -required-", "scaleDown\t<Object>", "DESCRIPTION"):
        assert field in text, text
    assert "enum: Auto, Advisory" in text


def test_the_short_name_and_the_category_work(controlplane: ControlPlane) -> None:
    text = controlplane.kubectl("api-resources", "--api-group=warmfleet.dev", "-o=wide")
    assert {"llmd", "llmdeployments"} <= set(text.split())
