"""``warmfleet-forecaster``: reads settings, forecasts until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from warmfleet_runtime import logs
from warmfleet_runtime.clock import Clock, clock_from_env
from warmfleet_runtime.commandline import usage
from warmfleet_runtime.settings import SettingsError

from warmfleet_forecasting.history import HistoryError
from warmfleet_forecasting.settings import Settings, load_settings


async def serve(settings: Settings, clock: Clock) -> int:
    """Run the forecaster until SIGTERM or SIGINT; the exit code."""
    # Here, because fitting processes import the main module again, and need nothing of this.
    from warmfleet_forecasting.service.process import ForecasterProcess  # noqa: PLC0415

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return await ForecasterProcess(settings, clock).run(stop)


def main() -> int:
    """Entry point of ``warmfleet-forecaster``."""
    if (code := usage(sys.argv[1:], "warmfleet-forecaster")) is not None:
        return code
    try:
        settings, clock = load_settings(os.environ), clock_from_env()
    except (SettingsError, ValueError) as error:
        sys.stderr.write(f"warmfleet-forecaster: {error}\n")
        return 2
    logs.configure("forecaster", clock=clock, level=settings.log_level)
    try:
        return asyncio.run(serve(settings, clock))
    except (HistoryError, OSError) as error:
        sys.stderr.write(f"warmfleet-forecaster: {error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
