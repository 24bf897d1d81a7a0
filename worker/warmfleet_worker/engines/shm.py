"""The shared memory that a killed vLLM leaves behind: as much as its host tier, until somebody removes it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

SHM_PATTERN = "vllm_offload_*.mmap"
"""Names of its files."""
ONE_START = 20.0
"""Real seconds within which all engine processes of one start make their shared memory; a restart takes longer."""
_LOG = logging.getLogger(__name__)


class EngineShm:
    """Removes the shared memory of an engine that has exited.

    Files are noted when the engine serves, and only noted ones are removed: a new engine may be making its own already.

    Args:
        folder: The engine's /dev/shm.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._noted: set[Path] = set()

    def note(self) -> None:
        """The engine serves: what is there is its own."""
        self._noted = set(self._folder.glob(SHM_PATTERN))

    def sweep(self) -> int:
        """An engine is on its way up: removes what those left that died on theirs; returns the number of files.

        All regions of one start are made at about the same time. One that is much older than the youngest is none of
        them; each holds as much memory as the host tier.
        """
        made: dict[Path, float] = {}
        for path in self._folder.glob(SHM_PATTERN):
            with contextlib.suppress(FileNotFoundError):
                made[path] = path.stat().st_mtime
        youngest = max(made.values(), default=0.0)
        return self._remove(path for path, at in made.items() if youngest - at > ONE_START)

    def clean(self) -> int:
        """The engine has exited; returns the number of files removed."""
        removed = self._remove(self._noted)
        self._noted.clear()
        return removed

    @staticmethod
    def _remove(paths: Iterable[Path]) -> int:
        removed = 0
        for path in paths:
            try:
                path.unlink()
                removed += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                _LOG.warning("shared memory left behind: %s", error)
        return removed
