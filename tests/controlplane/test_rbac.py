"""The operator's rights: enough, none too many, and each of them needed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml
from clients import helm_path
from fleet_scene import SCALE, SETTINGS, Scene, instance_type, shown
from rights_trials import Trial, stage_without
from shared_controlplane import CRDS, ROOT
from strict_controlplane import StrictControlPlane, strict_controlplane
from warmfleet_operator.rights import RIGHTS
from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import INSTANCE_TYPES
from warmfleet_runtime.rights import Right, Scope

pytestmark = pytest.mark.controlplane
SHARDS = 2
"""Processes that share the trials."""
CHECKED_WITHIN = {
    "update llmdeployments/finalizers.warmfleet.dev",
    *(f"create {kind}" for kind in ("services", "serviceaccounts", "configmaps", "deployments.apps")),
    *(f"create {kind}.rbac.authorization.k8s.io" for kind in ("roles", "rolebindings")),
    "create poddisruptionbudgets.policy",
}
"""Rights that the API server asks for within another request (an apply that creates, an owner reference)."""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrictControlPlane]:
    """A control plane with an audit log, the CRDs and one InstanceType."""
    with strict_controlplane(tmp_path_factory.mktemp("strict"), crds=CRDS) as made:
        yield made


@pytest.fixture
async def kube(strict: StrictControlPlane) -> AsyncIterator[KubeClient]:
    """An administrator's connection; the InstanceType is there."""
    async with await KubeClient.from_kubeconfig(strict.servers.kubeconfig) as client:
        await client.patch(INSTANCE_TYPES, "h100", instance_type(), how="apply", fieldManager="test", force="true")
        yield client


# Enough, and no more: the process with the chart's rights


async def test_a_fleet_lives_and_ends_with_the_rights_of_the_chart_and_all_of_them_are_used(
    strict: StrictControlPlane, kube: KubeClient, tmp_path: Path
) -> None:
    servers, clock = strict.servers, ScaledClock(SCALE)
    for namespace in ("rights", "fleet"):
        servers.kubectl("create", "namespace", namespace)
    rendered = servers.run(
        [helm_path(), "template", "warmfleet", str(ROOT / "charts/warmfleet"), "-n=rights", "--skip-tests"]
    ).stdout
    bodies = [b for b in yaml.safe_load_all(rendered) if b and b["kind"] in _ACCESS]
    servers.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": bodies}))
    user = "system:serviceaccount:rights:warmfleet-operator"
    names = {name.upper(): str(value) for name, value in SETTINGS.items()}
    log = tmp_path / "operator.log"
    with log.open("wb") as output:
        process = servers.popen(
            [sys.executable, "-m", "warmfleet_operator"],
            kubeconfig=servers.kubeconfig_for_service_account("rights", "warmfleet-operator"),
            env={
                **{f"WARMFLEET_{name}": value for name, value in names.items()},
                "WARMFLEET_LEASE_NAMESPACE": "rights",
                CLOCK_ENV: clock.to_env(),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        async with asyncio.timeout(60):
            await Scene(kube, "fleet", home="rights").play(lambda: ("get", "llmdeployments") in _used(strict, user))
    finally:
        process.terminate()
        ended = await asyncio.to_thread(process.wait, 20)
    text = log.read_text()
    assert ended == 0, text[-3000:]
    assert "forbidden" not in text.lower(), text[-3000:]

    requests = strict.requests(user)
    refused = [r for r in requests if not r.allowed or r.code == 403]
    assert not refused, shown([dataclasses.asdict(r) for r in refused])
    used = {str(Right(r.group, r.resource, r.verb, "", Scope.FLEET)) for r in requests if r.resource}
    granted = {str(right) for right in RIGHTS}
    assert used == granted - CHECKED_WITHIN


_ACCESS = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}


def _used(strict: StrictControlPlane, user: str) -> set[tuple[str, str]]:
    return {(r.verb, r.resource) for r in strict.requests(user)}


# Each of them needed: one operator per right, without it


@pytest.fixture(scope="module")
def trials(strict: StrictControlPlane) -> list[Trial]:
    """All trials, done once for the whole module: the control first, then one per right."""
    command = [sys.executable, str(Path(__file__).with_name("rights_trials.py")), str(strict.servers.kubeconfig)]
    running = [
        subprocess.Popen([*command, str(shard), str(SHARDS)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for shard in range(SHARDS)
    ]
    try:
        answers = [process.communicate(timeout=380) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(running, answers, strict=True):
        assert process.returncode == 0, errors[-3000:]
    found = [Trial(**json.loads(line)) for output, _ in answers for line in output.splitlines()]
    return sorted(found, key=lambda trial: -1 if trial.number is None else trial.number)


def test_nothing_is_refused_while_no_right_is_missing(trials: list[Trial]) -> None:
    control = trials[0]
    assert control.finished
    assert not control.refusals
    assert control.ended is None


@pytest.mark.parametrize("right", RIGHTS, ids=[f"{r}{' (named)' if r.named else ''}" for r in RIGHTS])
def test_without_a_right_the_operator_is_refused_and_something_named_stops(trials: list[Trial], right: Right) -> None:
    trial = next(t for t in trials if t.missing is right)
    assert trial.refused, shown(dataclasses.asdict(trial))
    stage = stage_without(right)
    if stage is not None:
        assert trial.reached is False, f"without the right to {right}, {stage!r} was reached all the same"


def _blinding() -> list[Right]:
    return [right for number, right in enumerate(RIGHTS) if Trial("", number).must_end and right.verb != "update"]


def test_an_operator_that_has_gone_blind_ends(trials: list[Trial]) -> None:
    blind = [trial for trial in trials if trial.missing in _blinding()]
    assert {str(trial.missing): trial.ended for trial in blind} == dict.fromkeys(map(str, _blinding()), 1)


def test_an_operator_that_cannot_keep_its_lease_ends(trials: list[Trial]) -> None:
    (trial,) = (t for t in trials if t.missing is not None and (t.missing.verb, t.missing.resource) == _RENEWAL)
    assert trial.ended == 1


_RENEWAL = ("update", "leases")
