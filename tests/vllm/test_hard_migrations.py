"""Migrations that go wrong: the leaving engine is killed while survivors pull from it, or the survivor is.

Nobody finds half a block, nobody waits longer than a request may, and the worker that leaves is gone in time.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Start, soak_only
from real_worker import REQUEST_TIMEOUT, RealWorker
from requests_to import prompt
from warmfleet_contracts.agent import DrainReport, Strategy
from warmfleet_runtime.openmetrics import parse

PROMPTS = 24
PULLED = "vllm:nixl_bytes_transferred_sum"

pytestmark = [pytest.mark.timeout(1500), soak_only]


def topics(name: str) -> list[str]:
    return [f"{name} {i}" for i in range(PROMPTS)]


def answers(worker: RealWorker, name: str) -> dict[str, str]:
    """Answers by topic; no two of them share a block."""
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(topics(name), pool.map(lambda t: worker.complete(prompt(t)), topics(name)), strict=True))


def pulled(worker: RealWorker) -> float:
    """Bytes that an engine has got out of others' memory."""
    return parse(worker.metrics(), wanted=[PULLED]).total(PULLED) or 0.0


def report_of(worker: RealWorker, seconds: float) -> DrainReport:
    drain = worker.wait_drained(seconds).drain
    assert drain is not None
    assert drain.report is not None
    return drain.report


@pytest.fixture(scope="module")
def pair(start: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[RealWorker, RealWorker]:
    """A worker that leaves, and the one that is to get its cache; neither stores anything."""
    kv_cache = {"handover": ["migrate"], "tiers": [], "drainDeadline": "2m"}
    leaving, heir = (start(name, Path(tmp_path_factory.mktemp(name)), kv_cache=kv_cache) for name in ("gone", "heir2"))
    return leaving.wait_ready(), heir.wait_ready()


def test_a_survivor_whose_source_is_killed_answers_as_if_nothing_had_been(pair: tuple[RealWorker, RealWorker]) -> None:
    leaving, heir = pair
    expected = answers(leaving, "killed")
    leaving.drain(120, Strategy.MIGRATE, endpoint=heir.url)
    leaving.until(lambda: pulled(heir) > 0, 60, "nothing is pulled")
    leaving.kill()
    report = report_of(leaving, 60)
    assert report.partial, report
    assert report.kept_tokens < PROMPTS * len(prompt("x")), "the hand-over had ended before the kill: it proves nothing"
    began = time.monotonic()
    assert answers(heir, "killed") == expected
    assert time.monotonic() - began < REQUEST_TIMEOUT
    leaving.stop()


def test_a_worker_whose_survivor_is_killed_reports_and_leaves_in_time(
    pair: tuple[RealWorker, RealWorker], start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _, heir = pair
    kv_cache = {"handover": ["migrate"], "tiers": [], "drainDeadline": "2m"}
    leaving = start("alone", Path(tmp_path_factory.mktemp("alone")), kv_cache=kv_cache).wait_ready()
    answers(leaving, "alone")
    before = pulled(heir)
    leaving.drain(120, Strategy.MIGRATE, endpoint=heir.url)
    leaving.until(lambda: pulled(heir) > before, 60, "nothing is pulled")
    killing = threading.Thread(target=heir.kill)
    killing.start()
    report = report_of(leaving, 120)
    killing.join(10)
    assert report.partial, report
    assert report.aborted_requests == 0
    assert report.dropped_tokens > 0
    assert report.message
    assert leaving.complete(prompt("still there", 100)), "it serves whoever comes late"
    assert leaving.terminate() == 0, "what nobody came for held its exit up"
