"""Inside the engine: vLLM's ``fs`` tier behind a gate, so that a test says how far the storage has got.

``gate`` is a file with the number of blocks that may be written in all, or the word ``full``: then all further writes
fail as on a full disk. Without the file, all may be written.

While a write is pending vLLM's core steps without a pause (``has_pending_push_work`` keeps it going, for connectors
that are driven by steps), so an engine whose gate is shut burns two cores and starves those beside it. The gate
therefore holds each step back a little while it is shut.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm.v1.kv_offload.tiering.fs.manager import FileSystemTierManager

STEP_SECONDS = 0.01
"""How long a step is held back while the gate is shut: a stream beside it still gets some 80 tokens a second."""


class GatedTier(FileSystemTierManager):
    """The tier behind its gate.

    Args:
        gate: Path of the file.
    """

    def __init__(self, *args: Any, gate: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._gate = Path(gate)
        self._numbers = itertools.count(1)
        self._held = 0
        enqueue = self._pool.enqueue_store

        def enqueue_store(job_id: Any, count: int, tasks: list[Any]) -> None:
            enqueue(job_id, count, [self._behind_gate(task) for task in tasks])

        self._pool.enqueue_store = enqueue_store

    def get_finished_jobs(self) -> Any:
        """What the core asks once per step."""
        if self._held:
            time.sleep(STEP_SECONDS)
        return super().get_finished_jobs()

    def _behind_gate(self, task: Any) -> Callable[[], None]:
        """A write of many blocks as writes of one, each of which waits for its turn."""
        files, view, offsets, *rest = task.args

        def run() -> None:
            for file, offset in zip(files, offsets, strict=True):
                self._pass(next(self._numbers))
                task.func([file], view, [offset], *rest)

        return run

    def _pass(self, number: int) -> None:
        self._held += 1
        try:
            while (said := self._said()) is not None and number > said:
                time.sleep(0.05)
        finally:
            self._held -= 1

    def _said(self) -> int | None:
        try:
            text = self._gate.read_text()
        except FileNotFoundError:
            return None
        if text == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(text or 0)
