"""Logical time: the one clock that decisions, waits and reported times go through.

Logic never reads the operating system's time. It is handed a `Clock`, so that a demo can run 40 times faster
than life and a test can move time by hand. All durations in the product (periods, grace, deadlines) are
logical seconds; `Clock.real` turns them into real ones where a library wants a timeout.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

CLOCK_ENV = "WARMFLEET_CLOCK"
"""Environment variable all processes of one demo share; `clock_from_env` describes its value."""


@runtime_checkable
class Clock(Protocol):
    """Source of logical time. `now` may be called from any thread."""

    @property
    def scale(self) -> float:
        """Logical seconds that pass in one real second."""

    def now(self) -> float:
        """Logical seconds since an arbitrary epoch; never goes back."""

    def wall(self) -> datetime:
        """Logical wall time, aware, in UTC; for people and for records, never for measuring durations."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` logical seconds (at once, after a yield, when not positive)."""

    def real(self, seconds: float) -> float:
        """Real seconds that `seconds` logical seconds take."""


async def sleep_or(clock: Clock, seconds: float, event: asyncio.Event) -> None:
    """Return after ``seconds`` logical seconds, or as soon as the event is set."""
    waiters = [asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(event.wait())]
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)


class SystemClock:
    """Real time: one logical second is one real second."""

    @property
    def scale(self) -> float:
        """Always 1."""
        return 1.0

    def now(self) -> float:
        """Seconds of the operating system's monotonic clock."""
        return time.monotonic()

    def wall(self) -> datetime:
        """The operating system's UTC time."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep `seconds` real seconds."""
        await asyncio.sleep(max(0.0, seconds))

    def real(self, seconds: float) -> float:
        """`seconds` itself."""
        return seconds


class ScaledClock:
    """Time that runs `scale` times as fast as life.

    Two clocks built with the same `scale`, `epoch_real` and `start_wall` agree on `now` and `wall`, in
    whatever process they live. The operating system's wall clock is read once, to find the distance to the
    epoch; the monotonic clock counts from there, so that a correction of the system's time never moves `now`
    back.

    Args:
        scale: Logical seconds per real second, finite and positive.
        start_wall: Logical wall time at the epoch (aware); the epoch's real wall time when None.
        epoch_real: Unix time (real seconds) at which `now()` is 0; the moment of construction when None.

    Raises:
        ValueError: `scale` is not finite and positive, `epoch_real` is not finite or `start_wall` is naive.
    """

    def __init__(self, scale: float, *, start_wall: datetime | None = None, epoch_real: float | None = None) -> None:
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be a finite positive number of logical seconds per second, not {scale}")
        unix, self._anchor = time.time(), time.monotonic()
        self._scale = scale
        self._epoch_real = unix if epoch_real is None else epoch_real
        if not math.isfinite(self._epoch_real):
            raise ValueError(f"epoch_real must be a finite Unix time in seconds, not {epoch_real}")
        self._offset = unix - self._epoch_real
        self._start_wall = datetime.fromtimestamp(self._epoch_real, UTC) if start_wall is None else start_wall
        if self._start_wall.tzinfo is None:
            raise ValueError(f"start_wall must carry a time zone, e.g. +00:00, not {start_wall}")

    @property
    def scale(self) -> float:
        """Logical seconds per real second."""
        return self._scale

    def now(self) -> float:
        """Logical seconds since `epoch_real` (negative before it)."""
        return (self._offset + time.monotonic() - self._anchor) * self._scale

    def wall(self) -> datetime:
        """`start_wall` plus the logical seconds since the epoch."""
        return (self._start_wall + timedelta(seconds=self.now())).astimezone(UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep `seconds / scale` real seconds."""
        await asyncio.sleep(max(0.0, self.real(seconds)))

    def real(self, seconds: float) -> float:
        """`seconds / scale`."""
        return seconds / self._scale

    def to_env(self) -> str:
        """The value of `WARMFLEET_CLOCK` with which another process builds an equal clock."""
        wall = self._start_wall.astimezone(UTC).isoformat()
        return f"scale={self._scale!r},epoch_real={self._epoch_real!r},epoch_wall={wall}"


class ManualClock:
    """A clock for tests: stands still until `advance` moves it.

    Args:
        start: First value of `now`.
        start_wall: Wall time at `start`.
    """

    def __init__(self, start: float = 0.0, *, start_wall: datetime | None = None) -> None:
        self._start = self._now = start
        self._start_wall = start_wall or datetime(2026, 1, 1, tzinfo=UTC)
        self._lock = threading.Lock()
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def scale(self) -> float:
        """1: real timeouts given to libraries keep their length."""
        return 1.0

    def now(self) -> float:
        """The time set by `advance`."""
        with self._lock:
            return self._now

    def wall(self) -> datetime:
        """`start_wall` plus what was advanced."""
        return self._start_wall + timedelta(seconds=self.now() - self._start)

    async def sleep(self, seconds: float) -> None:
        """Wait until `advance` has moved the clock by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), loop, future))
        await future

    def real(self, seconds: float) -> float:
        """`seconds` itself."""
        return seconds

    def advance(self, seconds: float) -> None:
        """Move time forward and wake whoever is due, earliest first; may be called from any thread.

        A task that sleeps again after it woke starts from the new time: advance in small steps to see
        each turn.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"time only moves forward: advance({seconds})")
        with self._lock:
            self._now += seconds
            due = []
            while self._sleepers and self._sleepers[0][0] <= self._now:
                due.append(heapq.heappop(self._sleepers))
        for *_, loop, future in due:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, future)


def clock_from_env(environ: Mapping[str, str] | None = None) -> Clock:
    """Build the clock this process was told to use.

    Args:
        environ: Environment to read `WARMFLEET_CLOCK` from; the process's own when None.

    Returns:
        A `ScaledClock` for `scale=<n>[,epoch_real=<unix seconds>][,epoch_wall=<ISO 8601 with zone>]`, a
        `SystemClock` when the variable is unset or empty.

    Raises:
        ValueError: The value cannot be read; the message names the field.
    """
    text = (os.environ if environ is None else environ).get(CLOCK_ENV, "").strip()
    if not text:
        return SystemClock()
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in {"scale", "epoch_real", "epoch_wall"}:
            raise ValueError(f"{CLOCK_ENV}: {part!r} is not scale=, epoch_real= or epoch_wall=")
        fields[key.strip()] = value.strip()
    if "scale" not in fields:
        raise ValueError(f"{CLOCK_ENV}: scale=<logical seconds per second> is missing in {text!r}")
    try:
        scale = float(fields["scale"])
        epoch = float(fields["epoch_real"]) if "epoch_real" in fields else None
        wall = datetime.fromisoformat(fields["epoch_wall"]) if "epoch_wall" in fields else None
        return ScaledClock(scale, start_wall=wall, epoch_real=epoch)
    except ValueError as error:
        raise ValueError(f"{CLOCK_ENV}={text!r}: {error}") from error


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
