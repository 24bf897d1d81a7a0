"""Tests of the chart and the kustomize base: as text, which needs Helm and kubectl, and on a real control plane.

`make test-chart` runs them in a network namespace; elsewhere those that need the control plane are skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
_FOLDERS = ("deploy", "tests/controlplane", "tests/scenarios", "tests/docs")
sys.path[:0] = [str(HERE), *(str(ROOT / folder) for folder in _FOLDERS)]  # these folders are no packages

from clients import ClientUnavailableError, helm_path, kubectl_path  # noqa: E402
from cluster import ControlPlane  # noqa: E402
from objects import eventually  # noqa: E402
from releases import CRD_NAMES, CRD_SECONDS, SYSTEM, crds_gone, make_namespace, remove_namespace  # noqa: E402
from strict_controlplane import StrictControlPlane, strict_controlplane  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives time to what starts servers."""
    for item in items:
        if HERE in item.path.parents and "servers" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.controlplane)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrictControlPlane]:
    """A control plane without CRDs."""
    with strict_controlplane(tmp_path_factory.mktemp("chart")) as made:
        yield made


@pytest.fixture
def servers(strict: StrictControlPlane) -> Iterator[ControlPlane]:
    """The same with the operator's namespace, which enforces restricted Pod Security; clean again after."""
    made = strict.servers
    make_namespace(made, SYSTEM)
    yield made
    remove_namespace(made)
    made.kubectl("delete", "crds", *sorted(CRD_NAMES), "--ignore-not-found", "--wait=false")
    eventually(lambda: crds_gone(made), seconds=CRD_SECONDS)


def _found(which: str, required: bool) -> str:
    try:
        return helm_path() if which == "helm" else kubectl_path()
    except ClientUnavailableError as error:
        if required:
            pytest.fail(f"WARMFLEET_REQUIRE_REAL=1, but there is no {which}: {error}", pytrace=False)
        pytest.skip(f"no {which}: {error}")


@pytest.fixture(scope="session")
def helm(require_real: bool) -> str:
    """Path of Helm."""
    return _found("helm", require_real)


@pytest.fixture(scope="session")
def kubectl(require_real: bool) -> str:
    """Path of kubectl."""
    return _found("kubectl", require_real)
