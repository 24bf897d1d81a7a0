"""Measures fleets through a Prometheus that scrapes the engines already: seven queries for all of them together.

::

    arrivals = max(0, rate(finished) + d/dt (running + waiting))        summed over a fleet's workers, per second

Requests are counted when they end, and run for a minute; what began and has not ended shows in the gauges. Prometheus
finds the workers by the chart's PodMonitors, which put the labels ``namespace`` and ``deployment`` on every series. An
old exposition says ``vllm_`` for ``vllm:``; both are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import aiohttp
import msgspec

from warmfleet_operator.adapters.agents import NoAnswerError, or_no_answer, read_bounded
from warmfleet_operator.state.fleetsamples import FleetSample
from warmfleet_operator.state.records import Key

MOST_BYTES = 32 * 1024 * 1024
DEPLOYMENT = "deployment"
"""Label of the LLMDeployment, which the chart's PodMonitors put on the engines' series."""


class _Series(msgspec.Struct):
    metric: dict[str, str]
    value: tuple[float, str]


class _Data(msgspec.Struct):
    result: list[_Series]


class _Answer(msgspec.Struct):
    data: _Data


_DECODER = msgspec.json.Decoder(_Answer)
_MEANS = frozenset({"input_tokens", "output_tokens", "hit_ratio"})
"""What is measured over a long window."""
_GRAINS = 10
"""How often the means are asked for within their window; the rest is asked for each time."""


def queries(rate_window: float, mean_window: float) -> dict[str, str]:
    """PromQL by field of :class:`FleetSample`.

    Args:
        rate_window: Seconds of the arrival rate; at least two scrapes must lie in it.
        mean_window: Seconds of token means and hit ratio.
    """

    def total(function: str, name: str, window: float) -> str:
        series = f'{{__name__=~"vllm[:_]{name}",{DEPLOYMENT}!=""}}'
        inside = f"{function}({series}[{window:.0f}s])" if function else series
        return f"sum by (namespace, {DEPLOYMENT}) ({inside})"

    def mean(top: str, bottom: str) -> str:
        return f"{total('rate', top, mean_window)} / ({total('rate', bottom, mean_window)} > 0)"

    begun = [total("deriv", f"num_requests_{what}", rate_window) for what in ("running", "waiting")]
    finished = total("rate", "request_success_total", rate_window)
    return {
        "arrivals": f"clamp_min({finished} + {begun[0]} + {begun[1]}, 0)",
        "input_tokens": mean("request_prompt_tokens_sum", "request_prompt_tokens_count"),
        "output_tokens": mean("request_generation_tokens_sum", "request_generation_tokens_count"),
        "hit_ratio": mean("prefix_cache_hits_total", "prefix_cache_queries_total"),
        "queue": total("", "num_requests_waiting", 0),
        "rejects": total("rate", "admission_rejections_total", rate_window),
        "reporting": total("", "num_requests_running", 0).replace("sum by", "count by"),
    }


class PrometheusSource:
    """Asks a Prometheus about all fleets.

    Args:
        url: Its base address.
        session: Connections; the caller closes them.
        rate_window: Seconds of the arrival rate.
        mean_window: Seconds of token means and hit ratio.
        timeout_seconds: Real seconds for one query.
    """

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        *,
        rate_window: float,
        mean_window: float,
        timeout_seconds: float = 5.0,
    ) -> None:
        self._url, self._session = f"{url.rstrip('/')}/api/v1/query", session
        self._queries = queries(rate_window, mean_window)
        self._patience = mean_window / _GRAINS
        self._means: dict[str, Mapping[Key, float]] = {}
        self._asked_at = -math.inf
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def read(self, now: float) -> dict[Key, FleetSample]:
        """All fleets that it knows anything of at logical second ``now``.

        Raises:
            NoAnswerError: It is away, refuses, or says nonsense.
        """
        if now - self._asked_at >= self._patience:
            self._means = {name: await self._ask(self._queries[name]) for name in _MEANS}
            self._asked_at = now
        answers = {name: await self._ask(query) for name, query in self._queries.items() if name not in _MEANS}
        found: dict[Key, dict[str, float]] = {}
        for name, vector in (answers | self._means).items():
            for key, value in vector.items():
                found.setdefault(key, {})[name] = value
        return {key: FleetSample(**values) for key, values in found.items()}

    async def _ask(self, query: str) -> Mapping[Key, float]:
        with or_no_answer():
            async with self._session.post(
                self._url, data={"query": query}, timeout=self._timeout, allow_redirects=False
            ) as response:
                body = await read_bounded(response, MOST_BYTES)
                if response.status != 200:
                    raise NoAnswerError(f"status {response.status}")
        return parse(body)


def parse(body: bytes) -> dict[Key, float]:
    """The vector of an answer by fleet; negative and non-finite values are left out: they are not known.

    Raises:
        NoAnswerError: It is no vector.
    """
    try:
        series = _DECODER.decode(body).data.result
        values = [(one.metric, float(one.value[1])) for one in series]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NoAnswerError("invalid answer") from error
    return {
        Key(metric.get("namespace", ""), metric.get(DEPLOYMENT, "")): value
        for metric, value in values
        if math.isfinite(value) and value >= 0
    }
