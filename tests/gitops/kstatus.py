"""Builds and asks the real kstatus, the Go library by which Flux and kubectl's relatives judge objects.

A small program around it, pinned with checksums in ``tools/kstatus``, is built once into the user cache (half a minute
of processor time). Run as a script it builds, which a test in a network namespace cannot when modules are missing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "controlplane"))

from binaries import user_cache  # noqa: E402

MODULE = Path(__file__).resolve().parent / "tools" / "kstatus"


class KstatusUnavailableError(RuntimeError):
    """There is no Go, or it could not build the program."""


@functools.cache
def program() -> Path:
    """Path of the program.

    Raises:
        KstatusUnavailableError: It is neither built nor can be.
    """
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(MODULE.iterdir()) if path.is_file()))
    target = user_cache() / "kstatus" / digest.hexdigest()[:12] / "kstatus"
    if os.access(target, os.X_OK):
        return target
    if shutil.which("go") is None:
        raise KstatusUnavailableError("it is built from source: install Go")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        partial = Path(scratch) / "kstatus"
        command = ["go", "build", "-p=2", "-trimpath", "-buildvcs=false", "-o", str(partial), "."]
        environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
        done = subprocess.run(command, cwd=MODULE, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KstatusUnavailableError(f"`go build` failed:\n{done.stderr[-1000:]}")
        partial.rename(target)  # atomic: whoever comes second replaces the same by the same
    return target


def verdicts(kstatus: Path, *bodies: dict[str, Any]) -> list[str]:
    """What kstatus says of each object: ``Current``, ``InProgress``, ``Failed``, ``Terminating``, ..."""
    done = subprocess.run([str(kstatus)], input=json.dumps(bodies), capture_output=True, text=True, check=True)
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


def main() -> int:
    """Prints the program's path; 1 when it cannot be had."""
    try:
        print(program())
    except KstatusUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
