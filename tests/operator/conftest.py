"""A cluster for each test."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # these folders are no packages

from fleet import Fleet


@pytest.fixture(autouse=True)
def every_log_line_is_made(caplog: pytest.LogCaptureFixture) -> None:
    """A log call with a reserved key in ``extra`` fails only when its level is enabled."""
    caplog.set_level(logging.DEBUG, "warmfleet_operator")


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    """The embedded API with CRDs, a fake node and an InstanceType, without an operator yet."""
    async with Fleet() as made:
        await made.instance_type()
        yield made
