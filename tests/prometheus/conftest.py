"""Tests on a real Prometheus. Without one: skipped, or failed when WARMFLEET_REQUIRE_REAL=1."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "controlplane"))  # that folder is no package

from prometheus_programs import PrometheusPrograms, PrometheusUnavailableError, prometheus_programs


@pytest.fixture(scope="session")
def programs(require_real: bool) -> PrometheusPrograms:
    """Paths of prometheus and promtool."""
    try:
        return prometheus_programs()
    except PrometheusUnavailableError as error:
        if require_real:
            pytest.fail(f"WARMFLEET_REQUIRE_REAL=1, but there is no Prometheus: {error}", pytrace=False)
        pytest.skip(f"no Prometheus: {error}")
