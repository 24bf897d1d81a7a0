"""The operator's own metrics; series of a deployment go with it.

Labels that grow with the cluster are ``namespace``, ``deployment`` and ``variant``, nothing else: no pod, node or model
names. What is unknown has no series, never a zero.
"""

from __future__ import annotations

import math
from collections import Counter as Tally
from collections.abc import Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from warmfleet_contracts.agent import DrainReport

from warmfleet_operator.state.decisions import DeploymentPlan, FleetPlan
from warmfleet_operator.state.hitrate import HitRatioWatch, ScaleEvent
from warmfleet_operator.state.records import Demand, DeploymentRecord, FleetSnapshot, Key, WorkerPhase, WorkerRecord

_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)
_DEPLOYMENT = ("namespace", "deployment")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_DRAIN_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200)
_KEPT = (0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0, 1.1, 1.5)


class Metrics:
    """All series, in a registry of their own so that tests and several operators in a process do not collide.

    Args:
        window: Logical seconds that hit ratios are measured over.
    """

    def __init__(self, window: float = 300.0) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._hits = HitRatioWatch(window)
        self._phases: dict[Key, set[tuple[str, str]]] = {}
        self._limits: dict[Key, str] = {}
        self._by_deployment: list[Counter | Gauge | Histogram] = []
        self._process_metrics()
        self._fleet_metrics()
        self._traffic_metrics()
        self._departure_metrics()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return self._kept(Counter(f"warmfleet_operator_{name}", text, labels, registry=self.registry), labels)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return self._kept(Gauge(f"warmfleet_operator_{name}", text, labels, registry=self.registry), labels)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        made = Histogram(f"warmfleet_operator_{name}", text, labels, buckets=buckets, registry=self.registry)
        return self._kept(made, labels)

    def _kept(self, metric: _Metric, labels: Sequence[str]) -> _Metric:
        """Remembers what must lose its series with a deployment."""
        if set(_DEPLOYMENT) <= set(labels):
            self._by_deployment.append(metric)
        return metric

    def _of_fleet(self, name: str, text: str) -> Gauge:
        return self._gauge(name, text, *_DEPLOYMENT)

    def _process_metrics(self) -> None:
        self.plan_seconds = self._histogram("plan_seconds", "Seconds that one decision took.", _SECONDS)
        self.tick_seconds = self._histogram(
            "tick_seconds", "Seconds that one round of the decision loop took by phase.", _SECONDS, "phase"
        )
        self.watched_version = self._gauge("watched_version", "Largest resourceVersion seen.", "resource")
        self.ticks = self._counter("ticks", "Rounds of the decision loop by outcome.", "outcome")
        self.last_decision = self._gauge(
            "last_decision_timestamp_seconds", "Wall time of the last decision; not a number before the first."
        )
        self.last_decision.set(math.nan)
        self.decisions = self._counter("decisions", "Decisions by rule.", *_DEPLOYMENT, "reason")
        self.api_requests = self._counter(
            "api_requests", "Requests to the API server; code 0 means no answer.", "verb", "resource", "code"
        )
        self.telemetry_failures = self._counter(
            "telemetry_failures", "Answers of routers and agents that could not be used.", "source", "cause"
        )
        self.refused = self._counter("unauthorized_requests", "Requests for metrics without the right bearer token.")
        self.events = self._counter("events", "Kubernetes events by reason.", "reason")
        self.act_failures = self._counter("act_failures", "Rounds of acting that failed.", *_DEPLOYMENT)
        self.leader = self._gauge("leader", "1 while this process leads.")
        self.watch_age = self._gauge(
            "watch_age_seconds", "Seconds since what was watched last agreed with a fresh list.", "resource"
        )

    def _fleet_metrics(self) -> None:
        self.workers = self._gauge("workers", "Workers by phase.", *_DEPLOYMENT, "variant", "phase")
        self.desired = self._of_fleet("desired_workers", "Workers wanted.")
        self.unlimited = self._of_fleet("unlimited_workers", "Workers that would be wanted without limits.")
        self.limited = self._gauge("limited", "1 for the limit that holds the fleet back.", *_DEPLOYMENT, "reason")
        self.stalled = self._of_fleet("stalled", "1 while nothing can go on without a person.")
        self.cost = self._of_fleet("cost_dollars_per_hour", "List price of all workers.")

    def _traffic_metrics(self) -> None:
        self.demand = self._of_fleet("demand_requests_per_second", "Arrivals; absent while unknown.")
        self.forecast = self._of_fleet(
            "forecast_requests_per_second", "Demand that a forecast asks to serve; absent while none is used."
        )
        self.queue = self._of_fleet("queued_requests", "Requests waiting; absent while unknown.")
        self.rejects = self._of_fleet(
            "rejected_requests_per_second", "Requests refused for want of a worker; absent while unknown."
        )
        self.silent = self._of_fleet("silent_workers", "Ready workers whose agents give no usable answer.")
        self.attainment = self._of_fleet(
            "slo_attainment_ratio", "Share of recent requests within the SLO; absent while unknown."
        )
        self.target = self._of_fleet("slo_target_ratio", "Share of requests that is to be within the SLO.")
        self.hit_ratio = self._of_fleet(
            "prefix_hit_ratio", "Prefix-cache hits per prompt token over the last minutes; absent while unknown."
        )

    def _departure_metrics(self) -> None:
        self.drain_seconds = self._histogram(
            "drain_seconds",
            "Seconds from the start of a drain to its end.",
            _DRAIN_SECONDS,
            *_DEPLOYMENT,
            "outcome",
        )
        self.handover_tokens = self._counter(
            "handover_tokens", "Tokens of prefix blocks at departures, by what became of them.", *_DEPLOYMENT, "outcome"
        )
        self.aborted = self._counter(
            "drain_aborted_requests", "Requests that still ran at a drain's deadline.", *_DEPLOYMENT
        )
        self.scale_hit_ratio = self._gauge(
            "scale_event_hit_ratio",
            "Hit ratio before and after the last scale event of a direction.",
            *_DEPLOYMENT,
            "direction",
            "when",
        )
        self.scale_kept = self._histogram(
            "scale_event_kept_ratio",
            "Hit ratio after a scale event over that before.",
            _KEPT,
            *_DEPLOYMENT,
            "direction",
        )

    def render(self, names: Sequence[str] = ()) -> bytes:
        """The exposition text; of the metrics with these names only, if any are given."""
        return generate_latest(self.registry.restricted_registry(names) if names else self.registry)

    def drain_ended(self, key: Key, outcome: str, seconds: float, report: DrainReport | None = None) -> None:
        """A worker left, or came back."""
        self.drain_seconds.labels(*key, outcome).observe(seconds)
        if report is None:
            return
        tokens = {"kept": report.kept_tokens, "moved": report.moved_tokens, "dropped": report.dropped_tokens}
        for name, count in tokens.items():
            self.handover_tokens.labels(*key, name).inc(count)
        self.aborted.labels(*key).inc(report.aborted_requests)

    def api_request(self, verb: str, resource: str, code: int) -> None:
        """The API server answered."""
        self.api_requests.labels(verb, resource, str(code)).inc()

    def telemetry_failure(self, source: str, cause: str) -> None:
        """A source gave no usable answer."""
        self.telemetry_failures.labels(source, cause).inc()

    def decided(self, snapshot: FleetSnapshot, plan: FleetPlan) -> None:
        """Show a decision and what it was made from; forget deployments that are gone."""
        if snapshot.wall_epoch is not None:
            self.last_decision.set(snapshot.wall_epoch)
        for key, decision in plan.deployments.items():
            self._show_decision(key, decision)
        by_deployment: dict[Key, list[WorkerRecord]] = {key: [] for key in snapshot.deployments}
        for worker in snapshot.workers:
            by_deployment.setdefault(worker.deployment_key, []).append(worker)
        for key, workers in by_deployment.items():
            if key not in self._phases:
                self._begin(key)
            self._show_workers(key, workers)
            demand = snapshot.demand.get(key)
            self._show_demand(key, demand, snapshot.deployments.get(key))
            serving = {w.uid for w in workers if w.phase is WorkerPhase.READY and not w.leaving}
            ratio = demand.hit_ratio if demand is not None else None
            self._show_event(key, self._hits.observe(key, serving, ratio, plan.at))
        for key in [k for k in self._phases if k not in snapshot.deployments]:
            self.forget(key)

    def _begin(self, key: Key) -> None:
        """Counters of a new deployment at zero: an increase from nothing to one is none to Prometheus."""
        for outcome in ("completed", "forced"):
            self.drain_seconds.labels(*key, outcome)
        for name in ("kept", "moved", "dropped"):
            self.handover_tokens.labels(*key, name)
        self.aborted.labels(*key)
        self.act_failures.labels(*key)

    def _show_decision(self, key: Key, decision: DeploymentPlan) -> None:
        self.decisions.labels(*key, str(decision.chosen_by)).inc()
        self.desired.labels(*key).set(decision.desired)
        self.unlimited.labels(*key).set(decision.unlimited)
        self.stalled.labels(*key).set(any(problem.stalled for problem in decision.problems))
        _set(self.demand, key, decision.demand)
        _set(self.forecast, key, decision.forecast)
        _set(self.queue, key, decision.queue)
        was, reason = self._limits.pop(key, None), decision.limited
        if was is not None and was != reason:
            self.limited.remove(*key, was)
        if reason is not None:
            self.limited.labels(*key, str(reason)).set(1)
            self._limits[key] = str(reason)

    def _show_demand(self, key: Key, demand: Demand | None, record: DeploymentRecord | None) -> None:
        _set(self.rejects, key, demand.rejects if demand is not None else None)
        _set(self.silent, key, demand.silent_workers if demand is not None else None)
        _set(self.attainment, key, demand.slo_attainment if demand is not None else None)
        _set(self.hit_ratio, key, demand.hit_ratio if demand is not None else None)
        spec = record.spec if record is not None else None
        _set(self.target, key, spec.slo.attainment if spec is not None else None)

    def _show_event(self, key: Key, event: ScaleEvent | None) -> None:
        if event is None:
            return
        for when, value in (("before", event.before), ("after", event.after)):
            self.scale_hit_ratio.labels(*key, str(event.direction), when).set(value)
        if event.kept is not None:
            self.scale_kept.labels(*key, str(event.direction)).observe(event.kept)

    def _show_workers(self, key: Key, workers: Sequence[WorkerRecord]) -> None:
        tally = Tally((w.variant, "Draining" if w.leaving else str(w.phase)) for w in workers)
        for variant, phase in self._phases.get(key, set()) - tally.keys():
            self.workers.remove(*key, variant, phase)
        for (variant, phase), count in tally.items():
            self.workers.labels(*key, variant, phase).set(count)
        self._phases[key] = set(tally)

    def forget(self, key: Key) -> None:
        """Remove all series of a deployment."""
        self._phases.pop(key, None)
        self._limits.pop(key, None)
        self._hits.forget(key)
        match = dict(zip(_DEPLOYMENT, key, strict=True))
        for metric in self._by_deployment:
            metric.remove_by_labels(match)


def _set(gauge: Gauge, key: Key, value: float | None) -> None:
    if value is not None:
        gauge.labels(*key).set(value)
    else:
        gauge.remove(*key)
