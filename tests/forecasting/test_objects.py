"""What an LLMDeployment says about its forecast, and what becomes of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from warmfleet_contracts.api import LLMDeployment
from warmfleet_forecasting.config import Event, ForecastConfig, Holiday, Seasonality
from warmfleet_forecasting.service.objects import Object, config_of, target_of


def item(scaling: dict[str, Any]) -> Object:
    return {
        "metadata": {"name": "chat", "namespace": "prod", "uid": "u"},
        "spec": {"variants": [{"name": "a", "instanceType": "h100"}], "scaling": {"min": 1, "max": 8, **scaling}},
    }


def config(scaling: dict[str, Any], time_zone: str = "Etc/UTC") -> ForecastConfig:
    target = target_of(item(scaling))
    assert not target.faults
    return config_of(target, {"h100": 420.0}, time_zone=time_zone, valid_for_s=1800.0)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_holidays_are_whole_days_where_the_traffic_lives() -> None:
    days = {"name": "quiet", "days": ["2026-10-25", "2026-12-25"]}
    found = config({"forecast": {"holidays": [days]}}, "Europe/Berlin").holidays
    # The clock goes back on the first of them: that day has 25 hours.
    assert found == (
        Holiday("quiet", at("2026-10-24T22:00"), at("2026-10-25T23:00")),
        Holiday("quiet", at("2026-12-24T23:00"), at("2026-12-25T23:00")),
    )
    assert config({"forecast": {"holidays": [days]}}).holidays[0].start == at("2026-10-25T00:00")


def test_seasonalities_events_lead_and_history_are_taken_over() -> None:
    event = {"name": "sale", "start": "2026-11-27T00:00:00+01:00", "end": "2026-11-28T00:00:00Z", "factor": 3}
    found = config({"forecast": {"seasonalities": ["daily", "8h", "2h"], "history": "168h"}, "events": [event]})
    assert (found.daily, found.weekly) == (True, False)
    assert found.seasonalities == (Seasonality("8h", 28_800.0, 3), Seasonality("2h", 7200.0, 1))
    assert found.events == (Event("sale", at("2026-11-26T23:00"), at("2026-11-28T00:00"), 3.0),)
    assert (found.lead_s, found.history_s, found.valid_for_s) == (420.0, 604_800.0, 1800.0)
    assert config({"forecast": {}}).weekly


DAY = "2026-11-28T00:00:00Z"


@pytest.mark.parametrize(
    ("forecast", "event", "words"),
    [
        ({"holidays": [{"name": "x", "days": ["2026-02-30", "2026-03-01"]}]}, None, "'2026-02-30' is not a day; write"),
        ({}, {"start": "2026-11-27", "end": "never"}, "scaling.events[0]: "),
        ({}, {"start": "2026-11-27T00:00:00", "end": DAY}, "start and end need a time zone"),
        ({}, {"start": DAY, "end": DAY}, "end must be after start"),
        ({"seasonalities": ["hourly"], "history": "48h"}, None, "scaling.forecast.seasonalities.0: "),
    ],
)
def test_what_makes_no_sense_is_named_and_costs_itself_alone(
    forecast: dict[str, Any], event: dict[str, Any] | None, words: str
) -> None:
    good = {"name": "sale", "start": "2026-11-27T00:00:00Z", "end": DAY, "factor": 2}
    events = [good] if event is None else [good | event, good]
    target = target_of(item({"forecast": forecast, "events": events}))
    assert words in "; ".join(target.faults)
    assert target.asks
    assert len(target.events) == 1
    assert target.forecast is not None
    assert target.forecast.history == (172_800.0 if "history" in forecast else 28 * 86_400.0)
    assert [str(day) for _, day in target.holidays] == (["2026-03-01"] if "holidays" in forecast else [])


@pytest.mark.parametrize("forecast", [{"forecaster": "Oracle"}, [], "yes"])
def test_whose_forecast_it_is_must_be_clear(forecast: object) -> None:
    target = target_of(item({"forecast": forecast}))
    assert not target.asks
    assert "scaling.forecast" in target.faults[0]


@pytest.mark.parametrize("period", ["1h", "0h", "8", "8m", "1000h", "Daily"])
def test_a_period_that_cannot_be_learned_is_refused(period: str) -> None:
    body = item({"forecast": {"seasonalities": [period]}}) | {"apiVersion": "warmfleet.dev/v1alpha1"}
    with pytest.raises(ValueError, match=r"seasonalities\.0"):
        LLMDeployment.model_validate(body | {"kind": "LLMDeployment"})
