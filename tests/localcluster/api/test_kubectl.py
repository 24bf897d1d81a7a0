"""The real kubectl against the embedded API."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from warmfleet_localcluster.api import write_kubeconfig

REPOSITORY = Path(__file__).resolve().parents[3]


class Kubectl:
    def __init__(self, binary: str, config: Path) -> None:
        self._binary = binary
        self._env = {**os.environ, "KUBECONFIG": str(config), "HOME": str(config.parent)}

    async def start(self, *args: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            self._binary,
            *args,
            env=self._env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def fails(self, *args: str, stdin: object = None) -> str:
        return await self._run(args, stdin, want_success=False)

    async def __call__(self, *args: str, stdin: object = None) -> str:
        return await self._run(args, stdin, want_success=True)

    async def _run(self, args: tuple[str, ...], stdin: object, *, want_success: bool) -> str:
        process = await self.start(*args)
        raw = yaml.safe_dump(stdin).encode() if stdin is not None else None
        output = (await asyncio.wait_for(process.communicate(raw), 20))[0].decode()
        assert (process.returncode == 0) == want_success, f"kubectl {' '.join(args)}: {output}"
        return output


@pytest.fixture
def kubectl(client, tmp_path, require_real) -> Kubectl:
    binary = shutil.which("kubectl")
    if binary is None:
        message = "kubectl is not on PATH: the embedded API was NOT tried with the real client"
        if require_real:
            pytest.fail(message)
        pytest.skip(message)
    return Kubectl(binary, write_kubeconfig(tmp_path / "config", client.url))


async def test_a_custom_resource_from_apply_to_delete(kubectl, make_crd, make_widget):
    assert "created" in await kubectl("apply", "-f", "-", stdin=make_crd())
    await kubectl("wait", "--for=condition=Established", "crd/widgets.example.dev", "--timeout=5s")
    assert "created" in await kubectl("apply", "-f", "-", stdin=make_widget("w", replicas=2))
    assert "configured" in await kubectl("apply", "-f", "-", stdin=make_widget("w", replicas=2, colour="blue"))
    assert "unchanged" in await kubectl("apply", "-f", "-", stdin=make_widget("w", replicas=2, colour="blue"))
    table = (await kubectl("get", "wd")).splitlines()
    assert table[0].split() == ["NAME", "SIZE", "AGE"]
    assert table[1].split()[:2] == ["w", "small"]
    assert "Colour:    blue" in await kubectl("describe", "wd", "w")
    assert "What is wanted." in await kubectl("explain", "wd.spec")
    await kubectl("scale", "wd/w", "--replicas=4")
    assert await kubectl("get", "wd/w", "-o", "jsonpath={.spec.replicas}") == "4"
    refusal = await kubectl.fails("patch", "wd/w", "--type=merge", "-p", '{"spec":{"size":"large"}}')
    assert 'spec: Invalid value: "object": size is immutable' in refusal
    strict = await kubectl.fails("apply", "-f", "-", stdin=make_widget("v", typo=1))
    assert 'unknown field "spec.typo"' in strict
    await kubectl("delete", "wd/w", "--timeout=5s")


async def test_the_projects_own_definitions_are_accepted(kubectl):
    folder = REPOSITORY / "crds"
    if not list(folder.glob("*.yaml")):
        pytest.skip("the definitions have not been generated")
    applied = await kubectl("apply", "--server-side", "-f", str(folder))
    assert applied.count("serverside-applied") == len(list(folder.glob("*.yaml")))


async def test_everyday_commands(kubectl, pod):
    await kubectl("create", "namespace", "team")
    await kubectl("-n", "team", "create", "configmap", "c", "--from-literal=a=b")
    await kubectl("apply", "-f", "-", stdin=pod("p"))
    assert (await kubectl("get", "pods")).splitlines()[1].split()[:4] == ["p", "0/1", "Pending", "0"]
    await kubectl("label", "pod", "p", "tier=gold")
    await kubectl("annotate", "pod", "p", "note=x")
    image = json.dumps({"spec": {"containers": [{"name": "main", "image": "engine:2"}]}})
    await kubectl("patch", "pod", "p", "-p", image)
    assert await kubectl("get", "pod", "p", "-o", "jsonpath={.spec.containers[0].image}") == "engine:2"
    assert "tier=gold" in await kubectl("describe", "pod", "p")
    assert (await kubectl("auth", "can-i", "delete", "pods")).strip() == "yes"
    await kubectl("delete", "pod", "p", "--timeout=5s")
    await kubectl("delete", "namespace", "team", "--timeout=5s")
    assert "team" not in await kubectl("get", "namespaces")


async def test_get_watch_prints_rows_as_they_change(kubectl, client, pod):
    pods = "/api/v1/namespaces/default/pods"
    await client.made(pods, pod("p", node="n1"))
    process = await kubectl.start("get", "pods", "-w")
    try:
        rows = [await asyncio.wait_for(process.stdout.readline(), 10) for _ in range(2)]
        await client.patch(f"{pods}/p/status", {"status": {"phase": "Running"}})
        rows.append(await asyncio.wait_for(process.stdout.readline(), 5))
    finally:
        process.terminate()
        await process.communicate()
    assert [row.split()[2].decode() for row in rows] == ["STATUS", "Pending", "Running"]
