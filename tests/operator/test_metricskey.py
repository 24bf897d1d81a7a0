"""The token that opens /metrics: filled by the leader, rotated, told to agents as a digest, asked for."""

from __future__ import annotations

import base64
import itertools
import logging
from typing import Any

import aiohttp
import pytest
from fleet import Fleet, llm_deployment
from warmfleet_contracts import bearer
from warmfleet_operator.adapters.keysecret import Rotation
from warmfleet_operator.adapters.metricskey import MetricsKey
from warmfleet_operator.process import OperatorProcess
from warmfleet_runtime import resources
from warmfleet_runtime.clock import ManualClock

OWN = "warmfleet-system"


def secret(fleet: Fleet, name: str = bearer.METRICS_SECRET_NAME) -> dict[str, str]:
    (found,) = (s for s in fleet.objects("secrets") if s["metadata"]["name"] == name)
    return {item: base64.b64decode(text).decode() for item, text in (found.get("data") or {}).items()}


async def installed(fleet: Fleet, data: dict[str, str] | None = None) -> None:
    body: dict[str, Any] = {"metadata": {"name": bearer.METRICS_SECRET_NAME, "namespace": OWN}}
    encoded = {item: base64.b64encode(text.encode()).decode() for item, text in (data or {}).items()}
    await fleet.kube.create(resources.SECRETS, {**body, "data": encoded} if data else body, OWN)


class Rig:
    def __init__(self, fleet: Fleet, *, leads: bool = True, rotation: float = 0.0) -> None:
        self.clock, numbers = ManualClock(), itertools.count()
        made = Rotation(self.clock, rotation, lambda: f"made-token-number-{next(numbers):03d}")
        self.key = MetricsKey(fleet.kube, self.clock, namespace=OWN, leads=lambda: leads, rotation=made)


async def test_the_leader_fills_the_empty_secret_and_others_read_it() -> None:
    async with Fleet() as fleet:
        await installed(fleet)
        standby, leader = Rig(fleet, leads=False), Rig(fleet)
        await standby.key.look()
        assert secret(fleet) == {}
        assert standby.key.tokens() == ()
        assert standby.key.digests() is None, "nothing is known, which is not the same as nobody may read"
        await leader.key.look()
        await leader.key.look()
        assert secret(fleet) == {"token": "made-token-number-000"}
        await standby.key.look()
        assert standby.key.tokens() == leader.key.tokens() == ("made-token-number-000",)
        assert leader.key.digests() == (bearer.digest("made-token-number-000"),)


async def test_a_token_that_somebody_gave_is_taken_and_an_old_one_rotated() -> None:
    async with Fleet() as fleet:
        await installed(fleet, {"token": "a-token-of-the-platform-team"})
        rig = Rig(fleet)
        await rig.key.look()
        assert rig.key.tokens() == ("a-token-of-the-platform-team",)
        rotating = Rig(fleet, rotation=1000.0)
        await rotating.key.look()  # nobody knows how old it is
        assert secret(fleet) == {"token": "made-token-number-000", "previous": "a-token-of-the-platform-team"}
        rotating.clock.advance(900.0)
        await rotating.key.look()
        assert rotating.key.tokens() == ("made-token-number-000", "a-token-of-the-platform-team")
        rotating.clock.advance(200.0)
        await rotating.key.look()
        assert rotating.key.tokens() == ("made-token-number-001", "made-token-number-000")


async def test_without_the_secret_nothing_is_opened_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with Fleet() as fleet:
        rig = Rig(fleet)
        with caplog.at_level(logging.ERROR):
            await rig.key.look()
            await rig.key.look()
        assert rig.key.tokens() == ()
        assert len([r for r in caplog.records if "token of the metrics" in r.getMessage()]) == 1


async def status(process: OperatorProcess, path: str, token: str = "") -> int:
    assert process.probes is not None
    url = f"http://127.0.0.1:{process.probes.port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, headers=header(token)) as answer:
        return answer.status


def header(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


async def test_the_operator_asks_for_it_and_agents_are_told_what_to_ask_for() -> None:
    async with Fleet() as fleet:
        await fleet.instance_type()
        await installed(fleet)
        fleet.start_operator(metrics_authentication=True)
        await fleet.apply(llm_deployment(replicas=1))
        await fleet.until(lambda: fleet.ready() == 1, 30, "a ready worker")
        await fleet.until(lambda: "token" in secret(fleet), 30, "a token")
        token = secret(fleet)["token"]
        await fleet.until(lambda: secret(fleet, bearer.SECRET_NAME).get("metrics") == bearer.digest(token), 30, "told")
        assert token not in str(fleet.objects("pods"))
        process = fleet.process
        assert process is not None
        assert 401 not in [await status(process, path) for path in ("/healthz", "/readyz")]
        assert [await status(process, "/metrics", t) for t in ("", "x" * 40, token)] == [401, 401, 200]
        assert process.metrics.refused._value.get() == 2
        await fleet.stop_operator()
        fleet.start_operator(metrics_authentication=False)
        await fleet.until(lambda: "metrics" not in secret(fleet, bearer.SECRET_NAME), 60, "agents open again")
        assert fleet.process is not None
        assert await status(fleet.process, "/metrics") == 200
