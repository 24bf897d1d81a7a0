"""``warmfleet-operator``: reads settings, runs the operator, ends in good order on SIGTERM.

``warmfleet-operator check`` tells whether an installation works, see :mod:`warmfleet_operator.check`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from warmfleet_runtime import collector, logs
from warmfleet_runtime.clock import Clock, clock_from_env
from warmfleet_runtime.commandline import usage
from warmfleet_runtime.settings import SettingsError

from warmfleet_operator import check
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.process import OperatorProcess
from warmfleet_operator.settings import Settings, load_settings


async def serve(settings: Settings, clock: Clock) -> int:
    """Run the operator until SIGTERM or SIGINT; the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return await OperatorProcess(settings, clock, plan).run(stop)


def main() -> int:
    """Entry point of ``warmfleet-operator``."""
    arguments = sys.argv[1:]
    if (code := usage(arguments, "warmfleet-operator", "check", "tell whether an installation works")) is not None:
        return code
    try:
        settings, clock = load_settings(os.environ), clock_from_env()
    except (SettingsError, ValueError) as error:
        sys.stderr.write(f"warmfleet-operator: {error}\n")
        return 2
    if arguments:
        return asyncio.run(check.run(settings))
    logs.configure("operator", clock=clock, level=settings.log_level)
    collector.settle()
    return asyncio.run(serve(settings, clock))


if __name__ == "__main__":
    raise SystemExit(main())
