"""How far the engine's start is, from what changes in its cache folder since the agent began to look.

::

    compiling            a folder of compiled kernels is new or has changed
    downloading-weights  else, a file that is being downloaded is new or has changed since the last look but one
    loading-weights      else

The engine itself tells its stage nowhere but in its log. A cache that outlives pods holds the leavings of others, so
what was there from the beginning says nothing. Weights that are mounted or streamed are never seen as downloading, and
kernels found in the cache never as compiling: such starts go from loading to ready.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from itertools import islice
from pathlib import Path

_LOG = logging.getLogger(__name__)
_DOWNLOADS = "hub/*/blobs/*.incomplete"
_KERNELS = (".cache/vllm/torch_compile_cache/*", ".cache/vllm/torch_compile_cache/*/*")
_MOST = 2000
"""Entries that one look takes in."""

Seen = dict[str, tuple[int, int]]


class Stage(StrEnum):
    """Stages of a start."""

    DOWNLOADING = "downloading-weights"
    LOADING = "loading-weights"
    COMPILING = "compiling"


class StartWatch:
    """Looks at one cache folder.

    Args:
        folder: The engine's home, where the hub's downloads and the compiled kernels are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._downloads = self._look(_DOWNLOADS)
        self._kernels = self._look(*_KERNELS)
        self._before = self._downloads

    def stage(self) -> Stage:
        """The stage now."""
        if self._look(*_KERNELS) != self._kernels:
            return Stage.COMPILING
        now = self._look(_DOWNLOADS)
        moving = any(
            self._before.get(name) != state or self._downloads.get(name) != state for name, state in now.items()
        )
        self._before = now
        return Stage.DOWNLOADING if moving else Stage.LOADING

    def _look(self, *patterns: str) -> Seen:
        """Size and time of change of what matches; what vanishes or cannot be read meanwhile is not there."""
        found: Seen = {}
        try:
            for pattern in patterns:
                for path in islice(self._folder.glob(pattern), _MOST):
                    state = path.stat()
                    found[str(path)] = (state.st_size, state.st_mtime_ns)
        except OSError as error:
            _LOG.debug("cache folder: %s", error)
        return found
