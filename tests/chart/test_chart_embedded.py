"""The chart on the embedded cluster by real Helm: installed, upgraded, rolled back, removed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clients import helm_path
from releases import CHART, CRD_NAMES, SYSTEM
from warmfleet_localcluster.api import EmbeddedApi, serve, server_url, write_kubeconfig
from warmfleet_runtime.clock import ScaledClock

Json = dict[str, Any]


class Cluster:
    """The embedded API, and Helm on it."""

    def __init__(self, api: EmbeddedApi, kubeconfig: Path) -> None:
        self.api, self.kubeconfig = api, kubeconfig

    async def helm(self, *arguments: str) -> str:
        """Output of Helm; AssertionError when it fails."""
        process = await asyncio.create_subprocess_exec(
            helm_path(),
            *arguments,
            f"--namespace={SYSTEM}",
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 110)
        assert process.returncode == 0, output.decode()
        return output.decode()

    def objects(self, plural: str, group: str = "") -> dict[str, Json]:
        """Objects of a kind by name."""
        found = self.api.store.objects(self.api.registry.named(plural, group).storage)
        return {body["metadata"]["name"]: body for body in found}


@pytest.fixture
async def cluster(tmp_path: Path, helm: str) -> AsyncIterator[Cluster]:
    """One without CRDs."""
    api = EmbeddedApi(clock=ScaledClock(1.0))
    runner = await serve(api, "127.0.0.1", 0)
    try:
        yield Cluster(api, write_kubeconfig(tmp_path / "kubeconfig", server_url(runner)))
    finally:
        await runner.cleanup()


async def test_a_release_lives_and_ends_on_the_embedded_cluster(cluster: Cluster) -> None:
    def replicas() -> int:
        return int(cluster.objects("deployments", "apps")["warmfleet-operator"]["spec"]["replicas"])

    def settings() -> Json:
        return dict(yaml.safe_load(cluster.objects("configmaps")["warmfleet-operator"]["data"]["config.yaml"]))

    def definitions() -> set[str]:
        return set(cluster.objects("customresourcedefinitions", "apiextensions.k8s.io"))

    release = ("warmfleet", str(CHART))
    await cluster.helm("install", *release, "--create-namespace")
    assert definitions() == CRD_NAMES
    assert replicas() == 1
    await cluster.helm("upgrade", *release, "--set=replicas=2", "--set=config.tickSeconds=7")
    assert (replicas(), settings()["tickSeconds"]) == (2, 7)
    await cluster.helm("rollback", "warmfleet", "1")
    assert replicas() == 1
    assert "tickSeconds" not in settings()
    await cluster.helm("uninstall", "warmfleet")
    assert definitions() == CRD_NAMES
    for plural, group in (
        ("deployments", "apps"),
        ("statefulsets", "apps"),
        ("services", ""),
        ("secrets", ""),
        ("roles", "rbac.authorization.k8s.io"),
        ("clusterroles", "rbac.authorization.k8s.io"),
        ("clusterrolebindings", "rbac.authorization.k8s.io"),
    ):
        assert not [name for name in cluster.objects(plural, group) if "warmfleet" in name], plural
