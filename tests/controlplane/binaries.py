"""Finds or builds the programs of a real Kubernetes control plane.

Order of the search:

1. ``KUBEBUILDER_ASSETS``, a directory that must hold every name in `NAMES`.
2. The user cache, ``${XDG_CACHE_HOME:-~/.cache}/warmfleet/controlplane/<version>-<hash>/``. The hash covers the
   Go module files below ``tools/``, the way they are built and the machine, so a changed pin never finds an old build.
3. A build by the installed Go. It runs once, at low priority, however many processes ask for it.

Run as a script it does the same, shows progress and prints the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parent / "tools"
BUILD_FLAGS = ("-p=2", "-trimpath", "-buildvcs=false")
_STAMPED_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
_NICENESS = 10
_RECIPE = "1"  # raise it when the way the programs are built changes without a change of BUILD_FLAGS


@dataclass(frozen=True, slots=True)
class Program:
    """One program and where its source comes from.

    Attributes:
        name: File name of the binary.
        module: Folder below ``tools/`` whose go.mod pins it. The dependency graphs clash, hence several modules.
        package: Import path of its main package.
        pinned_by: Module whose version in that go.mod is the program's version.
    """

    name: str
    module: str
    package: str
    pinned_by: str


PROGRAMS = (
    Program("etcd", "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
    Program("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok", "sigs.k8s.io/kwok"),
    Program("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes"),
    Program("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", "k8s.io/kubernetes"),
    Program(
        "kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", "k8s.io/kubernetes"
    ),
)
NAMES = tuple(program.name for program in PROGRAMS)


class BinariesUnavailableError(RuntimeError):
    """The programs are neither installed nor buildable here; the message says what to do."""


class BuildError(RuntimeError):
    """Go was found but could not build a program; the message ends with Go's own words."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A directory that holds all programs.

    Attributes:
        directory: Where the programs are.
        version: Kubernetes version of kube-apiserver, such as ``v1.37.2``.
        built_seconds: Wall time per program when this call built them, else empty.
    """

    directory: Path
    version: str
    built_seconds: Mapping[str, float]

    def path(self, name: str) -> str:
        """Returns the path of the program called `name`."""
        return str(self.directory / name)


def pinned_version(program: Program) -> str:
    """Returns the version that the program's go.mod pins, with its leading ``v``.

    Raises:
        BuildError: go.mod does not require the module.
    """
    go_mod = TOOLS / program.module / "go.mod"
    found = re.search(rf"^(?:require)?\s+{re.escape(program.pinned_by)} (v\S+)", go_mod.read_text(), re.MULTILINE)
    if found is None:
        raise BuildError(f"{go_mod} does not require {program.pinned_by}")
    return found[1]


def kubernetes_version() -> str:
    """Returns the pinned Kubernetes version, such as ``v1.37.2``."""
    return pinned_version(next(program for program in PROGRAMS if program.name == "kube-apiserver"))


def user_cache() -> Path:
    """Returns the folder of this project's cached programs: below ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "warmfleet"


def cache_directory() -> Path:
    """Returns where the pinned programs are or will be cached."""
    digest = hashlib.sha256(f"{_RECIPE} {BUILD_FLAGS} {platform.system()} {platform.machine()}".encode())
    for file in sorted(TOOLS.glob("*/go.*")):
        digest.update(f"\n{file.relative_to(TOOLS)}\n".encode())
        digest.update(file.read_bytes())
    return user_cache() / "controlplane" / f"{kubernetes_version()}-{digest.hexdigest()[:12]}"


def resolve(*, build: bool = True, report: Callable[[str], None] | None = None) -> Binaries:
    """Finds the programs, or builds them.

    Args:
        build: Whether to build what is not there.
        report: Receives one line per step of a build; by default they go to standard error.

    Raises:
        BinariesUnavailableError: ``KUBEBUILDER_ASSETS`` is incomplete, or there is no cached build and no Go or no
            permission to build.
        BuildError: The build failed.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets:
        return _from_assets(Path(assets))
    target = cache_directory()
    if not _missing(target):
        return Binaries(target, kubernetes_version(), {})
    if not build or shutil.which("go") is None:
        how = "run `python tests/controlplane/binaries.py`" if shutil.which("go") else "install Go"
        raise BinariesUnavailableError(
            f"no control plane programs: KUBEBUILDER_ASSETS is not set and {target} does not hold them; {how} to build "
            f"them, or point KUBEBUILDER_ASSETS at a directory with {', '.join(NAMES)}"
        )
    return _build_once(target, report or _print_to_stderr)


def _from_assets(directory: Path) -> Binaries:
    missing = _missing(directory)
    if missing:
        raise BinariesUnavailableError(
            f"KUBEBUILDER_ASSETS={directory} lacks {', '.join(missing)}; add them, or unset it to build all from source"
        )
    answer = subprocess.run(
        [str(directory / "kube-apiserver"), "--version"], capture_output=True, text=True, check=False, timeout=60
    )
    found = re.search(r"v\d+\.\d+\.\d+\S*", answer.stdout)
    if answer.returncode or found is None:
        raise BinariesUnavailableError(
            f"KUBEBUILDER_ASSETS: {directory / 'kube-apiserver'} --version answered {answer.stdout + answer.stderr!r}"
        )
    return Binaries(directory, found[0], {})


def _missing(directory: Path) -> list[str]:
    return [name for name in NAMES if not os.access(directory / name, os.X_OK)]


def _build_once(target: Path, report: Callable[[str], None]) -> Binaries:
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_name(target.name + ".lock"), report):
        if not _missing(target):  # another process built them while this one waited
            return Binaries(target, kubernetes_version(), {})
        if target.exists():  # an incomplete copy, as renames are all or nothing: someone deleted from it
            shutil.rmtree(target)
        with tempfile.TemporaryDirectory(prefix=f"{target.name}.partial-", dir=target.parent) as scratch:
            partial = Path(scratch) / "bin"
            partial.mkdir()
            seconds = _build_all(partial, report)
            partial.rename(target)
    return Binaries(target, kubernetes_version(), seconds)


@contextlib.contextmanager
def _locked(path: Path, report: Callable[[str], None]) -> Iterator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("control plane: waiting for another process that builds the same programs")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build_all(into: Path, report: Callable[[str], None]) -> dict[str, float]:
    report(f"control plane: building {len(PROGRAMS)} programs for Kubernetes {kubernetes_version()}, once; minutes")
    seconds: dict[str, float] = {}
    for program in PROGRAMS:
        started = time.monotonic()
        _build(program, into)
        seconds[program.name] = time.monotonic() - started
        report(f"control plane: built {program.name} {pinned_version(program)} in {seconds[program.name]:.0f} s")
    report(f"control plane: all built in {sum(seconds.values()):.0f} s")
    return seconds


def _build(program: Program, into: Path) -> None:
    module = TOOLS / program.module
    stamps = _version_stamps(module) if program.module == "kubernetes" else []
    ldflags = " ".join(["-s -w", *(f"-X {stamp}" for stamp in stamps)])
    _go(module, "build", *BUILD_FLAGS, "-ldflags", ldflags, "-o", str(into / program.name), program.package)


def _version_stamps(module: Path) -> list[str]:
    """Says which version this is: an unstamped server calls itself v0.0.0 and fails every kubeVersion check."""
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".", 2)
    released = json.loads(_go(module, "list", "-m", "-json", "k8s.io/kubernetes")).get("Time", "1970-01-01T00:00:00Z")
    values = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitCommit": "unknown",  # a Go module carries no commit
        "gitTreeState": "clean",
        "buildDate": released,  # not the time of the build, so that two builds are the same
    }
    return [f"{package}.{key}={value}" for package in _STAMPED_PACKAGES for key, value in values.items()]


def _go(module: Path, *arguments: str) -> str:
    niced = ["nice", f"-n{_NICENESS}"] if shutil.which("nice") else []
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    done = subprocess.run(
        [*niced, "go", *arguments], cwd=module, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-20:])
        raise BuildError(f"`go {arguments[0]}` failed in {module}:\n{tail}")
    return done.stdout


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Resolves the programs and prints their directory; 1 when they cannot be had."""
    try:
        found = resolve()
    except (BinariesUnavailableError, BuildError) as error:
        print(error, file=sys.stderr)
        return 1
    print(found.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
