"""Engines under test sleep for a moment where vLLM only yields its core.

vLLM's processes hand each other their messages by polling memory with ``sched_yield`` in between. With more pollers
than cores, the kernel's scheduler (seen on Linux 6.18, two engines on two cores) keeps the others waiting for a tenth
of a second at every turn: an engine's server then does not answer for seconds, and a pull of 27 MB takes a minute. See
docs/decisions/0040.
"""

import os
import time

NAP_SECONDS = 0.0002


def _nap() -> None:
    """Let others run."""
    time.sleep(NAP_SECONDS)


os.sched_yield = _nap
