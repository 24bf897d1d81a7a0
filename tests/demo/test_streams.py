from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warmfleet_cli.demo.streams import StreamChecker, StreamError

WORDS = [f" w.{i}" for i in range(12)]
TEXT = "".join(WORDS)


def event(content: str | None = None, finish: str | None = None, usage: int | None = None) -> bytes:
    chunk: dict[str, object] = {"choices": []}
    if content is not None or finish is not None:
        chunk["choices"] = [{"index": 0, "delta": {"content": content or ""}, "finish_reason": finish}]
    if usage is not None:
        chunk["usage"] = {"completion_tokens": usage}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def whole(words: list[str] = WORDS) -> list[bytes]:
    return [*(event(word) for word in words), event(finish="length"), event(usage=12), b"data: [DONE]\n\n"]


def check(parts: list[bytes]) -> str:
    checker = StreamChecker(tokens=12, expected=TEXT)
    for part in parts:
        checker.feed(part)
    return checker.end()


def test_a_whole_stream_passes() -> None:
    assert check([b": a comment\n\n", *whole()]) == TEXT


@given(st.lists(st.integers(1, 60), min_size=1))
def test_it_does_not_matter_where_the_bytes_are_cut(cuts: list[int]) -> None:
    data, parts, position = b"".join(whole()), [], 0
    for cut in cuts:
        parts.append(data[position : position + cut])
        position += cut
    assert check([*parts, data[position:]]) == TEXT


@pytest.mark.parametrize("kept", range(15))
def test_every_cut_is_found(kept: int) -> None:
    with pytest.raises(StreamError):
        check(whole()[:kept])


def test_a_lost_token_is_found() -> None:
    with pytest.raises(StreamError, match="wrong text at character"):
        check(whole(WORDS[:4] + WORDS[5:]))


def test_a_lost_last_token_is_found() -> None:
    with pytest.raises(StreamError, match="text ends"):
        check(whole(WORDS[:-1]))


def test_swapped_tokens_are_found() -> None:
    with pytest.raises(StreamError, match="wrong text"):
        check(whole([WORDS[1], WORDS[0], *WORDS[2:]]))


def test_more_text_than_expected_is_found() -> None:
    with pytest.raises(StreamError, match="wrong text"):
        check(whole([*WORDS, " w.12"]))


def test_a_missing_done_is_found() -> None:
    with pytest.raises(StreamError, match=r"\[DONE\]"):
        check(whole()[:-1])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([event(WORDS[0]), b'data: {"error": {"message": "worker gone"}}\n\n'], "worker gone"),
        ([event(TEXT), event(finish="abort"), event(usage=12), b"data: [DONE]\n\n"], "finish_reason is 'abort'"),
        ([event(TEXT), event(finish="length"), b"data: [DONE]\n\n"], "no usage"),
        ([event(TEXT), event(finish="length"), event(usage=11), b"data: [DONE]\n\n"], "11 tokens"),
        ([*whole(), event(" more")], "after"),
        ([b"data: {nonsense\n\n"], "not JSON"),
        ([b"<html>502</html>\n"], "not an event"),
    ],
)
def test_what_is_wrong_is_named(parts: list[bytes], message: str) -> None:
    with pytest.raises(StreamError, match=message):
        check(parts)
