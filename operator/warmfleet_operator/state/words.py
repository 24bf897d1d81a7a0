"""Words for counts in messages."""

from __future__ import annotations


def counted(count: int, one: str = "", many: str = "") -> str:
    """``1 worker``, ``2 workers``; with ``one`` or ``many`` behind it, a verb that goes with the number."""
    verb = one if count == 1 else many
    return f"{count} worker{'' if count == 1 else 's'}{' ' if verb else ''}{verb}"
