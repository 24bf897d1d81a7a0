"""What ``auto`` chooses, and that its break-even is the one of the published table."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warmfleet_contracts.agent import Strategy
from warmfleet_contracts.perfmodel import lookup, prefill_tokens_per_second
from warmfleet_worker.kv.physics import SHARE, Choice, Physics, choose

STORE, MIGRATE, REPLAY = Strategy.STORE, Strategy.MIGRATE, Strategy.REPLAY
ALL = (Strategy.AUTO, STORE, MIGRATE, REPLAY)
SIZE, PREFILL = 131_072.0, 12_000.0  # llama-3.1-8b on an L40S: break-even 1.6 GB/s
HELD = 500_000


def physics(link: float | None = 2.8e9, store: float | None = 2.8e9) -> Physics:
    return Physics(SIZE, PREFILL, link, store)


def ask(means=ALL, known: Physics | None = None, unstored: int = 0, seconds: float = 120.0) -> Choice:
    found = known or physics()
    return choose(means, found, held_tokens=HELD, unstored_tokens=unstored, seconds=seconds)


def test_what_is_stored_already_needs_no_time() -> None:
    choice = ask(seconds=1.0)
    assert choice.order == (STORE, MIGRATE, REPLAY)
    assert "break-even 1.57 GB/s" in choice.reason
    assert f"{HELD} of {HELD} tokens" in choice.reason


def test_a_store_that_is_far_behind_loses_to_a_wide_link() -> None:
    """2.8 GB/s store 21,000 tokens in a second; half of a 40 GB/s link carries seven times as many."""
    choice = ask(known=physics(link=40e9), unstored=HELD, seconds=1.0)
    assert choice.order == (MIGRATE, STORE, REPLAY)
    assert f"store 2.8 GB/s pays, {int(2.8e9 / SIZE)} of" in choice.reason


def test_what_is_slower_than_computing_comes_after_computing() -> None:
    choice = ask(known=physics(link=1.5e9, store=1.0e9), seconds=60.0)
    assert choice.order == (REPLAY, STORE, MIGRATE)
    assert "migrate 1.5 GB/s does not pay" in choice.reason
    assert f"replay {int(SHARE * PREFILL * 60)} of" in choice.reason


def test_break_even_is_the_border() -> None:
    border = SIZE * PREFILL
    assert ask((MIGRATE, REPLAY), physics(link=border)).order[0] is MIGRATE
    assert ask((MIGRATE, REPLAY), physics(link=border * 0.999)).order[0] is REPLAY


@pytest.mark.parametrize(
    ("known", "missing"),
    [
        (Physics(), "the size of a token's KV cache"),
        (Physics(SIZE), "the speed of prefill"),
        (Physics(SIZE, PREFILL, 1e9), "the store's bandwidth"),
        (Physics(SIZE, PREFILL, None, 1e9), "the link's bandwidth"),
    ],
)
def test_without_a_figure_there_is_no_verdict(known: Physics, missing: str) -> None:
    choice = ask(known=known)
    assert choice.order == (STORE, MIGRATE, REPLAY)
    assert missing in choice.reason


def test_one_means_or_none_is_no_choice() -> None:
    assert ask((REPLAY,)).order == (REPLAY,)
    assert ask((Strategy.AUTO, Strategy.NONE)).order == (Strategy.NONE,)


@given(
    means=st.sets(st.sampled_from([STORE, MIGRATE, REPLAY]), min_size=1),
    figures=st.tuples(*[st.none() | st.floats(1.0, 1e12)] * 4),
    unstored=st.integers(0, HELD),
    seconds=st.floats(0.0, 1e5),
)
def test_no_means_is_lost_or_invented_and_the_reason_fits_a_report(means, figures, unstored, seconds) -> None:
    choice = ask(means, Physics(*figures), unstored, seconds)
    assert sorted(choice.order) == sorted(means)
    assert len(choice.reason) < 300


def test_the_break_even_is_that_of_the_table(data_dir: Path) -> None:
    ratios = []
    with (data_dir / "perf" / "kv_handover.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            profile = lookup(row["model"], row["dtype"], row["gpu"], int(row["tp"]))
            assert profile is not None
            found = Physics(profile.kv_bytes_per_token, prefill_tokens_per_second(profile)).break_even
            assert found is not None
            ratios.append(found / (float(row["breakeven_GBps"]) * 1e9))
    assert len(ratios) > 200
    assert statistics.median(ratios) == pytest.approx(1.0, abs=0.01)
    assert 0.75 < min(ratios) < max(ratios) < 1.3  # the table's own prompts are cut into steps where memory binds
