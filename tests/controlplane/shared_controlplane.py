"""The one control plane of a pytest process, with the project's CRDs, for every folder of tests that wants it.

It starts when the first test asks and ends with the session.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import NoReturn

import pytest
from binaries import Binaries, BinariesUnavailableError, resolve
from clients import ClientUnavailableError, kubectl_path
from cluster import ControlPlane, NotIsolatedError, require_isolation

ROOT = Path(__file__).resolve().parents[2]
CRDS = ROOT / "crds"
_COLLECT_SECONDS = 90.0


class _Shared:
    running: ControlPlane | None = None
    collecting = False


def running() -> ControlPlane:
    """The control plane, started by the first call.

    Skips the test where there cannot be one, or fails it with WARMFLEET_REQUIRE_REAL=1.
    """
    if _Shared.running is None:
        binaries = usable()
        worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
        made = ControlPlane(binaries, slot=int(worker.removeprefix("gw")), crds=CRDS)
        made.__enter__()  # `stop` is the other half
        _Shared.running = made
    return _Shared.running


def usable() -> Binaries:
    """The programs of a control plane, where one can run.

    Skips the test where there cannot be one, or fails it with WARMFLEET_REQUIRE_REAL=1.
    """
    try:
        require_isolation()
        binaries = resolve(build=False)  # building takes minutes and the network: in_netns.py does it before
        kubectl_path(binaries.version)
    except (NotIsolatedError, BinariesUnavailableError, ClientUnavailableError) as error:
        _unavailable(str(error))
    return binaries


def until_collecting(controlplane: ControlPlane) -> None:
    """Returns once the garbage collector knows LLMDeployments as owners; at once from the second call on."""
    if _Shared.collecting:
        return
    name = f"probe-{uuid.uuid4().hex[:8]}"
    sample = {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "model": {"name": "m", "source": {"hf": {"repo": "a/b"}}},
            "engine": {"image": "none"},
            "variants": [{"name": "a", "instanceType": "none"}],
            "replicas": 1,
        },
    }
    made = json.loads(controlplane.kubectl("create", "-f", "-", "-o=json", stdin=json.dumps(sample)))
    owner = {"apiVersion": sample["apiVersion"], "kind": "LLMDeployment", "name": name, "uid": made["metadata"]["uid"]}
    child = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "ownerReferences": [owner]},
    }
    controlplane.kubectl("create", "-f", "-", stdin=json.dumps(child))
    controlplane.kubectl("delete", "llmd", name, "--namespace=default")
    deadline = time.monotonic() + _COLLECT_SECONDS
    while controlplane.kubectl("get", "configmap", name, "--namespace=default", "--ignore-not-found"):
        if time.monotonic() > deadline:
            pytest.fail(f"the garbage collector did not learn the new kinds within {_COLLECT_SECONDS:.0f} s")
        time.sleep(0.5)
    _Shared.collecting = True


def stop(*, failed: bool) -> None:
    """Ends it, if it runs.

    Args:
        failed: Whether a test failed: then the servers' logs are kept, and where is said.
    """
    made, _Shared.running = _Shared.running, None
    if made is None:
        return
    if failed:
        print(f"\ncontrol plane logs kept in {made.keep_logs()}", file=sys.stderr)
    made.stop()


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("WARMFLEET_REQUIRE_REAL") == "1":
        pytest.fail(f"WARMFLEET_REQUIRE_REAL=1, but there is no real control plane: {reason}", pytrace=False)
    pytest.skip(f"NOT TESTED against a real control plane: {reason}")
