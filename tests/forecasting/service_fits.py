"""Fits that behave as the newest rate of the history tells them to; runs in the fitting process."""

from __future__ import annotations

import os
import time

from warmfleet_forecasting.config import ForecastConfig
from warmfleet_forecasting.result import TrustReason
from warmfleet_forecasting.series import Series
from warmfleet_forecasting.service.persistence import hold
from warmfleet_forecasting.service.pool import Fitted
from warmfleet_forecasting.service.status import status_of

CRASH, HANG, RAISE, BLOAT = 901.0, 902.0, 903.0, 904.0
_kept: list[bytes] = []


def fit(series: Series, config: ForecastConfig, previous: bytes | None) -> Fitted:
    last = series.values[-1] if len(series) else 0.0
    if last == CRASH:
        os._exit(7)
    if last == HANG:
        time.sleep(600)
    if last == RAISE:
        raise ZeroDivisionError("the model divided by zero")
    if last == BLOAT:
        _kept.append(b"x" * 400_000_000)
    return Fitted(status_of(hold(series, config, TrustReason.TOO_LITTLE_HISTORY, "the level holds")), b"remembered")


def ready(series: Series, config: ForecastConfig, previous: bytes | None) -> Fitted:
    """The process's own id, to see which process answers."""
    fitted = fit(series, config, None)
    return Fitted({**fitted.status, "message": str(os.getpid())}, fitted.previous)
