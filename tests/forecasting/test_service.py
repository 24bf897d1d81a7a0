"""The service on the embedded API: from an LLMDeployment to a TrafficForecast's status, on good days and bad ones."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
from warmfleet_contracts.api import API_VERSION
from warmfleet_contracts.api.trafficforecast import TrafficForecast
from warmfleet_forecasting.history import HistoryError, HistoryProblem, Key
from warmfleet_forecasting.history.prometheus import PrometheusHistory, PrometheusSettings
from warmfleet_forecasting.service import sharding
from warmfleet_forecasting.service.process import ENTRY
from warmfleet_forecasting.service.schedule import end_of_history, until_next
from warmfleet_localcluster.api import watch
from warmfleet_runtime.resources import INSTANCE_TYPES, LLM_DEPLOYMENTS, TRAFFIC_FORECASTS

sys.path.insert(0, str(Path(__file__).resolve().parent))  # these folders are no packages

from fake_prometheus import FakePrometheus
from forecaster_world import World, deployment, traffic_forecast
from service_fits import BLOAT, CRASH, HANG, RAISE


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as made:
        yield made


@pytest.fixture
async def slow() -> AsyncIterator[World]:
    """Where forecasts that are compared were issued within minutes of each other, however slow the machine is."""
    async with World(10.0) as made:
        yield made


async def test_from_a_deployment_to_the_status_of_its_forecast(world: World, tmp_path: Path) -> None:
    await world.apply(deployment(forecast={"history": "24h"}))
    await world.apply(deployment("silent", forecast=None))
    (tmp_path / "token").write_text("t" * 20)
    process = world.start(metrics_token_folder=str(tmp_path))
    await world.until(world.issued, what="a forecast")
    made = TrafficForecast.model_validate(world.forecast())
    status = made.status
    assert status is not None
    assert status.observed_generation == made.metadata.generation
    assert [p.offset for p in status.near][:2] == [300.0, 600.0]
    assert all(0 < p.q50 <= p.q90 for p in (*status.near, *status.far))
    assert len(json.dumps(world.status())) < 16 * 1024
    issued = datetime.fromisoformat(status.issued_at or "")
    assert 0 <= (world.clock.wall() - issued).total_seconds() < 1800
    assert status.conditions[0].status == "True"
    owner = world.forecast()["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("LLMDeployment", "chat")
    uids = {d["metadata"]["name"]: d["metadata"]["uid"] for d in world.objects("llmdeployments")}
    assert owner["uid"] == uids["chat"]
    assert not world.forecast("silent"), "nobody asked"
    async with aiohttp.ClientSession() as session:
        assert process.probes is not None
        base = f"http://127.0.0.1:{process.probes.port}"
        async with session.get(f"{base}/healthz") as answer:
            assert answer.status == 200
        async with session.get(f"{base}/metrics") as answer:
            assert answer.status == 401
        async with session.get(f"{base}/metrics", headers={"Authorization": f"Bearer {'t' * 20}"}) as answer:
            text = await answer.text()
    assert 'warmfleet_forecaster_fits_total{outcome="Fitted"}' in text
    assert "warmfleet_forecaster_unauthorized_requests_total 1.0" in text
    assert 'warmfleet_forecaster_issued_timestamp_seconds{deployment="chat",namespace="prod"}' in text
    # no longer asked for: the object that was made goes
    await world.kube.patch(LLM_DEPLOYMENTS, "chat", {"spec": {"scaling": {"forecast": None}}}, "prod")
    await world.until(lambda: not world.forecast(), what="removal")


async def test_the_status_is_applied_so_what_another_adds_to_it_stays(world: World) -> None:
    await world.apply(deployment(forecast={}))
    world.start()
    await world.until(world.issued, what="a forecast")
    first = world.status()["issuedAt"]
    said = {"type": "Reviewed", "status": "True", "reason": "Fine", "lastTransitionTime": "2026-03-01T12:00:00Z"}
    body = {key: world.forecast()[key] for key in ("apiVersion", "kind")}
    body |= {"metadata": {"name": "chat", "namespace": "prod"}, "status": {"conditions": [said]}}
    await world.kube.patch(
        TRAFFIC_FORECASTS,
        "chat",
        body,
        "prod",
        subresource="status",
        how="apply",
        fieldManager="reviewer",
        force="true",
    )
    await world.until(lambda: world.status()["issuedAt"] > first, what="the next forecast")
    assert {c["type"] for c in world.status()["conditions"]} == {"Ready", "Reviewed"}


async def test_a_watch_that_says_nothing_is_unhealthy_until_it_speaks_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "BOOKMARK_SECONDS", 0.1)
    process = world.start(watch_limit_s=3.0, stale_seconds=86_400)

    async def health() -> str:
        assert process.probes is not None
        url = f"http://127.0.0.1:{process.probes.port}/healthz"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            assert answer.status in {200, 500}
            return await answer.text()

    async def healthy(wanted: Callable[[str], bool]) -> None:
        for _ in range(600):
            if wanted(said := await health()):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"timed out; /healthz says {said}")

    await world.until(lambda: process.probes is not None and process.probes.port, what="the probes")
    await healthy(lambda said: said == "ok")
    monkeypatch.setattr(watch, "BOOKMARK_SECONDS", 1000.0)
    kinds = ("llmdeployments", "trafficforecasts", "instancetypes")
    await healthy(lambda said: all(f"watch of {kind}" in said for kind in kinds))
    monkeypatch.setattr(watch, "BOOKMARK_SECONDS", 0.1)
    await world.apply(deployment(forecast={}))  # its forecast is made, so two of the watches speak
    await healthy(lambda said: "instancetypes" in said and "llmdeployments" not in said)
    spec = {"accelerator": {"name": "H100-SXM"}, "price": {"onDemand": 1.0}}
    body = {"apiVersion": API_VERSION, "kind": "InstanceType", "metadata": {"name": "h100"}, "spec": spec}
    await world.apply(body, INSTANCE_TYPES)
    await healthy(lambda said: said == "ok")


async def test_the_shipped_models_fill_a_status_and_declared_events_raise_it(slow: World) -> None:
    world = slow
    world.history.hours = 26.0
    start, end = (world.clock.wall() + timedelta(hours=h) for h in (6, 8))
    event = {"name": "launch", "start": f"{start:%Y-%m-%dT%H:%M:%SZ}", "end": f"{end:%Y-%m-%dT%H:%M:%SZ}", "factor": 5}
    await world.apply(deployment(forecast={"history": "26h"}))
    await world.apply(deployment("launched", forecast={"history": "26h"}, events=[event]))
    world.start(ENTRY, fit_deadline_seconds=90.0)
    await world.until(lambda: world.issued() and world.issued("launched"), seconds=100, what="forecasts")
    statuses = []
    for name in ("chat", "launched"):
        made = TrafficForecast.model_validate(world.forecast(name)).status
        assert made is not None
        assert len(json.dumps(world.status(name))) < 16 * 1024
        assert [s.horizon for s in made.skill] == [600.0, 1800.0, 3600.0]
        assert made.reason
        statuses.append(made)
    plain, raised = ({p.offset: p.q50 for p in made.far} for made in statuses)
    issued = datetime.fromisoformat(statuses[1].issued_at or "")
    during = [o for o in raised if start <= issued + timedelta(seconds=o) < end]
    after = [o for o in raised if issued + timedelta(seconds=o) > end + timedelta(hours=1)]
    assert during
    assert all(raised[o] > 3.0 * plain[o] for o in during)
    assert all(raised[o] < 2.0 * plain[o] for o in after)


async def test_an_external_forecast_is_left_alone(world: World) -> None:
    await world.apply(traffic_forecast(), TRAFFIC_FORECASTS)
    mine = {"issuedAt": "2026-03-01T11:59:00Z", "trusted": True, "near": [{"offset": "5m", "q50": 1, "q90": 2}]}
    await world.kube.patch(TRAFFIC_FORECASTS, "chat", {"status": mine}, "prod", subresource="status")
    before = world.forecast()
    await world.apply(deployment(forecast={}))
    await world.apply(deployment("other", forecast={}))
    world.start()
    await world.until(lambda: world.issued("other"), what="the other forecast")
    assert world.forecast() == before
    assert Key("prod", "chat") not in world.history.asked
    # handed over: now it is filled
    await world.apply(traffic_forecast(forecaster="Internal"), TRAFFIC_FORECASTS)
    await world.until(lambda: len(world.status()["near"]) > 1, what="the status of a forecast handed over")
    # and back: the deployment no longer asks, but what a person made is not removed
    await world.apply(deployment(forecast=None))
    await asyncio.sleep(0.2)
    assert world.forecast()


@pytest.mark.parametrize(("sign", "reason"), [(CRASH, "FitCrashed"), (HANG, "FitTimedOut"), (RAISE, "FitFailed")])
async def test_a_fit_that_goes_wrong_costs_one_forecast(world: World, sign: float, reason: str) -> None:
    await world.apply(deployment(forecast={}))
    world.start(refit_seconds=240.0, valid_seconds=900.0, fit_deadline_seconds=5.0)
    await world.until(world.issued, what="a forecast")
    good = world.status()
    world.history.last = sign
    await world.until(lambda: world.status().get("reason") == reason, what=reason)
    bad = world.status()
    assert bad["issuedAt"] >= good["issuedAt"]
    assert bad["near"], "the last good forecast is kept"
    assert f"the forecast of {bad['issuedAt']}" in bad["message"]
    assert bad["conditions"][0]["status"] == "False"
    world.history.last = None
    await world.until(lambda: world.status()["conditions"][0]["status"] == "True", what="recovery")
    assert world.status()["issuedAt"] > bad["issuedAt"]


async def test_a_first_fit_that_crashes_is_a_reason_and_no_curve(world: World) -> None:
    world.history.last = CRASH
    await world.apply(deployment(forecast={}))
    world.start()
    await world.until(lambda: world.status().get("reason") == "FitCrashed", what="the reason")
    assert "issuedAt" not in world.status()
    assert not world.status().get("near")
    assert world.status()["trusted"] is False
    assert "code 7" in world.status()["message"]


async def test_without_history_the_forecast_ages_and_then_is_not_trusted(world: World) -> None:
    await world.apply(deployment(forecast={}))
    world.start(refit_seconds=120.0, valid_seconds=2000.0)
    await world.until(world.issued, what="a forecast")
    world.history.problem = HistoryError(HistoryProblem.UNREACHABLE, "Prometheus is away")
    await world.until(lambda: world.status()["reason"] == "HistoryUnreachable", what="the reason")
    kept = world.status()
    assert "Prometheus is away; the forecast of" in kept["message"]
    assert kept["near"]
    await world.until(lambda: "has expired" in world.status()["message"], what="expiry")
    assert world.status()["issuedAt"] == kept["issuedAt"], "an old forecast is never dated anew"
    assert kept["trusted"] is True
    assert world.status()["trusted"] is False
    assert world.status()["conditions"][0]["reason"] == "ForecastExpired"
    world.history.problem = None
    await world.until(lambda: world.status()["issuedAt"] > kept["issuedAt"], what="recovery")


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("down", "HistoryUnreachable"),
        ("slow", "HistoryUnreachable"),
        ("huge", "HistoryTooLarge"),
        ("refusing", "HistoryRefused"),
        ("garbage", "HistoryUnreadable"),
    ],
)
async def test_whatever_prometheus_does_the_last_forecast_is_kept(world: World, mode: str, reason: str) -> None:
    async with FakePrometheus({"a": lambda _: 100.0}) as fake, aiohttp.ClientSession() as session:
        settings = PrometheusSettings(fake.url, "demand", timeout_s=3.0, attempts=1)
        world.history = PrometheusHistory(settings, session)  # type: ignore[assignment]
        await world.apply(deployment(forecast={"history": "2h"}))
        world.start(refit_seconds=240.0, valid_seconds=36_000.0)
        await world.until(world.issued, what="a forecast")
        if mode == "down" and fake.runner is not None:
            await fake.runner.cleanup()
        fake.mode = mode
        await world.until(lambda: world.status()["reason"] == reason, what=reason)
        kept = world.status()
        assert [point["q50"] for point in kept["near"]] == [100.0] * 12
        assert f"the forecast of {kept['issuedAt']} is kept" in kept["message"]
        assert kept["trusted"] is True
        assert kept["conditions"][0]["status"] == "False"


async def test_a_new_process_keeps_what_the_old_one_published(world: World) -> None:
    await world.apply(deployment(forecast={}))
    world.start()
    await world.until(world.issued, what="a forecast")
    good = world.status()
    await world.stop()
    world.history.last = math.nan
    world.start(valid_seconds=36_000.0)
    await world.until(lambda: world.status()["reason"] == "HistoryGap", what="the reason")
    assert world.status()["near"] == good["near"]
    assert world.status()["issuedAt"] == good["issuedAt"]


async def test_two_replicas_share_the_deployments(world: World) -> None:
    names = [f"chat-{n}" for n in range(8)]
    for name in names:
        await world.apply(deployment(name, forecast={}))
    first = world.start(replicas=2, identity="forecaster-0")
    second = world.start(replicas=2, identity="forecaster-1")
    await world.until(lambda: all(world.issued(name) for name in names), what="all forecasts")
    owners = {name: sharding.owner(Key("prod", name), 2) for name in names}
    assert set(owners.values()) == {0, 1}
    for number, process in enumerate((first, second)):
        mine = {key.name for key in process.board.assignments()}
        assert mine == {name for name, owner in owners.items() if owner == number}
    assert world.history.asked.count(Key("prod", "chat-0")) == 1


async def test_a_status_that_says_nothing_new_is_not_written(world: World) -> None:
    await world.apply(deployment(forecast={}))
    world.history.hours = 0.5
    world.start(refit_seconds=30.0, valid_seconds=36_000.0)

    async def flat(key: Key, start: float, end: float) -> object:
        series = await type(world.history).series(world.history, key, start, end)
        return type(series)(series.start, series.step_s, series.values * 0 + 5.0)

    world.history.series = flat  # type: ignore[method-assign, assignment]
    await world.until(world.issued, what="a forecast")
    await world.until(lambda: len(world.history.asked) > 6, what="refits")
    version = world.forecast()["metadata"]["resourceVersion"]
    asked = len(world.history.asked)
    await world.until(lambda: len(world.history.asked) > asked + 4, what="refits")
    assert world.forecast()["metadata"]["resourceVersion"] == version


async def test_a_process_that_grew_too_large_is_replaced(world: World) -> None:
    await world.apply(deployment(forecast={}))
    world.start(refit_seconds=60.0, valid_seconds=900.0, fit_memory_mib=300)
    await world.until(world.issued, what="a forecast")
    first = world.status()["message"]
    world.history.last = BLOAT
    await world.until(lambda: world.status()["near"][0]["q50"] > 150, what="the large fit")
    world.history.last = None
    await world.until(lambda: world.status()["message"] != first, what="another process")
    with pytest.raises(ProcessLookupError):
        os.kill(int(first), 0)


@pytest.mark.parametrize(("period", "step"), [(600.0, 600.0), (900.0, 600.0), (1800.0, 600.0), (120.0, 120.0)])
def test_forecasts_follow_each_other_in_whole_cells(period: float, step: float) -> None:
    issued = 1_000_020.0
    assert end_of_history(issued + 77.0, None, period) == issued + 77.0
    for late in (0.0, 0.3 * step, 5.7 * step, -2.5 * step):
        end = end_of_history(issued + late, issued, period)
        assert end <= issued + late < end + step
        assert (end - issued) % step == 0.0
    wait = until_next(issued + 7.0, issued, period)
    assert end_of_history(issued + 7.0 + wait, issued, period) == issued + 7.0 + wait
    assert period <= wait + 7.0 < period + step
    assert until_next(issued + 10 * period, issued, period) == 0.0


async def test_a_refit_finds_its_memory_on_the_same_cells(world: World) -> None:
    await world.apply(deployment(forecast={}))
    world.start(refit_seconds=700.0, valid_seconds=3600.0)
    issued: list[datetime] = []

    def three() -> bool:
        at = world.status().get("issuedAt")
        if at is not None and (found := datetime.fromisoformat(at)) not in issued:
            issued.append(found)
        return len(issued) >= 3

    await world.until(three, what="three forecasts")
    assert {(b - a).total_seconds() for a, b in pairwise(issued)} == {1200.0}


def test_adding_a_replica_moves_only_its_share() -> None:
    keys = [Key("prod", f"d{n}") for n in range(2000)]
    before = {key: sharding.owner(key, 4) for key in keys}
    after = {key: sharding.owner(key, 5) for key in keys}
    moved = [key for key in keys if before[key] != after[key]]
    assert {after[key] for key in moved} == {4}
    assert 300 < len(moved) < 500
    shares = [list(after.values()).count(n) for n in range(5)]
    assert min(shares) > 330
