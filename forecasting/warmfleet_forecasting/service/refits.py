"""Keeps the forecasts of one replica up to date: history, fit, status, each allowed to fail.

Whatever fails, the last good forecast stays published and grows old, with the reason in its status; once it has
expired it is no longer trusted. Where there never was one, the status says why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from warmfleet_contracts.api import API_VERSION
from warmfleet_runtime.clock import Clock, sleep_or
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import TRAFFIC_FORECASTS
from warmfleet_runtime.rest import ApiError

from warmfleet_forecasting.history import History, HistoryError, HistoryProblem, Key
from warmfleet_forecasting.metrics import Metrics
from warmfleet_forecasting.series import BadHistoryError
from warmfleet_forecasting.service import status as told
from warmfleet_forecasting.service.board import Assignment
from warmfleet_forecasting.service.pool import FitError, FitPool, Fitted
from warmfleet_forecasting.service.schedule import Schedule, end_of_history, until_next
from warmfleet_forecasting.service.status import Status

_LOG = logging.getLogger(__name__)
FIELD_MANAGER = "warmfleet-forecaster"
_IDLE_S = 30.0
API_FAILURES = (ApiError, OSError, TimeoutError, aiohttp.ClientError)


class Refitter:
    """Makes forecasts when they are due.

    Args:
        history: Where the past comes from.
        pool: Where fits run.
        client: Writes the statuses.
        clock: Logical time.
        metrics: Gets the outcomes.
        published: The status of a TrafficForecast as it was last seen.
        period_s: Between two forecasts of a deployment, logical seconds.
    """

    def __init__(
        self,
        history: History,
        pool: FitPool,
        client: KubeClient,
        clock: Clock,
        metrics: Metrics,
        *,
        published: Callable[[Key], Status],
        period_s: float,
    ) -> None:
        self._history, self._pool, self._client = history, pool, client
        self._clock, self._metrics, self._published = clock, metrics, published
        self._schedule, self._period_s = Schedule(period_s), period_s
        self._previous: dict[Key, bytes] = {}
        self._issued: dict[Key, float] = {}
        self._written: dict[Key, Status] = {}
        self._wake = asyncio.Event()
        self.last_round: float | None = None

    def assign(self, wanted: Mapping[Key, Assignment]) -> None:
        """Take over what is to be forecast from now on."""
        for gone in self._schedule.keep(wanted, self._clock.now()):
            self._previous.pop(gone.key, None)
            self._issued.pop(gone.key, None)
            self._written.pop(gone.key, None)
            self._metrics.forget(gone.target)
        self._metrics.assigned.set(len(self._schedule))
        self._wake.set()

    def overdue(self) -> float:
        """How late the most overdue forecast is, logical seconds."""
        return self._schedule.overdue(self._clock.now())

    async def run(self) -> None:
        """Make forecasts for ever, one at a time; start several for more."""
        while True:
            self.last_round = self._clock.now()
            assignment = self._schedule.take(self._clock.now())
            if assignment is None:
                await self._pause()
                continue
            after = None
            try:
                if await self.refit(assignment):
                    wall = self._clock.wall().timestamp()
                    after = until_next(wall, self._issued.get(assignment.key, wall), self._period_s)
            finally:
                self._schedule.done(assignment, self._clock.now(), after=after)

    async def refit(self, assignment: Assignment) -> bool:
        """One forecast from history to status; whether it succeeded."""
        now = self._clock.wall().timestamp()
        published = self._written.get(assignment.key) or self._published(assignment.key)
        problem = True
        try:
            fitted = await self._forecast(assignment, now)
            status, problem = fitted.status, fitted.carried
            if "issuedAt" not in status:  # a new process remembers nothing, but what was published still holds
                status = told.aged(published, status["reason"], status["message"], now)
        except HistoryError as error:
            self._metrics.history_failures.labels(str(error.problem)).inc()
            status = told.aged(published, str(error.problem), str(error), now)
        except FitError as error:
            self._metrics.fits.labels(str(error.failure)).inc()
            status = told.aged(published, str(error.failure), str(error), now)
        if problem:
            _LOG.warning("no new forecast: %s", status["message"], extra={"deployment": str(assignment.target)})
        status = told.complete(status, published, generation=assignment.generation, problem=problem, now=now)
        self._metrics.told(assignment.target, trusted=status.get("trusted", False), issued_at=told.issued_at(status))
        self._metrics.skilled(assignment.target, status.get("skill") or ())
        written = await self._write(assignment, published, status)
        return written and not problem

    async def _forecast(self, assignment: Assignment, now: float) -> Fitted:
        config = assignment.config
        end = end_of_history(now, self._issued.get(assignment.key), self._period_s)
        try:
            series = await self._history.series(assignment.target, end - config.history_s, end)
        except BadHistoryError as error:
            raise HistoryError(HistoryProblem.UNREADABLE, str(error)) from error
        began = time.monotonic()
        fitted = await self._pool.fit(series, config, self._previous.get(assignment.key))
        self._metrics.fit_seconds.observe(time.monotonic() - began)
        self._metrics.fits.labels("Carried" if fitted.carried else "Fitted").inc()
        if self._schedule.current(assignment):
            self._previous[assignment.key] = fitted.previous
            if not fitted.carried:
                self._issued[assignment.key] = series.end
        return fitted

    async def _write(self, assignment: Assignment, published: Status, status: Status) -> bool:
        if not self._schedule.current(assignment) or not told.worth_writing(published, status):
            self._metrics.writes.labels("status", "unneeded").inc()
            return True
        body: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": "TrafficForecast",
            "metadata": {
                "name": assignment.key.name,
                "namespace": assignment.key.namespace,
                "uid": assignment.uid,  # never the status of another object that took its name
            },
            "status": status,
        }
        try:
            await self._client.patch(
                TRAFFIC_FORECASTS,
                assignment.key.name,
                body,
                assignment.key.namespace,
                subresource="status",
                how="apply",
                fieldManager=FIELD_MANAGER,
                force="true",
            )
        except API_FAILURES as error:
            gone = isinstance(error, ApiError) and error.status == 404
            self._metrics.writes.labels("status", "gone" if gone else "failed").inc()
            _LOG.log(logging.INFO if gone else logging.WARNING, "status not written: %r", error)
            return gone
        self._metrics.writes.labels("status", "written").inc()
        self._written[assignment.key] = status
        return True

    async def _pause(self) -> None:
        """Wait until something is due or was assigned."""
        self._wake.clear()
        due = self._schedule.next_due()
        wait = _IDLE_S if due is None else min(_IDLE_S, max(0.0, due - self._clock.now()))
        await sleep_or(self._clock, wait, self._wake)
