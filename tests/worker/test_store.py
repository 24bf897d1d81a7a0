"""Hand-over by store: the ledger, the folder, and the whole of it against simulated engines that share a folder."""

from __future__ import annotations

import asyncio
import json
import os
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from warmfleet_contracts.agent import Strategy
from warmfleet_runtime.clock import ScaledClock
from warmfleet_runtime.openmetrics import parse
from warmfleet_worker.drain_events import EngineExited, EngineLost, EngineReady, HandoverFinished
from warmfleet_worker.engines.shm import EngineShm
from warmfleet_worker.engines.vllm import VllmEngine
from warmfleet_worker.kv.cache import WorkerCache, build
from warmfleet_worker.kv.events import AllBlocksCleared, Batch, BlockRemoved, BlockStored, raw_tokens
from warmfleet_worker.kv.folder import StoreFolder
from warmfleet_worker.kv.handover import HandoverError
from warmfleet_worker.kv.hot import HALF_LIFE, HEAD_BLOCKS, HEADS, Head, HotHeads
from warmfleet_worker.kv.index import BlockIndex
from warmfleet_worker.kv.prewarm import HotNotes, NotedHead, prewarm
from warmfleet_worker.settings import Settings, SettingsError, settings_from_env

BLOCK = 16
DAY = 86_400.0


def ledger_of(*events: BlockStored | BlockRemoved | AllBlocksCleared) -> BlockIndex:
    ledger = BlockIndex()
    ledger.take(Batch(0.0, list(events)))
    return ledger


def test_a_block_is_missing_until_an_event_says_it_is_stored() -> None:
    ledger = ledger_of(BlockStored([b"a", b"b", b"c"], 16, "GPU", 0), BlockStored([b"a"], 0, "STORAGE", 0))
    assert (ledger.held_tokens, set(ledger.unstored())) == (48, {(b"b", 0), (b"c", 0)})
    ledger.take(Batch(1.0, [BlockStored([b"b"], 0, "CPU", 0), BlockRemoved([b"c"], "GPU", 0)]))
    assert (ledger.held_tokens, ledger.unstored()) == (32, {(b"b", 0): 16})
    ledger.take(Batch(2.0, [BlockStored([b"a", b"b"], 16, "GPU", 1)]))
    assert ledger.held_tokens == 32, "the same tokens in a second group of layers are no new tokens"
    ledger.take(Batch(3.0, [BlockStored([b"a"], 16, "GPU", 0), AllBlocksCleared()]))
    assert (ledger.held_tokens, ledger.unstored()) == (0, {})


def write(folder: Path, space: str, name: str, *, age: float = 0.0, size: int = 100) -> Path:
    path = folder / space / name[:3] / f"{name[3:5]}_g0" / f"{name}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_the_folder_is_asked_in_the_space_of_the_same_configuration(tmp_path: Path) -> None:
    folder = StoreFolder(tmp_path)
    write(tmp_path, "m_aaa_r0", "01" * 32)
    write(tmp_path, "m_bbb_r0", "02" * 32)
    own = folder.spaces(like=(b"\x01" * 32, 0))
    assert [p.name for p in own] == ["m_aaa_r0"]
    keys = [(b"\x01" * 32, 0), (b"\x02" * 32, 0), (b"\x01" * 32, 1), (7, 0)]
    assert folder.present(keys, own) == {keys[0]}
    assert folder.present(keys, folder.spaces()) == {keys[0], keys[1]}


def test_pruning_takes_the_old_then_the_oldest_and_what_killed_engines_left(tmp_path: Path) -> None:
    folder = StoreFolder(tmp_path)
    ages = {"a" * 16: 9 * DAY, "b" * 16: 3 * DAY, "c" * 16: 2 * DAY, "d" * 16: DAY}
    paths = [write(tmp_path, "m_r0", name, age=age) for name, age in ages.items()]
    left_over = paths[3].with_suffix(".bin_123.tmp")
    left_over.write_bytes(b"half")
    os.utime(left_over, (1e9 - DAY, 1e9 - DAY))
    pruned = folder.prune(now=1e9, max_age=7 * DAY, max_bytes=250)
    assert [p.exists() for p in paths] == [False, False, True, True]
    assert not left_over.exists()
    assert (pruned.files, pruned.refused) == (3, 0)
    assert folder.prune(now=1e9, max_age=7 * DAY, max_bytes=250).files == 0


def test_one_agent_prunes_at_a_time_and_the_folder_is_private(tmp_path: Path) -> None:
    folder = StoreFolder(tmp_path / "chat")
    folder.make_private()
    assert (tmp_path / "chat").stat().st_mode & 0o777 == 0o770
    assert [folder.take_turn(now=now, period=300.0) for now in (1e9, 1e9 + 299, 1e9 + 301)] == [True, False, True]


def test_only_the_shared_memory_of_the_engine_that_exited_is_removed(tmp_path: Path) -> None:
    old, other = tmp_path / "vllm_offload_old.mmap", tmp_path / "psm_x"
    old.touch()
    other.touch()
    cache = WorkerCache(shm=EngineShm(tmp_path))
    cache.engine_was(EngineExited())
    assert old.exists(), "nothing is known of it: the engine may be starting"
    cache.engine_was(EngineReady())
    new = tmp_path / "vllm_offload_new.mmap"
    new.touch()
    cache.engine_was(EngineExited())
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)


def test_engines_that_die_on_their_way_up_leave_no_shared_memory(tmp_path: Path) -> None:
    """Each region is as large as the host tier: a few of them, and no engine comes up any more."""

    def region(name: str, age: float) -> Path:
        path = tmp_path / f"vllm_offload_{name}.mmap"
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
        return path

    first, second = region("first", 90.0), region("second", 60.0)
    cache = WorkerCache(shm=EngineShm(tmp_path))
    cache.engine_was(EngineLost())
    assert (first.exists(), second.exists()) == (False, True), "the youngest may be in use"
    ranks = [region("third_dp0", 0.0), region("third_dp1", 5.0)]
    cache.engine_was(EngineLost())
    assert (second.exists(), *(rank.exists() for rank in ranks)) == (False, True, True)
    cache.engine_was(EngineReady())
    cache.engine_was(EngineLost())
    later = region("later", -100.0)
    cache.engine_was(EngineReady())
    assert later.exists()
    assert all(rank.exists() for rank in ranks), "an engine that serves keeps what it has"


@pytest.mark.parametrize(
    ("name", "value"),
    [("WARMFLEET_HANDOVER", "teleport"), ("WARMFLEET_KV_EVENTS", "/run/x"), ("WARMFLEET_KV_STORE", "relative")],
)
def test_a_setting_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        settings_from_env({"WARMFLEET_POD_UID": "u", "WARMFLEET_POD_IP": "127.0.0.1", name: value})


# -- against simulated engines -----------------------------------------------------------------------------------------


class Scene:
    """Engines that share a folder, each with what its agent would have."""

    def __init__(self, launch, folder: Path) -> None:
        self._launch, self.folder = launch, folder
        self.count = 0
        self.open: list[tuple[WorkerCache, VllmEngine, asyncio.Task[None]]] = []

    async def worker(self, *, speed: str = "1e11") -> tuple[WorkerCache, Callable[[str], Awaitable[dict]], str]:
        self.count += 1
        events, replay = (f"ipc://{self.folder}/{kind}{self.count}" for kind in "er")
        extra = {
            "spec_name": "TieringOffloadingSpec",
            "cpu_bytes_to_use": 2**30,
            "secondary_tiers": [{"type": "fs", "root_dir": str(self.folder / "kv"), "enable_kv_events": True}],
        }
        connector = {"kv_connector": "OffloadingConnector", "kv_connector_extra_config": extra}
        published = {"enable_kv_cache_events": True, "endpoint": events, "replay_endpoint": replay}
        engine, client = await self._launch(
            *("--kv-transfer-config", json.dumps(connector), "--kv-events-config", json.dumps(published)),
            WARMFLEET_SIM_STORE_BYTES_PER_SECOND=speed,
            VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES="0",
        )
        adapter = VllmEngine(str(client.make_url("")).rstrip("/"), slo_ttft=2.0, slo_tpot=0.05)
        settings = Settings("u", "127.0.0.1", kv_events=events, kv_replay=replay, kv_store=self.folder / "kv")
        cache = build(settings, adapter, engine.clock)
        self.open.append((cache, adapter, asyncio.create_task(cache.run())))

        async def ask(prompt: str) -> dict:
            body = {"prompt": prompt, "max_tokens": 1, "model": "tiny"}
            async with client.post("/v1/completions", json=body) as answer:
                return await answer.json()

        return cache, ask, str(client.make_url("/metrics"))

    async def close(self) -> None:
        for cache, adapter, task in self.open:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            cache.close()
            await adapter.close()


@pytest.fixture
async def scene(launch, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    scene = Scene(launch, tmp_path_factory.mktemp("s"))
    yield scene
    await scene.close()


async def hand_over(cache: WorkerCache, budget: float) -> tuple[HandoverFinished, list[int]]:
    told: list[int] = []
    finished = await cache.strategies[Strategy.STORE].run(budget, lambda p: told.append(p.moved_tokens))
    return finished, told


def text(topic: str) -> str:
    return " ".join(f"{topic}{i}" for i in range(405))


async def test_everything_stored_is_acknowledged_and_found_by_another_worker(scene: Scene) -> None:
    leaving, ask, _ = await scene.worker()
    first = [await ask(text(topic)) for topic in "abc"]
    report, _ = await hand_over(leaving, 600.0)
    assert (report.partial, report.dropped_tokens) == (False, 0), report
    tokens = [answer["usage"]["prompt_tokens"] // BLOCK * BLOCK for answer in first]
    assert report.kept_tokens == sum(tokens) == leaving.held_tokens

    heir, ask, url = await scene.worker()
    again = [await ask(text(topic)) for topic in "abc"]
    assert [a["choices"] for a in again] == [a["choices"] for a in first]
    async with scene.open[1][1]._session.get(url) as answer:
        samples = parse(await answer.text(), wanted=["vllm:external_prefix_cache_hits_total"])
    assert samples.total("vllm:external_prefix_cache_hits_total") == sum(tokens)
    # The heir has stored nothing itself: that its blocks are safe only the folder can say.
    report, _ = await hand_over(heir, 600.0)
    assert (report.partial, report.kept_tokens, report.moved_tokens) == (False, sum(tokens), 0), report


async def test_a_store_that_is_too_slow_gives_a_partial_report_before_the_deadline(scene: Scene) -> None:
    leaving, ask, _ = await scene.worker(speed="1e5")
    await ask(text("slow"))
    started = scene.open[0][0]
    report, told = await hand_over(started, 90.0)
    assert report.partial
    assert (report.kept_tokens, report.dropped_tokens) == (0, leaving.held_tokens)
    assert "not in the store" in report.message
    assert "1 writes are under way" in report.message
    assert told


async def test_tokens_stored_during_the_drain_are_told_as_moved(scene: Scene) -> None:
    leaving, ask, _ = await scene.worker(speed="5e5")
    await ask(text("moved"))
    while not leaving.held_tokens:  # noqa: ASYNC110 - events come from another thread
        await asyncio.sleep(0.01)
    report, told = await hand_over(leaving, 3600.0)
    assert not report.partial, report
    assert report.moved_tokens == report.kept_tokens == leaving.held_tokens
    assert told[0] == 0
    assert told[-1] == report.moved_tokens


async def test_an_engine_without_tiers_is_left_to_the_next_strategy(launch, tmp_path: Path) -> None:
    engine, client = await launch()
    adapter = VllmEngine(str(client.make_url("")).rstrip("/"), slo_ttft=2.0, slo_tpot=0.05)
    settings = Settings("u", "127.0.0.1", kv_events=f"ipc://{tmp_path}/none", kv_store=tmp_path / "kv")
    cache = build(settings, adapter, engine.clock)
    with pytest.raises(HandoverError, match="OffloadingConnector"):
        await hand_over(cache, 60.0)
    cache.close()
    await adapter.close()


# -- pre-warming -------------------------------------------------------------------------------------------------------


def computed(hashes: list[bytes], parent: bytes | None, *, first: int = 0) -> BlockStored:
    tokens = list(range(first, first + 4 * len(hashes)))
    return BlockStored(hashes, 4, "GPU", 0, parent, raw_tokens(tokens))


def test_a_head_that_many_prompts_extend_is_hotter_than_one_that_was_seen_last() -> None:
    hot = HotHeads()
    hot.take(Batch(0.0, [computed([b"a", b"b"], None)]))
    for i in range(3):
        hot.take(Batch(1.0 + i, [computed([b"x%d" % i], b"b", first=100 * i + 8)]))
    hot.take(Batch(5.0, [computed([b"c"], None, first=500)]))
    first, second = hot.hottest(5.0)
    assert list(first.tokens)[:8] == list(range(8))
    assert list(second.tokens) == [500, 501, 502, 503]
    assert first.heat_at(5.0) > 3.9
    assert first.heat_at(5.0 + HALF_LIFE) == pytest.approx(first.heat_at(5.0) / 2)


def test_heads_are_bounded_and_the_coldest_goes() -> None:
    hot = HotHeads()
    for i in range(3 * HEADS):
        hot.take(Batch(float(i), [computed([b"%d/%d" % (i, n) for n in range(2 * HEAD_BLOCKS)], None)]))
    heads = hot.hottest(1e3)
    assert len(heads) == HEADS
    assert {len(h.tokens) for h in heads} == {4 * HEAD_BLOCKS}
    assert {h.used_at for h in heads} == set(map(float, range(2 * HEADS, 3 * HEADS)))
    assert len(hot._head_of) == HEADS * HEAD_BLOCKS


def test_notes_of_all_others_are_merged_and_broken_ones_left_out(tmp_path: Path) -> None:
    def head(first: int, heat: float) -> Head:
        return Head(array("I", [first, 2, 3]), heat, 0.0)

    HotNotes(tmp_path, "a").write([head(1, 3.0), head(2, 2.0)], 0.0)
    HotNotes(tmp_path, "b").write([head(2, 2.0)], 0.0)
    HotNotes(tmp_path, "own").write([head(9, 99.0)], 0.0)
    (tmp_path / "hot" / "broken.json").write_text('[{"tokens": "no"}]')
    found = HotNotes(tmp_path, "own").read(0.0)
    assert [(h.tokens[0], h.heat) for h in found] == [(2, 4.0), (1, 3.0)]
    assert (tmp_path / "hot" / "a.json").stat().st_mode & 0o007 == 0
    assert HotNotes(tmp_path, "own").read(1e12) == []


async def test_warming_is_bounded_in_time() -> None:
    class Hanging:
        asked = 0

        async def touch(self, tokens) -> bool:
            self.asked += 1
            if len(tokens) > 1:
                await asyncio.sleep(3600)
            return True

    async def read() -> list[NotedHead]:
        return [NotedHead([1], 9.0), *(NotedHead([1, 2], 1.0) for _ in range(20))]

    engine = Hanging()
    warmed = await asyncio.wait_for(prewarm(read, engine, ScaledClock(60.0), 6.0), 5)
    assert (warmed, engine.asked) == (1, 5)


async def test_a_new_worker_has_the_hot_prompts_before_its_first_request(scene: Scene) -> None:
    serving, ask, _ = await scene.worker()
    for i in range(3):
        await ask(text("shared") + f" and {i}")
    await hand_over(serving, 600.0)
    assert serving.notes is not None
    serving.notes.write(serving.hot.hottest(0.0), 0.0)

    heir, ask, url = await scene.worker()
    heir.settings = replace(heir.settings, prewarm=30.0)
    heir.notes = HotNotes(scene.folder / "kv", "heir")
    adapter = scene.open[1][1]
    await adapter.observe()
    assert await heir.warm_up(adapter, ScaledClock(60.0)) == 1
    await ask(text("shared") + " and 7")
    async with adapter._session.get(url) as answer:
        samples = parse(await answer.text(), wanted=["vllm:prefix_cache_hits_total"])
    assert samples.total("vllm:prefix_cache_hits_total") >= 400
