"""What a fitting process does: one history in, one status out."""

from __future__ import annotations

import logging
import pickle
import warnings

from warmfleet_forecasting.config import ForecastConfig
from warmfleet_forecasting.result import TrustReason
from warmfleet_forecasting.series import Series
from warmfleet_forecasting.service.persistence import hold
from warmfleet_forecasting.service.pool import Fitted
from warmfleet_forecasting.service.status import status_of

ENTRY = f"{__name__}:fit"


def fit(series: Series, config: ForecastConfig, previous: bytes | None) -> Fitted:  # noqa: ARG001
    """Forecast and put into the form of a status.

    Args:
        series: The history.
        config: What is asked for.
        previous: :attr:`Fitted.previous` of the last time; None at the start.
    """
    logging.disable(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = hold(series, config, TrustReason.TOO_LITTLE_HISTORY, "the level holds")
    return Fitted(status_of(result), pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL))
