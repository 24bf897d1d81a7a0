"""The session's control plane. Tests that use it run under `in_netns.py`, see `cluster`."""

from __future__ import annotations

import sys
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / name) for name in ("scenarios", "faults", "operator"))]  # no packages
sys.path.append(str(HERE.parents[1] / "bench"))

import controlplane_world  # noqa: E402
import shared_controlplane  # noqa: E402
from cluster import ControlPlane  # noqa: E402
from objects import register_node, wait  # noqa: E402
from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock  # noqa: E402
from world import SCALE, World  # noqa: E402

_RUNNING = pytest.StashKey[ControlPlane]()
_FAILED = pytest.StashKey[bool]()
_LOG_OFFSETS = pytest.StashKey[dict[str, int]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs the programs, and gives it time: its set-up starts servers and tries every right of a role."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(400))
        if "controlplane" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.controlplane)


@pytest.fixture(scope="session")
def controlplane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """A running control plane. Without the means for one: skips, or fails when WARMFLEET_REQUIRE_REAL=1."""
    running = shared_controlplane.running()
    request.config.stash[_RUNNING] = running
    yield running
    del request.config.stash[_RUNNING]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Ends the control plane."""
    shared_controlplane.stop(failed=bool(session.testsfailed))


@pytest.fixture
def namespace(controlplane: ControlPlane) -> Iterator[str]:
    """A namespace for one test, with its default ServiceAccount."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    controlplane.kubectl("create", "namespace", name)
    wait(controlplane, "create", "serviceaccount/default", f"-n={name}")
    yield name
    controlplane.kubectl("delete", "pods", "--all", f"-n={name}", "--grace-period=0", "--force")
    controlplane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def node(controlplane: ControlPlane) -> Iterator[str]:
    """A ready Node with 8 GPUs that nobody runs."""
    name = f"node-{uuid.uuid4().hex[:8]}"
    register_node(controlplane, name)
    yield name
    controlplane.kubectl("delete", "node", name)


@pytest.fixture
async def world(
    controlplane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[World]:
    """The scenarios' world with nodes that run pods, without an operator yet; shows the operators' logs on failure."""
    marker = request.node.get_closest_marker("scale")
    clock = ScaledClock(marker.args[0] if marker else SCALE)
    monkeypatch.setenv(CLOCK_ENV, clock.to_env())  # what the node starts has the same clock
    async with controlplane_world.controlplane(tmp_path, clock) as made:
        yield made
        if request.node.stash.get(_FAILED, False):
            for child in made.operators:
                print(child.tail())


@pytest.fixture
async def running(world: World) -> World:
    """The same with an operator."""
    await world.start_operator()
    return world


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Remembers where the logs stand when a test begins."""
    running = item.config.stash.get(_RUNNING, None)
    if running is not None:
        item.stash[_LOG_OFFSETS] = running.log_offsets()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows with a failed test what the servers logged meanwhile."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    running = item.config.stash.get(_RUNNING, None)
    if report.failed and running is not None and "controlplane" in getattr(item, "fixturenames", ()):
        for name, tail in running.log_tails(item.stash.get(_LOG_OFFSETS, {})):
            report.sections.append((f"{name} log", tail))
    return report
