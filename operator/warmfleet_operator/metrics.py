"""The operator's own metrics; series of a deployment go with it."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from warmfleet_operator.state.decisions import FleetPlan
from warmfleet_operator.state.records import FleetSnapshot, Key, WorkerRecord

_DEPLOYMENT = ("namespace", "deployment")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_DRAIN_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200)


class Metrics:
    """All series, in a registry of their own so that tests and several operators in a process do not collide."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.plan_seconds = Histogram(
            "warmfleet_operator_plan_seconds", "Real seconds of one decision.", buckets=_SECONDS, registry=registry
        )
        self.tick_seconds = Histogram(
            "warmfleet_operator_tick_seconds",
            "Real seconds of one round of the decision loop by phase.",
            ["phase"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.watched_version = Gauge(
            "warmfleet_operator_watched_version",
            "Largest resourceVersion seen.",
            ["resource"],
            registry=registry,
        )
        self.ticks = Counter(
            "warmfleet_operator_ticks", "Rounds of the decision loop by result.", ["result"], registry=registry
        )
        self.decisions = Counter(
            "warmfleet_operator_decisions", "Decisions by rule.", [*_DEPLOYMENT, "reason"], registry=registry
        )
        self.api_requests = Counter(
            "warmfleet_operator_api_requests",
            "Requests to the API server; code 0 means no answer.",
            ["verb", "resource", "code"],
            registry=registry,
        )
        self.telemetry_failures = Counter(
            "warmfleet_operator_telemetry_failures",
            "Answers of routers and agents that could not be used.",
            ["source", "cause"],
            registry=registry,
        )
        self.events = Counter(
            "warmfleet_operator_events", "Kubernetes events by reason.", ["reason"], registry=registry
        )
        self.act_failures = Counter(
            "warmfleet_operator_act_failures", "Rounds of acting that failed.", [*_DEPLOYMENT], registry=registry
        )
        self.leader = Gauge("warmfleet_operator_leader", "1 while this process leads.", registry=registry)
        self.watch_age = Gauge(
            "warmfleet_operator_watch_age_seconds",
            "Seconds since what was watched last agreed with a fresh list.",
            ["resource"],
            registry=registry,
        )
        self.workers = Gauge(
            "warmfleet_operator_workers", "Workers.", [*_DEPLOYMENT, "variant", "phase"], registry=registry
        )
        self.desired = Gauge("warmfleet_operator_desired_workers", "Workers wanted.", [*_DEPLOYMENT], registry=registry)
        self.demand = Gauge(
            "warmfleet_operator_demand_requests_per_second",
            "Arrivals; absent while unknown.",
            [*_DEPLOYMENT],
            registry=registry,
        )
        self.queue = Gauge(
            "warmfleet_operator_queued_requests",
            "Requests waiting; absent while unknown.",
            [*_DEPLOYMENT],
            registry=registry,
        )
        self.cost = Gauge(
            "warmfleet_operator_cost_dollars_per_hour", "List price of all workers.", [*_DEPLOYMENT], registry=registry
        )
        self.drain_seconds = Histogram(
            "warmfleet_operator_drain_seconds",
            "Logical seconds from the start of a drain to its end.",
            [*_DEPLOYMENT, "outcome"],
            buckets=_DRAIN_SECONDS,
            registry=registry,
        )
        self._phases: dict[Key, set[tuple[str, str]]] = {}

    def render(self, names: Sequence[str] = ()) -> bytes:
        """The exposition text; of the metrics with these names only, if any are given."""
        return generate_latest(self.registry.restricted_registry(names) if names else self.registry)

    def drain_ended(self, key: Key, outcome: str, seconds: float) -> None:
        """A worker left, or came back."""
        self.drain_seconds.labels(*key, outcome).observe(seconds)

    def api_request(self, verb: str, resource: str, code: int) -> None:
        """The API server answered."""
        self.api_requests.labels(verb, resource, str(code)).inc()

    def telemetry_failure(self, source: str, cause: str) -> None:
        """A source gave no usable answer."""
        self.telemetry_failures.labels(source, cause).inc()

    def decided(self, snapshot: FleetSnapshot, plan: FleetPlan) -> None:
        """Show a decision and what it was made from; forget deployments that are gone."""
        for key, decision in plan.deployments.items():
            self.decisions.labels(*key, str(decision.chosen_by)).inc()
            self.desired.labels(*key).set(decision.desired)
            _set(self.demand, key, decision.demand)
            _set(self.queue, key, decision.queue)
        by_deployment: dict[Key, list[WorkerRecord]] = {key: [] for key in snapshot.deployments}
        for worker in snapshot.workers:
            by_deployment.setdefault(worker.deployment_key, []).append(worker)
        for key, workers in by_deployment.items():
            self._show_workers(key, workers)
        for key in [k for k in self._phases if k not in snapshot.deployments]:
            self.forget(key)

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
        match = dict(zip(_DEPLOYMENT, key, strict=True))
        metrics: tuple[Counter | Gauge | Histogram, ...] = (
            self.decisions,
            self.act_failures,
            self.workers,
            self.desired,
            self.demand,
            self.queue,
            self.cost,
            self.drain_seconds,
        )
        for metric in metrics:
            metric.remove_by_labels(match)


def _set(gauge: Gauge, key: Key, value: float | None) -> None:
    if value is not None:
        gauge.labels(*key).set(value)
    else:
        gauge.remove(*key)
