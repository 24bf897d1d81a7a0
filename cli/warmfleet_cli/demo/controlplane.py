"""The demo on a real control plane: kube-apiserver, etcd, scheduler and controllers, with local processes as pods.

The programs and their scripts are part of a checkout (``tests/controlplane``), not of the package, and all
of it, this process included, has to run in the network namespace that ``in_netns.py`` there makes: pods have addresses
that are not loopback, because Kubernetes refuses loopback in endpoints. ``make demo CLUSTER=controlplane`` does both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from warmfleet_cli.demo.cluster import ClusterError, node_arguments, nodes_there, wait_for
from warmfleet_cli.demo.processes import Child
from warmfleet_cli.demo.sizing import Plan

FOLDER_ENV = "WARMFLEET_CONTROLPLANE"
"""Environment variable: the folder of the control plane's scripts; default: ``tests/controlplane`` of the checkout."""
INSIDE_ENV = "WARMFLEET_NETNS"
"""Set by ``in_netns.py`` for what runs inside."""
POD_NETWORK = "10.244.4.0/22"
"""Part of the namespace's pod network that neither the API server nor anything else uses."""


class ControlPlaneCluster:
    """A real control plane and process nodes, each in a process of its own.

    Args:
        plan: What will be installed: decides the nodes and the engines' speed.
        folder: For logs and the kubeconfig.
        env: Environment that all of it shares: the clock (the control plane itself lives in real time).
    """

    def __init__(self, plan: Plan, *, folder: Path, env: Mapping[str, str]) -> None:
        self.kubeconfig = folder / "kubeconfig"
        self.children: list[Child] = []
        self._plan, self._folder, self._env = plan, folder, env

    async def start(self) -> None:
        """Returns when the API answers and the nodes are there.

        Raises:
            ClusterError: It does not come up, or the means for one are missing.
        """
        script = server_script()
        self.kubeconfig.unlink(missing_ok=True)
        argv = [sys.executable, str(script), "--kubeconfig", str(self.kubeconfig.resolve())]
        self.children.append(Child("controlplane", argv, env={}, folder=self._folder))
        await wait_for("the control plane", self._written, self.children, seconds=90)
        joined = [sys.executable, "-m", "warmfleet_localcluster", "--join", str(self.kubeconfig)]
        joined += ["--pod-network", POD_NETWORK, *node_arguments(self._plan)]
        self.children.append(Child("nodes", joined, env=self._env, folder=self._folder))
        await wait_for("the nodes", self._there, self.children, seconds=30)

    async def stop(self) -> None:
        """Ends everything that runs in it, and itself."""
        for child in reversed(self.children):
            await child.stop(grace=15)

    async def _written(self) -> bool:
        return self.kubeconfig.exists()

    async def _there(self) -> bool:
        return await nodes_there(self.kubeconfig, self._plan)


def server_script(environ: Mapping[str, str] | None = None) -> Path:
    """The script that runs a control plane.

    Raises:
        ClusterError: It is not there, or this process is not in the control plane's network namespace.
    """
    known = os.environ if environ is None else environ
    named = known.get(FOLDER_ENV)
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "tests" / "controlplane"
    script = folder / "serve.py"
    if not script.exists():
        raise ClusterError(
            f"no control plane in {folder}: run from a checkout, set {FOLDER_ENV} to its tests/controlplane, "
            "or use --cluster embedded"
        )
    if not known.get(INSIDE_ENV):
        raise ClusterError(
            "a real control plane needs a network namespace of its own: use `make demo CLUSTER=controlplane`, or put "
            f"`python {script.parent / 'in_netns.py'} --` before the command"
        )
    return script
