"""The world of each scenario."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "controlplane")]  # these folders are no packages

from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock  # noqa: E402
from warmfleet_runtime.resources import PODS  # noqa: E402
from world import SCALE, World, embedded  # noqa: E402


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Ends the control plane, if one was started."""
    if "shared_controlplane" in sys.modules:
        sys.modules["shared_controlplane"].stop(failed=bool(session.testsfailed))


@pytest.fixture
async def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[World]:
    """A cluster with CRDs and nodes, without an operator yet."""
    marker = request.node.get_closest_marker("scale")
    clock = ScaledClock(marker.args[0] if marker else SCALE)
    monkeypatch.setenv(CLOCK_ENV, clock.to_env())  # what the node starts has the same clock
    if os.environ.get("WARMFLEET_CLUSTER") == "controlplane":
        from controlplane_world import controlplane

        async with controlplane(tmp_path, clock) as made:
            yield made
    else:
        async with embedded(tmp_path, clock) as made:
            yield made


@pytest.fixture
async def running(world: World, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The same with an operator; shows its log when the test fails."""
    await world.start_operator()
    yield world
    report = getattr(request.node, "report", None)
    if report is None or report.failed:
        for child in world.operators:
            print(child.tail())
        await show_pods(world)


async def show_pods(world: World) -> None:
    """Status and logs of all pods that are left."""
    for pod in (await world.kube.list(PODS))["items"]:
        meta, status = pod["metadata"], pod.get("status") or {}
        containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        print(
            meta["name"], status.get("phase"), [(c["name"], c.get("state"), c.get("restartCount")) for c in containers]
        )
        for container in containers:
            try:
                print(world.node.logs(meta["namespace"], meta["name"], container["name"])[-1500:])
            except KeyError:
                print(f"  {container['name']}: no log")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> object:
    """Keeps the report, so that fixtures know whether the test failed."""
    report = yield
    if report.when == "call":
        item.report = report  # type: ignore[attr-defined]
    return report
