"""Puts the operator together and runs it: watch, election, measuring, deciding, acting, probes.

Three threads: the main one decides, measures and acts; the watch (kopf) and the election have one each, so that neither
waits for the other or for a decision.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import aiohttp
from kubernetes.aio import client as kube
from warmfleet_runtime.clock import Clock
from warmfleet_runtime.kubeclient import load_configuration
from warmfleet_runtime.probes import ProbeServer, Sign, stale

from warmfleet_operator.acting.checkpoint import Checkpoints
from warmfleet_operator.acting.events import EventRecorder
from warmfleet_operator.acting.executor import FleetExecutor
from warmfleet_operator.acting.instancetypes import InstanceTypeReporter
from warmfleet_operator.acting.workers import Tools
from warmfleet_operator.adapters.agentkeys import AgentKeys
from warmfleet_operator.adapters.agents import AgentClient
from warmfleet_operator.adapters.audit import WATCHED, Audit
from warmfleet_operator.adapters.crds import refusals
from warmfleet_operator.adapters.keysecret import Rotation
from warmfleet_operator.adapters.kube import KubeApi
from warmfleet_operator.adapters.lease import ElectionThread, Elector, Leadership, LeaseSettings
from warmfleet_operator.adapters.metricskey import MetricsKey
from warmfleet_operator.adapters.prometheus import PrometheusSource
from warmfleet_operator.adapters.telemetry import Telemetry, agent_session
from warmfleet_operator.loop import DecisionLoop, Planner, Wake
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.settings import Settings
from warmfleet_operator.state.readings import Readings
from warmfleet_operator.state.snapshot import FleetStore, Kind
from warmfleet_operator.watching import Watcher

_LOG = logging.getLogger(__name__)
Configure = Callable[[], Awaitable[kube.Configuration]]
_STALE_ANSWER = 60.0


class OperatorProcess:
    """One operator.

    Args:
        settings: Settings.
        clock: Logical time of everything but the election.
        planner: The decision.
        configure: Loads the connection settings.
    """

    def __init__(
        self, settings: Settings, clock: Clock, planner: Planner, configure: Configure = load_configuration
    ) -> None:
        self._settings, self._clock, self._planner, self._configure = settings, clock, planner, configure
        self.metrics = Metrics(settings.mean_window_seconds)
        self._leadership = Leadership(settings.lease_duration_seconds, time.monotonic)
        self.probes: ProbeServer | None = None
        self._ended: asyncio.Future[str] | None = None
        self._started = clock.now()

    async def run(self, stop: asyncio.Event) -> int:
        """Run until ``stop``, or until something ends that must not.

        Returns:
            Exit code: 0 when stopped, 1 when the process can no longer do its work.
        """
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        wake = Wake()
        self._leadership.on_gain = wake  # a new leader decides at once
        store = FleetStore(self._clock, wake)
        settings = self._settings
        api = KubeApi(
            await self._configure(),
            guard=self._leadership.check if settings.leader_election else lambda: None,
            observe=self.metrics.api_request,
            rate=settings.kube_rate,
            burst=int(settings.kube_rate * 2),
        )
        if not settings.leader_election:
            self._leadership = _Always()
        if not await self._crds_fit(api):  # before the first probe: a rollout must not take this for a good replica
            await api.close()
            return 1
        ended = partial(self._end_from_thread, loop)
        watcher = Watcher(store, self._configure, namespace=settings.namespace, on_end=ended)
        election = ElectionThread(self._leadership, self._elector, ended) if settings.leader_election else None
        watcher.start()
        if election is not None:
            election.start()
        try:
            async with agent_session() as session:
                metrics_key = self._metrics_key(api)
                keys = AgentKeys(
                    api,
                    self._clock,
                    rotation_seconds=settings.agent_key_rotation_seconds,
                    digests=metrics_key.digests if metrics_key is not None else lambda: (),
                )
                used = keys if settings.agent_authentication else None
                agents = AgentClient(session, keys=used)
                parts = _Parts(store, api, wake, agents, used, self._source(session), metrics_key)
                return await self._work(stop, parts)
        finally:
            if self.probes is not None:
                await self.probes.stop()
            await api.close()
            if election is not None:
                await asyncio.to_thread(election.stop)
            await asyncio.to_thread(watcher.stop)

    def _metrics_key(self, api: KubeApi) -> MetricsKey | None:
        settings = self._settings
        if not settings.metrics_authentication:
            return None
        return MetricsKey(
            api,
            self._clock,
            namespace=settings.resolved_lease_namespace(os.environ),
            leads=lambda: self._leadership.held,
            rotation=Rotation(self._clock, settings.agent_key_rotation_seconds),
        )

    def _source(self, session: aiohttp.ClientSession) -> PrometheusSource | None:
        settings = self._settings
        if not settings.prometheus_url:
            return None
        rate_window, mean_window = settings.prometheus_window_seconds, settings.mean_window_seconds
        return PrometheusSource(settings.prometheus_url, session, rate_window=rate_window, mean_window=mean_window)

    async def _work(self, stop: asyncio.Event, parts: _Parts) -> int:
        settings, clock, metrics = self._settings, self._clock, self.metrics
        store, api = parts.store, parts.api
        readings = Readings(settings.rate_window_seconds, settings.mean_window_seconds, _STALE_ANSWER)
        telemetry = Telemetry(
            store,
            readings,
            clock,
            period=settings.telemetry_seconds / (1 if parts.fleets is None else 2),
            on_news=parts.wake,
            on_failure=metrics.telemetry_failure,
            keys=parts.keys,
            fleets=parts.fleets,
        )
        audit = Audit(api, store, clock, namespace=settings.namespace, period=settings.audit_seconds)
        events = EventRecorder(api, clock, lambda reason: metrics.events.labels(reason).inc())
        tools = Tools(api, parts.agents, store, events, metrics, settings, parts.keys)
        executor = FleetExecutor(tools, clock, partial(self._end, "the lease was lost"))
        decisions = DecisionLoop(
            store=store,
            readings=readings,
            planner=self._planner,
            executor=executor,
            reporter=InstanceTypeReporter(api, partial(store.observe, Kind.INSTANCE_TYPE)),
            checkpoints=Checkpoints(api, clock, settings.checkpoint_seconds, settings.namespace),
            leadership=self._leadership,
            clock=clock,
            metrics=metrics,
            wake=parts.wake,
            tick_seconds=settings.tick_seconds,
            lost=partial(self._end, "the lease was lost"),
        )
        problems, refresh = partial(self._problems, decisions, telemetry, audit), partial(self._refresh, store, audit)
        await self._serve(problems, refresh, parts.metrics_key)
        reason = await self._until(stop, audit.wait_synced())
        if reason is None and not stop.is_set() and not await self._crds_fit(api):  # they may have come meanwhile
            reason = "the CRDs are not those of this release"
        if reason is not None:
            await executor.close()
            _LOG.error("ending: %s", reason)
            return 1
        loops = {"telemetry": telemetry.run(), "audit": audit.run(), "decide": decisions.run()}
        if parts.metrics_key is not None:
            loops["token of the metrics"] = parts.metrics_key.run()
        tasks = [asyncio.create_task(self._watched(name, work), name=name) for name, work in loops.items()]
        reason = await self._until(stop)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await executor.close()
        if reason is None:
            await decisions.close()
            await events.flush()
            return 0
        _LOG.error("ending: %s", reason)
        return 1

    async def _crds_fit(self, api: KubeApi) -> bool:
        """Whether the CRDs that exist are those of this release, or need not be."""
        required = self._settings.require_matching_crds
        found = await refusals(api)
        for text in found:
            _LOG.log(logging.ERROR if required else logging.WARNING, "%s", text)
        return not (found and required)

    async def _watched(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run a loop that must not end."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - a dead loop ends the process, which is restarted
            _LOG.exception("%s failed", name)
            self._end(f"{name} failed: {error}")

    async def _until(self, stop: asyncio.Event, work: Coroutine[Any, Any, None] | None = None) -> str | None:
        """Wait for the stop signal, the end of the process, or ``work``; why the process must end, or None."""
        if self._ended is None:
            raise RuntimeError("the process has not been started")
        waiters: list[asyncio.Future[Any]] = [asyncio.ensure_future(stop.wait())]
        if work is not None:
            waiters.append(asyncio.ensure_future(work))
        await asyncio.wait([self._ended, *waiters], return_when=asyncio.FIRST_COMPLETED)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        return self._ended.result() if self._ended.done() else None

    def _end(self, reason: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(reason)

    def _end_from_thread(self, loop: asyncio.AbstractEventLoop, reason: str) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._end, reason)

    async def _serve(
        self, problems: Callable[[], list[str]], refresh: Callable[[], None], key: MetricsKey | None
    ) -> None:
        tokens = key.tokens if key is not None else None
        self.probes = ProbeServer(self.metrics, problems, refresh, tokens=tokens, refused=self.metrics.refused.inc)
        await self.probes.start(self._settings.listen_address, self._settings.listen_port)

    def _problems(self, decisions: DecisionLoop, telemetry: Telemetry, audit: Audit) -> list[str]:
        now = self._clock.now()
        signs = [
            Sign("last decision", now - (decisions.last_decision or self._started)),
            Sign("last round of measuring", now - (telemetry.last_round or self._started)),
            *(Sign(f"watch of {kind}", now - audit.agreed.get(kind, self._started)) for kind in WATCHED),
        ]
        return stale(signs, self._settings.stale_seconds)

    def _refresh(self, store: FleetStore, audit: Audit) -> None:
        now = self._clock.now()
        for kind in WATCHED:
            self.metrics.watched_version.labels(str(kind)).set(store.newest(kind))
        self.metrics.leader.set(self._leadership.held)
        for kind, at in audit.agreed.items():
            self.metrics.watch_age.labels(str(kind)).set(max(0.0, now - at))

    async def _elector(self) -> tuple[Elector, Callable[[], Awaitable[None]]]:
        settings = self._settings
        api = KubeApi(await self._configure(), observe=self.metrics.api_request, timeout_seconds=5.0)
        lease = LeaseSettings(
            namespace=settings.resolved_lease_namespace(os.environ),
            name=settings.lease_name,
            identity=settings.resolved_identity(),
            duration=settings.lease_duration_seconds,
            retry=settings.lease_retry_seconds,
        )
        elector = Elector(lease, api, self._leadership, monotonic=time.monotonic, wall=lambda: datetime.now(UTC))
        return elector, api.close


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the parts share."""

    store: FleetStore
    api: KubeApi
    wake: Wake
    agents: AgentClient
    keys: AgentKeys | None
    fleets: PrometheusSource | None
    metrics_key: MetricsKey | None


class _Always(Leadership):
    """Leadership without an election."""

    def __init__(self) -> None:
        super().__init__(1.0, lambda: 0.0)
        self.renewed(0.0)
