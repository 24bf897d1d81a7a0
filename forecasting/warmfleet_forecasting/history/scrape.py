"""Readings of the operator's demand metric, taken from every replica of it at a steady pace.

Only the replica that leads knows the demand, and a Service would ask one at random; so all addresses behind the host
name are asked, and where two answer for a deployment (a change of leaders) the larger one counts. A deployment whose
demand is unknown has no sample, and so no reading: a gap.

A metric whose name ends in ``_total`` is a counter: its rate between two scrapes is recorded instead.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator, Sequence

import aiohttp
from warmfleet_runtime import openmetrics
from warmfleet_runtime.clock import Clock
from yarl import URL

from warmfleet_forecasting.history import HistoryError, Key
from warmfleet_forecasting.history.counters import CounterRates
from warmfleet_forecasting.history.recorder import Recorder

_LOG = logging.getLogger(__name__)
METRIC = "warmfleet_operator_demand_requests_per_second"
_TIMEOUT = aiohttp.ClientTimeout(total=10, sock_connect=3)
_SILENT_PERIODS = 4


class Scraper:
    """Fills a recorder.

    Args:
        recorder: Gets the readings.
        url: The operator's metrics, such as ``http://warmfleet-operator-pods:8081/metrics``.
        session: Connections.
        clock: When a reading was taken.
        period: Logical seconds between two rounds.
        metric: Gauge (requests/s) or counter with labels namespace and deployment.
        observe: Called with the outcome of each request.
        tokens: Tokens that open the operator's metrics, the newest first; none when it asks for none.
    """

    def __init__(
        self,
        recorder: Recorder,
        url: str,
        session: aiohttp.ClientSession,
        clock: Clock,
        *,
        period: float = 15.0,
        metric: str = METRIC,
        observe: Callable[[str], None] = lambda _: None,
        tokens: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._recorder, self._url, self._session, self._clock = recorder, URL(url), session, clock
        self._period, self._metric, self._observe, self._tokens = period, metric, observe, tokens
        self._counters: dict[tuple[str, openmetrics.Labels], CounterRates] = {}
        self.last_round: float | None = None

    async def run(self) -> None:
        """Scrape for ever."""
        while True:
            await self.round()
            await self._clock.sleep(self._period)

    async def round(self) -> int:
        """One reading of everything; how many deployments were read."""
        targets = await self._targets()
        rates: dict[Key, float] = {}
        answers = await asyncio.gather(*(self._one(target) for target in targets))
        at = self._clock.wall().timestamp()
        for target, samples in zip(targets, answers, strict=True):
            for key, rate in self._rates(str(target), samples, at):
                rates[key] = max(rate, rates.get(key, 0.0))
        try:
            await asyncio.to_thread(self._recorder.record, [(key, at, rate) for key, rate in rates.items()])
        except HistoryError as error:
            self._observe("unwritable")
            _LOG.error("readings are lost: %s", error)
        self.last_round = self._clock.now()
        return len(rates)

    def _rates(self, source: str, samples: openmetrics.Samples | None, at: float) -> Iterator[tuple[Key, float]]:
        found: dict[Key, float] = {}
        for labels, value in (samples.families.get(self._metric, {}) if samples is not None else {}).items():
            named = dict(labels)
            key = Key(named.get("namespace", ""), named.get("deployment", ""))
            rate = self._counted(source, labels, at, value) if self._metric.endswith("_total") else value
            if all(key) and rate is not None and rate >= 0:
                found[key] = found.get(key, 0.0) + rate
        return iter(found.items())

    def _counted(self, source: str, labels: openmetrics.Labels, at: float, value: float) -> float | None:
        known = self._counters.setdefault((source, labels), CounterRates(_SILENT_PERIODS * self._period))
        return known.add(at, value)

    async def _targets(self) -> list[URL]:
        """The URL once per address of its host."""
        host, port = self._url.host or "", self._url.port or 80
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            self._observe("unresolved")
            _LOG.warning("operator %s: %s", host, error)
            return []
        return [self._url.with_host(ip) for ip in sorted({str(info[4][0]) for info in found})]

    async def _one(self, target: URL) -> openmetrics.Samples | None:
        try:
            tokens = self._tokens()
            headers = {"Authorization": f"Bearer {tokens[0]}"} if tokens else {}
            async with self._session.get(target, timeout=_TIMEOUT, headers=headers) as answer:
                answer.raise_for_status()
                body = bytearray()
                async for chunk in answer.content.iter_chunked(65_536):
                    body += chunk
                    if len(body) > openmetrics.MAX_BYTES:
                        raise openmetrics.MetricsError(f"more than {openmetrics.MAX_BYTES} bytes")
            text = body.decode("utf-8")
            samples = openmetrics.parse(text, wanted=[self._metric])
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._observe("failed")
            _LOG.info("operator at %s: %s", target, error or type(error).__name__)
            return None
        self._observe("read")
        return samples
