"""The shipped forecaster learns from the generated week: its table looks ahead of the rush, and of nothing else."""

from __future__ import annotations

import pytest
from warmfleet_cli.demo import traffic
from warmfleet_cli.demo.conversations import Shape
from warmfleet_cli.demo.sizing import PEAK_RATE, plan
from warmfleet_contracts.leadwindow import LeadWindowTable, outlook
from warmfleet_contracts.trafficstate import TrafficState, advance
from warmfleet_forecasting.config import ForecastConfig
from warmfleet_forecasting.forecast import forecast
from warmfleet_forecasting.series import Series

LEAD_S = max(kind.lead_s for kind in plan(Shape()).kinds)


@pytest.fixture(scope="module")
def table() -> LeadWindowTable:
    past = traffic.generated(minutes=100).past(PEAK_RATE)
    result = forecast(Series(0.0, 60.0, past), ForecastConfig(lead_s=LEAD_S), None)
    assert result.trusted, result.message
    assert result.lead_table is not None
    return result.lead_table


def reach(table: LeadWindowTable, minute: int) -> tuple[float, float]:
    """Level at a minute of the window, and the highest demand that is expected until a worker bought then serves."""
    pattern = traffic.generated(minutes=100)
    rates = [*pattern.past(PEAK_RATE)[-400:], *pattern.rates(PEAK_RATE)]
    state: TrafficState | None = None
    for i in range(400 + minute):
        state = advance(state, float(rates[i]), (i + 1) * 60.0)
    assert state is not None
    return state.level, outlook(table, state, LEAD_S, minute * 60.0).quantile(0.9)


def test_workers_are_bought_before_the_rush(table: LeadWindowTable) -> None:
    level, expected = reach(table, 12)
    assert level < 0.45 * PEAK_RATE, "nothing of the rush is there"
    assert expected > 1.25 * level


def test_between_rushes_no_more_is_bought_than_is_needed(table: LeadWindowTable) -> None:
    level, expected = reach(table, 72)
    assert expected < 1.15 * level


def test_nobody_knew_of_the_spike(table: LeadWindowTable) -> None:
    spike = traffic.generated(minutes=100).spike
    assert spike is not None
    _, expected = reach(table, spike.start)
    assert expected < 0.6 * PEAK_RATE
    level, caught = reach(table, spike.start + 3)
    assert caught >= 0.95 * level > 0.7 * PEAK_RATE * 0.95
