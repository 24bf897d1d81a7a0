"""The shipped forecaster on made-up histories, one per deployment: what `forecast_service.py` measures.

A program of its own, so that it holds what the shipped one holds and nothing else.

    python bench/forecaster.py URL
"""

from __future__ import annotations

import asyncio
import signal
import sys

import numpy as np
from warmfleet_forecasting.config import DAY_S
from warmfleet_forecasting.history import STEP_S, Key, grid
from warmfleet_forecasting.series import Series

PROCESSES = 2


def history(seed: int, start: float, end: float, step_s: float = STEP_S) -> Series:
    """Day, week, drift, correlated noise: the same values at the same times, whatever part is asked for."""
    rng = np.random.default_rng(seed)
    first, stop = grid(start, end)
    hours = np.arange(int(start // 3600), int(end // 3600) + 2)
    drift = np.cumsum(0.03 * rng.normal(size=hours.size))
    x = np.arange(first, stop) * STEP_S / DAY_S
    shape = 0.8 * np.sin(2 * np.pi * x) + 0.2 * np.sin(4 * np.pi * x) - 0.6 * (x % 7 >= 5)
    level = np.interp(x * 24.0, hours, drift - np.linspace(0.0, drift[-1], drift.size))
    values = 80 * np.exp(shape + level + 0.1 * rng.normal(size=x.size))
    return Series(first * STEP_S, STEP_S, values).resample(step_s)


class MadeUp:
    """Histories by deployment."""

    async def series(self, key: Key, start: float, end: float) -> Series:
        """The last minutes before ``end``."""
        return await asyncio.to_thread(history, int(key.name.rsplit("-", 1)[1]), start, end)


def run_service(url: str) -> None:
    """The shipped process, until SIGTERM."""
    # Imported here as in the shipped program: fitting processes import the main module again, but none of this.
    from kubernetes.aio import client as kube  # noqa: PLC0415
    from warmfleet_forecasting.service.process import ForecasterProcess  # noqa: PLC0415
    from warmfleet_forecasting.settings import Settings  # noqa: PLC0415
    from warmfleet_runtime.clock import ScaledClock  # noqa: PLC0415

    async def configure() -> kube.Configuration:
        return kube.Configuration(host=url)

    async def work() -> None:
        settings = Settings(
            operator_url="http://127.0.0.1:1/metrics",
            listen_address="127.0.0.1",
            listen_port=0,
            fit_processes=PROCESSES,
            fit_deadline_seconds=600.0,
            refit_seconds=40_000.0,
            valid_seconds=80_000.0,
        )
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await ForecasterProcess(settings, ScaledClock(1.0), configure, history=MadeUp()).run(stop)

    asyncio.run(work())


if __name__ == "__main__":
    run_service(sys.argv[1])
