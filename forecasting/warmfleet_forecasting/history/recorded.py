"""Histories that live in the recorder: scraped from the operator, or taken over from Prometheus piece by piece.

:class:`RecordedHistory` is what the scrapes brought; what lies before the first of them is fetched from Prometheus
once, when one is configured. :class:`CachedHistory` is Prometheus alone, of which only what is new since the last time
is fetched: refitting a thousand deployments must not read a month of a thousand series each time.
"""

from __future__ import annotations

import asyncio
import logging

from warmfleet_forecasting.history import STEP_S, History, HistoryError, Key
from warmfleet_forecasting.history.recorder import Recorder
from warmfleet_forecasting.series import Series

_LOG = logging.getLogger(__name__)
_OVERLAP_S = 5 * STEP_S
"""Fetched again each time: a source may be late with its newest cells."""
_RETRY_S = 600.0
"""Between attempts to take over the past from a source that failed."""


class RecordedHistory:
    """What was scraped, and before that what Prometheus knows.

    Args:
        recorder: Where scrapes are kept.
        past: Asked once per deployment for what lies before; None: nothing does.
    """

    def __init__(self, recorder: Recorder, past: History | None = None) -> None:
        self._recorder, self._past = recorder, past
        self._tried: dict[Key, float] = {}

    async def series(self, key: Key, start: float, end: float) -> Series:
        """Mean arrival rates; see :class:`~warmfleet_forecasting.history.History`."""
        if self._past is not None and end - self._tried.get(key, -_RETRY_S) >= _RETRY_S:
            await self._take_over(self._past, key, start, end)
        return await asyncio.to_thread(self._recorder.series, key, start, end)

    async def _take_over(self, past: History, key: Key, start: float, end: float) -> None:
        """Fetch the past of a deployment that is new here; a failure is tried again and costs only the past."""
        if await asyncio.to_thread(self._recorder.filled_from, key) is not None:
            self._tried[key] = float("inf")
            return
        self._tried[key] = end
        try:
            found = await past.series(key, start, end)
        except HistoryError as error:
            _LOG.warning("the past could not be taken over: %s", error, extra={"deployment": str(key)})
            return
        await asyncio.to_thread(self._recorder.fill, key, found, replace=False)
        await asyncio.to_thread(self._recorder.mark_filled, key, start)
        self._tried[key] = float("inf")
        _LOG.info("past taken over", extra={"deployment": str(key), "cells": found.known})


class CachedHistory:
    """Another history, of which only what is new is fetched.

    Args:
        recorder: Keeps what was fetched.
        source: The other history.
    """

    def __init__(self, recorder: Recorder, source: History) -> None:
        self._recorder, self._source = recorder, source

    async def series(self, key: Key, start: float, end: float) -> Series:
        """Mean arrival rates; see :class:`~warmfleet_forecasting.history.History`."""
        filled = await asyncio.to_thread(self._recorder.filled_from, key)
        newest = await asyncio.to_thread(self._recorder.newest, key, end)
        known = filled is not None and filled <= start and newest is not None
        begin = max(start, newest - _OVERLAP_S) if known and newest is not None else start
        found = await self._source.series(key, begin, end)
        await asyncio.to_thread(self._recorder.fill, key, found, replace=True)
        if not known:
            await asyncio.to_thread(self._recorder.mark_filled, key, start)
        return await asyncio.to_thread(self._recorder.series, key, start, end)
