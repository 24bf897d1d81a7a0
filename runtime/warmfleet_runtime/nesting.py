"""JSON of a cluster, however deep somebody has nested it.

The API server takes objects of thousands of levels (4,000 were tried) wherever a schema leaves a part open, and
Python's decoders raise RecursionError at about a thousand. One such object in a list would hide all others from whoever
reads it, so what lies deeper than :data:`MOST_LEVELS` is read as null; whoever takes the object in refuses it for what
is left.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

MOST_LEVELS = 200
"""Objects and lists inside each other that are read, counted from the outermost."""
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_OPENING, _CLOSING = b"[{", b"]}"


def decode(raw: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is none.
    """
    try:
        try:
            return msgspec.json.decode(raw)
        except RecursionError:
            return msgspec.json.decode(cut(raw))
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


def cut(raw: bytes, levels: int = MOST_LEVELS) -> bytes:
    """A JSON text with null in place of what lies deeper than ``levels``."""
    pieces: list[bytes] = []
    depth = start = 0
    for found in _TOKEN.finditer(raw):
        token = found.group()
        if token in _OPENING:
            depth += 1
            if depth == levels + 1:
                pieces += (raw[start : found.start()], b"null")
        elif token in _CLOSING:
            if depth == levels + 1:
                start = found.end()
            depth -= 1
    if depth <= levels:
        pieces.append(raw[start:])
    return b"".join(pieces)
