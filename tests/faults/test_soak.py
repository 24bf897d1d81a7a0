"""Every fault once, in some minutes of a few fleets' lives; no promise is broken. ``make soak`` plays for an hour."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from soak import report, soak, tracebacks

MINUTES = float(os.environ.get("SOAK_MINUTES") or 4)
SEED = int(os.environ.get("SOAK_SEED") or 2026)


@pytest.mark.timeout(1800)
async def test_no_fault_breaks_a_promise(tmp_path: Path) -> None:
    """On a slow machine fewer faults are played, in the order that the seed gives."""
    episodes, observer, world = await soak(MINUTES, SEED, tmp_path)
    print(report(episodes))
    assert episodes
    assert not observer.violations, f"SOAK_SEED={SEED} plays it again"
    assert tracebacks(world) == []
    assert min(observer.checks.values()) > 0, "every promise was looked at"
