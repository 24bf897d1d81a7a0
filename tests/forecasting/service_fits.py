"""Fits that behave as the newest rate of the history tells them to; runs in the fitting process, loads no model."""

from __future__ import annotations

import math
import os
import time

import numpy as np
from warmfleet_forecasting.config import ForecastConfig
from warmfleet_forecasting.result import Curve, ForecastResult, TrustReason
from warmfleet_forecasting.series import Series
from warmfleet_forecasting.service.pool import Fitted
from warmfleet_forecasting.service.status import status_of

CRASH, HANG, RAISE, BLOAT = 901.0, 902.0, 903.0, 904.0
_kept: list[bytes] = []


def fit(series: Series, config: ForecastConfig, previous: bytes | None) -> Fitted:
    last = series.values[-1] if len(series) else math.nan
    if last == CRASH:
        os._exit(7)
    if last == HANG:
        time.sleep(600)
    if last == RAISE:
        raise ZeroDivisionError("the model divided by zero")
    if last == BLOAT:
        _kept.append(b"x" * 400_000_000)
    if math.isnan(last):
        nothing = ForecastResult(
            math.nan, Curve.empty(), Curve.empty(), (), trusted=False, reason=TrustReason.HISTORY_GAP, message="a gap"
        )
        return Fitted(status_of(nothing), True, b"")
    assert previous in {None, b"remembered"}, "what was handed out comes back"
    level = float(np.nanmean(series.values[-10:]))
    near, far = (_held(level, offsets) for offsets in (np.arange(1, 13) * 300.0, np.arange(1, 25) * 3600.0))
    held = ForecastResult(
        series.end,
        near,
        far,
        (),
        trusted=True,
        reason=TrustReason.SKILFUL,
        message=str(os.getpid()),
        valid_for_s=config.valid_for_s,
    )
    return Fitted(status_of(held), False, b"remembered")


def _held(level: float, offsets: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Curve:
    return Curve(offsets, np.array([0.5, 0.9]), np.full((len(offsets), 2), level) * np.array([1.0, 1.2]))
