"""The shared folder that vLLM's ``fs`` tier keeps KV blocks in, seen from beside the engine.

Layout (vLLM 0.32): ``<root>/<model>_<12 hex of its configuration>_r<rank>/<hhh>/<hh>_g<group>/<hash>.bin``, one file
per block, complete from the moment it has its name (it is renamed into place). The hash covers the tokens only, so
equal names under different configurations are different blocks. vLLM never removes a file: :meth:`StoreFolder.prune`
does, oldest first. The files are their users' conversations: the root is closed to everybody but its group.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from warmfleet_worker.kv.events import BlockKey

PRIVATE = 0o2770
"""Mode of the root: owner and group only, and new files take the group."""
LEFTOVER_SECONDS = 3600.0
"""A file without its final name is what a killed engine left, once it is this old."""
_SUFFIX = ".bin"
_LOCK = ".pruning"


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one pruning did.

    Attributes:
        files: Files removed.
        bytes: Their size.
        refused: Files that could not be removed.
    """

    files: int
    bytes: int
    refused: int


class StoreFolder:
    """One deployment's folder.

    Args:
        root: ``root_dir`` of the tier.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def make_private(self) -> None:
        """Make the root, or close it.

        Raises:
            OSError: It cannot be made, or is somebody else's and open to everybody.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        if stat.S_IMODE(self.root.stat().st_mode) & 0o007:
            self.root.chmod(PRIVATE)

    def spaces(self, like: BlockKey | None = None) -> tuple[Path, ...]:
        """Folders of one configuration each.

        Args:
            like: A block that the engine has stored: only folders that hold it are its own.
        """
        found = [p for p in self._listed(self.root) if p.is_dir() and "_r" in p.name]
        return tuple(p for p in found if like is None or _path(p, like).exists())

    def present(self, keys: Iterable[BlockKey], spaces: Iterable[Path]) -> set[BlockKey]:
        """Which blocks have a file. Hashes that are integers are too short to name one."""
        places = tuple(spaces)
        return {k for k in keys if isinstance(k[0], bytes) and any(_path(space, k).exists() for space in places)}

    def prune(self, *, now: float, max_age: float, max_bytes: int) -> Pruned:
        """Remove what is too old, then the oldest until the rest fits.

        Args:
            now: Seconds since the epoch.
            max_age: Seconds since a block was written.
            max_bytes: Size of all blocks together.
        """
        files: list[tuple[float, int, str]] = []
        removed = freed = refused = 0
        for entry in self._files():
            with contextlib.suppress(FileNotFoundError):
                facts = entry.stat()
                finished = entry.name.endswith(_SUFFIX)
                if now - facts.st_mtime > (max_age if finished else LEFTOVER_SECONDS):
                    gone = _remove(entry.path)
                    removed, freed, refused = removed + gone, freed + gone * facts.st_size, refused + (not gone)
                elif finished:
                    files.append((facts.st_mtime, facts.st_size, entry.path))
        left = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if left <= max_bytes:
                break
            gone = _remove(path)
            left -= gone * size
            removed, freed, refused = removed + gone, freed + gone * size, refused + (not gone)
        return Pruned(removed, freed, refused)

    def take_turn(self, *, now: float, period: float) -> bool:
        """Whether it is this agent's turn to prune: nobody has within ``period`` seconds."""
        lock = self.root / _LOCK
        try:
            if now - lock.stat().st_mtime < period:
                return False
        except FileNotFoundError:
            pass
        lock.touch()
        os.utime(lock, (now, now))
        return True

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """Every file two levels below a space."""
        for space in self.spaces():
            for first in self._listed(space):
                for second in self._listed(first):
                    with contextlib.suppress(OSError), os.scandir(second) as entries:
                        yield from (e for e in entries if e.is_file(follow_symlinks=False))

    @staticmethod
    def _listed(folder: Path) -> list[Path]:
        try:
            return sorted(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []


def _path(space: Path, key: BlockKey) -> Path:
    block, group = key
    name = block.hex() if isinstance(block, bytes) else f"{block:x}"
    return space / name[:3] / f"{name[3:5]}_g{group}" / f"{name}{_SUFFIX}"


def _remove(path: str) -> bool:
    try:
        Path(path).unlink(missing_ok=True)
    except OSError:
        return False
    return True
