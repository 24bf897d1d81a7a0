"""Checks one streamed chat completion down to its last token. Without I/O: bytes in, verdict out.

A stream is whole when every token arrived in order, then a finish reason, the usage with the right count, and
``[DONE]``. Everything else (a connection that ends early, an error event, a wrong or lost token) is a failure, and the
verdict says which.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


class StreamError(Exception):
    """The stream is not what it has to be; the message says where."""


@dataclass(slots=True)
class StreamChecker:
    """One stream's state.

    Attributes:
        expected: The text the answer must have; None when it is not known in advance.
        tokens: Tokens the answer must have.
        finish: Finish reason the answer must have.
        text: What has arrived.
        prompt_tokens: Tokens of the prompt, by the usage; 0 before it.
        cached_tokens: Of these, tokens that the engine had in its cache; 0 where it does not say.
    """

    tokens: int
    expected: str | None = None
    finish: str = "length"
    text: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    _buffer: bytes = b""
    _finish: str | None = None
    _usage: int | None = None
    _done: bool = False
    _parts: list[str] = field(default_factory=list)
    _length: int = 0

    def feed(self, data: bytes) -> bool:
        """Takes bytes as they arrive; True when they brought generated text.

        Raises:
            StreamError: They cannot belong to a whole stream.
        """
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        before = self._length
        for line in lines:
            line = line.strip()  # noqa: PLW2901 - the stripped line is the line
            if line and not line.startswith(b":"):
                self._line(line)
        return self._length > before

    def end(self) -> str:
        """The connection ended: the whole text.

        Raises:
            StreamError: Something is missing.
        """
        self.text = "".join(self._parts)
        if self._finish is None:
            raise StreamError(f"cut off after {len(self.text)} characters: no finish_reason")
        if not self._done:
            raise StreamError("cut off: no [DONE]")
        if self._finish != self.finish:
            raise StreamError(f"finish_reason is {self._finish!r}, not {self.finish!r}")
        if self._usage is None:
            raise StreamError("no usage before [DONE]")
        if self._usage != self.tokens:
            raise StreamError(f"{self._usage} tokens by its usage, {self.tokens} were asked for")
        if self.expected is not None and self.text != self.expected:
            raise StreamError(f"text ends after {len(self.text)} of {len(self.expected)} characters")
        return self.text

    def _line(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            raise StreamError(f"not an event: {line[:80]!r}")
        if self._done:
            raise StreamError("data after [DONE]")
        payload = line[5:].strip()
        if payload == b"[DONE]":
            self._done = True
            return
        try:
            chunk = json.loads(payload)
        except ValueError:
            raise StreamError(f"not JSON: {payload[:80]!r}") from None
        if not isinstance(chunk, dict) or "error" in chunk:
            raise StreamError(f"error in the stream: {payload[:200]!r}")
        self._chunk(chunk)

    def _chunk(self, chunk: dict[str, Any]) -> None:
        usage = chunk.get("usage")
        if usage:
            self._usage = int(usage["completion_tokens"])
            self.prompt_tokens = int(usage.get("prompt_tokens") or 0)
            self.cached_tokens = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        for choice in chunk.get("choices") or []:
            content = (choice.get("delta") or {}).get("content")
            if content:
                self._content(content)
            if choice.get("finish_reason"):
                self._finish = choice["finish_reason"]

    def _content(self, content: str) -> None:
        if self._finish is not None:
            raise StreamError("text after its finish_reason")
        at = self._length
        if self.expected is not None and not self.expected.startswith(content, at):
            wanted = self.expected[at : at + len(content)]
            raise StreamError(f"wrong text at character {at}: {content[:40]!r} instead of {wanted[:40]!r}")
        self._parts.append(content)
        self._length += len(content)
