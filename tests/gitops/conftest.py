"""Tests of what GitOps tools see: Argo CD's health by its own kind of script, kstatus by its own code, and sync loops.

`make test-gitops` runs them in a network namespace; elsewhere those that need the control plane are skipped.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
_FOLDERS = ("deploy", "tests/docs", "tests/controlplane", "tests/scenarios", "tests/operator")
sys.path[:0] = [str(HERE), *(str(ROOT / folder) for folder in _FOLDERS)]  # these folders are no packages

import controlplane_world  # noqa: E402
import shared_controlplane  # noqa: E402
from kstatus import KstatusUnavailableError, program  # noqa: E402
from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock  # noqa: E402
from world import World  # noqa: E402

_SCALE = 10.0


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Ends the control plane."""
    shared_controlplane.stop(failed=bool(session.testsfailed))


@pytest.fixture(scope="session")
def kstatus(require_real: bool) -> Path:
    """The program that runs kstatus; see :mod:`kstatus`."""
    try:
        return program()
    except KstatusUnavailableError as error:
        if required := require_real:
            pytest.fail(f"WARMFLEET_REQUIRE_REAL={int(required)}, but there is no kstatus: {error}", pytrace=False)
        pytest.skip(f"no kstatus: {error}")


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """The scenarios' world on the real control plane, without an operator yet."""
    clock = ScaledClock(_SCALE)
    monkeypatch.setenv(CLOCK_ENV, clock.to_env())
    async with controlplane_world.controlplane(tmp_path, clock) as made:
        yield made
        for child in made.operators:
            print(child.tail())
