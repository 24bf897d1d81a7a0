"""Leader election on a ``coordination.k8s.io`` Lease, in a thread of its own with a client of its own.

A busy event loop must not cost the leadership, so the renewals do not share one with anything else. Timestamps in the
Lease are for people: whether it expired is judged by how long, on this process's monotonic clock, the record has not
changed. The holder stops acting :data:`MARGIN` before others may take over: :meth:`Leadership.check` compares the
monotonic clock with the last renewal before every write, so a process that was suspended does not act on waking up.

Durations are real seconds, also when the product runs on scaled time: they are between processes, not in the model.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from warmfleet_runtime.resources import LEASES

from warmfleet_operator.adapters.kube import KubeApi, KubeError

_LOG = logging.getLogger(__name__)
MARGIN = 1 / 3
"""Share of the lease duration that the holder leaves unused at its end."""
_CLOSELY = 0.05
"""Real seconds after the end of a record at which a standby looks."""


class NotLeaderError(Exception):
    """A write was attempted without a valid lease."""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Where the Lease is and how long it holds.

    Attributes:
        namespace: Namespace of the Lease.
        name: Name of the Lease.
        identity: Who holds it: unique per process.
        duration: Real seconds after the last renewal at which others may take over.
        retry: Real seconds between renewals and between attempts.
    """

    namespace: str
    name: str
    identity: str
    duration: float = 15.0
    retry: float = 2.0


class Leadership:
    """Whether this process may write now. Thread-safe: one assignment at a time, no lock needed."""

    def __init__(self, duration: float, monotonic: Callable[[], float]) -> None:
        self._hold = duration * (1 - MARGIN)
        self._monotonic = monotonic
        self._renewed: float | None = None
        self.on_gain: Callable[[], None] = lambda: None
        """Called, from the election's thread, when the lease was taken."""

    @property
    def held(self) -> bool:
        """Whether the lease is held and was renewed recently enough."""
        renewed = self._renewed
        return renewed is not None and self._monotonic() - renewed < self._hold

    def check(self) -> None:
        """Raise unless this process leads.

        Raises:
            NotLeaderError: The lease is not held, or could not be renewed in time.
        """
        if not self.held:
            raise NotLeaderError("the lease is not held or expired; nothing is written")

    def renewed(self, at: float) -> None:
        """The lease was taken or renewed by a request that was *sent* at ``at``."""
        before, self._renewed = self._renewed, at
        if before is None:
            self.on_gain()

    def dropped(self) -> None:
        """The lease is gone."""
        self._renewed = None


class Elector:
    """Takes the Lease, keeps it, gives it back.

    Args:
        settings: Where and how long.
        api: A client of its own, not guarded by leadership.
        leadership: What the rest of the process asks.
        monotonic: Real monotonic seconds.
        wall: Wall time for the record's timestamps.
    """

    def __init__(
        self,
        settings: LeaseSettings,
        api: KubeApi,
        leadership: Leadership,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], datetime],
    ) -> None:
        self._settings, self._api, self._leadership = settings, api, leadership
        self._monotonic, self._wall = monotonic, wall
        self._seen: tuple[tuple[str, str, str], float] | None = None
        self._expires: float | None = None

    async def run(self, stop: threading.Event) -> None:
        """Acquire, then renew until ``stop`` or until the lease is lost (then return)."""
        while not stop.is_set() and not await self._step():
            await self._pause(stop, self._patience())
        if not stop.is_set():
            _LOG.info("leading", extra={"lease": self._settings.name, "identity": self._settings.identity})
        while not stop.is_set() and self._leadership.held:
            await self._pause(stop)
            if not stop.is_set():
                await self._step()
        if not stop.is_set():
            self._leadership.dropped()
            _LOG.error("the lease was lost", extra={"lease": self._settings.name})

    async def release(self) -> None:
        """Give the Lease back, so that another process need not wait."""
        if not self._leadership.held:
            return
        self._leadership.dropped()
        try:
            lease = await self._api.get(LEASES, self._settings.name, self._settings.namespace)
            spec = lease.get("spec") or {}
            if spec.get("holderIdentity") == self._settings.identity:
                lease["spec"] = {**spec, "holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(LEASES, lease, self._settings.namespace)
        except KubeError as error:
            _LOG.warning("the lease could not be released and will expire: %s", error)

    async def _pause(self, stop: threading.Event, most: float = math.inf) -> None:
        await asyncio.to_thread(stop.wait, min(most, self._settings.retry * random.uniform(0.8, 1.2)))

    def _patience(self) -> float:
        """Real seconds until a standby looks again: twice in the time of a renewal, and just when the record expires.

        So a leader that dies is followed ``duration + retry / 2`` after its last renewal.
        """
        half = self._settings.retry / 2
        if self._expires is None:
            return half
        return min(half, max(_CLOSELY, self._expires - self._monotonic() + _CLOSELY))

    async def _step(self) -> bool:
        """One attempt to take or renew; whether the lease is held after it."""
        sent = self._monotonic()
        try:
            async with asyncio.timeout(max(1.0, self._settings.duration * (1 - MARGIN) - self._settings.retry)):
                held = await self._attempt()
        except KubeError as error:
            _LOG.warning("lease: %s", error)
            return self._leadership.held
        except TimeoutError:
            _LOG.warning("lease: no answer in time")
            return self._leadership.held
        if held:
            self._leadership.renewed(sent)
        else:
            self._leadership.dropped()
        return held

    async def _attempt(self) -> bool:
        try:
            lease = await self._api.get(LEASES, self._settings.name, self._settings.namespace)
        except KubeError as error:
            if error.status != 404:
                raise
            return await self._answered(self._api.create(LEASES, self._fresh(), self._settings.namespace))
        spec = lease.get("spec") or {}
        mine = spec.get("holderIdentity") == self._settings.identity
        if not mine and not self._expired(spec):
            return False
        lease["spec"] = self._spec(spec, taken=not mine)
        return await self._answered(self._api.replace(LEASES, lease, self._settings.namespace))

    @staticmethod
    async def _answered(request: Awaitable[Any]) -> bool:
        """False when somebody else was faster."""
        try:
            await request
        except KubeError as error:
            if error.status == 409:
                return False
            raise
        return True

    def _expired(self, spec: dict[str, Any]) -> bool:
        if not spec.get("holderIdentity"):
            return True
        record = tuple(str(spec.get(k)) for k in ("holderIdentity", "renewTime", "leaseTransitions"))
        now = self._monotonic()
        duration = spec.get("leaseDurationSeconds")
        lasts = duration if isinstance(duration, int) else self._settings.duration
        if self._seen is None or self._seen[0] != record:
            self._seen = ((record[0], record[1], record[2]), now)
        self._expires = self._seen[1] + lasts
        return now > self._expires

    def _spec(self, old: dict[str, Any], *, taken: bool) -> dict[str, Any]:
        now = self._wall().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        transitions = old.get("leaseTransitions")
        count = transitions if isinstance(transitions, int) else 0
        return {
            **old,
            "holderIdentity": self._settings.identity,
            "leaseDurationSeconds": max(1, round(self._settings.duration)),
            "renewTime": now,
            "acquireTime": now if taken else old.get("acquireTime", now),
            "leaseTransitions": count + 1 if taken else count,
        }

    def _fresh(self) -> dict[str, Any]:
        return {
            "apiVersion": LEASES.api,
            "kind": LEASES.kind,
            "metadata": {"name": self._settings.name, "namespace": self._settings.namespace},
            "spec": self._spec({}, taken=True) | {"leaseTransitions": 0},
        }


class ElectionThread:
    """Runs an :class:`Elector` in its own thread and event loop.

    Args:
        leadership: What the rest of the process asks.
        build: Makes the elector and a closer of its client, inside the thread's loop.
        on_end: Called from the thread when the lease was lost or the thread failed.
    """

    def __init__(
        self,
        leadership: Leadership,
        build: Callable[[], Awaitable[tuple[Elector, Callable[[], Awaitable[None]]]]],
        on_end: Callable[[str], None],
    ) -> None:
        self._leadership, self._build, self._on_end = leadership, build, on_end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="lease", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 3.0) -> None:
        """Release the Lease and end the thread; waits ``timeout`` real seconds at most."""
        self._stop.set()
        self._thread.join(timeout)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as error:  # noqa: BLE001 - whatever it was: without election nothing may be written
            _LOG.exception("the leader election failed")
            self._leadership.dropped()
            self._on_end(f"leader election failed: {error}")
        else:
            if not self._stop.is_set():
                self._on_end("the lease was lost")

    async def _run(self) -> None:
        elector, close = await self._build()
        try:
            await elector.run(self._stop)
            if self._stop.is_set():
                await elector.release()
        finally:
            await close()
