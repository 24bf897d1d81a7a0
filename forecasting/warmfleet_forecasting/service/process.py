"""Puts the forecaster together and runs it: watch, scrape, refit, keep objects, probes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import client as kube
from warmfleet_runtime.clock import Clock, sleep_or
from warmfleet_runtime.kubeclient import KubeClient, load_configuration
from warmfleet_runtime.probes import ProbeServer, Sign, stale
from warmfleet_runtime.resources import INSTANCE_TYPES, LLM_DEPLOYMENTS, TRAFFIC_FORECASTS, Resource
from warmfleet_runtime.rest import ApiError

from warmfleet_forecasting.history import History
from warmfleet_forecasting.history.prometheus import PrometheusHistory, PrometheusSettings
from warmfleet_forecasting.history.recorded import CachedHistory, RecordedHistory
from warmfleet_forecasting.history.recorder import Recorder
from warmfleet_forecasting.history.scrape import Scraper
from warmfleet_forecasting.metrics import Metrics
from warmfleet_forecasting.service.board import Board
from warmfleet_forecasting.service.objects import Object, key_of
from warmfleet_forecasting.service.pool import FitPool
from warmfleet_forecasting.service.refits import API_FAILURES, Refitter
from warmfleet_forecasting.settings import Settings

_LOG = logging.getLogger(__name__)
_WATCHED = (LLM_DEPLOYMENTS, TRAFFIC_FORECASTS, INSTANCE_TYPES)
ENTRY = "warmfleet_forecasting.service.work:fit"
"""Named, not imported: the models are loaded in the fitting processes only."""
PRELOAD = ("__main__", "warmfleet_forecasting.service.preload")
"""The main module is imported in every process that multiprocessing starts; so it is shared as well."""
_PRUNE_SECONDS = 3600.0
_CHORES_SECONDS = 30.0
_DAY_S = 86_400.0

Configure = Callable[[], Awaitable[kube.Configuration]]


class ForecasterProcess:
    """One forecaster.

    Args:
        settings: Settings.
        clock: Logical time.
        configure: Loads the connection settings.
        entry: ``module:function`` of a fit.
        history: Where the past comes from; by default what the settings say.
        watch_limit_s: Real seconds without a word of the API after which a watch counts as stalled; a quiet one is
            ended in good order, and opened again, every 240.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        configure: Configure = load_configuration,
        *,
        entry: str = ENTRY,
        history: History | None = None,
        watch_limit_s: float = 300.0,
    ) -> None:
        self._settings, self._clock, self._configure, self._given = settings, clock, configure, history
        self._tokens = settings.metrics_tokens()
        self._started = clock.now()
        self._watch_limit_s = watch_limit_s
        self._heard = dict.fromkeys((r.plural for r in _WATCHED), time.monotonic())
        self._changed = asyncio.Event()
        self._synced: set[str] = set()
        self._kept: float | None = None
        self.metrics = Metrics()
        self.probes: ProbeServer | None = None
        self.board = Board(
            replicas=settings.replicas,
            ordinal=settings.ordinal,
            time_zone=settings.time_zone,
            valid_for_s=settings.valid_seconds,
            changed=self._changed.set,
        )
        self.pool = FitPool(
            entry,
            processes=settings.fit_processes,
            deadline_s=settings.fit_deadline_seconds,
            memory_bytes=settings.fit_memory_mib * 2**20,
            preload=PRELOAD if entry == ENTRY else (),
        )

    async def run(self, stop: asyncio.Event) -> int:
        """Run until ``stop``, or until a loop ends that must not.

        Returns:
            Exit code: 0 when stopped, 1 when the process can no longer do its work.
        """
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
            client = await stack.enter_async_context(KubeClient(await self._configure()))
            client.heard = self._hear
            stack.callback(self.pool.close)
            loops: dict[str, Coroutine[Any, Any, None]] = {}
            history, scraper = self._given, None
            if history is None:
                history, scraper = self._sources(stack, session, loops)
            refitter = Refitter(
                history,
                self.pool,
                client,
                self._clock,
                self.metrics,
                published=self.board.published,
                period_s=self._settings.refit_seconds,
            )
            self.probes = ProbeServer(
                self.metrics,
                lambda: self._problems(refitter, scraper),
                lambda: self.metrics.overdue.set(refitter.overdue()),
                tokens=self._tokens.read if self._tokens is not None else None,
                refused=self.metrics.refused.inc,
            )
            await self.probes.start(self._settings.listen_address, self._settings.listen_port)
            stack.push_async_callback(self.probes.stop)
            loops |= {
                "watch of LLMDeployments": self._watch(client, LLM_DEPLOYMENTS, self.board.deployment),
                "watch of TrafficForecasts": self._watch(client, TRAFFIC_FORECASTS, self.board.forecast),
                "watch of InstanceTypes": self._watch(client, INSTANCE_TYPES, self.board.instance_type),
                "keeping": self._keep(client, refitter),
                # One more than processes: its history is fetched while the others fit.
                **{f"refits {n}": refitter.run() for n in range(self._settings.fit_processes + 1)},
            }
            return await self._until(stop, loops)

    def _sources(
        self, stack: AsyncExitStack, session: aiohttp.ClientSession, loops: dict[str, Coroutine[Any, Any, None]]
    ) -> tuple[History, Scraper | None]:
        settings = self._settings
        Path(settings.database_path).parent.mkdir(parents=True, exist_ok=True)
        recorder = Recorder(settings.database_path, settings.retention_days * _DAY_S)
        stack.callback(recorder.close)
        loops["pruning"] = self._prune(recorder)
        prometheus = None
        if settings.prometheus_url:
            asked = PrometheusSettings(
                settings.prometheus_url,
                settings.prometheus_query,
                counter=settings.prometheus_counter,
                timeout_s=settings.prometheus_timeout_seconds,
                token_file=settings.prometheus_token_file,
            )
            prometheus = PrometheusHistory(asked, session)
        if settings.history == "Prometheus" and prometheus is not None:
            return CachedHistory(recorder, prometheus), None
        scraper = Scraper(
            recorder,
            settings.operator_url,
            session,
            self._clock,
            period=settings.scrape_seconds,
            metric=settings.scrape_metric,
            observe=lambda outcome: self.metrics.scrapes.labels(outcome).inc(),
            tokens=self._tokens.read if self._tokens is not None else tuple,
        )
        loops["scraping"] = scraper.run()
        return RecordedHistory(recorder, prometheus), scraper

    async def _until(self, stop: asyncio.Event, loops: dict[str, Coroutine[Any, Any, None]]) -> int:
        tasks = [asyncio.create_task(work, name=name) for name, work in loops.items()]
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.pool.close()
            for task in (stopped, *tasks):
                task.cancel()
            await asyncio.gather(stopped, *tasks, return_exceptions=True)
        for task in done - {stopped}:
            error = task.exception() if not task.cancelled() else None
            _LOG.error("ending: %s ended: %r", task.get_name(), error, exc_info=error)
        return 0 if stopped in done else 1

    def _hear(self, resource: Resource) -> None:
        self._heard[resource.plural] = time.monotonic()

    async def _watch(self, client: KubeClient, resource: Resource, seen: Callable[..., None]) -> None:
        namespace = self._settings.namespace or None if resource.namespaced else None
        async for event in client.follow(resource, namespace):
            if event.type == "SYNCED":
                self._synced.add(resource.plural)
                self._changed.set()
            else:
                seen(event.object, deleted=event.type == "DELETED")

    async def _keep(self, client: KubeClient, refitter: Refitter) -> None:
        """Follow what was seen: create and remove objects, hand out what is to be forecast."""
        warned: dict[Any, tuple[str, ...]] = {}
        while True:
            self._kept = self._clock.now()
            if len(self._synced) == len(_WATCHED):
                self._changed.clear()
                for key, faults in self.board.faults().items():
                    if warned.get(key) != faults:
                        _LOG.warning("%s: %s", key, "; ".join(faults))
                warned = self.board.faults()
                refitter.assign(self.board.assignments())
                await self._chores(client)
            await self._wait()

    async def _wait(self) -> None:
        await sleep_or(self._clock, _CHORES_SECONDS, self._changed)
        self._changed.clear()

    async def _chores(self, client: KubeClient) -> None:
        chores = self.board.chores()
        for body in chores.create:
            await self._write("create", client.create(TRAFFIC_FORECASTS, body), key_of(body))
        for item in chores.remove:
            key = key_of(item)
            uid = item["metadata"].get("uid")
            await self._write("delete", client.delete(TRAFFIC_FORECASTS, key.name, key.namespace, uid=uid), key)

    async def _write(self, kind: str, request: Awaitable[Object], key: object) -> None:
        try:
            await request
        except API_FAILURES as error:
            settled = isinstance(error, ApiError) and error.status in {404, 409}
            self.metrics.writes.labels(kind, "settled" if settled else "failed").inc()
            if not settled:
                _LOG.warning("TrafficForecast %s: %s failed: %r", key, kind, error)
        else:
            self.metrics.writes.labels(kind, "written").inc()
            _LOG.info("TrafficForecast %s: %sd", key, kind)

    async def _prune(self, recorder: Recorder) -> None:
        while True:
            removed = await asyncio.to_thread(recorder.prune, self._clock.wall().timestamp())
            if removed:
                _LOG.info("old cells removed", extra={"cells": removed})
            await self._clock.sleep(_PRUNE_SECONDS)

    def _problems(self, refitter: Refitter, scraper: Scraper | None) -> list[str]:
        now = self._clock.now()
        signs = [Sign("keeping of objects", now - (self._kept or self._started))]
        if scraper is not None:
            signs.append(Sign("last scrape", now - (scraper.last_round or self._started)))
        signs.append(Sign("refits", now - (refitter.last_round or self._started)))
        silence = {kind: time.monotonic() - at for kind, at in self._heard.items()}
        watches = stale([Sign(f"watch of {kind}", age) for kind, age in silence.items()], self._watch_limit_s)
        return stale(signs, self._settings.stale_seconds) + watches
