"""The pure rules of a process node."""

from pathlib import Path

import pytest
from warmfleet_localcluster.node.addresses import AddressPool
from warmfleet_localcluster.node.expand import ContainerConfigError, expand, field_value, substitute_mounts
from warmfleet_localcluster.node.probes import Probe
from warmfleet_localcluster.node.settings import ImageEntry, ImageMap, NodeShape
from warmfleet_localcluster.node.status import ContainerState, Kind, conditions, phase
from warmfleet_runtime.clock import ScaledClock

RUNNING: dict = {"running": {"startedAt": "x"}}


def ended(code: int) -> dict:
    return {"terminated": {"exitCode": code}}


def state(kind: Kind, now: dict, *, ready: bool = False, last: dict | None = None) -> ContainerState:
    return ContainerState(kind.value, "i", kind, now, last=last or {}, ready=ready, started=ready)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("$(A)/$(B)", "1/$(B)"), ("$$(A)", "$(A)"), ("$A ${A}", "$A ${A}"), ("$$$(A)", "$1"), ("$(", "$(")],
)
def test_references(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


@pytest.mark.parametrize(
    ("text", "real"),
    [
        ("/run/kv", "/r/1"),
        ("--dir=/run/kv/x:/cache", "--dir=/r/1/x:/r/2"),
        ("ipc:///run/kv/s", "ipc:///r/1/s"),
        ("/run/kv2", "/run/kv2"),
        ("/other/run/kv", "/other/run/kv"),
        ("/cache/deep/x", "/r/3/x"),
    ],
)
def test_mount_paths(text: str, real: str) -> None:
    mounts = [("/run/kv", Path("/r/1")), ("/cache", Path("/r/2")), ("/cache/deep/", Path("/r/3"))]
    assert substitute_mounts(text, mounts) == real


def test_an_unknown_field_is_refused_by_name() -> None:
    pod = {"metadata": {"name": "p"}, "spec": {}}
    with pytest.raises(ContainerConfigError, match=r"spec\.hostname"):
        field_value(pod, "spec.hostname", pod_ip="", host_ip="")


def test_a_probe_that_is_too_fast_is_stretched_and_fails_at_the_same_time() -> None:
    spec = {"periodSeconds": 1, "failureThreshold": 12, "timeoutSeconds": 1}
    probe = Probe.from_spec(spec, ScaledClock(60), min_period=0.1, min_timeout=0.5)
    assert (probe.period, probe.failures, probe.timeout) == (0.1, 2, 0.5)
    probe = Probe.from_spec(spec, ScaledClock(1), min_period=0.1, min_timeout=0.5)
    assert (probe.period, probe.failures, probe.timeout) == (1, 12, 1)


def test_phases() -> None:
    main = Kind.MAIN
    assert phase([state(main, {"waiting": {}})], "Always", ended=False) == "Pending"
    assert phase([state(main, RUNNING)], "Always", ended=False) == "Running"
    crashed = state(main, {"waiting": {}}, last=ended(1))
    assert phase([crashed], "Always", ended=False) == "Running"
    assert phase([state(main, ended(0))], "Always", ended=False) == "Running"
    assert phase([state(main, ended(0))], "Never", ended=False) == "Succeeded"
    assert phase([state(main, ended(0)), state(main, ended(1))], "Never", ended=False) == "Failed"
    assert phase([state(main, ended(1))], "OnFailure", ended=False) == "Running"
    assert phase([state(Kind.SIDECAR, RUNNING), state(main, ended(0))], "Never", ended=False) == "Running"
    assert phase([state(Kind.INIT, RUNNING), state(main, {"waiting": {}})], "Always", ended=False) == "Pending"
    assert phase([state(main, ended(137))], "Always", ended=True) == "Failed"


def test_conditions_name_the_container_that_holds_readiness_back() -> None:
    states = [state(Kind.SIDECAR, RUNNING, ready=True), state(Kind.MAIN, RUNNING)]
    found = {c["type"]: c for c in conditions(states, {}, [], sandbox=True, ended=None)}
    assert found["Ready"]["status"] == "False"
    assert found["Ready"]["message"] == "containers with unready status: [main]"
    assert found["Initialized"]["status"] == "True"


def test_addresses_are_distinct_reused_late_and_limited() -> None:
    pool = AddressPool("127.50.0.0/29")
    taken = [pool.acquire() for _ in range(5)]
    assert taken == [f"127.50.0.{i}" for i in range(2, 7)]
    with pytest.raises(RuntimeError, match=r"127\.50\.0\.0/29"):
        pool.acquire()
    pool.release(taken[3])
    pool.release(taken[0])
    assert [pool.acquire(), pool.acquire()] == [taken[3], taken[0]]


def test_images_and_shapes() -> None:
    images = ImageMap({"ghcr.io/warmfleet/agent:*": ImageEntry(["agent"])})
    assert images.find("ghcr.io/warmfleet/agent:1.0") is not None
    assert images.find("ghcr.io/warmfleet/engine:1.0") is None
    with pytest.raises(ValueError, match="NodeShape n"):
        NodeShape("n", count=-1)
