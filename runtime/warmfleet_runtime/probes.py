"""Probes and metrics over HTTP: ``/healthz`` ``/readyz`` ``/metrics``.

Readiness says that the process is up; leadership plays no part in it, or a rolling update of two replicas would never
finish. Liveness fails when a sign of the process's work is too old, such as the last decision or the last word of a
watch. Probes ask for nothing: the kubelet has no token. ``/metrics`` asks for one where tokens are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web
from warmfleet_contracts import bearer


class Rendered(Protocol):
    """Metrics that can be shown."""

    def render(self, names: Sequence[str] = ()) -> bytes:
        """The exposition text; of the metrics with these names only, if any are given."""


@dataclass(frozen=True, slots=True)
class Sign:
    """A sign of life.

    Attributes:
        name: What it is a sign of.
        age: Seconds since it was last seen; None when it is not expected now.
    """

    name: str
    age: float | None


def stale(signs: list[Sign], limit: float) -> list[str]:
    """Signs that are too old, for a person."""
    return [f"{s.name}: {s.age:.0f} s old" for s in signs if s.age is not None and s.age > limit]


class ProbeServer:
    """Serves probes and metrics.

    Args:
        metrics: What ``/metrics`` shows.
        problems: What is wrong now; empty when alive.
        refresh: Called before metrics are rendered.
        tokens: Tokens that open ``/metrics`` now; None: nothing is asked for.
        refused: Called when somebody without one of them asks.
    """

    def __init__(
        self,
        metrics: Rendered,
        problems: Callable[[], list[str]],
        refresh: Callable[[], None],
        *,
        tokens: Callable[[], Sequence[str]] | None = None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._metrics, self._problems, self._refresh = metrics, problems, refresh
        self._tokens, self._refused = tokens, refused
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, address: str, port: int) -> None:
        """Listen on ``address``; with port 0 the one that was given is in :attr:`port`."""
        app = web.Application()
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._show)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, address, port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        problems = self._problems()
        return web.Response(status=500 if problems else 200, text="\n".join(problems) or "ok")

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _show(self, request: web.Request) -> web.Response:
        given = bearer.presented(request.headers.get("Authorization"))
        if self._tokens is not None and not bearer.matches(given, self._tokens()):
            self._refused()
            text = f"Authorization: present the token in the Secret {bearer.METRICS_SECRET_NAME}\n"
            return web.Response(status=401, text=text, headers={"WWW-Authenticate": "Bearer"})
        self._refresh()
        body = self._metrics.render(request.query.getall("name[]", []))
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})
