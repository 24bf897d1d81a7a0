"""Departures whose cache goes to a survivor at once: by migrate, which it pulls, and by replay, which it computes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Start
from handed_over import HandedOver, record
from real_worker import BLOCK, BLOCK_BYTES, RealWorker
from requests_to import Stream, prompt
from warmfleet_contracts.agent import DrainReport, Strategy
from warmfleet_runtime.openmetrics import parse

PROMPTS = 12
STREAMED = 300
LOCAL, EXTERNAL = "vllm:prefix_cache_hits_total", "vllm:external_prefix_cache_hits_total"
PULLED = "vllm:nixl_bytes_transferred_sum"
FULL = PROMPTS * (len(prompt("x")) // BLOCK) * BLOCK

pytestmark = pytest.mark.timeout(900)

Begin = Callable[..., RealWorker]


def topics(name: str) -> list[str]:
    return [f"{name} {i}" for i in range(PROMPTS)]


def answers(worker: RealWorker, name: str) -> dict[str, str]:
    """Answers by topic; no two of them share a block."""
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(topics(name), pool.map(lambda t: worker.complete(prompt(t)), topics(name)), strict=True))


def figures(worker: RealWorker) -> dict[str, float]:
    samples = parse(worker.metrics(), wanted=(LOCAL, EXTERNAL, PULLED))
    return {name: samples.total(name) or 0.0 for name in (LOCAL, EXTERNAL, PULLED)}


@pytest.fixture(scope="module")
def begin(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Begin:
    """Starts workers that share no storage."""

    def one(name: str, **kv_cache: object) -> RealWorker:
        folder: Path = tmp_path_factory.mktemp(f"claim-{name}")
        return start(name, folder, kv_cache={"drainDeadline": "2m", **kv_cache})

    return one


@pytest.fixture(scope="module")
def heir(begin: Begin) -> RealWorker:
    """The worker that stays; it stores as well, in a place of its own."""
    return begin("heir", handover=["store", "migrate"])


def leave(worker: RealWorker, heir: RealWorker, strategy: Strategy) -> tuple[DrainReport, int, Stream]:
    """Drain and end a worker while it still answers somebody; its report, the engine's exit code, and the answer."""
    stream = Stream()
    reader: threading.Thread = stream.follow(worker, prompt("a story", 100), STREAMED)
    worker.until(lambda: stream.chunks > 5, 60, "no token")
    worker.drain(120, strategy, endpoint=heir.url)
    drain = worker.wait_drained(150).drain
    reader.join(60)
    assert drain is not None
    assert drain.report is not None
    return drain.report, worker.terminate(), stream


CASES = [
    (Strategy.MIGRATE, "NixlConnector and OffloadingConnector", {"handover": ["store", "migrate"]}),
    (Strategy.REPLAY, "no connector", {"handover": ["replay"], "tiers": []}),
]


@pytest.mark.parametrize(("strategy", "connector", "kv_cache"), CASES, ids=["migrate", "replay"])
def test_users_find_the_prefixes_in_the_survivors_own_memory(
    strategy: Strategy, connector: str, kv_cache: dict[str, object], begin: Begin, heir: RealWorker
) -> None:
    worker = begin(strategy.value, **kv_cache)
    heir.wait_ready()
    expected = answers(worker.wait_ready(), strategy.value)
    held = PROMPTS * ((len(prompt("x")) + 7) // BLOCK) + (100 + STREAMED - 1) // BLOCK
    worker.until(lambda: (kv := worker.state().kv) is not None and kv.held_tokens >= (held - 13) * BLOCK, 30, "events")
    before = figures(heir)
    report, code, stream = leave(worker, heir, strategy)
    worker.stop()
    assert code == 0
    assert (stream.tokens, stream.finish_reason, stream.done) == (STREAMED, "length", True)
    assert (report.strategy, report.partial, report.aborted_requests) == (strategy, False, 0), report
    assert (report.kept_tokens, report.dropped_tokens) == (held * BLOCK, 0), report
    between = figures(heir)
    assert answers(heir, strategy.value) == expected
    after = figures(heir)
    hits = after[LOCAL] - between[LOCAL]
    assert hits >= 0.99 * FULL, f"{hits:.0f} of {FULL} tokens"
    moved = int(between[PULLED] - before[PULLED])
    assert (moved >= held * BLOCK_BYTES) if strategy is Strategy.MIGRATE else (moved == 0)
    record(
        HandedOver(
            strategy=strategy.value,
            connector=connector,
            prompts=PROMPTS + 1,
            blocks=held,
            kept_tokens=report.kept_tokens,
            dropped_tokens=report.dropped_tokens,
            moved_bytes=moved,
            drain_seconds=round(report.seconds, 1),
            full_tokens=FULL,
            hit_tokens=int(hits),
            hits="local",
        )
    )
