"""History from Prometheus: range queries in chunks, each bounded in points, bytes and time.

A server refuses more than 11,000 points per series, and a query that forgot to aggregate may return millions. So a
range is asked for in chunks of :data:`CHUNK_POINTS`; an answer that grows beyond ``most_bytes`` is hung up on and its
chunk halved (so is one that Prometheus finds too large itself), down to :data:`LEAST_POINTS`, after which the query is
refused with the fix. All answers together have a budget too.

The value at time t is taken for the cell that *ends* at t, which is what a range function over the step means. In
counter mode the raw counters are fetched instead, and restarts are handled here (see :mod:`.counters`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from warmfleet_forecasting.history import STEP_S, HistoryError, HistoryProblem, Key, grid
from warmfleet_forecasting.history.counters import cell_rates
from warmfleet_forecasting.series import Floats, Series

_LOG = logging.getLogger(__name__)
CHUNK_POINTS = 10_000
"""Points per series asked for at once; Prometheus refuses more than 11,000."""
LEAST_POINTS = 150
"""A chunk is not halved below this."""
DEFAULT_QUERY = (
    "max by (namespace, deployment) (avg_over_time("
    'warmfleet_operator_demand_requests_per_second{namespace="$namespace",deployment="$deployment"}[$step]))'
)
"""The operator's own demand metric; of several replicas only the leader has it."""
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_COUNTER_GAP_S = 5 * STEP_S
_Samples = dict[tuple[tuple[str, str], ...], list[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class PrometheusSettings:
    """What to ask, and how much patience and memory to spend.

    Attributes:
        url: Base address, such as ``http://prometheus:9090``.
        query: PromQL with ``$namespace``, ``$deployment`` and ``$step``; several series are added up.
        counter: Whether the query selects raw counters, whose rates are then taken here.
        timeout_s: Real seconds of one request.
        attempts: How often a request that found no server, or an overloaded one, is sent.
        most_bytes: Bytes of one answer.
        most_samples: Samples of all answers together.
        token_file: File with a bearer token, read anew for each range; empty: none.
    """

    url: str
    query: str = DEFAULT_QUERY
    counter: bool = False
    timeout_s: float = 30.0
    attempts: int = 3
    most_bytes: int = 8 * 1024 * 1024
    most_samples: int = 2_000_000
    token_file: str = ""


class _TooLargeError(Exception):
    """An answer was hung up on, or Prometheus would not work it out for its size."""


class PrometheusHistory:
    """:class:`~warmfleet_forecasting.history.History` over the Prometheus HTTP API.

    Args:
        settings: What to ask.
        session: Connections; the caller closes them.
        sleep: Waits between attempts, real seconds.
    """

    def __init__(
        self,
        settings: PrometheusSettings,
        session: aiohttp.ClientSession,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings, self._session, self._sleep = settings, session, sleep

    async def series(self, key: Key, start: float, end: float) -> Series:
        """Mean arrival rates; see the protocol.

        Raises:
            HistoryError: Prometheus is away, refuses, or returns too much or nonsense.
        """
        return await self.query(render(self._settings.query, key), start, end)

    async def query(self, query: str, start: float, end: float) -> Series:
        """As :meth:`series`, for a query without placeholders."""
        first, stop = grid(start, end)
        ends: Floats = (np.arange(first, stop, dtype=np.float64) + 1.0) * STEP_S
        before = 1 if self._settings.counter else 0
        found: _Samples = {}
        headers = await self._headers()
        at, size = first + 1 - before, CHUNK_POINTS
        while at <= stop and len(ends):
            last = min(stop, at + size - 1)
            try:
                answer = await self._range(query, at * STEP_S, last * STEP_S, headers)
            except _TooLargeError as error:
                if size <= LEAST_POINTS:
                    raise HistoryError(
                        HistoryProblem.TOO_LARGE,
                        f"{error} for {size} points of {query!r}; aggregate it to one series, for example with sum()",
                    ) from None
                size = max(LEAST_POINTS, min(size, last - at + 1) // 2)
                continue
            self._collect(found, answer, query)
            at = last + 1
        return Series(first * STEP_S, STEP_S, self._cells(found, ends))

    def _cells(self, found: _Samples, ends: Floats) -> Floats:
        """All series added up; a cell that no series knows is a gap."""
        total = np.full(len(ends), np.nan)
        for samples in found.values():
            times, values = np.array(samples, dtype=np.float64).reshape(-1, 2).T
            if self._settings.counter:
                edges = np.concatenate([ends[:1] - STEP_S, ends])
                cells = cell_rates(times, values, edges, _COUNTER_GAP_S)
            else:
                cells = np.full(len(ends), np.nan)
                index = np.rint((times - ends[0]) / STEP_S).astype(np.int64) if len(ends) else np.empty(0, np.int64)
                inside = (index >= 0) & (index < len(ends)) & np.isfinite(values)
                cells[index[inside]] = values[inside]
            total = np.where(np.isnan(total), cells, np.where(np.isnan(cells), total, total + cells))
        return total

    def _collect(self, found: _Samples, answer: Any, query: str) -> None:
        try:
            if answer["data"]["resultType"] != "matrix":
                raise ValueError(f"resultType {answer['data']['resultType']!r} instead of 'matrix'")
            for series in answer["data"]["result"]:
                labels = tuple(sorted((str(k), str(v)) for k, v in series["metric"].items()))
                samples = found.setdefault(labels, [])
                samples += [(float(at), float(value)) for at, value in series["values"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise HistoryError(
                HistoryProblem.UNREADABLE, f"answer to {query!r} is not a range of samples: {error!r}"
            ) from error
        if sum(map(len, found.values())) > self._settings.most_samples:
            raise HistoryError(
                HistoryProblem.TOO_LARGE,
                f"more than {self._settings.most_samples} samples for {query!r}; aggregate it to one series, "
                "for example with sum()",
            )

    async def _headers(self) -> dict[str, str]:
        if not self._settings.token_file:
            return {}
        try:
            token = await asyncio.to_thread(Path(self._settings.token_file).read_text, "ascii")
        except (OSError, UnicodeError) as error:
            raise HistoryError(HistoryProblem.REFUSED, f"token file {self._settings.token_file}: {error}") from error
        return {"Authorization": f"Bearer {token.strip()}"}

    async def _range(self, query: str, start: float, end: float, headers: dict[str, str]) -> Any:
        for attempt in range(self._settings.attempts):
            problem: HistoryError
            try:
                status, body = await self._once(query, start, end, headers)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                said = str(error) or type(error).__name__
                problem = HistoryError(HistoryProblem.UNREACHABLE, f"Prometheus at {self._settings.url}: {said}")
            else:
                if status == 200:
                    return _parse(body, query)
                problem = _refusal(status, body, query)
                if status not in _RETRIED:
                    if problem.problem is HistoryProblem.TOO_LARGE:
                        raise _TooLargeError(str(problem)) from None
                    raise problem
            if attempt == self._settings.attempts - 1:
                raise problem
            await self._sleep(random.uniform(0.5, 1.0) * 0.5 * 2**attempt)
        raise AssertionError("unreachable")

    async def _once(self, query: str, start: float, end: float, headers: dict[str, str]) -> tuple[int, bytes]:
        form = {
            "query": query,
            "start": f"{start:.3f}",
            "end": f"{end:.3f}",
            "step": f"{STEP_S:g}",
            "timeout": f"{self._settings.timeout_s:g}s",
        }
        url = f"{self._settings.url.rstrip('/')}/api/v1/query_range"
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s, sock_connect=10)
        async with self._session.post(url, data=form, headers=headers, timeout=timeout) as answer:
            body = bytearray()
            async for chunk in answer.content.iter_chunked(65_536):
                body += chunk
                if len(body) > self._settings.most_bytes:
                    answer.close()
                    raise _TooLargeError(f"more than {self._settings.most_bytes} bytes")
            return answer.status, bytes(body)


def render(template: str, key: Key) -> str:
    """The query for one deployment; values are escaped as PromQL strings."""
    values = {"$namespace": _escape(key.namespace), "$deployment": _escape(key.name), "$step": f"{STEP_S:g}s"}
    for name, value in values.items():
        template = template.replace(name, value)
    return template


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _parse(body: bytes, query: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HistoryError(HistoryProblem.UNREADABLE, f"answer to {query!r} is not JSON: {error}") from error


def _refusal(status: int, body: bytes, query: str) -> HistoryError:
    try:
        said = str(json.loads(body).get("error", ""))
    except (ValueError, AttributeError, RecursionError):
        said = body[:200].decode(errors="replace")
    if status == 422 and "too many samples" in said:
        return HistoryError(HistoryProblem.TOO_LARGE, said)
    problem = HistoryProblem.UNREACHABLE if status in _RETRIED else HistoryProblem.REFUSED
    return HistoryError(problem, f"Prometheus answered {status} to {query!r}: {said[:300]}")
