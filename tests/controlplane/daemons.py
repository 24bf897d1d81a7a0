"""One server process: started, watched, stopped, with its log in a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path


class DaemonError(RuntimeError):
    """A server died or did not get ready; the message ends with the tail of its log."""


class Daemon:
    """A server process in a session of its own, so that neither ^C nor a signal to the test reaches it first.

    Attributes:
        name: What it is called in messages.
        log: File that its output is appended to, across restarts.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, None when not started."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it; does nothing when it runs."""
        if self.alive:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def check(self) -> None:
        """Raises DaemonError when it has died."""
        if not self.alive:
            code = None if self._process is None else self._process.returncode
            raise DaemonError(f"{self.name} is not running (exit status {code}):\n{self.tail()}")

    def stop(self, *, timeout: float = 5.0, force: bool = False) -> None:
        """Ends it and waits for that.

        Args:
            timeout: Seconds after which SIGTERM turns into SIGKILL.
            force: Whether to send SIGKILL at once.
        """
        process, self._process = self._process, None
        if process is not None:
            end_group(process, timeout=timeout, force=force)

    def signal_stop(self) -> None:
        """Asks it to end, without waiting; `stop` does the rest."""
        if self._process is not None:
            signal_group(self._process, signal.SIGTERM)

    def tail(self, lines: int = 25, *, since: int = 0) -> str:
        """Returns the last lines of the log, of what follows byte `since`."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(since)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signals the process group that `process` leads, unless it has been reaped."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def end_group(process: subprocess.Popen[bytes], *, timeout: float, force: bool) -> None:
    """Ends a process group leader and waits for it; SIGKILL after `timeout` seconds or, with `force`, at once."""
    signal_group(process, signal.SIGKILL if force else signal.SIGTERM)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        signal_group(process, signal.SIGKILL)
        process.wait(timeout)
