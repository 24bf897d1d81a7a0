"""Departures that go wrong: storage that is too slow, engines and agents that die in the middle of a hand-over.

Whatever happens, the worker that stays answers as before, and what is reported as kept is there.
"""

from __future__ import annotations

import signal
import time
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import contract
import pytest
from conftest import SOAK, Start, soak_only
from real_worker import BLOCK, REQUEST_TIMEOUT, RealWorker, blocks_on_disk
from requests_to import Stream, prompt
from warmfleet_contracts.agent import DrainReport, Phase
from warmfleet_runtime.openmetrics import parse

PROMPTS = 8
STREAMED = 800
HOT = "everybody asks this"
LOCAL_HITS = "vllm:prefix_cache_hits_total"
FULL = PROMPTS * (len(prompt("x")) // BLOCK)

POINTS = (0, 40, 200) if not SOAK else (0, 1, 17, 40, 66, 101, 136, 200, 239, 266)
"""Blocks that are written when the engine is killed."""
Gated = Callable[..., RealWorker]

pytestmark = pytest.mark.timeout(1500)


def topics(name: str) -> list[str]:
    return [f"{name} {i}" for i in range(PROMPTS)]


def warm(worker: RealWorker, name: str) -> dict[str, str]:
    """Answers by topic; no two of them share a block."""
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(topics(name), pool.map(lambda t: worker.complete(prompt(t)), topics(name)), strict=True))


def report_of(worker: RealWorker, seconds: float) -> DrainReport:
    drain = worker.wait_drained(seconds).drain
    assert drain is not None
    assert drain.report is not None
    return drain.report


def local_hits(worker: RealWorker) -> float:
    """Tokens found in the engine's own memory since its start."""
    return parse(worker.metrics(), wanted=[LOCAL_HITS]).total(LOCAL_HITS) or 0.0


def status_of_request(worker: RealWorker) -> int:
    """Status of a new request."""
    try:
        worker.complete("hello", 1)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def handing_over(worker: RealWorker) -> None:
    worker.until(lambda: worker.state().phase is Phase.HANDING_OVER, 120, "no hand-over")


@pytest.fixture
def gated(start: Start, claim: Path, survivor: RealWorker, tmp_path: Path) -> Iterator[Gated]:
    """Starts the worker that leaves, whose storage writes as many blocks as its gate says, none at first.

    One at a time: on two cores they would only wait for each other. It is gone with its test.
    """
    started: list[RealWorker] = []

    def begin(name: str, *, prewarm: bool = False) -> RealWorker:
        gate = tmp_path / "gate"
        gate.write_text("0")
        started.append(start(name, claim, gate=gate, prewarm=prewarm))
        survivor.wait_ready()
        return started[-1].wait_ready()

    yield begin
    for worker in started:
        worker.stop()


def allow(worker: RealWorker, blocks: int = 1_000_000) -> None:
    """Let the storage write so many blocks in all."""
    assert worker.gate is not None
    partial = worker.gate.with_suffix(".new")
    partial.write_text(str(blocks))
    partial.replace(worker.gate)


@soak_only
def test_a_new_worker_has_the_hot_prompts_before_it_is_ready(gated: Gated, survivor: RealWorker, claim: Path) -> None:
    survivor.wait_ready().complete(prompt(HOT))
    survivor.until(lambda: any(claim.rglob("hot/*.json")), 120, "no note of hot prompts")
    worker = gated("warmed", prewarm=True)
    before = local_hits(worker)
    counted = worker.state().counters
    assert counted is not None
    assert counted.requests == 0, "the agent's own requests count as the users'"
    worker.complete(prompt(HOT))
    assert local_hits(worker) - before >= len(prompt(HOT)) // BLOCK * BLOCK


def written_so_far(worker: RealWorker, claim: Path, before: int, wanted: int) -> None:
    """Have at least ``wanted`` blocks written and then no more."""
    allowed = wanted
    for _ in range(100):
        if (missing := wanted - (blocks_on_disk(claim) - before)) <= 0:
            return
        allow(worker, allowed)
        time.sleep(0.5)
        allowed += min(4, missing)  # some of the writes were of blocks that others had written
    raise AssertionError(f"{missing} of {wanted} blocks are not written{worker.logs()}")


@pytest.mark.parametrize("written", POINTS)
def test_an_engine_killed_in_its_hand_over_leaves_only_whole_blocks(
    written: int, gated: Gated, survivor: RealWorker, claim: Path
) -> None:
    name = f"killed-at-{written}"
    worker = gated(name)
    before = blocks_on_disk(claim)
    expected = warm(worker, name)
    worker.drain(300)
    handing_over(worker)
    written_so_far(worker, claim, before, written)
    worker.kill()
    report = report_of(worker, 60)
    assert report.partial, report
    assert report.dropped_tokens > 0, report
    assert report.kept_tokens <= blocks_on_disk(claim) * BLOCK
    assert written <= blocks_on_disk(claim) - before < FULL, (
        "the hand-over had ended before the kill: it proves nothing"
    )
    began = time.monotonic()
    assert warm(survivor, name) == expected
    assert time.monotonic() - began < REQUEST_TIMEOUT
    # What the killed engine had begun to write does not stand in the survivor's way.
    survivor.until(lambda: blocks_on_disk(claim) - before >= FULL, 60, "the survivor cannot store the lost blocks")


@soak_only
def test_an_engine_whose_agent_dies_still_finishes_and_stores_everything(
    gated: Gated, survivor: RealWorker, claim: Path
) -> None:
    worker = gated("orphaned")
    before = blocks_on_disk(claim)
    expected = warm(worker, "orphaned")
    worker.drain(300)
    handing_over(worker)
    assert worker.agent is not None
    worker.agent.kill()
    worker.agent.wait(10)
    stream = Stream()
    thread = stream.follow(worker, prompt("to the end", 100), STREAMED)
    worker.until(lambda: stream.chunks > 5, 60, "no token")
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(worker.terminate)
        in_flight = not stream.done
        time.sleep(2)
        assert not ending.done()
        facts = {"health": worker.health(), "new request": status_of_request(worker)}
        assert blocks_on_disk(claim) - before < FULL
        allow(worker)
        code = ending.result()
    thread.join(60)
    assert in_flight, "the stream had ended before SIGTERM: it proves nothing"
    assert stream.tokens == STREAMED
    assert (facts, code, stream.done) == ({"health": 200, "new request": 500}, 0, True)
    assert blocks_on_disk(claim) - before >= FULL
    assert warm(survivor, "orphaned") == expected


def test_storage_slower_than_the_deadline_is_reported_and_then_waited_for(
    gated: Gated, survivor: RealWorker, claim: Path
) -> None:
    worker = gated("patient")
    before = blocks_on_disk(claim)
    expected = warm(worker, "patient")
    allow(worker, 70)
    worker.drain(20)
    report = report_of(worker, 60)
    assert report.partial, report
    stored = blocks_on_disk(claim)
    assert report.dropped_tokens > 0
    assert report.kept_tokens >= (stored - before) * BLOCK
    assert "not in the store" in report.message
    late = prompt("too late, and let in", 100)
    stream = Stream()
    thread = stream.follow(worker, late, STREAMED)
    worker.until(lambda: stream.chunks > 5, 60, "no token")
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(worker.terminate)
        in_flight = not stream.done
        time.sleep(1)
        assert worker.engine is not None
        worker.engine.send_signal(signal.SIGTERM)  # a kubelet that was restarted says it again
        time.sleep(1)
        assert not ending.done()
        facts = {"health": worker.health(), "new request": status_of_request(worker)}
        assert blocks_on_disk(claim) - before < FULL
        thread.join(60)
        allow(worker)
        code = ending.result()
    assert in_flight, "the stream had ended before SIGTERM: it proves nothing"
    assert stream.tokens == STREAMED
    contract.check("shutdown", {**facts, "exit code": code, "stream": stream.finish_reason, "ended": stream.done})
    assert blocks_on_disk(claim) - before >= FULL, "the engine's own shutdown does not wait for its writes"
    # What was reported as dropped is what was written only then; the late request came after the report.
    written_later = blocks_on_disk(claim) - stored - (len(late) + STREAMED - 1) // BLOCK
    assert report.dropped_tokens == written_later * BLOCK
    assert warm(survivor, "patient") == expected


@soak_only
def test_a_full_disk_is_a_partial_hand_over_and_the_engine_goes_on(
    gated: Gated, survivor: RealWorker, claim: Path
) -> None:
    worker = gated("crowded")
    before = blocks_on_disk(claim)
    expected = warm(worker, "crowded")
    assert worker.gate is not None
    written_so_far(worker, claim, before, 40)
    worker.gate.write_text("full")
    worker.drain(120)
    report = report_of(worker, 150)
    assert report.partial, report
    assert report.aborted_requests == 0
    assert report.seconds < 100, "what will not come is not waited for to the end"
    assert 40 <= report.kept_tokens // BLOCK <= blocks_on_disk(claim)
    assert "failed" in report.message
    assert worker.complete(prompt("still there", 100))
    assert worker.terminate() == 0
    assert warm(survivor, "crowded") == expected
