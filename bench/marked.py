"""Writes figures into a page of the documentation, between two lines that mark where."""

from __future__ import annotations

from pathlib import Path


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """Put a text between the marks of a page, instead of what is there.

    Raises:
        ValueError: The page has no such marks.
    """
    head, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{page}: no lines {begin!r} and {end!r} to write between")
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
