"""What the worker's agent costs: memory, CPU share, speed and size of its block index, length of an idle drain.

Speeds and shares are taken in CPU time, which other work on the machine hardly changes; only the idle drain is wall
time, and the machine's load is printed beside it. All figures but the index's are of a real agent process.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import zmq
import zmq.asyncio
from aiohttp import web
from marked import write_between
from warmfleet_worker.kv.chains import HotChains
from warmfleet_worker.kv.events import decode
from warmfleet_worker.kv.index import BlockIndex

HOST = "127.0.0.1"
BLOCKS = 1_000_000
METRIC_LINES = 1_000
EVENTS_PER_SECOND = 2_000
SHARE_SECONDS = 25.0
DRAINS = 3
BLOCK_TOKENS = 16
_TICKS = os.sysconf("SC_CLK_TCK")


BEGIN, END = "<!-- agent's cost: written by bench/worker.py --page -->", "<!-- end of agent's cost -->"
ROWS = {
    "rss_mb": ("resident memory without an index", "{:.0f} MB", 60.0),
    "cpu_share": (
        f"share of a core at {METRIC_LINES:,} metric lines per 5 s and {EVENTS_PER_SECOND:,} block events/s",
        "{:.1%}",
        0.04,
    ),
    "index_events_per_s": ("block events per CPU second, decoding included", "{:,.0f}", 150_000.0),
    "index_mb_per_1m_blocks": (
        "memory of 1,000,000 blocks, with the token ids of the hot ones",
        "{:.0f} MB",
        300.0,
    ),
    "drain_idle_s": ("drain of an idle worker, beyond propagation and the engine's own exit", "{:.2f} s", 1.0),
}
"""Figure -> (what it is, how it is written, its target); all but the events are to be at most their target."""


def main() -> None:
    """Measure, print each figure with its spread, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, help="page whose table is written")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    speeds, megabytes = index_figures()
    rss, shares, drains = asyncio.run(agent_figures())
    print(f"machine: {platform.machine()}, {os.cpu_count()} CPUs, load average {before:.1f} at the start")
    show("index, block events per CPU second, decoding included", speeds, "{:,.0f}")
    print(f"index, MB per 1,000,000 blocks with the tokens of the hot ones: {megabytes:.0f}")
    show("agent without index, MB resident", rss, "{:.1f}")
    text = f"agent at {METRIC_LINES} metric lines per 5 s and {EVENTS_PER_SECOND} block events/s, share of a core"
    show(text, shares, "{:.2%}")
    show("drain of an idle worker, s beyond propagation", drains, "{:.2f}")
    figures = {
        "rss_mb": round(statistics.median(rss), 1),
        "cpu_share": round(statistics.median(shares), 4),
        "index_events_per_s": round(statistics.median(speeds)),
        "index_mb_per_1m_blocks": round(megabytes, 1),
        "drain_idle_s": round(statistics.median(drains), 3),
    }
    if options.page is not None:
        machine = f"{platform.machine()}, {os.cpu_count()} CPUs, load average {before:.1f} at the start"
        write_page(figures, machine, options.page)
    print(json.dumps(figures))


def write_page(figures: dict[str, float], machine: str, page: Path) -> None:
    """Put the figures between the markers of a page.

    Raises:
        ValueError: The page has no such markers.
    """
    lines = [f"Machine: {machine}. Medians.", "", "| figure | measured | target | |", "|---|---|---|---|"]
    for name, (what, form, target) in ROWS.items():
        least = name == "index_events_per_s"
        met = figures[name] >= target if least else figures[name] <= target
        bound = f"at {'least' if least else 'most'} {form.format(target)}"
        lines.append(f"| {what} | {form.format(figures[name])} | {bound} | {'met' if met else '**missed**'} |")
    write_between(page, BEGIN, END, "\n".join(lines))


def show(what: str, values: list[float], form: str) -> None:
    """One line: median and spread."""
    low, mid, high = (form.format(f(values)) for f in (min, statistics.median, max))
    print(f"{what}: median {mid}, from {low} to {high}, n = {len(values)}")


# -- the index ---------------------------------------------------------------------------------------------------------


def batches(blocks: int, seed: int = 1) -> Iterator[tuple[int, bytes]]:
    """Batches as vLLM writes them: prompts, their continuations and answers, block by block.

    Args:
        blocks: How many blocks are stored in all.
        seed: Of the random parts.

    Yields:
        (block events in it, payload).
    """
    rng = random.Random(seed)
    parents: list[bytes] = []
    made, at = 0, 1e9
    while made < blocks:
        events = []
        count = 0
        for _ in range(8):
            length = min(rng.choice([1, 1, 1, 4, 32, 64]), blocks - made - count)
            if length <= 0:
                break
            hashes = [rng.randbytes(32) for _ in range(length)]
            parent = rng.choice(parents) if parents and rng.random() < 0.7 else None
            events.append(_stored(hashes, parent, [rng.randrange(150_000) for _ in range(BLOCK_TOKENS * length)]))
            parents = [*parents[-999:], hashes[-1]]
            count += length
        made += count
        at += 0.02
        yield count, msgspec.msgpack.encode([at, events, 0])


def _stored(hashes: list[bytes], parent: bytes | None, tokens: list[int]) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": parent,
        "token_ids": tokens,
        "block_size": BLOCK_TOKENS,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None] * len(hashes),
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }


def index_figures() -> tuple[list[float], float]:
    """(block events per CPU second by tenth of the blocks, MB of the full index)."""
    index = BlockIndex()
    chains = HotChains(index)
    gc.collect()
    empty = resident_mb("self")
    speeds, used, count = [], 0.0, 0
    for events, payload in batches(BLOCKS):
        began = time.process_time()
        batch = decode(payload)
        index.take(batch)
        chains.take(batch)
        used += time.process_time() - began
        count += events
        if count >= BLOCKS // 11:
            speeds.append(count / used)
            used, count = 0.0, 0
    del batch
    gc.collect()
    if len(index) != BLOCKS:
        raise AssertionError(f"the index has {len(index)} blocks, not {BLOCKS}")
    return speeds, resident_mb("self") - empty


def resident_mb(pid: int | str) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_seconds(pid: int) -> float:
    """CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


# -- the agent ---------------------------------------------------------------------------------------------------------


class IdleEngine:
    """What an agent sees of an engine: health, models, an exposition of METRIC_LINES lines, and KV events."""

    def __init__(self) -> None:
        self._runner: web.AppRunner | None = None
        self.url = ""
        self._metrics = exposition()

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_get("/health", lambda _: _text(""))
        app.router.add_get("/v1/models", lambda _: _text('{"data":[{"id":"m"}]}'))
        app.router.add_get("/metrics", lambda _: _text(self._metrics))
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()


async def _text(body: str) -> web.Response:
    return web.Response(text=body)


def exposition() -> str:
    """METRIC_LINES lines as vLLM's: what the agent reads, and histograms and counters that it does not."""
    lines = ["vllm:num_requests_running 0.0", "vllm:num_requests_waiting 0.0", "vllm:kv_cache_usage_perc 0.0"]
    lines += ['vllm:cache_config_info{block_size="16",num_gpu_blocks="60000"} 1.0']
    for name in ("time_to_first_token_seconds", "request_time_per_output_token_seconds", "e2e_request_latency_seconds"):
        buckets = [0.001 * 1.4**i for i in range(30)]
        lines += [f'vllm:{name}_bucket{{engine="0",le="{le:.4g}",model_name="m"}} 17.0' for le in buckets]
        lines += [f'vllm:{name}_bucket{{engine="0",le="+Inf",model_name="m"}} 17.0']
    number = 0
    while len(lines) < METRIC_LINES:
        lines.append(f'vllm:other_total{{engine="0",model_name="m",reason="r{number}"}} {number}.0')
        number += 1
    return "\n".join(lines) + "\n"


class Agent:
    """One agent process.

    Args:
        engine: URL of its engine.
        env: Further settings.
    """

    def __init__(self, engine: str, **env: str) -> None:
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        settings = {
            "WARMFLEET_POD_UID": "u",
            "WARMFLEET_POD_IP": HOST,
            "WARMFLEET_AGENT_PORT": str(port),
            "WARMFLEET_ENGINE_URL": engine,
            **env,
        }
        argv = [sys.executable, "-m", "warmfleet_worker"]
        self.process = subprocess.Popen(argv, env={**os.environ, **settings}, stderr=subprocess.DEVNULL)

    async def ready(self, http: aiohttp.ClientSession) -> None:
        """Wait until it serves."""
        for _ in range(600):
            try:
                async with http.get(f"{self.url}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
        raise TimeoutError("the agent is not ready after a minute")

    async def state(self, http: aiohttp.ClientSession) -> dict[str, Any]:
        """What it says."""
        async with http.get(f"{self.url}/v1/state") as answer:
            return dict(await answer.json())

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


def free_port() -> int:
    """A free TCP port of this machine."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


async def agent_figures() -> tuple[list[float], list[float], list[float]]:
    """(MB resident without index, shares of a core under load, seconds of idle drains beyond propagation)."""
    engine = IdleEngine()
    await engine.start()
    try:
        async with aiohttp.ClientSession() as http:
            rss, drains = [], []
            for _ in range(DRAINS):
                memory, seconds = await _idle(engine.url, http)
                rss.append(memory)
                drains.append(seconds)
            return rss, await _loaded(engine.url, http), drains
    finally:
        await engine.stop()


async def _idle(engine: str, http: aiohttp.ClientSession) -> tuple[float, float]:
    agent = Agent(engine)
    try:
        await agent.ready(http)
        await asyncio.sleep(5.0)
        memory = resident_mb(agent.process.pid)
        body = {"reason": "LowestKvValue", "deadlineSeconds": 60.0}
        async with http.post(f"{agent.url}/v1/drain", json=body):
            began = time.monotonic()
        while (await agent.state(http))["phase"] != "Drained":  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.02)
        return memory, time.monotonic() - began - PROPAGATION
    finally:
        agent.stop()


PROPAGATION = 2.0
"""The agent's default."""


async def _loaded(engine: str, http: aiohttp.ClientSession) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/events"
        context = zmq.asyncio.Context()
        publisher = context.socket(zmq.PUB)
        publisher.bind(endpoint)
        settings = {"WARMFLEET_KV_EVENTS": endpoint, "WARMFLEET_POLL_SECONDS": "5", "WARMFLEET_HANDOVER": "replay"}
        agent = Agent(engine, **settings)
        try:
            await agent.ready(http)
            await asyncio.sleep(2.0)
            return await _shares(agent, publisher, http)
        finally:
            agent.stop()
            context.destroy(linger=0)


async def _shares(agent: Agent, publisher: zmq.asyncio.Socket, http: aiohttp.ClientSession) -> list[float]:
    """CPU time over wall time, in five parts; the operator asks for the state every 5 s."""
    part = SHARE_SECONDS / 5
    prepared = [*batches(int(EVENTS_PER_SECOND * SHARE_SECONDS * 1.2))]
    shares, sent, number = [], 0, 0
    started = mark = time.monotonic()
    used = cpu_seconds(agent.process.pid)
    while prepared and len(shares) < 5:
        while prepared and sent <= (time.monotonic() - started) * EVENTS_PER_SECOND:
            events, payload = prepared.pop(0)
            await publisher.send_multipart([b"kv", number.to_bytes(8, "big"), payload])
            sent, number = sent + events, number + 1
        await asyncio.sleep(0.02)
        if (now := time.monotonic()) >= mark + part:
            await agent.state(http)
            spent = cpu_seconds(agent.process.pid)
            shares.append((spent - used) / (now - mark))
            mark, used = now, spent
    held = (await agent.state(http))["kv"]["heldTokens"]
    if held < 0.95 * sent * BLOCK_TOKENS:
        raise AssertionError(f"the agent has seen {held // BLOCK_TOKENS} of {sent} blocks")
    return shares


if __name__ == "__main__":
    main()
