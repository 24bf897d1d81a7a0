"""The operator's metrics: what a decision shows, what goes with its object, what a scale event does to hits."""

from __future__ import annotations

import re

import pytest
from fleet import llm_deployment
from warmfleet_contracts.agent import DrainReport
from warmfleet_contracts.reasons import Reason
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.state import parse
from warmfleet_operator.state.decisions import DeploymentPlan, FleetPlan, Problem
from warmfleet_operator.state.hitrate import Direction, HitRatioWatch, ScaleEvent
from warmfleet_operator.state.records import (
    Demand,
    DeploymentRecord,
    FleetSnapshot,
    Key,
    WorkerPhase,
    WorkerRecord,
)

KEY = Key("prod", "chat")


def deployed() -> DeploymentRecord:
    body = llm_deployment(replicas=1)
    body["metadata"] |= {"uid": "u", "generation": 1, "resourceVersion": "5"}
    found = parse.deployment_from(body, None, 0.0)
    assert found is not None
    return found


def workers(*names: str) -> tuple[WorkerRecord, ...]:
    ready = WorkerPhase.READY
    return tuple(WorkerRecord(Key("prod", n), n, "1", "chat", "a", "h100", "t", ready, 1, 0.0) for n in names)


def snapshot(demand: Demand | None = None, *names: str) -> FleetSnapshot:
    return FleetSnapshot(
        deployments={KEY: deployed()},
        instance_types={},
        workers=workers(*names),
        nodes={},
        telemetry={},
        demand={} if demand is None else {KEY: demand},
        wall_epoch=1e9,
    )


def plan(at: float = 0.0, **what: object) -> FleetPlan:
    return FleetPlan(at, {KEY: DeploymentPlan(KEY, "u", 1, **what)})  # type: ignore[arg-type]


def series(metrics: Metrics, name: str) -> dict[str, float]:
    text = metrics.render().decode()
    found = re.finditer(rf"^warmfleet_operator_{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return {m[1] or "": float(m[2]) for m in found}


def test_what_is_unknown_has_no_series_and_a_limit_that_is_gone_is_gone() -> None:
    metrics, own = Metrics(), 'deployment="chat",namespace="prod"'
    known = Demand(0.0, 5.0, hit_ratio=0.4, slo_attainment=0.98, rejects=0.0)
    limited = plan(desired=3, unlimited=5, limited=Reason.CAPACITY_EXHAUSTED, demand=5.0, forecast=7.0)
    metrics.decided(snapshot(known, "a"), limited)
    assert series(metrics, "limited") == {f'{own},reason="CapacityExhausted"': 1.0}
    assert series(metrics, "prefix_hit_ratio") == {own: 0.4}
    assert series(metrics, "forecast_requests_per_second") == {own: 7.0}
    assert series(metrics, "slo_target_ratio") == {own: 0.99}
    assert series(metrics, "last_decision_timestamp_seconds") == {"": 1e9}
    stalled = Problem(Reason.INVALID_SPEC, "x", stalled=True)
    metrics.decided(snapshot(Demand(1.0, None), "a"), plan(1.0, desired=3, problems=(stalled,)))
    for name in ("limited", "prefix_hit_ratio", "forecast_requests_per_second", "slo_attainment_ratio"):
        assert series(metrics, name) == {}, name
    assert series(metrics, "stalled") == {own: 1.0}


def test_all_series_of_a_deployment_go_with_it() -> None:
    metrics = Metrics(window=1.0)
    known = Demand(0.0, 5.0, hit_ratio=0.4, slo_attainment=0.98, rejects=0.0, queue=1)
    what = {"desired": 3, "limited": Reason.CAPACITY_EXHAUSTED, "demand": 5.0, "queue": 1, "forecast": 7.0}
    for at, names in enumerate((("a", "b"), ("a",), ("a",), ("a",))):
        metrics.decided(snapshot(known, *names), plan(float(at), **what))
    metrics.drain_ended(KEY, "completed", 3.0, DrainReport(kept_tokens=5, dropped_tokens=2, aborted_requests=1))
    metrics.act_failures.labels(*KEY).inc()
    metrics.cost.labels(*KEY).set(1.0)
    shown = {line.split("{")[0] for line in metrics.render().decode().splitlines() if 'deployment="chat"' in line}
    assert len(shown) > 20
    empty = FleetSnapshot(
        deployments={}, instance_types={}, workers=(), nodes={}, telemetry={}, demand={}, wall_epoch=None
    )
    metrics.decided(empty, FleetPlan(9.0))
    assert 'deployment="chat"' not in metrics.render().decode()


def test_a_departure_tells_what_became_of_the_cache() -> None:
    metrics, own = Metrics(), 'deployment="chat",namespace="prod"'
    metrics.drain_ended(KEY, "completed", 3.0, DrainReport(kept_tokens=70, moved_tokens=60, dropped_tokens=30))
    metrics.drain_ended(KEY, "forced", 9.0)
    tokens = series(metrics, "handover_tokens_total")
    assert tokens == {f'{own},outcome="{k}"': v for k, v in {"kept": 70.0, "moved": 60.0, "dropped": 30.0}.items()}
    assert series(metrics, "drain_seconds_count")[f'{own},outcome="forced"'] == 1.0


def test_the_hit_rate_before_and_after_a_scale_event_is_shown() -> None:
    metrics = Metrics(window=100.0)
    for at, ratio, names in ((0, 0.5, "abc"), (10, 0.6, "abc"), (20, 0.6, "ab"), (60, 0.5, "a"), (130, 0.3, "a")):
        metrics.decided(snapshot(Demand(at, 1.0, hit_ratio=ratio), *names), plan(float(at)))
    assert not series(metrics, "scale_event_hit_ratio")
    metrics.decided(snapshot(Demand(160, 1.0, hit_ratio=0.45), "a"), plan(160.0))
    own = 'deployment="chat",direction="in",namespace="prod"'
    assert series(metrics, "scale_event_hit_ratio") == {f'{own},when="before"': 0.6, f'{own},when="after"': 0.45}
    assert series(metrics, "scale_event_kept_ratio_sum") == {own: pytest.approx(0.75)}


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(0, "ab", 0.5), (10, "a", 0.5), (110, "a", 0.4)], ScaleEvent(Direction.IN, 0.5, 0.4)),
        ([(0, "a", 0.5), (10, "ab", 0.5), (110, "ab", 0.5)], ScaleEvent(Direction.OUT, 0.5, 0.5)),
        ([(0, "a", 0.5), (10, "b", 0.5), (110, "b", 0.1)], ScaleEvent(Direction.REPLACED, 0.5, 0.1)),
        ([(0, "ab", None), (10, "a", 0.5), (110, "a", 0.4)], None),
        ([(0, "ab", 0.5), (10, "a", 0.5), (110, "a", None)], None),
        ([(0, "ab", 0.5), (10, "a", 0.5), (109, "a", 0.4)], None),
        ([(0, "ab", 0.5), (10, "ab", 0.5), (500, "ab", 0.4)], None),
    ],
)
def test_an_event_is_measured_once_its_window_is_over(
    looks: list[tuple[float, str, float | None]], expected: ScaleEvent | None
) -> None:
    watch = HitRatioWatch(100.0)
    found = [watch.observe(KEY, set(serving), ratio, at) for at, serving, ratio in looks]
    assert [e for e in found if e] == ([expected] if expected else [])


def test_nothing_to_lose_is_not_kept() -> None:
    assert ScaleEvent(Direction.IN, 0.0, 0.4).kept is None
