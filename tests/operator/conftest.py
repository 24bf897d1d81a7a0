"""A cluster for each test."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # these folders are no packages

from fleet import Fleet


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    """The embedded API with CRDs, a fake node and an InstanceType, without an operator yet."""
    async with Fleet() as made:
        await made.instance_type()
        yield made
