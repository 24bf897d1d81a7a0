"""The watch, in a thread and event loop of its own, handing raw objects to the store: kopf, and reflectors.

Pods and nodes, of which there are thousands, and LLMDeployments, which a tenant may nest without end, are watched by
:mod:`warmfleet_operator.adapters.reflector`, everything else by kopf. The only module that imports kopf. Nothing of
kopf's that writes is used: no state handlers, daemons or timers, so it puts no finalizers and no annotations on
anything. What a handler does is one call into the thread-safe store; decisions are made elsewhere. When a watch fails
for good, it raises, and the process ends with an error: it does not go blind.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import kopf
from kubernetes.aio import client as kube

from warmfleet_operator.adapters.audit import POD_SELECTOR, WATCHED
from warmfleet_operator.adapters.reflector import Reflector
from warmfleet_operator.state.snapshot import FleetStore, Kind

_LOG = logging.getLogger(__name__)
_BACKOFFS = (1, 1, 2, 3, 5, 8, 13, 21, 30, 30, 30, 30)
"""Real seconds between attempts when the API server refuses or is away; after these the process gives up."""

_MANY = {Kind.POD: POD_SELECTOR, Kind.NODE: "", Kind.DEPLOYMENT: ""}
"""Kinds that are too many, or may be too deep, for kopf, and their label selectors."""


class Watcher:
    """Runs kopf until stopped.

    Args:
        store: Gets every object.
        configure: Loads the connection settings; called again when credentials are refused.
        namespace: Watch only this namespace; empty: the whole cluster.
        on_end: Called from the thread when the watch ended by itself.
    """

    def __init__(
        self,
        store: FleetStore,
        configure: Callable[[], Awaitable[kube.Configuration]],
        *,
        namespace: str,
        on_end: Callable[[str], None],
    ) -> None:
        self._store, self._configure, self._namespace, self._on_end = store, configure, namespace, on_end
        self._stop = threading.Event()
        self._release = threading.Event()
        self._thread = threading.Thread(target=self._main, name="watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        for noisy in ("kopf.objects", "kopf.activities", "kopf._core", "kopf._cogs"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        # It warns that it handles no signals in this thread, which is what is wanted.
        logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
        self._thread.start()

    def stop(self, timeout: float = 3.0) -> None:
        """End the thread; waits ``timeout`` real seconds at most."""
        self._stop.set()
        self._release.set()
        self._thread.join(timeout)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as error:  # noqa: BLE001 - whatever it was, a blind operator must not go on
            _LOG.exception("the watch failed")
            self._on_end(f"the watch failed: {error}")

    async def _run(self) -> None:
        many = [asyncio.create_task(self._reflector(kind).run()) for kind in _MANY]
        try:
            roots = await kopf.spawn_tasks(
                registry=self._registry(),
                settings=_settings(namespaced=bool(self._namespace)),
                standalone=True,
                clusterwide=not self._namespace,
                namespaces=[self._namespace] if self._namespace else [],
                stop_flag=self._release,
            )
            ended, _ = await asyncio.wait([*roots, *many], return_when=asyncio.FIRST_COMPLETED)
            self._tell(ended)
        finally:
            for task in many:
                task.cancel()
            self._release.set()  # kopf waits for its flag in an executor thread, without which the loop cannot end
        await kopf.run_tasks(roots, ignored=set(many))  # one of them has ended: this is the way out

    def _tell(self, ended: set[asyncio.Task[Any]]) -> None:
        """Say that the watch is over as soon as one of its tasks is, before kopf's way out.

        The way out may take for ever: kopf closes its connections, so the other watches wait for a login that nobody
        does any more, and one that is cancelled while it waits may go on all the same.
        """
        if self._stop.is_set():
            return
        failures = [error for task in ended if not task.cancelled() and (error := task.exception()) is not None]
        self._on_end(f"the watch failed: {failures[0]}" if failures else "the watch ended")

    def _reflector(self, kind: Kind) -> Reflector:
        return Reflector(
            kind,
            WATCHED[kind],
            self._store,
            self._configure,
            namespace=self._namespace or None,
            selector=_MANY[kind],
            backoffs=_BACKOFFS,
        )

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        async def login(**_: Any) -> kopf.ConnectionInfo:
            return connection(await self._configure())

        kopf.on.login(registry=registry)(login)
        for kind, resource in WATCHED.items():
            if kind in _MANY:
                continue
            group, _, version = resource.api.rpartition("/")
            name = f"observe-{kind}"
            kopf.on.event(group, version, resource.plural, id=name, registry=registry)(self._handler(kind))
        return registry

    def _handler(self, kind: Kind) -> Callable[..., Awaitable[None]]:
        async def observe(event: Any, **_: Any) -> None:
            self._store.observe(kind, event["object"], deleted=event["type"] == "DELETED")

        return observe


def _settings(*, namespaced: bool) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = namespaced
    settings.process.ultimate_exiting_timeout = None  # the signal handling is this process's own
    settings.networking.error_backoffs = _BACKOFFS
    settings.queueing.idle_timeout = 1.0
    settings.queueing.exit_timeout = 0.5
    settings.watching.client_timeout = 600.0
    settings.watching.chunk_size = 500
    return settings


def connection(configuration: kube.Configuration) -> kopf.ConnectionInfo:
    """The client's connection settings in kopf's form."""
    scheme, _, token = (configuration.api_key.get("BearerToken") or "").partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert or None,
        ca_data=getattr(configuration, "ca_cert_data", None) or None,
        insecure=not configuration.verify_ssl,
        scheme=scheme.capitalize() if token else None,
        token=token or None,
        certificate_path=configuration.cert_file or None,
        private_key_path=configuration.key_file or None,
        proxy_url=configuration.proxy or None,
    )
