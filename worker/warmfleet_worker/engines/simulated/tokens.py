"""Tokens of the simulated engine: cheap, the same in every process, and checkable by a client.

* A text is split at white space; each word is cut into pieces of 12 characters; a piece is one token, whose id is
  the CRC-32 of its UTF-8 bytes without the highest bit: routers parse ids as signed 32-bit numbers.
* Token i of a response is the word ``<seed>.<i>``, where the seed is four hex digits of the prompt's token ids. So a
  client can check a stream to its last token, and a conversation that contains the response has the same tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from zlib import crc32

PIECE = 12
"""Characters of a token."""
_ID = 0x7FFF_FFFF


def tokenize(text: str) -> list[int]:
    """Token ids of a text."""
    ids: list[int] = []
    for word in text.encode("utf-8", "replace").split():
        if len(word) <= PIECE:
            ids.append(crc32(word) & _ID)
        else:
            ids.extend(crc32(word[i : i + PIECE]) & _ID for i in range(0, len(word), PIECE))
    return ids


def token_bytes(ids: Sequence[int]) -> bytes:
    """Ids as packed 32-bit numbers, what hashes are made of.

    Raises:
        OverflowError: An id is negative or above 2^32 - 1.
        TypeError: An id is no integer.
    """
    return array("I", ids).tobytes()


def seed_of(prompt_token_ids: Sequence[int]) -> str:
    """The word that all tokens of the response to this prompt begin with."""
    return f"{crc32(token_bytes(prompt_token_ids)) & 0xFFFF:04x}"


def response_text(seed: str, start: int, end: int) -> str:
    """Text of the response tokens ``start`` to ``end`` (exclusive); each token is a space and a word."""
    return "".join([f" {seed}.{i}" for i in range(start, end)])


def response_ids(seed: str, start: int, end: int) -> list[int]:
    """Token ids of the response tokens ``start`` to ``end`` (exclusive)."""
    return [crc32(b"%s.%d" % (seed.encode(), i)) & _ID for i in range(start, end)]


def expected_text(prompt_token_ids: Sequence[int], n: int) -> str:
    """What the engine answers with ``n`` tokens to this prompt; for clients that check it."""
    return response_text(seed_of(prompt_token_ids), 0, n)


def natural_length(prompt_token_ids: Sequence[int]) -> int:
    """Length of the response when a chat request names no maximum: 16 to 271 tokens, by the prompt."""
    return 16 + (crc32(token_bytes(prompt_token_ids)) >> 16) % 256


def chat_text(messages: Iterable[tuple[str, str]]) -> str:
    """The prompt that a conversation of (role, content) becomes."""
    turns = [f"<|{role}|> {content}" for role, content in messages]
    return " ".join([*turns, "<|assistant|>"])
