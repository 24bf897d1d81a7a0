"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Compiling the request-level simulator takes a minute of processor time in a fresh checkout. Its tests are small, so
# they run interpreted, the same code line by line; `make test-compiled` runs them compiled.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
# How long an example takes says something about the machine's other work, not about the code.
settings.register_profile("machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("machine")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of traces and performance data; skips the test, with a message, when there is none."""
    named = os.environ.get("WARMFLEET_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no reference data; set WARMFLEET_DATA to the folder that holds traces/ and perf/")
    return folder


@pytest.fixture(scope="session")
def require_real() -> bool:
    """Whether a missing real part (kubectl, Helm, control plane) is a failure instead of a skip."""
    return os.environ.get("WARMFLEET_REQUIRE_REAL") == "1"
