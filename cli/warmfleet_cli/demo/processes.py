"""Child processes that never outlive the demo."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
TAIL, WIDTH = 12, 400
"""Lines of a log that are shown when something fails, and characters of each."""


class Child:
    """A program with its output in a log file; the kernel ends it if this process dies.

    Args:
        name: For messages; also the log's name.
        argv: Program and arguments.
        env: Added to this process's environment.
        folder: Where the log goes.

    Raises:
        OSError: The program cannot be started.
    """

    def __init__(self, name: str, argv: Sequence[str], *, env: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - programs of this product
                list(argv),
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the demo, which ends its children in order
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl call; nothing there takes a lock
            )

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        return "\n".join(f"  {self.name}: {line[:WIDTH]}" for line in lines) or f"  {self.name}: (no output)"

    async def stop(self, *, grace: float) -> None:
        """SIGTERM, then after ``grace`` real seconds SIGKILL to its process group; returns when it has ended."""
        for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            if self.exit_code() is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                if number is signal.SIGTERM:
                    self._process.terminate()
                else:
                    os.killpg(self._process.pid, signal.SIGKILL)
            for _ in range(int(wait / 0.05)):
                if self.exit_code() is not None:
                    return
                await asyncio.sleep(0.05)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
