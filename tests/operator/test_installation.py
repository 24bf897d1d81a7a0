"""CRDs of another release are refused before anything is done, and ``warmfleet-operator check`` tells what works."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import Any

import pytest
import yaml
from fleet import CRDS, Fleet
from warmfleet_operator import check
from warmfleet_operator.settings import Settings
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import CUSTOM_RESOURCE_DEFINITIONS

NAME = "llmdeployments.warmfleet.dev"


async def install(fleet: Fleet, *, without: str = "", extra: str = "") -> None:
    """Another release's CRD."""
    body: dict[str, Any] = yaml.safe_load((CRDS / "warmfleet.dev_llmdeployments.yaml").read_text(encoding="utf-8"))
    properties = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties.pop(without, None)
    if extra:
        properties[extra] = {"type": "string"}
    await fleet.kube.delete(CUSTOM_RESOURCE_DEFINITIONS, NAME)
    await fleet.kube.create(CUSTOM_RESOURCE_DEFINITIONS, body)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"without": "kvCache"}, "is older than this operator"), ({"extra": "mood"}, "is newer than this operator")],
)
async def test_an_operator_on_other_crds_ends_before_it_serves(
    fleet: Fleet, caplog: pytest.LogCaptureFixture, change: dict[str, str], words: str
) -> None:
    await install(fleet, **change)
    process = fleet.operator_of()
    assert await asyncio.wait_for(process.run(asyncio.Event()), 30) == 1
    assert process.probes is None, "no rollout may take it for a good replica"
    assert [r for r in caplog.records if words in r.message and r.levelno == logging.ERROR]
    assert not fleet.objects("leases", "coordination.k8s.io")


async def test_it_can_be_told_to_go_on(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    await install(fleet, extra="mood")
    fleet.start_operator(require_matching_crds=False)
    await fleet.until(lambda: bool(fleet.objects("leases", "coordination.k8s.io")), seconds=60, what="it leads")
    assert [r for r in caplog.records if "is newer than this operator" in r.message and r.levelno == logging.WARNING]


async def test_check_says_what_works_and_what_does_not(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "load_configuration", fleet.configure)
    assert await check.run(Settings(), seconds=0.0) == 1
    said = capsys.readouterr().out
    assert "ok      a good LLMDeployment is accepted" in said
    assert "ok      a bad LLMDeployment is refused" in said
    assert "FAILED  a replica of the operator leads" in said
    fleet.start_operator()
    await fleet.until(lambda: bool(fleet.objects("leases", "coordination.k8s.io")), seconds=60, what="it leads")
    assert await check.run(Settings(), seconds=60.0) == 0
    assert not fleet.objects("llmdeployments", "warmfleet.dev"), "it only tries"


async def test_check_does_not_take_a_server_without_rules_for_good(fleet: Fleet) -> None:
    body: dict[str, Any] = yaml.safe_load((CRDS / "warmfleet.dev_llmdeployments.yaml").read_text(encoding="utf-8"))
    spec = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["scaling"]["x-kubernetes-validations"]
    del spec["x-kubernetes-validations"]
    await fleet.kube.delete(CUSTOM_RESOURCE_DEFINITIONS, NAME)
    await fleet.kube.create(CUSTOM_RESOURCE_DEFINITIONS, body)
    async with KubeClient.for_server(fleet.url) as client:
        assert "was accepted" in await check.until(check.Installation(client, Settings(), "prod").refuses, 0.0)


def test_an_unknown_argument_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "warmfleet_operator", "chek"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "usage: warmfleet-operator [check]\n")
