"""The simulated engine from the outside: answers, streams, errors, metrics, KV events."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
import zmq
import zmq.asyncio
from prometheus_client.parser import text_string_to_metric_families
from warmfleet_worker.engines.simulated.blocks import block_hashes
from warmfleet_worker.engines.simulated.config import ConfigError, parse_config
from warmfleet_worker.engines.simulated.tokens import chat_text, expected_text, tokenize

LEFT_OUT = {
    "python_", "process_",  # the process, not the engine
    "vllm:estimated_",  # model FLOPs utilisation
    "vllm:mm_cache_",  # no images here
    "http_request_size_bytes", "http_response_size_bytes", "http_request_duration_highr_seconds",
}  # fmt: skip
"""Families of a real scrape that the stand-in leaves out on purpose; the _created twins too."""


async def sse(response) -> tuple[str, list[dict], bool]:
    """Text, events and whether the end mark came."""
    text, events, ended = "", [], False
    async for line in response.content:
        if line == b"data: [DONE]\n":
            ended = True
        elif line.startswith(b"data: "):
            events.append(json.loads(line[6:]))
            for choice in events[-1]["choices"]:
                text += choice["text"] if "text" in choice else choice["delta"].get("content", "")
    return text, events, ended


@pytest.mark.parametrize("prompt", ["tell me a story", [5, 6, 7], ["one prompt in a list"]])
async def test_a_completion_is_what_a_client_expects(launch, prompt) -> None:
    _, client = await launch()
    ids = prompt if isinstance(prompt[0], int) else tokenize(prompt if isinstance(prompt, str) else prompt[0])
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 30}
    answer = await (await client.post("/v1/completions", json=body)).json()
    assert answer["choices"][0]["text"] == expected_text(ids, 30)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 30
    response = await client.post(
        "/v1/completions", json={**body, "stream": True, "stream_options": {"include_usage": True}}
    )
    text, events, ended = await sse(response)
    assert text == expected_text(ids, 30)
    assert ended
    assert events[-1]["usage"]["prompt_tokens"] == len(ids)
    assert events[-1]["choices"] == []
    assert [e["choices"][0]["finish_reason"] for e in events[:-1]][-1] == "length"


async def test_chat_streams_and_ends_by_itself(launch) -> None:
    _, client = await launch()
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "stream": True}
    text, events, ended = await sse(await client.post("/v1/chat/completions", json=body))
    words = text.split()
    assert ended
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert 16 <= len(words) <= 271
    assert text == expected_text(tokenize(chat_text([("user", "hi")])), len(words))


async def test_a_stream_has_few_chunks_however_fast_the_clock_runs(launch) -> None:
    _, client = await launch(scale=60)
    body = {"prompt": "x", "max_tokens": 2000, "stream": True}
    loop = asyncio.get_running_loop()
    began = loop.time()
    text, events, _ = await sse(await client.post("/v1/completions", json=body))
    assert text == expected_text(tokenize("x"), 2000)
    assert len(events) <= (loop.time() - began) / 0.02 + 2


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("completions", b'{"prompt": "x", ', 400, "JSON"),
        ("completions", b"[1]", 400, "object"),
        ("completions", {"model": "other", "prompt": "x"}, 404, "`other` does not exist"),
        ("completions", {"prompt": "x", "max_tokens": 9000}, 400, "maximum context length is 8192"),
        ("completions", {"prompt": list(range(9000))}, 400, "maximum context length is 8192"),
        ("completions", {"prompt": "x", "max_tokens": 0}, 400, "max_tokens"),
        ("completions", {"prompt": "x", "max_tokens": True}, 400, "max_tokens"),
        ("completions", {"prompt": "x", "n": 2}, 400, "n:"),
        ("completions", {"prompt": []}, 400, "empty"),
        ("completions", {"prompt": [-1]}, 400, "token ids"),
        ("completions", {"prompt": ["a", "b"]}, 400, "one string"),
        ("completions", {}, 400, "prompt"),
        ("chat/completions", {"messages": []}, 400, "messages"),
        ("chat/completions", {"messages": [{"role": "user", "content": 3}]}, 400, "content"),
    ],
)
async def test_errors(launch, path, body, status, words) -> None:
    engine, client = await launch()
    raw = body if isinstance(body, bytes) else json.dumps(body)
    response = await client.post(f"/v1/{path}", data=raw)
    error = (await response.json())["error"]
    assert (response.status, error["code"]) == (status, status)
    assert words in error["message"]
    assert not engine.streams


@pytest.mark.parametrize("chat", [False, True])
async def test_token_ids_of_a_prompt_are_told_if_it_was_started_so(launch, chat) -> None:
    path = "/v1/chat/completions/render" if chat else "/v1/completions/render"
    words = {"messages": [{"role": "user", "content": "hello there"}]} if chat else {"prompt": "hello there"}
    _, client = await launch()
    assert (await client.post(path, json={"model": "tiny", **words})).status == 403
    _, client = await launch("--enable-scale-out")
    told = await (await client.post(path, json={"model": "tiny", **words})).json()
    text = chat_text([("user", "hello there")]) if chat else "hello there"
    assert (told if chat else told[0])["token_ids"] == tokenize(text)


async def test_a_full_queue_is_refused_with_503(launch) -> None:
    engine, client = await launch("--max-num-seqs", "1", "--max-num-queued-reqs", "1", scale=1)
    body = {"prompt": "x", "max_tokens": 5000, "stream": True}
    first = await client.post("/v1/completions", json=body)
    await asyncio.sleep(0.1)
    second = await client.post("/v1/completions", json=body)
    third = await client.post("/v1/completions", json=body)
    assert (first.status, second.status, third.status) == (200, 200, 503)
    assert engine.scheduler.statistics.rejections == 1


async def test_a_client_that_leaves_frees_its_request(launch) -> None:
    engine, client = await launch(scale=1)
    response = await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 5000, "stream": True})
    await response.content.readline()
    response.close()
    await asyncio.wait_for(engine.until(lambda: not engine.streams, 5), 6)
    assert not engine.scheduler.busy
    assert engine.scheduler.statistics.finished["abort"] == 1


async def test_facts(launch) -> None:
    _, client = await launch()
    assert (await client.get("/health")).status == 200
    assert (await client.get("/ping")).status == 200
    assert (await (await client.get("/version")).json())["version"].startswith("0.32")
    assert (await (await client.get("/load")).json()) == {"server_load": 0}
    (card,) = (await (await client.get("/v1/models")).json())["data"]
    assert (card["id"], card["max_model_len"]) == ("tiny", 8192)


def families(text: str) -> dict[str, tuple[str, frozenset[str]]]:
    return {
        f.name: (f.type, frozenset(key for s in f.samples for key in s.labels))
        for f in text_string_to_metric_families(text)
        if not f.name.endswith("_created")
    }


async def test_metrics_are_named_typed_and_labelled_as_a_real_engines(launch, data_dir) -> None:
    sample = data_dir.parent / "reference" / "vllm_lab" / "metrics_sample.txt"
    if not sample.exists():
        pytest.skip("no recorded scrape beside the reference data")
    real = families(sample.read_text())
    _, client = await launch("--max-model-len", "2048")
    await client.post("/v1/completions", json={"prompt": "x y z", "max_tokens": 3})
    text = await (await client.get("/metrics")).text()
    ours = families(text)
    missing = {name for name in real.keys() - ours.keys() if not name.startswith(tuple(LEFT_OUT))}
    assert missing == set()
    assert ours.keys() - real.keys() == set()
    for name, (kind, labels) in ours.items():
        if name != "vllm:cache_config_info":
            assert (kind, labels) == real[name], name
    real_buckets = {line.split("}")[0] for line in sample.read_text().splitlines() if "_bucket{" in line}
    our_buckets = {line.split("}")[0].replace("Llama", "") for line in text.splitlines() if "_bucket{" in line}
    left = {b for b in real_buckets - our_buckets if not b.startswith(tuple(LEFT_OUT))}
    assert left == set()


async def test_metrics_follow_the_load(launch) -> None:
    from warmfleet_worker.engines.vllm import read_load

    _, client = await launch()
    prompt = list(range(640))
    for _ in range(2):
        await client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 10})
    text = await (await client.get("/metrics")).text()
    load = read_load(text, slo_ttft=2.0, slo_tpot=0.05)
    assert (load.running, load.waiting, load.kv_usage) == (0, 0, 0.0)
    assert load.counters.requests == 2
    assert load.counters.prompt_tokens == load.counters.cache_query_tokens == 1280
    assert load.counters.cache_hit_tokens == 624
    assert load.counters.generation_tokens == 20
    assert (load.latency.ttft_count, load.latency.ttft_within_slo) == (2, 2)
    assert (load.latency.tpot_count, load.latency.tpot_within_slo) == (2, 2)
    assert load.kv_capacity_tokens is not None
    assert load.kv_capacity_tokens > 100_000


async def test_kv_events_are_published_and_replayed(launch, free_port) -> None:
    replay = f"tcp://127.0.0.1:{free_port()}"
    context = zmq.asyncio.Context()
    subscriber = context.socket(zmq.SUB)
    endpoint = f"tcp://127.0.0.1:{subscriber.bind_to_random_port('tcp://127.0.0.1')}"
    subscriber.subscribe(b"")
    config = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": endpoint,
        "replay_endpoint": replay,
        "topic": "kv@a",
    }
    _, client = await launch(
        "--kv-events-config", json.dumps(config), "--block-size", "32", WARMFLEET_SIM_KV_TOKENS="8192"
    )
    first = asyncio.ensure_future(subscriber.recv_multipart())  # a bound SUB subscribes while it receives
    await asyncio.sleep(0.2)
    prompt = list(range(100))
    await client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 2})
    topic, sequence, payload = await asyncio.wait_for(first, 5)
    stamp, (event,), rank = msgspec.msgpack.decode(payload)
    assert (topic, int.from_bytes(sequence, "big"), rank) == (b"kv@a", 0, 0)
    assert stamp > 1e9
    assert event["type"] == "BlockStored"
    assert event["block_hashes"] == block_hashes(prompt, 32)
    assert event["parent_block_hash"] is None
    assert event["token_ids"] == prompt[:96]
    assert (event["block_size"], event["medium"]) == (32, "GPU")
    # a longer prompt stores only what is new, after its parent
    await client.post("/v1/completions", json={"prompt": list(range(160)), "max_tokens": 2})
    _, _, payload = await asyncio.wait_for(subscriber.recv_multipart(), 5)
    event = msgspec.msgpack.decode(payload)[1][0]
    assert event["parent_block_hash"] == block_hashes(prompt, 32)[-1]
    assert event["token_ids"] == list(range(96, 160))
    # a full cache evicts
    for i in range(3):
        await client.post(
            "/v1/completions", json={"prompt": list(range(10_000 * i, 10_000 * i + 4000)), "max_tokens": 2}
        )
    kinds = set()
    while "BlockRemoved" not in kinds:
        kinds |= {
            e["type"] for e in msgspec.msgpack.decode((await asyncio.wait_for(subscriber.recv_multipart(), 5))[2])[1]
        }
    asker = context.socket(zmq.DEALER)
    asker.connect(replay)
    await asker.send_multipart([b"", (1).to_bytes(8, "big")])
    numbers = []
    while (
        number := int.from_bytes((frames := await asyncio.wait_for(asker.recv_multipart(), 5))[-2], "big", signed=True)
    ) != -1:
        numbers.append(number)
        msgspec.msgpack.decode(frames[-1])
    assert numbers[:2] == [1, 2]
    for socket in (subscriber, asker):
        socket.close(linger=0)
    context.term()


@pytest.mark.parametrize(
    ("argv", "environ", "words"),
    [
        (["serve"], {}, "no model"),
        (["serve", "llama-3.1-8b", "other"], {}, "one model"),
        (["serve", "some/unknown"], {}, "WARMFLEET_SIM_PROFILE"),
        (["serve", "llama-3.1-8b"], {"WARMFLEET_SIM_ACCELERATOR": "TPU"}, "WARMFLEET_SIM_ACCELERATOR"),
        (["serve", "llama-3.1-8b", "--max-model-len", "999999999"], {}, "--max-model-len"),
        (["serve", "llama-3.1-8b"], {"WARMFLEET_SIM_KV_TOKENS": "many"}, "WARMFLEET_SIM_KV_TOKENS"),
        (["serve", "llama-3.1-8b"], {"WARMFLEET_SIM_STARTUP_SECONDS": "-1"}, "WARMFLEET_SIM_STARTUP_SECONDS"),
        (
            ["serve", "llama-3.1-8b", "--kv-events-config", '{"enable_kv_cache_events":true,"publisher":"x"}'],
            {},
            "publisher",
        ),
        (["serve", "llama-3.1-8b", "--kv-events-config", '{"endpiont":"x"}'], {}, "endpiont"),
    ],
)
def test_wrong_configuration_is_named(argv, environ, words) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_config(argv, environ)


def test_unknown_flags_are_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        parse_config(["serve", "llama-3.1-8b", "--gpu-count", "3"], {})
    assert "--gpu-count" in capsys.readouterr().err


def test_flags_choose_the_profile() -> None:
    config = parse_config(["--model", "openai/gpt-oss-120b", "-tp", "2"], {})
    assert config.profile.name == "gpt-oss-120b/mxfp4/H100-SXM/tp2"
    config = parse_config(["serve", "x", "-q", "fp8"], {"WARMFLEET_SIM_PROFILE": "llama-3.1-8b"})
    assert config.profile.dtype == "fp8"
    config = parse_config(
        ["/models/a", "--served-model-name", "x", "meta-llama/Llama-3.1-8B", "--revision", "main"], {}
    )
    assert config.profile.model == "llama-3.1-8b"
    plain = parse_config(["llama-3.1-8b"], {})
    small = parse_config(["llama-3.1-8b", "--kv-cache-dtype", "fp8"], {})
    assert small.blocks == 2 * plain.blocks
    assert not parse_config(["llama-3.1-8b", "--no-enable-prefix-caching"], {}).prefix_caching
