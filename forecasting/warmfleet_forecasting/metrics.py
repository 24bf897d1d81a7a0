"""The forecaster's own metrics; series of a deployment go with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from warmfleet_contracts.api.base import parse_duration

from warmfleet_forecasting.history import Key

_DEPLOYMENT = ("namespace", "deployment")
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """All series, in a registry of their own so that several forecasters in a process do not collide."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.fits = Counter("warmfleet_forecaster_fits", "Fits by outcome.", ["outcome"], registry=registry)
        self.fit_seconds = Histogram(
            "warmfleet_forecaster_fit_seconds", "Seconds that one fit took.", buckets=_SECONDS, registry=registry
        )
        self.history_failures = Counter(
            "warmfleet_forecaster_history_failures",
            "Histories that could not be had, by cause.",
            ["cause"],
            registry=registry,
        )
        self.scrapes = Counter(
            "warmfleet_forecaster_scrapes", "Requests to operators by outcome.", ["outcome"], registry=registry
        )
        self.refused = Counter(
            "warmfleet_forecaster_unauthorized_requests",
            "Requests for metrics without the right bearer token.",
            registry=registry,
        )
        self.writes = Counter(
            "warmfleet_forecaster_writes",
            "Writes to the API server by kind and outcome.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.overdue = Gauge(
            "warmfleet_forecaster_overdue_seconds", "How late the most overdue forecast is.", registry=registry
        )
        self.assigned = Gauge(
            "warmfleet_forecaster_assigned", "Forecasts that are this replica's to make.", registry=registry
        )
        self.trusted = Gauge(
            "warmfleet_forecaster_trusted",
            "1 while the planner may buy on the forecast.",
            [*_DEPLOYMENT],
            registry=registry,
        )
        self.issued = Gauge(
            "warmfleet_forecaster_issued_timestamp_seconds",
            "When the current forecast was issued; absent without one.",
            [*_DEPLOYMENT],
            registry=registry,
        )

        self.gain = Gauge(
            "warmfleet_forecaster_pinball_gain_ratio",
            "Quantile loss saved against persistence, by horizon; absent while unmeasured.",
            [*_DEPLOYMENT, "horizon_seconds"],
            registry=registry,
        )
        self.coverage = Gauge(
            "warmfleet_forecaster_coverage90_ratio",
            "Share of readings below the 0.9 quantile, by horizon; absent while unmeasured.",
            [*_DEPLOYMENT, "horizon_seconds"],
            registry=registry,
        )

    def render(self, names: Sequence[str] = ()) -> bytes:
        """The exposition text; of the metrics with these names only, if any are given."""
        return generate_latest(self.registry.restricted_registry(names) if names else self.registry)

    def told(self, key: Key, *, trusted: bool, issued_at: float | None) -> None:
        """A status was made for a deployment."""
        self.trusted.labels(*key).set(trusted)
        if issued_at is not None:
            self.issued.labels(*key).set(issued_at)

    def skilled(self, key: Key, skill: Sequence[Mapping[str, Any]]) -> None:
        """How well forecasts of a deployment have done.

        Args:
            key: The deployment.
            skill: As in a TrafficForecast's status: horizon, pinballGain, coverage90.
        """
        for metric in (self.gain, self.coverage):
            metric.remove_by_labels(dict(zip(_DEPLOYMENT, key, strict=True)))
        for one in skill:
            horizon = f"{parse_duration(one['horizon']):g}"
            self.gain.labels(*key, horizon).set(one["pinballGain"])
            if one.get("coverage90") is not None:
                self.coverage.labels(*key, horizon).set(one["coverage90"])

    def forget(self, key: Key) -> None:
        """Remove all series of a deployment."""
        for metric in (self.trusted, self.issued, self.gain, self.coverage):
            metric.remove_by_labels(dict(zip(_DEPLOYMENT, key, strict=True)))
