"""Inside the engine: vLLM's ``fs`` tier behind a gate, so that a test says how far the storage has got.

``gate`` is a file with the number of write jobs that may be done in all; without the file, all may.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from vllm.v1.kv_offload.tiering.fs.manager import FileSystemTierManager


class GatedTier(FileSystemTierManager):
    """The tier behind its gate.

    Args:
        gate: Path of the file.
    """

    def __init__(self, *args: Any, gate: str, **options: Any) -> None:
        super().__init__(*args, **options)
        enqueue, numbers, path = self._pool.enqueue_store, itertools.count(1), Path(gate)

        def behind_gate(task: Any) -> Any:
            def run() -> Any:
                number = next(numbers)
                while path.exists() and number > int(path.read_text() or 0):
                    time.sleep(0.05)
                return task()

            return run

        def enqueue_store(job_id: Any, count: int, tasks: list[Any]) -> None:
            enqueue(job_id, count, [behind_gate(task) for task in tasks])

        self._pool.enqueue_store = enqueue_store
