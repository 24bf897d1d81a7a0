"""Advice: what would be done is reported with its money, nothing is done; the program's looks at a live fleet."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from world import World, deployment, eventually, instance_type


async def warmfleet(world: World, *arguments: str) -> str:
    """Output of the program."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "warmfleet_cli",
        *arguments,
        "--kubeconfig",
        str(world.kubeconfig),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def test_advice_leaves_the_fleet_alone_and_says_what_it_would_save(running: World) -> None:
    quick = {"scaleDown": {"stabilizationWindow": "10s"}}
    await running.apply(instance_type(), deployment(scaling={"min": 2, "max": 4, **quick}))
    before = {pod["metadata"]["uid"] for pod in await running.until_ready(2)}
    await running.apply(deployment(scaling={"mode": "Advisory", "min": 1, "max": 4, **quick}))
    await running.until_condition("ScalingActive", "False", "Advisory")

    async def advised() -> dict[str, Any] | None:
        status = await running.status()
        return status if status["desiredReplicas"] == 1 else None

    status = await eventually(advised, "advice of one worker", seconds=40)
    assert status["savedPerHour"] == 6.88
    assert status["scaling"]["message"].startswith("advice, nothing is done: ")
    await asyncio.sleep(running.clock.real(60))
    assert {pod["metadata"]["uid"] for pod in await running.ready_workers()} == before

    (row,) = json.loads(await warmfleet(running, "status", "-o", "json"))
    assert (row["ready"], row["desired"], row["mode"], row["savedPerHour"]) == (2, 1, "Advisory", 6.88)
    assert "default/chat" in await warmfleet(running, "status", "-A")
    chain = json.loads(await warmfleet(running, "explain", "chat", "-o", "json"))
    stages = [step["stage"] for step in chain["trace"]]
    assert stages[0] == "Demand"
    assert {"Capacity", "Blend", "Mix", "Limits", "Victims"} <= set(stages)
    file = running.folder / "snapshot.json"
    await warmfleet(running, "snapshot", "--file", str(file))
    taken = json.loads(file.read_text())
    assert taken["memory"]["default/chat"]["desired"] is not None
    (plan,) = json.loads(await asyncio.to_thread(file_plan, str(file)))
    assert (plan["now"], plan["acts"]) == (2, False)


def file_plan(path: str) -> str:
    """What the program plans on a file."""
    import subprocess

    command = [sys.executable, "-m", "warmfleet_cli", "plan", "--snapshot", path, "-o", "json"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
