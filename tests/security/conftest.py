"""Tests of what the product lets others do. ``make test-security`` runs them in a network namespace.

Elsewhere those that need a real control plane are skipped.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
_FOLDERS = ("tests/controlplane", "tests/scenarios", "tests/operator")
sys.path[:0] = [str(HERE), *(str(ROOT / folder) for folder in _FOLDERS)]  # these folders are no packages

import shared_controlplane  # noqa: E402
from cluster import ControlPlane  # noqa: E402
from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock  # noqa: E402
from world import SCALE, World, embedded  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives time to what starts servers."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(400))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Ends the control plane, if one was started."""
    shared_controlplane.stop(failed=bool(session.testsfailed))


@pytest.fixture(scope="session")
def controlplane() -> ControlPlane:
    """A real control plane; without the means for one: skips, or fails with WARMFLEET_REQUIRE_REAL=1."""
    return shared_controlplane.running()


@pytest.fixture(scope="module")
def restricted(controlplane: ControlPlane) -> Iterator[str]:
    """A namespace that enforces the restricted Pod Security Standard."""
    name = "restricted"
    controlplane.kubectl("create", "namespace", name)
    controlplane.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    controlplane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """An embedded cluster whose nodes run pods as processes, without an operator yet."""
    clock = ScaledClock(SCALE)
    monkeypatch.setenv(CLOCK_ENV, clock.to_env())
    async with embedded(tmp_path, clock) as made:
        yield made
