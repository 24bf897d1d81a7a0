"""Keys and tokens from files that change while the process runs, such as those of a projected Secret."""

from __future__ import annotations

import logging
from pathlib import Path

_LOG = logging.getLogger(__name__)
MAX_BYTES = 4096


class KeyFiles:
    """Keys in files, read anew each time they are asked for: a kubelet replaces them under the running process.

    Args:
        *files: The files, the most recent key first; those that are missing or empty do not count.
        required: Whether it is a problem when the first one is missing.
    """

    def __init__(self, *files: Path, required: bool = True) -> None:
        self._files, self._required = files, required
        self._problem = ""

    def read(self) -> tuple[str, ...]:
        """The keys there are now; none when no file can be read. Problems are logged once, without the content."""
        found: list[str] = []
        problem = ""
        for number, file in enumerate(self._files):
            try:
                with file.open("rb") as stream:
                    text = stream.read(MAX_BYTES).decode("ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                if number == 0 and self._required:
                    problem = f"{file.name}: {type(error).__name__}"
                continue
            if text:
                found.append(text)
        if problem and problem != self._problem:
            _LOG.error("key cannot be read", extra={"problem": problem})
        self._problem = problem
        return tuple(found)
