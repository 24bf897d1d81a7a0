"""The OpenAI protocol as vLLM speaks it: parsing requests, writing answers, chunks and errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from warmfleet_worker.engines.simulated.tokens import chat_text, natural_length, token_bytes, tokenize

DEFAULT_COMPLETION_TOKENS = 16


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: For the caller.
        kind: OpenAI's error type.
        param: The field at fault.
    """

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> dict[str, Any]:
        """The JSON answer."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}}


@dataclass(frozen=True, slots=True)
class Generation:
    """A request for tokens.

    Attributes:
        chat: Whether it came as chat.
        model: Name it asked for.
        prompt: Token ids.
        max_tokens: Tokens to generate.
        finish_reason: length, or stop for a response of natural length.
        stream: Whether to answer with server-sent events.
        usage: Whether a stream ends with a usage chunk.
        transfer: ``kv_transfer_params``; empty without.
    """

    chat: bool
    model: str
    prompt: list[int]
    max_tokens: int
    finish_reason: str
    stream: bool
    usage: bool
    transfer: Mapping[str, Any] = field(default_factory=dict)


def parse_generation(raw: bytes, *, chat: bool, names: tuple[str, ...], max_model_len: int) -> Generation:
    """Read a request's body.

    Raises:
        ApiError: It cannot be served.
    """
    body = _object(raw)
    model = body.get("model", names[0])
    if model not in names:
        raise ApiError(404, f"The model `{model}` does not exist.", "NotFoundError", "model")
    prompt = _chat_prompt(body) if chat else _completion_prompt(body)
    if not prompt:
        raise ApiError(400, "prompt: must not be empty", param="prompt")
    if body.get("n", 1) not in {1, None}:
        raise ApiError(400, "n: the simulated engine gives one choice", param="n")
    asked = _max_tokens(body, chat=chat)
    room = max_model_len - len(prompt)
    if room < (asked or 1):
        raise ApiError(
            400,
            f"This model's maximum context length is {max_model_len} tokens. However, you requested "
            f"{asked or 1} output tokens and your prompt contains {len(prompt)} input tokens. Please reduce the "
            "length of the input prompt or the number of requested output tokens.",
            param="input_tokens",
        )
    options = body.get("stream_options") or {}
    return Generation(
        chat=chat,
        model=model,
        prompt=prompt,
        max_tokens=asked or min(room, natural_length(prompt)),
        finish_reason="length" if asked else "stop",
        stream=body.get("stream") is True,
        usage=isinstance(options, dict) and options.get("include_usage") is True,
        transfer=_transfer(body),
    )


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", "Bad Request") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object", "Bad Request")
    return body


def _transfer(body: Mapping[str, Any]) -> Mapping[str, Any]:
    found = body.get("kv_transfer_params") or {}
    if not isinstance(found, dict):
        raise ApiError(400, "kv_transfer_params: must be an object", param="kv_transfer_params")
    return found


def _max_tokens(body: Mapping[str, Any], *, chat: bool) -> int | None:
    value = body.get("max_completion_tokens") if chat else None
    value = body.get("max_tokens") if value is None else value
    if value is None:
        return None if chat else DEFAULT_COMPLETION_TOKENS
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ApiError(400, f"max_tokens must be at least 1, got {value!r}.", param="max_tokens")
    return value


def _completion_prompt(body: Mapping[str, Any]) -> list[int]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return tokenize(prompt)
    try:
        if isinstance(prompt, list):
            token_bytes(prompt)
            return prompt
    except (OverflowError, TypeError):
        pass
    raise ApiError(400, "prompt: give one string, or one list of token ids from 0 to 4294967295", param="prompt")


def _chat_prompt(body: Mapping[str, Any]) -> list[int]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise ApiError(400, "messages: give a list of objects with role and content", param="messages")
    return tokenize(chat_text((str(m.get("role", "user")), _content(m.get("content"))) for m in messages))


def _content(content: object) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    raise ApiError(400, "messages: content must be text or a list of parts", param="messages")


class Writer:
    """Writes the answers to one request.

    Args:
        generation: The request.
        identity: Unique part of the answer's id.
        created: Unix time.
    """

    def __init__(self, generation: Generation, identity: str, created: int) -> None:
        self._chat = generation.chat
        self._model = generation.model
        self._prompt_tokens = len(generation.prompt)
        self.id = ("chatcmpl-" if generation.chat else "cmpl-") + identity
        self._head = f'"id":{json.dumps(self.id)},"created":{created},"model":{json.dumps(generation.model)}'

    def first(self) -> bytes:
        """What a stream begins with: the role in chat, nothing else."""
        return (
            self._event('{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}')
            if self._chat
            else b""
        )

    def chunk(self, text: str, finish_reason: str | None) -> bytes:
        """One chunk of a stream. The text needs no escaping: response tokens are plain."""
        end = "null" if finish_reason is None else f'"{finish_reason}"'
        if self._chat:
            return self._event(f'{{"index":0,"delta":{{"content":"{text}"}},"logprobs":null,"finish_reason":{end}}}')
        return self._event(f'{{"index":0,"text":"{text}","logprobs":null,"finish_reason":{end},"stop_reason":null}}')

    def last(self, *, tokens: int, cached: int, usage: bool) -> bytes:
        """What a stream ends with: usage, if asked for, and the end mark."""
        final = self._event("", f',"usage":{json.dumps(self._usage(tokens, cached))}') if usage else b""
        return final + b"data: [DONE]\n\n"

    def whole(
        self, text: str, *, tokens: int, cached: int, finish_reason: str, transfer: Mapping[str, Any] | None = None
    ) -> bytes:
        """The answer that is not streamed."""
        kind = "chat.completion" if self._chat else "text_completion"
        if self._chat:
            choice = f'{{"index":0,"message":{{"role":"assistant","content":"{text}"}}'
        else:
            choice = f'{{"index":0,"text":"{text}"'
        rest = f',"logprobs":null,"finish_reason":"{finish_reason}","stop_reason":null}}'
        usage = json.dumps(self._usage(tokens, cached))
        more = "" if transfer is None else f',"kv_transfer_params":{json.dumps(transfer)}'
        return f'{{{self._head},"object":"{kind}","choices":[{choice}{rest}],"usage":{usage}{more}}}'.encode()

    def _event(self, choice: str, more: str = "") -> bytes:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return f'data: {{{self._head},"object":"{kind}","choices":[{choice}]{more}}}\n\n'.encode()

    def _usage(self, tokens: int, cached: int) -> dict[str, Any]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "total_tokens": self._prompt_tokens + tokens,
            "completion_tokens": tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
