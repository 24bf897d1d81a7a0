"""Local processes: one process group each, no thread, no pipe, and none outlives the node."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from warmfleet_localcluster.node import reaper

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


class Reaper:
    """The helper process that cleans up if this one dies without doing so.

    Args:
        directories: Deleted when this process ends, in whatever way.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        command = [sys.executable, "-I", "-S", reaper.__file__, *map(str, directories)]
        self._child = subprocess.Popen(  # noqa: S603 - this interpreter and a file of this package
            command, stdin=subprocess.PIPE, start_new_session=True
        )

    def note(self, group: int, *, alive: bool) -> None:
        """Tell it that a process group began or ended."""
        pipe = self._child.stdin
        if pipe is not None and not pipe.closed:
            pipe.write(b"%s%d\n" % (b"+" if alive else b"-", group))
            pipe.flush()

    async def finish(self) -> None:
        """Let it end what is left, delete the directories, and wait for that."""
        if self._child.stdin is not None:
            self._child.stdin.close()
        await asyncio.to_thread(self._child.wait)


class Process:
    """A running program as leader of its own session and process group.

    Args:
        argv: Program and arguments; the program is looked up in `env`'s PATH.
        env: Its whole environment.
        cwd: Working directory.
        log: File that standard output and error are appended to.
        reaper: Told about the group.

    Raises:
        OSError: The program cannot be started.
    """

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path, reaper: Reaper) -> None:
        program = shutil.which(argv[0], path=env.get("PATH"))
        if program is None:
            raise FileNotFoundError(f'exec: "{argv[0]}": executable file not found in $PATH')
        with log.open("ab") as output:
            self._child = subprocess.Popen(  # noqa: S603 - running what pods ask for is the purpose
                [program, *argv[1:]],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl call; nothing there takes a lock
            )
        self.pid = self._child.pid
        self._reaper = reaper
        reaper.note(self.pid, alive=True)
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._ended)

    @property
    def running(self) -> bool:
        """Whether the leader has not ended yet."""
        return not self._exit.done()

    async def wait(self) -> int:
        """Its exit code, as a container runtime gives it: 128 + n after signal n."""
        return await asyncio.shield(self._exit)

    def terminate(self) -> None:
        """SIGTERM to the leader alone, as container runtimes do."""
        if self.running:
            os.kill(self.pid, signal.SIGTERM)  # Popen.send_signal might reap it behind the back of _ended

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        if self.running:
            os.killpg(self.pid, signal.SIGKILL)

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # The leader is not reaped yet, so its number cannot belong to anybody else: end its children first.
        os.killpg(self.pid, signal.SIGKILL)
        code = self._child.wait()
        self._reaper.note(self.pid, alive=False)
        if not self._exit.done():
            self._exit.set_result(code if code >= 0 else 128 - code)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
