"""The disruption budget: how many must stay, whatever the evictions."""

from __future__ import annotations

import pytest
from warmfleet_operator.specs.disruption import min_available
from warmfleet_operator.state.records import Key, WorkerPhase, WorkerRecord


def worker(i: int, unschedulable_since: float | None = None) -> WorkerRecord:
    phase = WorkerPhase.UNSCHEDULED if unschedulable_since is not None else WorkerPhase.READY
    return WorkerRecord(
        Key("prod", f"w{i}"),
        f"u{i}",
        "1",
        "chat",
        "h",
        "h",
        "r",
        phase,
        1,
        0.0,
        unschedulable_since=unschedulable_since,
    )


@pytest.mark.parametrize(("desired", "available"), [(0, 0), (1, 0), (2, 1), (10, 9), (30, 27)])
def test_the_budget_always_allows_someone_to_leave(desired: int, available: int) -> None:
    assert min_available(desired, [worker(i) for i in range(desired)], 0.0) == available


def test_workers_that_find_no_place_do_not_block_evictions_for_good() -> None:
    workers = [worker(0), worker(1), worker(2, 0.0), worker(3, 0.0)]
    assert min_available(4, workers, 100.0) == 3
    assert min_available(4, workers, 1000.0) == 1
