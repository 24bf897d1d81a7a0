"""Inside the engine: vLLM's ``fs`` tier with storage as slow as a test wants it.

``pace`` is a file with the seconds that each write takes; it may change while the engine runs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from vllm.v1.kv_offload.tiering.fs.manager import FileSystemTierManager


class SlowTier(FileSystemTierManager):
    """The tier, slowed down.

    Args:
        pace: Path of the file.
    """

    def __init__(self, *args: Any, pace: str, **options: Any) -> None:
        super().__init__(*args, **options)
        enqueue = self._pool.enqueue_store

        def enqueue_slowly(job_id: Any, count: int, tasks: list[Any]) -> None:
            enqueue(job_id, count, [_slowed(task, Path(pace)) for task in tasks])

        self._pool.enqueue_store = enqueue_slowly


def _slowed(task: Any, pace: Path) -> Any:
    def run() -> Any:
        if pace.exists():
            time.sleep(float(pace.read_text() or 0))
        return task()

    return run
