"""Measures the fleet on its own schedule: routers first, then agents; never inside a decision.

Every replica of the operator measures, leader or not, so that a new leader starts with full windows. With thousands of
workers, a Prometheus that scrapes them anyway is asked about whole fleets instead; then agents are asked only where one
worker's answer matters: while it starts, drains or fails. What only agents know (hot prefixes, attained latencies, the
rates that capacity is learned from) is not known then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Protocol

import aiohttp
from warmfleet_contracts import labels
from warmfleet_runtime import openmetrics
from warmfleet_runtime.clock import Clock

from warmfleet_operator.adapters.agents import (
    AgentClient,
    Keys,
    NoAnswerError,
    NoKeys,
    address,
    or_no_answer,
    read_bounded,
)
from warmfleet_operator.adapters.turns import Turn, Turns
from warmfleet_operator.state.fleetsamples import FleetSample
from warmfleet_operator.state.readings import Readings, RouterSample
from warmfleet_operator.state.records import FleetSnapshot, Key, RouterRecord, WorkerPhase, WorkerRecord
from warmfleet_operator.state.snapshot import FleetStore

_LOG = logging.getLogger(__name__)
MAX_ROUTER_BYTES = 4 * 1024 * 1024
_DISPATCHED = "vllm_router_processed_requests_total"
_ERRORS = "vllm_router_request_errors_total"
_RETRIES = "vllm_router_retries_total"
_NO_WORKER = ("error_type", "no_available_workers")
_ASKED = frozenset({WorkerPhase.STARTING, WorkerPhase.READY, WorkerPhase.NOT_READY, WorkerPhase.TERMINATING})


def parse_router(text: str) -> RouterSample:
    """The counters of a router's ``/metrics`` that speak of demand.

    Raises:
        NoAnswerError: The text is not in the exposition format.
    """
    try:
        samples = openmetrics.parse(text, wanted=(_DISPATCHED, _ERRORS, _RETRIES), max_bytes=MAX_ROUTER_BYTES)
    except openmetrics.MetricsError as error:
        raise NoAnswerError("invalid answer") from error
    lacking = {key: v for key, v in samples.families.get(_ERRORS, {}).items() if _NO_WORKER in key}
    return RouterSample(
        dispatched=_series(samples.families.get(_DISPATCHED, {})),
        unserved=_series(lacking),
        retries=_series(samples.families.get(_RETRIES, {})),
    )


def _series(family: Mapping[openmetrics.Labels, float]) -> dict[str, float]:
    return {str(key): value for key, value in family.items() if 0 <= value < 2**53}  # also drops NaN


class FleetSource(Protocol):
    """Measures all fleets at once."""

    async def read(self, now: float) -> Mapping[Key, FleetSample]:
        """By deployment, at logical second ``now``.

        Raises:
            NoAnswerError: No usable answer.
        """


class Telemetry:
    """The measuring loop.

    Args:
        store: Where the workers and routers are known from.
        readings: Where the answers go.
        clock: Schedule and timestamps.
        period: Logical seconds between rounds.
        on_news: Called when something was said that matters to a decision, and after each round over all agents.
        on_failure: Called with source (``router``, ``agent``) and cause of each answer that could not be used.
        timeout_seconds: Real seconds for one exchange.
        keys: Where the tokens for agents come from.
        fleets: Where serving workers are measured instead of at their agents; None: at their agents.
    """

    def __init__(  # noqa: PLR0913 - the parts of the loop, each named at the call
        self,
        store: FleetStore,
        readings: Readings,
        clock: Clock,
        *,
        period: float,
        on_news: Callable[[], None],
        on_failure: Callable[[str, str], None],
        timeout_seconds: float = 2.0,
        keys: Keys | None = None,
        fleets: FleetSource | None = None,
    ) -> None:
        self._keys, self._fleets = keys or NoKeys(), fleets
        self._store, self._readings, self._clock = store, readings, clock
        self._period, self._timeout = period, timeout_seconds
        self._on_news, self._on_failure = on_news, on_failure
        self._turns = Turns(patience=timeout_seconds * 1.5)
        self._logged: dict[str, str] = {}
        self.last_round: float | None = None

    async def run(self) -> None:
        """Measure for ever."""
        async with agent_session() as session:
            try:
                while True:
                    started = self._clock.now()
                    await self.round(session)
                    await self._clock.sleep(max(0.0, started + self._period - self._clock.now()))
            finally:
                await self._turns.close()

    async def round(self, session: aiohttp.ClientSession) -> None:
        """One round over all routers and agents."""
        snapshot = self._store.snapshot()
        routers = [r for r in self._store.routers() if r.ready and r.ip]
        await self._turns.take(
            [Turn(r.uid, r.key.namespace, partial(self._router, session, r)) for r in routers],
        )
        if self._fleets is not None:
            await self._measure(self._fleets)
            self._tell()  # before agents that are starting have been asked, which may not answer
        asked = [w for w in _askable(snapshot) if self._fleets is None or w.phase is not WorkerPhase.READY or w.leaving]
        await asyncio.gather(*map(self._keys.refresh, {worker.key.namespace for worker in asked}))
        client = AgentClient(session, self._timeout, keys=self._keys)
        await self._turns.take([Turn(w.uid, w.key.namespace, partial(self._agent, client, w)) for w in asked])
        now = self._clock.now()
        self._readings.forget(now)
        self.last_round = now
        if self._readings.news() or self._fleets is None:
            self._on_news()

    def _tell(self) -> None:
        if self._readings.news():
            self._on_news()

    async def _measure(self, fleets: FleetSource) -> None:
        """What the fleets do, from a source that knows them all; without an answer the last one grows old."""
        try:
            samples = await fleets.read(self._clock.now())
        except NoAnswerError as error:
            self._failed("prometheus", "prometheus", "prometheus", str(error))
        else:
            self._readings.fleets_answered(samples, self._clock.now())
            self._logged.pop("prometheus", None)

    async def _router(self, session: aiohttp.ClientSession, router: RouterRecord) -> None:
        try:
            sample = await self._scrape(session, router)
        except NoAnswerError as error:
            self._readings.router_silent(router, self._clock.now())
            self._failed("router", router.uid, str(router.key), str(error))
        else:
            self._readings.router_answered(router, sample, self._clock.now())
            self._logged.pop(router.uid, None)

    async def _scrape(self, session: aiohttp.ClientSession, router: RouterRecord) -> RouterSample:
        url = f"http://{address(router.ip)}:{labels.ROUTER_METRICS_PORT}/metrics"
        timeout = aiohttp.ClientTimeout(total=self._timeout)
        with or_no_answer():
            async with session.get(url, timeout=timeout, allow_redirects=False) as response:
                body = await read_bounded(response, MAX_ROUTER_BYTES)
                if response.status != 200:
                    raise NoAnswerError(f"status {response.status}")
        return parse_router(body.decode("utf-8", errors="replace"))

    async def _agent(self, client: AgentClient, worker: WorkerRecord) -> None:
        try:
            state = await client.state(worker)
            problem = self._readings.agent_answered(worker, state, self._clock.now())
        except NoAnswerError as error:
            self._readings.agent_silent(worker, self._clock.now())
            problem = str(error)
        self._tell()  # before the others have been asked: of thousands the last is asked seconds later
        if problem is None:
            self._logged.pop(worker.uid, None)
        elif worker.phase is WorkerPhase.READY:
            self._failed("agent", worker.uid, str(worker.key), problem)

    def _failed(self, source: str, uid: str, name: str, cause: str) -> None:
        """Counted each time, logged when the cause changes."""
        self._on_failure(source, cause)
        if self._logged.get(uid) != cause:
            self._logged[uid] = cause
            _LOG.warning("no usable answer", extra={"source": source, "pod": name, "cause": cause})
        while len(self._logged) > 10_000:
            self._logged.pop(next(iter(self._logged)))


def _askable(snapshot: FleetSnapshot) -> Iterator[WorkerRecord]:
    return (w for w in snapshot.workers if w.ip and w.phase in _ASKED)


def agent_session() -> aiohttp.ClientSession:
    """A keep-alive session for pods; environment proxies are not used for pod addresses. Who asks bounds the load."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False)
