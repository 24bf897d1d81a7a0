"""Runs a control plane until SIGTERM or Ctrl-C; a command for `in_netns.py`.

    python tests/controlplane/in_netns.py -- python tests/controlplane/serve.py --kubeconfig FILE

It writes the administrator's kubeconfig once pods can be created.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from binaries import BinariesUnavailableError, resolve
from cluster import ControlPlane, NotIsolatedError
from daemons import DaemonError


class _StopError(Exception):
    """A signal to end arrived."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves; 0 when ended by a signal, 1 when the control plane could not start."""
    parser = argparse.ArgumentParser(description="Run a Kubernetes control plane.")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="file to write once it is there")
    options = parser.parse_args(arguments)

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _StopError

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        with ControlPlane(resolve(build=False)) as running:
            partial = options.kubeconfig.with_suffix(".partial")
            shutil.copy(running.kubeconfig, partial)
            partial.rename(options.kubeconfig)  # whoever waits for the file finds it whole
            print(f"Kubernetes {running.version} on {running.url}", flush=True)
            while True:
                signal.pause()
    except _StopError:
        return 0
    except (BinariesUnavailableError, NotIsolatedError, DaemonError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
