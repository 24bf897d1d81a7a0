"""Finds the CRDs of the Prometheus operator, against which the chart's PodMonitors and PrometheusRules are checked.

They come with that project's own Go module, pinned with its checksum in ``tools/monitoring``, from Go's module cache.
Run as a script it fetches the module when it is not there: tests in a network namespace cannot.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

MODULE = Path(__file__).resolve().parent / "tools" / "monitoring"
PACKAGE = "github.com/prometheus-operator/prometheus-operator"
_FOLDER = "example/prometheus-operator-crd"


class CrdsUnavailableError(RuntimeError):
    """There is no Go, or it has not the module and cannot fetch it."""


@functools.cache
def monitoring_crd(plural: str) -> Path:
    """The CRD of ``podmonitors`` or ``prometheusrules``, as a file.

    Raises:
        CrdsUnavailableError: The module cannot be had.
    """
    return _module() / _FOLDER / f"monitoring.coreos.com_{plural}.yaml"


@functools.cache
def _module() -> Path:
    if shutil.which("go") is None:
        raise CrdsUnavailableError("the CRDs of the Prometheus operator come as a Go module: install Go")
    done = subprocess.run(
        ["go", "mod", "download", "-json", PACKAGE],
        cwd=MODULE,
        env={**os.environ, "GOWORK": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CrdsUnavailableError(
            f"`go mod download` of {PACKAGE} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}"
        )
    return Path(json.loads(done.stdout)["Dir"])


def main() -> int:
    """Prints the CRDs' folder; 1 when it cannot be had."""
    try:
        print(_module() / _FOLDER)
    except CrdsUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
