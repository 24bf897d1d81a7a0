"""The session's real engines. Without a vLLM: skips, or fails when WARMFLEET_REQUIRE_REAL=1."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]  # this folder is no package

from environment import VllmEnvironment, VllmUnavailableError, ensure  # noqa: E402
from real_worker import RealWorker  # noqa: E402

Start = Callable[..., RealWorker]
SOAK = os.environ.get("WARMFLEET_SOAK") == "1"
soak_only = pytest.mark.skipif(not SOAK, reason="takes long on 2 cores: make soak-vllm")


@pytest.fixture(scope="session")
def real_engine() -> VllmEnvironment:
    """The environment with vLLM and the tiny model."""
    try:
        return ensure()
    except VllmUnavailableError as error:
        if os.environ.get("WARMFLEET_REQUIRE_REAL") == "1":
            pytest.fail(f"no real vLLM, and WARMFLEET_REQUIRE_REAL=1: {error}")
        pytest.skip(f"no real vLLM: {error}")


@pytest.fixture(scope="session")
def claim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared volume of the workers that pass their cache on."""
    return tmp_path_factory.mktemp("claim")


@pytest.fixture(scope="session")
def start(real_engine: VllmEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts workers; whatever happens, all of their processes are gone in the end."""
    started: list[RealWorker] = []

    def begin(name: str, claim: Path, **options: object) -> RealWorker:
        worker = RealWorker(name, real_engine, claim, tmp_path_factory.mktemp(name) / "pod", **options)  # type: ignore[arg-type]
        started.append(worker)
        return worker.start()

    yield begin
    for worker in started:
        worker.stop()


@pytest.fixture(scope="session")
def survivor(start: Start, claim: Path) -> RealWorker:
    """The worker that stays, on the same volume as those that leave; wait for it before the first use."""
    return start("survivor", claim)
