"""Runs a command, such as pytest, in network, mount and process namespaces of its own.

    python tests/controlplane/in_netns.py -- python -m pytest tests/controlplane

The whole test process lives in the namespace, with the control plane and everything tests start, because then
nothing has to cross its border: 127.0.0.1 reaches the servers, and any address of `POD_NETWORK` binds and connects.
Those are not loopback addresses, which Kubernetes refuses in endpoints. Runs side by side use the same ports and never
meet. There is no way out to the network, so whatever has to be built or downloaded is prepared before.

Nothing stays behind: the namespace's first process lives in this script, and when it ends, or anything kills it, the
kernel kills every process of the namespace. It ends with the command, and dies with this script.

Root needs no user namespace. Anyone else gets one and is root within it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

POD_NETWORK = "10.244.0.0/16"
INSIDE = "WARMFLEET_NETNS"
"""Environment variable that names a scratch directory to the processes inside; it is removed after the run."""

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x8, 0x4000, 0x40000
_PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGTERM, signal.SIGHUP)

_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceUnavailableError(RuntimeError):
    """The kernel does not let this user make the namespaces."""


def run(command: Sequence[str], *, user_namespace: bool | None = None) -> int:
    """Runs `command` in fresh namespaces and waits for it. This process moves into the network namespace, too.

    Args:
        command: Program and arguments.
        user_namespace: Whether to make one; by default only when not root.

    Returns:
        The command's exit status, or 128 + signal when one killed it.

    Raises:
        NamespaceUnavailableError: The kernel refuses.
    """
    scratch = Path(tempfile.mkdtemp(prefix="warmfleet-netns-"))
    try:
        _unshare(os.geteuid() != 0 if user_namespace is None else user_namespace)
        first = os.fork()  # the first child after the unshare is process 1 of the new namespace
        if first == 0:
            os._exit(_first_process(command, {**os.environ, INSIDE: str(scratch)}))
        _on_signals(lambda number: os.kill(first, number))
        _, status = os.waitpid(first, 0)
        return _exit_code(status)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unshare(user_namespace: bool) -> None:
    user, group = os.geteuid(), os.getegid()
    flags = _CLONE_NEWNET | _CLONE_NEWNS | _CLONE_NEWPID | (_CLONE_NEWUSER if user_namespace else 0)
    if _libc.unshare(flags) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise NamespaceUnavailableError(
            f"cannot make {'user and ' if user_namespace else ''}network namespaces: {reason}; allow unprivileged "
            "user namespaces (by sysctl: kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu, "
            "user.max_user_namespaces above 0) or run as root with CAP_SYS_ADMIN"
        )
    if not user_namespace:
        return
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError as error:
        raise NamespaceUnavailableError(f"cannot become root in the new user namespace: {error}") from error


def _first_process(command: Sequence[str], environment: Mapping[str, str]) -> int:
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _mount_proc()
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "route", "add", "local", POD_NETWORK, "dev", "lo"], check=True)
        main = subprocess.Popen(command, env=environment)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"in_netns: {error}", file=sys.stderr)
        return 126
    _on_signals(lambda number: os.kill(main.pid, number))
    while True:
        pid, status = os.wait()  # orphans of the namespace end here as well
        if pid == main.pid:
            return _exit_code(status)


def _mount_proc() -> None:
    """Gives the namespace its own /proc. Containers that mask parts of theirs forbid that; it works without."""
    _libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    if _libc.mount(b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None) != 0:
        print(f"in_netns: /proc stays the outer one: {os.strerror(ctypes.get_errno())}", file=sys.stderr)


def _on_signals(forward: Callable[[int], None]) -> None:
    for number in _FORWARDED:
        signal.signal(number, lambda received, _frame: forward(received))
    # A terminal sends this one to everybody in the foreground; a handler, unlike SIG_IGN, is not inherited.
    signal.signal(signal.SIGINT, lambda _received, _frame: None)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _prepare() -> str | None:
    """Gets everything that needs the network while there is one; returns the problem, if any."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import binaries
    import clients

    try:
        clients.kubectl_path(binaries.resolve().version)
        clients.helm_path()
    except (binaries.BinariesUnavailableError, binaries.BuildError, clients.ClientUnavailableError) as error:
        return str(error)
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepares programs, then runs the command behind ``--``."""
    parser = argparse.ArgumentParser(description="Run a command in namespaces of its own.")
    parser.add_argument("--user-namespace", action="store_true", help="make one although this is root")
    parser.add_argument("--no-prepare", action="store_true", help="neither build nor download programs first")
    parser.add_argument("command", nargs="+", help="behind --: the program and its arguments")
    options = parser.parse_args(arguments)
    problem = None if options.no_prepare else _prepare()
    if problem is not None:
        print(f"in_netns: {problem}", file=sys.stderr)
        if os.environ.get("WARMFLEET_REQUIRE_REAL") == "1":
            return 1
    try:
        return run(options.command, user_namespace=True if options.user_namespace else None)
    except NamespaceUnavailableError as error:
        print(f"in_netns: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
