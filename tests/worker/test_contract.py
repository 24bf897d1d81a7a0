"""The simulated engine against what was recorded from a real vLLM (``recorded/vllm.json``, by ``make test-vllm``)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import zmq
import zmq.asyncio
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
READ = {"type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "medium", "group_idx"}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "recorded" / "vllm.json").read_text())


def flags(folder: Path) -> list[str]:
    extra = {"cpu_bytes_to_use": 2**30, "secondary_tiers": [{"type": "fs", "root_dir": str(folder / "kv")}]}
    events = {
        "enable_kv_cache_events": True,
        "endpoint": f"ipc://{folder}/e",
        "replay_endpoint": f"ipc://{folder}/r",
    }
    connector = {"kv_connector": "OffloadingConnector", "kv_connector_extra_config": extra}
    return ["--kv-transfer-config", json.dumps(connector), "--kv-events-config", json.dumps(events)]


async def stored(folder: Path) -> None:
    async with asyncio.timeout(10):
        while not any(folder.rglob("*.bin")):  # noqa: ASYNC110, ASYNC240 - files have no events
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.1)


async def test_metrics_have_the_names_types_and_labels(launch, recorded, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("c")
    _, client = await launch(*flags(folder))
    await client.post("/v1/completions", json={"prompt": list(range(64)), "max_tokens": 3})
    await stored(folder)
    text = await (await client.get("/metrics")).text()
    ours = {f.name: f for f in text_string_to_metric_families(text)}
    for name, (kind, labels) in recorded["metrics"].items():
        assert name in ours, name
        assert ours[name].type == kind, name
        assert sorted({key for s in ours[name].samples for key in s.labels} - {"le"}) == labels, name


async def test_events_have_the_fields_and_the_shape(launch, recorded, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("c")
    _, client = await launch(*flags(folder), VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES="0")
    await client.post("/v1/completions", json={"prompt": list(range(64)), "max_tokens": 3})
    await stored(folder)
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(f"ipc://{folder}/r")
    await socket.send_multipart([b"", (0).to_bytes(8, "big")])
    seen = {}
    while True:
        *_, number, payload = await asyncio.wait_for(socket.recv_multipart(), 5)
        if int.from_bytes(number, "big", signed=True) < 0:
            break
        for event in msgspec.msgpack.decode(payload)[1]:
            seen[f"{event['type']}/{event['medium']}"] = event
    context.destroy(linger=0)
    for kind, facts in recorded["events"].items():
        event = seen[kind]
        assert sorted(set(event) & READ) == facts["keys"], kind
        assert type(event["block_hashes"][0]).__name__ == facts["hash"], kind
        assert (len(event["block_hashes"]) > 1) == facts["several"], kind
        each = event["block_size"] * len(event["block_hashes"])
        assert ("block_size each" if each and len(event["token_ids"]) == each else "none") == facts["tokens"], kind


async def test_a_shutdown_looks_the_same_from_outside(recorded, free_port, tmp_path_factory) -> None:
    port, folder = free_port(), tmp_path_factory.mktemp("c")
    packages = os.pathsep.join(str(ROOT / name) for name in ("contracts", "runtime", "worker"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "warmfleet_worker.engines.simulated", "serve", "llama-3.1-8b", "--port", str(port)),
        *("--shutdown-timeout", "600", *flags(folder)),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": packages, "WARMFLEET_CLOCK": "scale=20"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
            await answers(http, f"{url}/health")
            body = {"prompt": list(range(64)), "max_tokens": 5000, "stream": True}
            async with http.post(f"{url}/v1/completions", json=body) as stream:
                await stream.content.readline()
                process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.3)
                facts: dict[str, Any] = {"health": (await http.get(f"{url}/health")).status}
                answer = await http.post(f"{url}/v1/completions", json={"prompt": "x", "max_tokens": 1})
                facts["new request"] = answer.status
                lines = (await stream.read()).decode().splitlines()
            facts["ended"] = "data: [DONE]" in lines
            last = json.loads([line for line in lines if line.startswith("data: {")][-1][6:])
            facts["stream"] = last["choices"][0]["finish_reason"]
            facts["exit code"] = await asyncio.wait_for(process.wait(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert facts == recorded["shutdown"]


async def answers(http: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                if (await http.get(url)).status == 200:
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)
