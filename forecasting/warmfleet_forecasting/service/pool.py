"""Fits in processes of their own, each with a deadline.

A fit runs foreign numerical code on whatever history it is given; it may raise, crash, hang or eat memory. So it runs
in a process that has a session of its own (with whatever programs the fit starts), is killed with all of them at the
deadline, and is replaced: after a crash, after a kill, and when it holds too much memory. The service itself never
imports a model: one server process does, once, and the fitting processes are forked from it. So they share the memory
of the libraries, and one that is replaced is back within milliseconds.

The result comes back pickled twice: the outer message is small and plain, the inner bytes go back to the next fit
untouched, so that what a model remembers costs this process only its size.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from warmfleet_forecasting.config import ForecastConfig
from warmfleet_forecasting.series import Series

_LOG = logging.getLogger(__name__)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class FitFailure(StrEnum):
    """Why there is no new forecast: in the same place."""

    RAISED = "FitFailed"
    """The fit raised."""
    CRASHED = "FitCrashed"
    """Its process ended."""
    TIMED_OUT = "FitTimedOut"
    """It took longer than its deadline and was killed."""


class FitError(Exception):
    """A fit did not succeed.

    Attributes:
        failure: Why.
    """

    def __init__(self, failure: FitFailure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a fit brought.

    Attributes:
        status: The forecast as a TrafficForecast's status, without generation and conditions.
        carried: Whether it is an earlier forecast, or none, because none could be made now.
        previous: The result, pickled, for the next fit.
    """

    status: dict[str, Any]
    carried: bool
    previous: bytes


class FitPool:
    """Processes that fit.

    Args:
        entry: ``module:function``, called in the process as ``function(series, config, previous)``; ``previous`` and
            the answer are as in :class:`Fitted`.
        processes: How many fit at once.
        deadline_s: Real seconds of one fit, loading the models included.
        memory_bytes: A process that holds more after a fit is replaced.
        preload: Modules that the server imports before it forks; of the first pool in a process, and the others'
            fitting processes import what they miss.
    """

    def __init__(
        self, entry: str, *, processes: int, deadline_s: float, memory_bytes: int, preload: Sequence[str] = ()
    ) -> None:
        self._entry, self._deadline_s, self._memory_bytes = entry, deadline_s, memory_bytes
        multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, *preload])
        self._idle: asyncio.Queue[_Process | None] = asyncio.Queue()
        self._all: set[_Process] = set()
        self._closed = False
        for _ in range(processes):
            self._idle.put_nowait(None)

    async def fit(self, series: Series, config: ForecastConfig, previous: bytes | None) -> Fitted:
        """One forecast.

        Raises:
            FitError: The fit raised, crashed or did not end in time.
        """
        process = await self._idle.get()
        sound = False
        try:
            if process is None or not process.alive:
                process = await asyncio.to_thread(self._start)
            fitted, held = await asyncio.to_thread(process.ask, (series, config, previous), self._deadline_s)
            sound = held <= self._memory_bytes
        except FitError as error:
            sound = error.failure is FitFailure.RAISED
            raise
        else:
            return fitted
        finally:
            # Cancelled, hung, crashed or too large: whatever it is doing, nobody waits for it any more.
            if process is not None and not sound:
                self._end(process)
            self._idle.put_nowait(process if sound else None)

    def close(self) -> None:
        """Kill all processes; fits under way fail."""
        self._closed = True
        for process in list(self._all):
            self._end(process)

    def _start(self) -> _Process:
        if self._closed:
            raise FitError(FitFailure.CRASHED, "the service is ending")
        try:
            process = _Process(self._entry)
        except (OSError, EOFError) as error:  # the server was killed while it forked; the next start makes a new one
            raise FitError(FitFailure.CRASHED, f"no fitting process could be started: {error!r}") from error
        self._all.add(process)
        return process

    def _end(self, process: _Process) -> None:
        self._all.discard(process)
        process.kill()


class _Process:
    """One forked process and the pipe to it."""

    def __init__(self, entry: str) -> None:
        for name in _THREADS:
            os.environ.setdefault(name, "1")
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, entry), name="fit", daemon=True)
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def ask(self, request: object, deadline_s: float) -> tuple[Fitted, int]:
        """The answer and the bytes the process holds; blocks, so call it in a thread."""
        try:
            self._pipe.send(request)
            if not self._pipe.poll(deadline_s):
                raise FitError(FitFailure.TIMED_OUT, f"the fit took longer than {deadline_s:g} s and was stopped")
            answer, held = self._pipe.recv()
        except (EOFError, OSError, pickle.PickleError) as error:
            self._process.join(1.0)
            raise FitError(
                FitFailure.CRASHED, f"the fitting process ended with code {self._process.exitcode}: {error!r}"
            ) from error
        if isinstance(answer, str):
            raise FitError(FitFailure.RAISED, answer)
        return answer, held

    def kill(self) -> None:
        """End the process and all it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid or 0, signal.SIGKILL) if self._led() else self._process.kill()
        self._process.join(2.0)
        self._pipe.close()

    def _led(self) -> bool:
        """Whether the process already leads its group; before that a signal to the group would miss it."""
        try:
            return os.getpgid(self._process.pid or 0) == self._process.pid
        except ProcessLookupError:
            return False


def _serve(pipe: Connection, entry: str) -> None:
    """What the process does: fit what comes, until the other side is gone."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    module, _, name = entry.partition(":")
    fit: Callable[[Series, ForecastConfig, bytes | None], Fitted] = getattr(importlib.import_module(module), name)
    gc.freeze()  # what the libraries hold lives as long as the process; looking at it would unshare its pages
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        answer: Fitted | str
        try:
            answer = fit(*request)
        except Exception as error:  # noqa: BLE001 - whatever a model raises is reported, and the process goes on
            answer = f"{type(error).__name__}: {error}"[:800]
        pipe.send((answer, _held()))


def _held() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
