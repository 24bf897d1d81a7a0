"""Departures that go wrong: storage that is too slow, engines and agents that die in the middle of a hand-over.

Whatever happens, the worker that stays answers as before, and what is reported as kept is there.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Start
from real_worker import BLOCK, RealWorker, blocks_on_disk, prompt
from warmfleet_contracts.agent import DrainReport, Phase

PROMPTS = 8
FULL = PROMPTS * (len(prompt("x")) // BLOCK)

pytestmark = pytest.mark.timeout(600)


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


def handing_over(worker: RealWorker) -> None:
    worker.until(lambda: worker.state().phase is Phase.HANDING_OVER, 30, "no hand-over")


@pytest.fixture(scope="module")
def slow_ones(start: Start, claim: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RealWorker]:
    """Workers whose storage is as slow as their file ``pace`` says; two start at a time."""
    workers = {}
    for names in (("unwritten", "midway"), ("orphaned", "patient")):
        for name in names:
            pace = tmp_path_factory.mktemp(f"pace-{name}") / "pace"
            workers[name] = start(name, claim, pace=pace)
        for name in names:
            workers[name].wait_ready()
    return workers


def slow_down(worker: RealWorker, seconds: float) -> None:
    assert worker.pace is not None
    worker.pace.write_text(str(seconds))


@pytest.mark.parametrize(("name", "pace", "written"), [("unwritten", 600.0, 0), ("midway", 1.0, 2 * (1100 // BLOCK))])
def test_an_engine_killed_in_its_hand_over_leaves_only_whole_blocks(
    name: str, pace: float, written: int, slow_ones: dict[str, RealWorker], survivor: RealWorker, claim: Path
) -> None:
    worker = slow_ones[name]
    slow_down(worker, pace)
    before = blocks_on_disk(claim)
    expected = warm(worker, name)
    worker.drain(120)
    handing_over(worker)
    worker.until(lambda: blocks_on_disk(claim) >= before + written, 60, "nothing is written")
    worker.kill()
    report = report_of(worker, 30)
    assert report.partial, report
    assert report.dropped_tokens > 0, report
    present = blocks_on_disk(claim) - before
    assert written <= present < FULL, "the hand-over had ended before the kill: it proves nothing"
    began = time.monotonic()
    assert warm(survivor, name) == expected
    assert time.monotonic() - began < 60
    # What the killed engine had begun to write does not stand in the survivor's way.
    survivor.until(lambda: blocks_on_disk(claim) - before >= FULL, 30, "the survivor cannot store the lost blocks")


def test_an_engine_whose_agent_dies_still_stores_everything(
    slow_ones: dict[str, RealWorker], survivor: RealWorker, claim: Path
) -> None:
    worker = slow_ones["orphaned"]
    slow_down(worker, 1.0)
    before = blocks_on_disk(claim)
    expected = warm(worker, "orphaned")
    worker.drain(120)
    handing_over(worker)
    assert worker.agent is not None
    worker.agent.kill()
    worker.agent.wait(10)
    assert worker.terminate() == 0
    assert blocks_on_disk(claim) - before >= FULL
    assert warm(survivor, "orphaned") == expected


def test_storage_slower_than_the_deadline_is_reported_and_then_waited_for(
    slow_ones: dict[str, RealWorker], survivor: RealWorker, claim: Path
) -> None:
    worker = slow_ones["patient"]
    slow_down(worker, 2.0)
    before = blocks_on_disk(claim)
    expected = warm(worker, "patient")
    worker.drain(6)
    report = report_of(worker, 30)
    stored_then = (blocks_on_disk(claim) - before) * BLOCK
    assert report.partial, report
    assert 0 < report.dropped_tokens <= FULL * BLOCK
    assert report.kept_tokens + report.dropped_tokens >= FULL * BLOCK
    assert report.kept_tokens <= stored_then
    assert "not in the store" in report.message
    assert worker.terminate() == 0
    assert blocks_on_disk(claim) - before >= FULL, "the engine's own shutdown does not wait for its writes"
    assert warm(survivor, "patient") == expected
