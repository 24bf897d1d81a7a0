"""Finds CRDs of other projects, against which what the chart makes and the documentation shows for them is checked.

They come with those projects' own Go modules, each pinned with its checksum below ``tools``, from Go's module cache.
Run as a script it fetches the modules that are not there: tests in a network namespace cannot.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent / "tools"
_MONITORING = ("monitoring", "github.com/prometheus-operator/prometheus-operator")
_PLACES: dict[str, tuple[tuple[str, str], str]] = {
    "podmonitors.monitoring.coreos.com": (
        _MONITORING,
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    ),
    "prometheusrules.monitoring.coreos.com": (
        _MONITORING,
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "nodepools.karpenter.sh": (
        ("karpenter", "sigs.k8s.io/karpenter"),
        "pkg/apis/crds/karpenter.sh_nodepools.yaml",
    ),
    "applications.argoproj.io": (
        ("argo", "github.com/argoproj/argo-cd/v3"),
        "manifests/crds/application-crd.yaml",
    ),
    "kustomizations.kustomize.toolkit.fluxcd.io": (
        ("flux", "github.com/fluxcd/kustomize-controller"),
        "config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml",
    ),
}
"""Where a CRD is: folder below ``tools`` and Go module, file in it."""
NAMES = tuple(_PLACES)


class CrdsUnavailableError(RuntimeError):
    """There is no Go, or it has not the module and cannot fetch it."""


def crd_file(name: str) -> Path:
    """A CRD of :data:`NAMES`, as a file.

    Raises:
        CrdsUnavailableError: Its module cannot be had.
    """
    module, file = _PLACES[name]
    return _module(*module) / file


@functools.cache
def _module(folder: str, package: str) -> Path:
    if shutil.which("go") is None:
        raise CrdsUnavailableError(f"the CRDs of {package} come as a Go module: install Go")
    done = subprocess.run(
        ["go", "mod", "download", "-json", package],
        cwd=TOOLS / folder,
        env={**os.environ, "GOWORK": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CrdsUnavailableError(
            f"`go mod download` of {package} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}"
        )
    return Path(json.loads(done.stdout)["Dir"])


def main() -> int:
    """Prints the CRDs' files; 1 when one cannot be had."""
    try:
        for name in NAMES:
            print(crd_file(name))
    except CrdsUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
