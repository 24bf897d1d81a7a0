"""The table in ``docs/kv-cache.md``: what each strategy handed over on the real engine.

With ``WARMFLEET_RECORD=1`` the tests of departures note their figures in ``tests/worker/recorded/handover.json`` and
write the table anew from it; ``python tests/vllm/handed_over.py`` only writes the table.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "bench"))  # that folder is no package

from marked import write_between  # noqa: E402

FIGURES = ROOT / "tests" / "worker" / "recorded" / "handover.json"
PAGE = ROOT / "docs" / "kv-cache.md"
BEGIN, END = "<!-- handed over: written by tests/vllm/handed_over.py -->", "<!-- end of handed over -->"
_ORDER = ("store", "migrate", "replay")


@dataclass(frozen=True, slots=True)
class HandedOver:
    """One departure.

    Attributes:
        strategy: How.
        connector: What the engines had.
        prompts: Prompts that the leaving worker had served.
        blocks: Full blocks of them, answers' blocks included, that it held.
        kept_tokens: Tokens that its report says stay.
        dropped_tokens: Tokens that its report says are lost.
        moved_bytes: Bytes of KV cache that went to the store or to the survivor.
        drain_seconds: Length of the drain.
        full_tokens: Tokens in the full blocks of the prompts that users ask the survivor again.
        hit_tokens: Of these, found.
        hits: local (in the survivor's own cache) or external (in the store).
    """

    strategy: str
    connector: str
    prompts: int
    blocks: int
    kept_tokens: int
    dropped_tokens: int
    moved_bytes: int
    drain_seconds: float
    full_tokens: int
    hit_tokens: int
    hits: str


def record(found: HandedOver) -> None:
    """Note a departure and write the table, if WARMFLEET_RECORD=1."""
    if os.environ.get("WARMFLEET_RECORD") != "1":
        return
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    known[found.strategy] = asdict(found)
    FIGURES.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    write()


def table() -> str:
    """The table, from the noted figures."""
    known = json.loads(FIGURES.read_text())
    lines = [
        "| strategy | engines have | prompts | blocks | tokens kept | dropped | MB moved | drain, s | found again |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in (HandedOver(**known[name]) for name in _ORDER if name in known):
        hits = f"{one.hit_tokens} of {one.full_tokens} tokens, {one.hits} ({one.hit_tokens / one.full_tokens:.1%})"
        cells = [one.strategy, one.connector, one.prompts, one.blocks, one.kept_tokens, one.dropped_tokens]
        cells += [f"{one.moved_bytes / 1e6:.1f}", f"{one.drain_seconds:.1f}", hits]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def write() -> None:
    """Put the table into the page."""
    write_between(PAGE, BEGIN, END, table())


if __name__ == "__main__":
    write()
