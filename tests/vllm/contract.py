"""What the agent relies on in a real vLLM, as plain facts that can be recorded and compared.

``tests/worker/recorded/vllm.json`` holds them. The tests here hold a live vLLM against the record, and the tests of
the simulated engine hold that one against it; ``WARMFLEET_RECORD=1`` writes the record anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import zmq
from prometheus_client.parser import text_string_to_metric_families
from warmfleet_worker.engines.vllm import WANTED

RECORD = Path(__file__).resolve().parents[1] / "worker" / "recorded" / "vllm.json"
_PREFIX = "vllm:kv_offload_"


def metric_facts(text: str) -> dict[str, list[Any]]:
    """Type and labels of the families that the agent reads, and of all of the connector's totals."""
    read = {name.removesuffix("_total").removesuffix("_sum") for name in WANTED}
    found = {}
    for family in text_string_to_metric_families(text):
        if family.name in read and family.name != "vllm:cache_config_info":
            labels = sorted({key for sample in family.samples for key in sample.labels} - {"le"})
            found[family.name] = [family.type, labels]
    return found


def event_facts(batches: list[bytes]) -> dict[str, dict[str, Any]]:
    """Shape of each kind of event, by type and medium."""
    found: dict[str, dict[str, Any]] = {}
    for payload in batches:
        _, events, *_ = msgspec.msgpack.decode(payload)
        for event in events:
            kind = "/".join(str(event[key]) for key in ("type", "medium") if key in event)
            hashes, size = event.get("block_hashes", []), event.get("block_size", 0)
            found[kind] = {
                "keys": sorted(set(event) & _READ),
                "hash": type(hashes[0]).__name__ if hashes else None,
                "tokens": "block_size each" if size and len(event["token_ids"]) == size * len(hashes) else "none",
                "several": found.get(kind, {}).get("several", False) or len(hashes) > 1,
            }
    return found


_READ = {"type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "medium", "group_idx"}


def replayed(endpoint: str) -> list[bytes]:
    """All batches that a publisher still has, from number 0 on."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.RCVTIMEO, 5000)
    batches = []
    try:
        socket.connect(endpoint)
        socket.send_multipart([b"", (0).to_bytes(8, "big")])
        while True:
            *_, number, payload = socket.recv_multipart()
            if int.from_bytes(number, "big", signed=True) < 0:
                return batches
            assert int.from_bytes(number, "big") == len(batches)
            batches.append(payload)
    finally:
        socket.close(linger=0)
        context.term()


def check(part: str, facts: Any) -> None:
    """Hold live facts against the record, or record them."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if os.environ.get("WARMFLEET_RECORD") == "1":
        record[part] = facts
        RECORD.parent.mkdir(exist_ok=True)
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    assert facts == record.get(part), f"vLLM's {part} are no longer what was recorded; WARMFLEET_RECORD=1 records anew"
