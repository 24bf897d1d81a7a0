"""Finds, and runs, prometheus and promtool: from a named folder, PATH, the user's cache or Debian's package.

The package ``prometheus`` is downloaded with apt and unpacked into the user's cache, which needs no root and installs
nothing. Where the machine's own lists of packages do not do, lists of this module's own are fetched first.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from binaries import user_cache

PACKAGE = "prometheus"
NAMES = ("prometheus", "promtool")
FOLDER_VARIABLE = "WARMFLEET_PROMETHEUS"
_APT_TIMEOUT_S = 300.0
_READY_TIMEOUT_S = 60.0


class PrometheusUnavailableError(RuntimeError):
    """The programs are neither here nor to be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class PrometheusPrograms:
    """Both programs, of one version.

    Attributes:
        prometheus: Path of the server.
        promtool: Path of the tool that checks rules, runs their unit tests and writes blocks.
    """

    prometheus: str
    promtool: str


@functools.cache
def prometheus_programs() -> PrometheusPrograms:
    """Returns both programs; downloads Debian's package once where there are none.

    Raises:
        PrometheusUnavailableError: The folder named by ``WARMFLEET_PROMETHEUS`` lacks one; or there are none and
            the package cannot be had.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        found = _both_in(named)
        if found is None:
            raise PrometheusUnavailableError(f"{FOLDER_VARIABLE}={named} lacks {' or '.join(NAMES)}; unset or mend it")
        return found
    target = user_cache() / "prometheus"
    return _both_in(os.environ.get("PATH", os.defpath)) or _both_in(str(target)) or _unpacked(target)


def _both_in(path: str) -> PrometheusPrograms | None:
    found = [shutil.which(name, path=path) for name in NAMES]
    return PrometheusPrograms(str(found[0]), str(found[1])) if all(found) else None


def _unpacked(target: Path) -> PrometheusPrograms:
    tools = ("apt-get", "dpkg-deb")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise PrometheusUnavailableError(
            f"no {' and '.join(NAMES)} on PATH, and no {' or '.join(missing)} to have Debian's package {PACKAGE} with; "
            f"install Prometheus, or name its folder by {FOLDER_VARIABLE}"
        )
    target.mkdir(parents=True, exist_ok=True)
    with _locked(target / ".lock"), tempfile.TemporaryDirectory(prefix="partial-", dir=target) as scratch:
        if _both_in(str(target)) is None:  # else another process unpacked them while this one waited
            archive = _download(Path(scratch))
            _run("dpkg-deb", "--extract", str(archive), scratch, cwd=scratch)
            for name in NAMES:
                (Path(scratch) / "usr" / "bin" / name).rename(target / name)
    found = _both_in(str(target))
    if found is None:
        raise PrometheusUnavailableError(f"Debian's package {PACKAGE} holds no {' and '.join(NAMES)} for this machine")
    return found


def _download(scratch: Path) -> Path:
    """Asks with the machine's lists of packages, then, as they may be absent or old, with lists of its own."""
    download = ("-o", "APT::Sandbox::User=root", "download", PACKAGE)  # root's other user may not write here
    try:
        _run("apt-get", *download, cwd=str(scratch))
    except PrometheusUnavailableError:
        for folder in ("lists/partial", "cache/archives/partial"):
            (scratch / folder).mkdir(parents=True)
        own = ("-o", f"Dir::State::Lists={scratch / 'lists'}", "-o", f"Dir::Cache={scratch / 'cache'}")
        _run("apt-get", *own, "-o", "APT::Sandbox::User=root", "update", cwd=str(scratch))
        _run("apt-get", *own, *download, cwd=str(scratch))
    return next(scratch.glob("*.deb"))


def _run(*command: str, cwd: str) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=_APT_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise PrometheusUnavailableError(f"`{command[0]}` took longer than {_APT_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise PrometheusUnavailableError(
            f"no {' and '.join(NAMES)} on PATH, and Debian's package {PACKAGE} cannot be had: "
            f"`{' '.join(command)}` said:\n{done.stderr[-1000:]}"
        )


@contextlib.contextmanager
def serving(config: Path, data: Path, *flags: str) -> Iterator[str]:
    """Runs a server on a free port of 127.0.0.1 and yields its URL once it is ready.

    Args:
        config: ``prometheus.yml``; addresses of what it scrapes are in there.
        data: Folder of its blocks; created if absent.
        flags: More of the server's flags.

    Raises:
        PrometheusUnavailableError: There is no Prometheus.
        RuntimeError: The server ended or was not ready in time; the message ends with its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{probe.getsockname()[1]}"
    own = [f"--config.file={config}", f"--storage.tsdb.path={data}", f"--web.listen-address={url}"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([prometheus_programs().prometheus, *own, *flags], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + _READY_TIMEOUT_S
            while not _ready(f"http://{url}/-/ready"):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"Prometheus did not become ready:\n{log.read()[-2000:]}")
                time.sleep(0.1)
            yield f"http://{url}"
        finally:
            process.terminate()
            process.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # refused, or 503 until the blocks are read
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Prints both paths; 1 when they cannot be had."""
    try:
        found = prometheus_programs()
    except PrometheusUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    print(found.prometheus, found.promtool, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
