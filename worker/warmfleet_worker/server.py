"""The agent's HTTP side: :mod:`warmfleet_contracts.agent` is the protocol."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from pydantic import ValidationError
from warmfleet_contracts.agent import AgentState, DrainRequest, Phase

from warmfleet_worker.agent import Agent, NotCancellable
from warmfleet_worker.guard import Guard

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MAX_BODY = 64 * 1024
MAX_DEADLINE = 86_400.0


class AgentServer:
    """Handlers over one agent.

    Args:
        agent: The agent.
        guard: Who may ask; by default anybody.
    """

    def __init__(self, agent: Agent, guard: Guard | None = None) -> None:
        self._agent = agent
        self._guard = guard or Guard()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(agent, self._guard))

    def app(self) -> web.Application:
        """The application with all routes."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._guarded])
        app.add_routes(
            [
                web.get("/v1/state", self._state),
                web.post("/v1/drain", self._drain),
                web.delete("/v1/drain", self._cancel),
                web.get("/v1/prestop", self._prestop),
                web.get("/readyz", self._readyz),
                web.get("/healthz", self._healthz),
                web.get("/metrics", self._metrics),
            ]
        )
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuses whoever may not ask, before anything of the request is looked at."""
        header, missing = request.headers.get("Authorization"), ""
        if request.path == "/metrics" and not self._guard.shows(header):
            missing = "the bearer token of whoever reads metrics"
        elif request.path.startswith("/v1/") and not self._guard.lets(header, prestop=request.path == "/v1/prestop"):
            missing = "the bearer token of this pod"
        if missing:
            answer = _refuse(401, f"Authorization: present {missing}")
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        return await handler(request)

    async def _state(self, _: web.Request) -> web.Response:
        return _json(self._agent.state())

    async def _drain(self, request: web.Request) -> web.Response:
        try:
            wanted = DrainRequest.model_validate_json(await request.read())
        except ValidationError as error:
            problems = (
                f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors(include_url=False)
            )
            return _refuse(400, "; ".join(problems))
        except web.HTTPRequestEntityTooLarge:
            return _refuse(413, f"body: larger than {MAX_BODY} bytes")
        self._agent.drain(wanted)
        return _json(self._agent.state(), status=202)

    async def _cancel(self, _: web.Request) -> web.Response:
        try:
            self._agent.cancel()
        except NotCancellable as error:
            return _refuse(409, str(error))
        return _json(self._agent.state())

    async def _prestop(self, request: web.Request) -> web.Response:
        text = request.query.get("deadline")
        try:
            seconds = None if text is None else float(text)
        except ValueError:
            seconds = math.nan
        if seconds is not None and not 0.0 <= seconds <= MAX_DEADLINE:
            return _refuse(400, f"deadline: write seconds from 0 to {MAX_DEADLINE:g}, not {text!r}"[:200])
        await self._agent.prestop(seconds)
        return _json(self._agent.state())

    async def _readyz(self, _: web.Request) -> web.Response:
        machine = self._agent.machine
        return web.Response(status=200 if machine.ready else 503, text=f"{machine.phase}\n")

    async def _healthz(self, _: web.Request) -> web.Response:
        alive = self._agent.alive
        return web.Response(status=200 if alive else 503, text="ok\n" if alive else "the loop hangs\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=generate_latest(self._registry), headers=headers)


class _Collector(Collector):
    def __init__(self, agent: Agent, guard: Guard) -> None:
        self._agent, self._guard = agent, guard

    def collect(self) -> list[Metric]:
        machine = self._agent.machine
        return agent_metrics(
            machine.phase,
            ready=machine.ready,
            drains=self._agent.drains,
            failed_polls=self._agent.failed_polls,
            refused=self._guard.refused,
        )


def agent_metrics(
    phase: Phase = Phase.STARTING, *, ready: bool = False, drains: int = 0, failed_polls: int = 0, refused: int = 0
) -> list[Metric]:
    """The agent's own metrics.

    Args:
        phase: Where the worker is.
        ready: Whether its pod is ready.
        drains: Drains begun.
        failed_polls: Polls of the engine that failed.
        refused: Requests without the right token.
    """
    phases = GaugeMetricFamily("warmfleet_agent_phase", "1 for the phase the worker is in.", labels=["phase"])
    for one in Phase:
        phases.add_metric([one.value], float(one is phase))
    return [
        phases,
        GaugeMetricFamily("warmfleet_agent_ready", "1 while the pod is ready.", value=float(ready)),
        CounterMetricFamily("warmfleet_agent_drains", "Drains begun.", value=drains),
        CounterMetricFamily("warmfleet_agent_poll_failures", "Polls of the engine that failed.", value=failed_polls),
        CounterMetricFamily(
            "warmfleet_agent_unauthorized_requests", "Requests without the right bearer token.", value=refused
        ),
    ]


def _json(state: AgentState, *, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        text=state.model_dump_json(by_alias=True, exclude_none=True),
        content_type="application/json",
    )


def _refuse(status: int, message: str) -> web.Response:
    return web.json_response({"error": message[:1000]}, status=status)
