"""Who may ask an agent: only whoever holds the namespace's key, and the pod's own preStop hook."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from warmfleet_contracts import bearer
from warmfleet_runtime.clock import ManualClock
from warmfleet_runtime.keys import KeyFiles
from warmfleet_worker.agent import Agent
from warmfleet_worker.engines.base import Health, Observation
from warmfleet_worker.guard import Guard
from warmfleet_worker.server import AgentServer
from warmfleet_worker.settings import Settings

OLD, NEW = "an-old-key-of-16-and-more", "a-new-key-of-16-and-more"
DRAIN = {"reason": "LowestKvValue", "deadlineSeconds": 30}


class SilentEngine:
    """Never asked: the agent's loop does not run."""

    async def observe(self) -> Observation:
        return Observation(Health.REFUSED, problem="refused")

    async def close(self) -> None:
        pass


class Locked:
    """An agent that asks for a token."""

    def __init__(self, folder: Path) -> None:
        self.folder, clock = folder, ManualClock()
        settings = Settings("uid-1", "127.0.0.1", keys=folder, prestop_token="of-the-hook")
        self.agent, self.guard = Agent(settings, SilentEngine(), clock), Guard.of(settings)
        self.client = TestClient(TestServer(AgentServer(self.agent, self.guard).app()))

    def write(self, key: str, previous: str = "") -> None:
        """What a kubelet does when the Secret changes."""
        for name, text in ((bearer.KEY_ITEM, key), (bearer.PREVIOUS_ITEM, previous)):
            (self.folder / name).write_text(text)

    async def status(self, method: str, path: str, token: str | None, **how: object) -> int:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return (await self.client.request(method, path, headers=headers, **how)).status  # type: ignore[arg-type]


@pytest.fixture
async def locked(tmp_path: Path) -> AsyncIterator[Locked]:
    made = Locked(tmp_path)
    made.write(OLD)
    await made.client.start_server()
    yield made
    await made.client.close()


WRONG = [None, "", "x", OLD, bearer.bearer(OLD, "uid-2"), bearer.bearer(NEW, "uid-1"), "é" * 40, "a" * 7000]


@pytest.mark.parametrize("token", WRONG, ids=lambda t: "none" if t is None else t[:12] or "empty")
async def test_a_wrong_token_changes_nothing_and_is_counted(locked: Locked, token: str | None) -> None:
    assert await locked.status("GET", "/v1/state", token) == 401
    assert await locked.status("POST", "/v1/drain", token, json=DRAIN) == 401
    assert await locked.status("DELETE", "/v1/drain", token) == 401
    assert await locked.status("GET", "/v1/prestop", token) == 401
    assert await locked.status("POST", "/v1/nothing-there", token) == 401
    assert locked.agent.machine.drain is None
    shown = await (await locked.client.get("/metrics")).text()
    assert "warmfleet_agent_unauthorized_requests_total 5.0" in shown


async def test_the_namespaces_key_opens_this_pod(locked: Locked) -> None:
    token = bearer.bearer(OLD, "uid-1")
    assert await locked.status("GET", "/v1/state", token) == 200
    assert await locked.status("POST", "/v1/drain", token, json=DRAIN) == 202
    assert await locked.status("DELETE", "/v1/drain", token) == 200
    assert locked.guard.refused == 0


async def test_a_rotated_key_holds_at_once_and_the_one_before_until_it_is_gone(locked: Locked) -> None:
    old, new = bearer.bearer(OLD, "uid-1"), bearer.bearer(NEW, "uid-1")
    locked.write(NEW, previous=OLD)
    assert [await locked.status("GET", "/v1/state", token) for token in (old, new)] == [200, 200]
    locked.write(NEW)
    assert [await locked.status("GET", "/v1/state", token) for token in (old, new)] == [401, 200]


async def test_without_a_key_nobody_may_ask(locked: Locked) -> None:
    (locked.folder / bearer.KEY_ITEM).unlink()
    assert await locked.status("GET", "/v1/state", bearer.bearer("", "uid-1")) == 401
    locked.write("short")
    assert await locked.status("GET", "/v1/state", bearer.bearer("short", "uid-1")) == 401


async def test_the_hooks_token_is_good_for_the_hook_alone(locked: Locked) -> None:
    assert await locked.status("GET", "/v1/prestop?deadline=-1", "of-the-hook") == 400
    assert await locked.status("GET", "/v1/state", "of-the-hook") == 401


async def test_probes_need_no_token_and_metrics_none_while_no_reader_is_named(locked: Locked) -> None:
    assert (await locked.client.get("/healthz")).status == 200
    assert (await locked.client.get("/readyz")).status == 503
    assert (await locked.client.get("/metrics")).status == 200


async def test_metrics_are_for_the_readers_that_the_secret_names(locked: Locked) -> None:
    async def shown(*tokens: str | None) -> list[int]:
        return [await locked.status("GET", "/metrics", token) for token in tokens]

    digests = [locked.folder / name for name in (bearer.DIGEST_ITEM, bearer.PREVIOUS_DIGEST_ITEM)]
    digests[0].write_text(bearer.digest(NEW))
    assert await shown(None, "", OLD, bearer.bearer(OLD, "uid-1"), bearer.digest(NEW), NEW) == [401] * 5 + [200]
    assert locked.guard.refused == 5
    assert await locked.status("GET", "/v1/state", NEW) == 401, "who reads metrics may do nothing else"
    digests[1].write_text(bearer.digest(OLD))
    assert await shown(OLD, NEW) == [200, 200]
    for file in locked.folder.iterdir():
        file.unlink()
    assert await shown(None, NEW) == [401, 200], "a lost Secret opens nothing"
    locked.write(OLD)
    assert await shown(None) == [200], "nobody is named any more"


def test_a_file_of_any_size_and_content_is_read_in_bounds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"\xff" * 1_000_000)
    files = KeyFiles(file)
    assert files.read() == files.read() == ()
    assert len(caplog.records) == 1
    file.write_text(NEW * 1000)
    assert not any(map(bearer.usable, files.read()))
