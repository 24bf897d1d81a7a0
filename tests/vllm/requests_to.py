"""What users send to a real worker: prompts, and answers that are streamed."""

from __future__ import annotations

import http.client
import json
import threading
from dataclasses import dataclass
from typing import Any

from real_worker import RealWorker


def prompt(topic: str, tokens: int = 1100) -> str:
    """A prompt of about so many tokens (bytes), unlike any other topic's from the first block on."""
    words = f"{topic}: " + " ".join(f"{topic} rule {i} says be kind." for i in range(tokens // 12))
    return words[:tokens]


@dataclass
class Stream:
    """A streamed answer, read by a thread.

    Attributes:
        chunks: Chunks so far; an engine that is behind puts several tokens into one.
        tokens: Tokens of the whole answer, as the engine counted them; 0 before its end.
        finish_reason: As the engine said it.
        done: The engine ended the stream as it should.
        error: What broke it.
    """

    chunks: int = 0
    tokens: int = 0
    finish_reason: str | None = None
    done: bool = False
    error: str = ""

    def follow(self, worker: RealWorker, prompt: str, max_tokens: int) -> threading.Thread:
        """Begin."""
        thread = threading.Thread(target=self._read, args=(worker, prompt, max_tokens), daemon=True)
        thread.start()
        return thread

    def _read(self, worker: RealWorker, prompt: str, max_tokens: int) -> None:
        try:
            with worker.post(prompt, max_tokens, stream=True) as answer:
                for line in answer:
                    if line.startswith(b"data: {"):
                        self._chunk(json.loads(line[6:]))
                    elif line.strip() == b"data: [DONE]":
                        self.done = True
        except (OSError, http.client.HTTPException) as error:
            self.error = repr(error)

    def _chunk(self, body: dict[str, Any]) -> None:
        for choice in body["choices"]:
            self.chunks += 1
            self.finish_reason = choice["finish_reason"]
        if body.get("usage"):
            self.tokens = body["usage"]["completion_tokens"]
