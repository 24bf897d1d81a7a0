"""The session's control plane. Tests that use it run under `in_netns.py`, see `cluster`."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # these folders are no packages

from binaries import BinariesUnavailableError, resolve  # noqa: E402
from clients import ClientUnavailableError, kubectl_path  # noqa: E402
from cluster import ControlPlane, NotIsolatedError, require_isolation  # noqa: E402
from objects import register_node, wait  # noqa: E402

_RUNNING = pytest.StashKey[ControlPlane]()
_LOG_OFFSETS = pytest.StashKey[dict[str, int]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs the programs."""
    for item in items:
        if "controlplane" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.controlplane)


@pytest.fixture(scope="session")
def controlplane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """A running control plane. Without the means for one: skips, or fails when WARMFLEET_REQUIRE_REAL=1."""
    try:
        require_isolation()
        binaries = resolve(build=False)  # building takes minutes and the network: in_netns.py does it before
        kubectl_path(binaries.version)
    except (NotIsolatedError, BinariesUnavailableError, ClientUnavailableError) as error:
        _unavailable(str(error))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    with ControlPlane(binaries, slot=int(worker.removeprefix("gw"))) as running:
        request.config.stash[_RUNNING] = running
        yield running
        del request.config.stash[_RUNNING]
        if request.session.testsfailed:
            capture = request.config.pluginmanager.getplugin("capturemanager")
            with capture.global_and_fixture_disabled():
                print(f"\ncontrol plane logs kept in {running.keep_logs()}", file=sys.stderr)


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


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("WARMFLEET_REQUIRE_REAL") == "1":
        pytest.fail(f"WARMFLEET_REQUIRE_REAL=1, but there is no real control plane: {reason}", pytrace=False)
    pytest.skip(f"NOT TESTED against a real control plane: {reason}")


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
    running = item.config.stash.get(_RUNNING, None)
    if report.failed and running is not None and "controlplane" in getattr(item, "fixturenames", ()):
        for name, tail in running.log_tails(item.stash.get(_LOG_OFFSETS, {})):
            report.sections.append((f"{name} log", tail))
    return report
