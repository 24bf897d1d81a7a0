"""Tests of the chart and the kustomize base that need no cluster, only Helm and kubectl."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "deploy"), str(ROOT / "tests" / "controlplane")]  # these folders are no packages

from clients import ClientUnavailableError, helm_path, kubectl_path  # noqa: E402


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
