"""What an agent sees of its engine's start in the cache folder."""

from __future__ import annotations

from pathlib import Path

from warmfleet_worker.stages import Stage, StartWatch


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_first_start_downloads_loads_and_compiles(tmp_path: Path) -> None:
    watch = StartWatch(tmp_path)
    assert watch.stage() is Stage.LOADING
    part = written(tmp_path / "hub/models--a--b/blobs/0a1b.incomplete", "x")
    assert watch.stage() is Stage.DOWNLOADING
    written(part, "xx")
    assert watch.stage() is Stage.DOWNLOADING
    part.rename(part.with_suffix(""))
    assert watch.stage() is Stage.LOADING
    written(tmp_path / ".cache/vllm/torch_compile_cache/0f/rank_0_0/kernel", "k")
    assert watch.stage() is Stage.COMPILING


def test_what_others_left_in_a_cache_says_nothing(tmp_path: Path) -> None:
    left = written(tmp_path / "hub/models--a--b/blobs/0a1b.incomplete", "left by a pod that was killed")
    written(tmp_path / ".cache/vllm/torch_compile_cache/0f/rank_0_0/kernel", "k")
    watch = StartWatch(tmp_path)
    assert [watch.stage(), watch.stage()] == [Stage.LOADING, Stage.LOADING]
    written(left, "taken up again")
    assert watch.stage() is Stage.DOWNLOADING


def test_without_a_readable_folder_it_loads(tmp_path: Path) -> None:
    assert StartWatch(tmp_path / "none").stage() is Stage.LOADING
