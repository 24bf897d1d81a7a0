"""What a fitting process does: one history in, one status out."""

from __future__ import annotations

import logging
import math
import pickle
import warnings

from warmfleet_forecasting.config import ForecastConfig
from warmfleet_forecasting.forecast import forecast
from warmfleet_forecasting.result import ForecastResult
from warmfleet_forecasting.series import Series
from warmfleet_forecasting.service.pool import Fitted
from warmfleet_forecasting.service.status import status_of


def fit(series: Series, config: ForecastConfig, previous: bytes | None) -> Fitted:
    """Forecast and put into the form of a status.

    Args:
        series: The history.
        config: What is asked for.
        previous: :attr:`Fitted.previous` of the last time; None at the start.
    """
    logging.disable(logging.INFO)
    before: ForecastResult | None = pickle.loads(previous) if previous else None  # noqa: S301 - our own bytes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of numerical libraries; what counts is in the result's reason
        result = forecast(series, config, before)
    carried = result.carried or not math.isfinite(result.issued_at)
    return Fitted(status_of(result), carried, pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL))
