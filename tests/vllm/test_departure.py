"""A worker's whole life on a real vLLM: it serves, is watched, leaves without being missed, and its cache stays."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import contract
import pytest
from conftest import Start
from contract import replayed
from handed_over import HandedOver, record
from real_worker import BLOCK, BLOCK_BYTES, KV_CACHE_BYTES, SHUTDOWN_SECONDS, RealWorker, blocks_on_disk
from requests_to import Stream, prompt
from warmfleet_contracts.agent import AgentState, Phase, Strategy
from warmfleet_runtime.openmetrics import parse

TOPICS = [f"topic {i}" for i in range(12)]
STREAMED = 800
EXTERNAL_HITS = "vllm:external_prefix_cache_hits_total"
EXTERNAL_QUERIES = "vllm:external_prefix_cache_queries_total"

pytestmark = pytest.mark.timeout(600)


class Departed:
    """What worker A left behind.

    Attributes:
        texts: Its answers by topic.
        metrics: Its exposition after some load.
        events: Its KV events until then.
        torn: Its answer to one more prompt, and the files of that prompt's blocks.
        state: The agent's last word.
        exit_code: The engine's.
        stored_bytes: Size of all blocks in the store after its exit.
        stream: The stream that was in flight when the drain began.
        ready: Workers that were ready then.
        elsewhere: The answer to a new request that came then.
    """

    def __init__(self, worker: RealWorker, survivor: RealWorker, claim: Path) -> None:
        self.texts = {topic: worker.complete(prompt(topic)) for topic in TOPICS}
        worker.until(lambda: caught_up(worker), 60, "the agent has not seen the requests end")
        self.serving = worker.state()
        before = set(claim.rglob("*.bin"))
        self.torn = (worker.complete(prompt("a torn page")), set[Path]())
        worker.until(lambda: len(set(claim.rglob("*.bin")) - before) >= len(prompt("")) // BLOCK, 60, "not stored")
        self.torn[1].update(set(claim.rglob("*.bin")) - before)
        self.metrics = worker.metrics()
        self.events = replayed(f"ipc://{worker.run}/kv-replay")
        self.stream = Stream()
        thread = self.stream.follow(worker, prompt("a long story", 100), STREAMED)
        worker.until(lambda: self.stream.chunks > 5, 60, "no token")
        worker.drain(60)
        self.phases = [worker.state().phase]
        self.readiness = worker.readyz()
        # As a Service does: a new request goes to whoever is ready.
        self.ready = [one.name for one in (worker, survivor) if one.readyz() == 200]
        self.elsewhere = survivor.complete("somebody new", 4)
        self.in_flight = not self.stream.done
        self.state = worker.wait_drained(90)
        began = time.monotonic()
        self.exit_code = worker.terminate()
        self.exit_seconds = time.monotonic() - began
        self.stored_bytes = sum(path.stat().st_size for path in claim.rglob("*.bin"))
        thread.join(60)
        self.readiness_after = worker.readyz()


@pytest.fixture(scope="module")
def departed(start: Start, claim: Path, survivor: RealWorker) -> Departed:
    """Worker A after its departure; the survivor has served nothing yet."""
    worker = start("a", claim)
    survivor.wait_ready()
    return Departed(worker.wait_ready(), survivor, claim)


def test_the_agent_reads_a_real_engine(departed: Departed) -> None:
    seen: AgentState = departed.serving
    assert seen.phase is Phase.SERVING
    assert seen.engine.ready
    assert (seen.engine.running, seen.engine.waiting) == (0, 0)
    assert seen.engine.kv_capacity_tokens == KV_CACHE_BYTES // BLOCK_BYTES * BLOCK
    assert seen.counters is not None
    assert seen.counters.requests == len(TOPICS)
    assert seen.counters.failed_requests == seen.counters.rejected_requests == 0
    assert seen.counters.prompt_tokens == sum(len(prompt(t)) for t in TOPICS)
    assert seen.counters.generation_tokens == 8 * len(TOPICS)
    assert seen.latency is not None
    assert seen.latency.ttft_count == len(TOPICS)
    assert seen.engine.ready_after_seconds is not None
    assert seen.engine.ready_after_seconds > 1


def test_metrics_and_events_are_those_that_were_recorded(departed: Departed) -> None:
    contract.check("metrics", contract.metric_facts(departed.metrics))
    contract.check("events", contract.event_facts(departed.events))


def test_a_stream_in_flight_completes_and_readiness_goes_first(departed: Departed) -> None:
    stream = departed.stream
    assert departed.phases == [Phase.UNROUTING]
    assert departed.readiness == departed.readiness_after == 503
    assert departed.in_flight, "the stream had ended before the drain: it proves nothing"
    assert (stream.tokens, stream.finish_reason, stream.done, stream.error) == (STREAMED, "length", True, "")


def test_a_new_request_during_the_drain_goes_elsewhere(departed: Departed) -> None:
    assert departed.ready == ["survivor"]
    assert departed.elsewhere
    assert departed.in_flight
    assert departed.state.counters is not None
    # The prompts, the torn page and the stream: nobody else came.
    assert departed.state.counters.requests == len(TOPICS) + 2


def test_the_engine_exits_by_itself_within_its_grace(departed: Departed) -> None:
    assert departed.exit_code == 0
    assert departed.exit_seconds < SHUTDOWN_SECONDS


def test_the_hand_over_is_acknowledged_block_by_block(departed: Departed, claim: Path) -> None:
    assert departed.state.drain is not None
    report = departed.state.drain.report
    assert report is not None
    assert (report.strategy, report.partial, report.aborted_requests) == (Strategy.STORE, False, 0), report
    full = sum((len(prompt(t)) + 7) // BLOCK for t in [*TOPICS, "a torn page"]) + (100 + STREAMED - 1) // BLOCK
    assert report.dropped_tokens == 0
    assert report.kept_tokens == full * BLOCK
    assert blocks_on_disk(claim) >= full


def test_another_worker_finds_the_whole_cache(departed: Departed, survivor: RealWorker) -> None:
    assert counts(survivor)[EXTERNAL_HITS] == 0, "the survivor has seen something before"
    with ThreadPoolExecutor(4) as pool:
        texts = dict(zip(TOPICS, pool.map(lambda t: survivor.complete(prompt(t)), TOPICS), strict=True))
    assert texts == departed.texts
    full = sum(len(prompt(t)) // BLOCK * BLOCK for t in TOPICS)
    hits = counts(survivor)[EXTERNAL_HITS]
    assert hits >= 0.99 * full, f"{hits:.0f} of {full} tokens"
    assert departed.state.drain is not None
    report = departed.state.drain.report
    assert report is not None
    record(
        HandedOver(
            strategy=report.strategy.value,
            connector="OffloadingConnector, fs tier",
            prompts=len(TOPICS) + 2,
            blocks=report.kept_tokens // BLOCK,
            kept_tokens=report.kept_tokens,
            dropped_tokens=report.dropped_tokens,
            moved_bytes=departed.stored_bytes,
            drain_seconds=round(report.seconds, 1),
            full_tokens=full,
            hit_tokens=int(hits),
            hits="external",
        )
    )


def test_a_torn_block_is_computed_again(departed: Departed, survivor: RealWorker) -> None:
    """A node that loses power can leave a file that is too short, in spite of the rename."""
    text, files = departed.torn
    for path in sorted(files)[::3]:
        path.write_bytes(path.read_bytes()[:1000])
    assert survivor.complete(prompt("a torn page")) == text


def counts(worker: RealWorker) -> dict[str, float]:
    """The engine's prefix cache counters."""
    wanted = (EXTERNAL_HITS, EXTERNAL_QUERIES)
    samples = parse(worker.metrics(), wanted=wanted)
    return {name: samples.total(name) or 0.0 for name in wanted}


def caught_up(worker: RealWorker) -> bool:
    """Whether the agent's last look came after the last request."""
    seen = worker.state()
    return seen.engine.running == 0 and seen.counters is not None and seen.counters.requests >= len(TOPICS)
