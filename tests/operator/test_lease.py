"""Leader election: one at a time, judged by monotonic time alone."""

from __future__ import annotations

import asyncio
import copy
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from warmfleet_operator.adapters.kube import KubeError
from warmfleet_operator.adapters.lease import Elector, Leadership, LeaseSettings, NotLeaderError


class LeaseApi:
    """One Lease with optimistic locking."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.down = False

    async def get(self, *_: Any) -> dict[str, Any]:
        if self.down:
            raise KubeError(0, "Unreachable", "", "GET lease")
        if self.lease is None:
            raise KubeError(404, "NotFound", "", "GET lease")
        return copy.deepcopy(self.lease)

    async def create(self, _: Any, body: dict[str, Any], __: str | None = None) -> dict[str, Any]:
        if self.lease is not None:
            raise KubeError(409, "AlreadyExists", "", "POST lease")
        return self._store(body)

    async def replace(self, _: Any, body: dict[str, Any], __: str | None = None) -> dict[str, Any]:
        if self.down:
            raise KubeError(0, "Unreachable", "", "PUT lease")
        if body["metadata"]["resourceVersion"] != str(self.version):
            raise KubeError(409, "Conflict", "", "PUT lease")
        return self._store(body)

    def _store(self, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return self.lease


class Candidate:
    def __init__(self, name: str, api: LeaseApi, clock: list[float]) -> None:
        self.leadership = Leadership(15.0, lambda: clock[0])
        settings = LeaseSettings("ns", "lease", name, duration=15.0, retry=0.01)
        wall = datetime(2026, 1, 1, tzinfo=UTC)
        self.elector = Elector(settings, api, self.leadership, monotonic=lambda: clock[0], wall=lambda: wall)  # type: ignore[arg-type]

    async def step(self) -> bool:
        return await self.elector._step()


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


async def test_only_one_of_two_leads(clock: list[float]) -> None:
    api = LeaseApi()
    a, b = Candidate("a", api, clock), Candidate("b", api, clock)
    assert await a.step()
    assert not await b.step()
    a.leadership.check()
    with pytest.raises(NotLeaderError):
        b.leadership.check()


async def test_leadership_ends_by_itself_before_another_may_take_over(clock: list[float]) -> None:
    api = LeaseApi()
    a, b = Candidate("a", api, clock), Candidate("b", api, clock)
    assert await a.step()
    assert not await b.step()
    clock[0] = 10.1
    with pytest.raises(NotLeaderError):
        a.leadership.check()
    assert not await b.step()
    clock[0] = 15.1
    assert await b.step()
    assert not await a.step()


async def test_a_renewal_keeps_it_and_an_outage_of_the_api_ends_it(clock: list[float]) -> None:
    api = LeaseApi()
    a = Candidate("a", api, clock)
    assert await a.step()
    clock[0] = 8.0
    assert await a.step()
    clock[0] = 17.0
    a.leadership.check()
    api.down = True
    assert await a.step()
    clock[0] = 18.1
    assert not await a.step()
    assert not a.leadership.held


async def test_a_released_lease_is_free_at_once(clock: list[float]) -> None:
    api = LeaseApi()
    a, b = Candidate("a", api, clock), Candidate("b", api, clock)
    assert await a.step()
    await a.elector.release()
    assert not a.leadership.held
    assert await b.step()
    assert api.lease is not None
    assert api.lease["spec"]["holderIdentity"] == "b"


async def test_losing_the_lease_ends_the_run(clock: list[float]) -> None:
    api = LeaseApi()
    a, b = Candidate("a", api, clock), Candidate("b", api, clock)
    run = asyncio.create_task(a.elector.run(threading.Event()))
    await asyncio.sleep(0.2)
    a.leadership.check()
    assert api.lease is not None
    api.lease["spec"]["holderIdentity"] = ""
    assert await b.step()
    await asyncio.wait_for(run, 5)
    assert not a.leadership.held
