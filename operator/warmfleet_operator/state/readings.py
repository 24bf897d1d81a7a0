"""What the sources of telemetry said, made into :class:`WorkerTelemetry` and :class:`Demand`. No I/O.

Demand is what arrives, not what is served: at the routers when all of them answer, because they also see what no worker
could take; else at the agents, as finished plus running plus waiting requests, which together only ever grow by
arrivals. What leaving workers send to survivors themselves is taken away again, as far as they say what it was.

vllm-router counts attempts: each is either dispatched (``vllm_router_processed_requests_total``) or fails for want of a
worker (``vllm_router_request_errors_total{error_type="no_available_workers"}``), and each repeated attempt is counted
in ``vllm_router_retries_total``. So ``arrivals = dispatched + without worker - retries``. Its
``vllm_router_requests_total`` counts successes at their *end*, too late for requests that run for a minute.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from warmfleet_contracts.agent import AgentState, SentState
from warmfleet_contracts.sketch import decode

from warmfleet_operator.state.fleetsamples import FleetSample
from warmfleet_operator.state.news import rises, surges
from warmfleet_operator.state.plausible import MAX_RATE, implausible
from warmfleet_operator.state.rates import Counter, SeriesCounter, pooled, rate, ratio
from warmfleet_operator.state.records import Demand, Key, RouterRecord, WorkerPhase, WorkerRecord, WorkerTelemetry

_LONGEST_GAP = 60.0
"""Seconds between two answers beyond which the batch in between is not known."""
_GRAINS = 15
"""Parts of the long window between which a counter's readings are kept: thousands of workers are remembered."""
_FULL = 0.9
_SHARES = 6

_COUNTERS = (
    "requests",
    "prompt_tokens",
    "generation_tokens",
    "cache_query_tokens",
    "cache_hit_tokens",
)
_SENT = ("requests", "prompt_tokens", "cached_tokens")
_ARRIVED = "arrived"
_LATENCY = ("ttft_count", "ttft_within_slo", "tpot_count", "tpot_within_slo")


def worker_telemetry(state: AgentState, at: float) -> WorkerTelemetry:
    """The record of a good answer."""
    drain = state.drain
    return WorkerTelemetry(
        at=at,
        phase=state.phase,
        running=state.engine.running,
        waiting=state.engine.waiting,
        kv_usage=state.engine.kv_usage,
        hot_tokens=state.kv.hot_tokens if state.kv is not None else None,
        hot_sketch=decode(state.kv.sketch) if state.kv is not None and state.kv.sketch else None,
        evicted_after=state.kv.evicted_after_seconds if state.kv is not None else None,
        cancellable=drain.cancellable if drain is not None else None,
        startup_seconds=state.engine.ready_after_seconds,
        drain_report=drain.report if drain is not None else None,
        stage=state.engine.stage,
    )


@dataclass(slots=True)
class _Agent:
    deployment: Key
    arrived: Counter
    rejected: Counter
    whole: Counter
    running: deque[tuple[float, int]]
    counters: dict[str, Counter]
    latency: dict[str, Counter]
    sent: dict[str, Counter] = field(default_factory=dict)  # few workers have any
    finished: tuple[float, int] | None = None
    telemetry: WorkerTelemetry | None = None
    answered: bool = False
    last_seen: float = 0.0


@dataclass(slots=True)
class _Router:
    deployment: Key
    dispatched: SeriesCounter
    unserved: SeriesCounter
    retries: SeriesCounter
    answered: bool = False
    last_seen: float = 0.0


@dataclass(frozen=True, slots=True)
class RouterSample:
    """Counters of one router scrape, by series."""

    dispatched: Mapping[str, float] = field(default_factory=dict)
    unserved: Mapping[str, float] = field(default_factory=dict)
    retries: Mapping[str, float] = field(default_factory=dict)


class Readings:
    """Collects answers and silences; gives telemetry and demand.

    Args:
        rate_window: Logical seconds of the arrival rate.
        mean_window: Logical seconds of token means, hit ratio and SLO attainment.
        stale_after: Logical seconds after which a worker's last answer is no longer shown.
    """

    def __init__(self, rate_window: float, mean_window: float, stale_after: float) -> None:
        self._rate_window, self._mean_window, self._stale_after = rate_window, mean_window, stale_after
        self._agents: dict[str, _Agent] = {}
        self._routers: dict[str, _Router] = {}
        self._fleets: dict[Key, dict[str, _Agent]] = {}
        self._samples: Mapping[Key, FleetSample] = {}
        self._decided: Mapping[Key, FleetSample] = {}
        self._sampled_at = -math.inf
        self._news = False

    def news(self) -> bool:
        """Whether something was said since the last call for which the next decision should not wait.

        Agents: another phase, or arrivals that have surged. Routers: requests that found no worker. Prometheus: a fleet
        with more arrivals, a queue or rejects, against what the last decision was made from. A source's first answer is
        none: when a process starts, everything is new.
        """
        found, self._news = self._news, False
        return found

    def decided_on(self) -> None:
        """A decision is being made from what is known now."""
        self._decided = self._samples

    def agent_answered(self, worker: WorkerRecord, state: AgentState, now: float) -> str | None:
        """Take in an agent's answer; why it was thrown away, or None when it was used."""
        agent = self._agent(worker)
        agent.last_seen = now
        problem = self._check(worker, agent, state, now)
        if problem is not None:
            agent.answered = False
            return problem
        agent.answered = True
        self._news |= agent.telemetry is not None and agent.telemetry.phase != state.phase
        self._work(agent, state, now)
        if state.counters is not None:
            counters = state.counters
            agent.finished = (now, counters.requests)
            for name, counter in agent.counters.items():
                counter.add(now, getattr(counters, name))
            agent.rejected.add(now, counters.rejected_requests)
            in_flight = (state.engine.running or 0) + (state.engine.waiting or 0)
            before = agent.arrived.increase(now)
            step = agent.arrived.add(now, counters.requests + counters.rejected_requests + in_flight)
            self._news |= surges(step, before)
        # Only of a worker that leaves is it believed: it makes arrivals fewer.
        if state.sent is not None and (worker.leaving or not agent.sent):
            self._sent(agent, state.sent, now)
        if state.latency is not None:
            for name, counter in agent.latency.items():
                counter.add(now, getattr(state.latency, name))
        agent.telemetry = replace(
            worker_telemetry(state, now),
            served=self._full(agent.whole, now),
            batches=self._batches(agent, now),
            attainment=_attainment([agent], now),
        )
        return None

    def _sent(self, agent: _Agent, sent: SentState, now: float) -> None:
        """What its hand-over has sent, for the rate of arrivals and for the means."""
        if not agent.sent:
            mean, grain = self._mean_window, self._mean_window / _GRAINS
            agent.sent = {name: Counter(mean, grain) for name in _SENT} | {_ARRIVED: Counter(self._rate_window)}
        agent.sent[_ARRIVED].add(now, sent.requests)
        for name in _SENT:
            agent.sent[name].add(now, getattr(sent, name))

    def _work(self, agent: _Agent, state: AgentState, now: float) -> None:
        """Requests finished whole, and how many ran at each answer."""
        running, before = state.engine.running, agent.telemetry
        gap = now - before.at if before is not None else math.inf
        if running is None or before is None or before.running is None or gap > _LONGEST_GAP:
            agent.running.clear()
            agent.whole = Counter(self._mean_window)
        if running is not None:
            agent.running.append((now, running))
        while agent.running and agent.running[0][0] < now - self._mean_window:
            agent.running.popleft()
        if state.counters is not None:
            agent.whole.add(now, state.counters.requests - state.counters.failed_requests)

    def _batches(self, agent: _Agent, now: float) -> tuple[float, ...] | None:
        """Means of equal shares of the sorted samples, once they cover most of the window."""
        if not agent.running or now - agent.running[0][0] < _FULL * self._mean_window:
            return None
        ordered = sorted(count for _, count in agent.running)
        cuts = [len(ordered) * i // _SHARES for i in range(_SHARES + 1)]
        return tuple(sum(ordered[low:high]) / (high - low) for low, high in itertools.pairwise(cuts) if high > low)

    def _full(self, counter: Counter, now: float) -> float | None:
        """Increase per second, once it was measured over most of the window."""
        part = counter.increase(now)
        return rate(part) if part is not None and part[1] >= _FULL * self._mean_window else None

    def _check(self, worker: WorkerRecord, agent: _Agent, state: AgentState, now: float) -> str | None:
        if state.pod_uid and state.pod_uid != worker.uid:
            return "answer of another pod"
        problem = implausible(state)
        if problem is None and state.counters is not None and agent.finished is not None:
            at, before = agent.finished
            if state.counters.requests - before > MAX_RATE * max(1.0, now - at):
                problem = f"more than {MAX_RATE:g} requests per second"
        return problem

    def fleets_answered(self, samples: Mapping[Key, FleetSample], now: float) -> None:
        """Take in what a Prometheus says about whole fleets; it stands for their agents until it is too old."""
        self._samples, self._sampled_at = samples, now
        self._news |= any(map(rises, samples.values(), map(self._decided.get, samples)))

    def agent_silent(self, worker: WorkerRecord, now: float) -> None:
        """An agent gave no usable answer."""
        agent = self._agent(worker)
        agent.answered, agent.last_seen = False, now

    def _agent(self, worker: WorkerRecord) -> _Agent:
        known = self._agents.get(worker.uid)
        if known is None:
            mean, grain = self._mean_window, self._mean_window / _GRAINS
            known = self._agents[worker.uid] = _Agent(
                worker.deployment_key,
                Counter(self._rate_window),
                Counter(self._rate_window),
                Counter(mean, grain),
                deque(),
                {name: Counter(mean, grain) for name in _COUNTERS},
                {name: Counter(mean, grain) for name in _LATENCY},
            )
            self._fleets.setdefault(known.deployment, {})[worker.uid] = known
        return known

    def router_answered(self, router: RouterRecord, sample: RouterSample, now: float) -> None:
        """Take in a router's counters."""
        entry = self._router(router)
        entry.answered, entry.last_seen = True, now
        entry.dispatched.add(now, sample.dispatched)
        unserved = entry.unserved.increase(now)
        entry.unserved.add(now, sample.unserved)
        self._news |= not rate(unserved) and bool(rate(entry.unserved.increase(now)))
        entry.retries.add(now, sample.retries)

    def router_silent(self, router: RouterRecord, now: float) -> None:
        """A router gave no usable answer."""
        entry = self._router(router)
        entry.answered, entry.last_seen = False, now

    def _router(self, router: RouterRecord) -> _Router:
        if router.uid not in self._routers:
            dispatched, unserved, retries = (SeriesCounter(self._rate_window) for _ in range(3))
            self._routers[router.uid] = _Router(router.deployment_key, dispatched, unserved, retries)
        return self._routers[router.uid]

    def forget(self, now: float) -> None:
        """Drop sources not asked for longer than the longest window: their last increases still counted until then."""
        horizon = now - max(self._mean_window, self._stale_after)
        for uid in [uid for uid, agent in self._agents.items() if agent.last_seen < horizon]:
            fleet = self._fleets[self._agents.pop(uid).deployment]
            del fleet[uid]
        self._fleets = {key: fleet for key, fleet in self._fleets.items() if fleet}
        self._routers = {uid: r for uid, r in self._routers.items() if r.last_seen >= horizon}

    def telemetry(self, now: float) -> dict[str, WorkerTelemetry]:
        """Last good answers by pod UID, without those that are too old."""
        fresh = now - self._stale_after
        return {
            uid: agent.telemetry
            for uid, agent in self._agents.items()
            if agent.telemetry is not None and agent.telemetry.at >= fresh
        }

    def demand(self, key: Key, workers: Sequence[WorkerRecord], routers: Sequence[RouterRecord], now: float) -> Demand:
        """Traffic of one deployment.

        Args:
            key: The deployment.
            workers: Its workers.
            routers: Its router pods.
            now: Logical seconds.
        """
        sample = self._samples.get(key) if now - self._sampled_at <= self._stale_after else None
        if sample is not None:
            return self._sampled(key, sample, workers, routers, now)
        agents = list(self._fleets.get(key, {}).values())
        ready = [w for w in workers if w.phase is WorkerPhase.READY]
        reporting = [w for w in ready if (a := self._agents.get(w.uid)) is not None and a.answered]
        arrivals, rejects = self._at_routers([r for r in routers if r.ready], now)
        sources: tuple[str, ...] = () if arrivals is None else ("router",)
        if reporting:
            sources += ("agents",)
            if arrivals is None:
                arrivals = rate(pooled(agent.arrived.increase(now) for agent in agents))
                rejects = rate(pooled(agent.rejected.increase(now) for agent in agents))
        sums = _of_users(agents, now)
        return Demand(
            at=now,
            arrivals=self._of_users(arrivals, key, now),
            input_tokens=ratio(sums["prompt_tokens"], sums["requests"]),
            output_tokens=ratio(sums["generation_tokens"], sums["requests"]),
            hit_ratio=ratio(sums["cache_hit_tokens"], sums["cache_query_tokens"]),
            queue=self._queue(reporting),
            rejects=rejects,
            slo_attainment=_attainment(agents, now),
            sources=sources,
            silent_workers=len(ready) - len(reporting),
            reporting_workers=len(reporting),
        )

    def _of_users(self, arrivals: float | None, key: Key, now: float) -> float | None:
        """Arrivals per second without those that hand-overs sent.

        Over the whole window, although a leaving worker falls silent within it: too few are taken away, never too many.
        """
        agents = self._fleets.get(key, {}).values()
        sent = pooled(agent.sent[_ARRIVED].increase(now) for agent in agents if agent.sent)
        if arrivals is None or sent is None:
            return arrivals
        return max(0.0, arrivals - sent[0] / self._rate_window)

    def _sampled(
        self,
        key: Key,
        sample: FleetSample,
        workers: Sequence[WorkerRecord],
        routers: Sequence[RouterRecord],
        now: float,
    ) -> Demand:
        ready = sum(w.phase is WorkerPhase.READY for w in workers)
        reporting = min(ready, round(sample.reporting or 0))
        arrivals, rejects = self._at_routers([r for r in routers if r.ready], now)
        routed = arrivals is not None
        return Demand(
            at=self._sampled_at,
            arrivals=self._of_users(arrivals if routed else sample.arrivals, key, now),
            input_tokens=sample.input_tokens,
            output_tokens=sample.output_tokens,
            hit_ratio=None if sample.hit_ratio is None else min(1.0, sample.hit_ratio),
            queue=None if sample.queue is None else round(sample.queue),
            rejects=rejects if routed else sample.rejects,
            sources=("router", "prometheus") if routed else ("prometheus",),
            silent_workers=ready - reporting,
            reporting_workers=reporting,
        )

    def _at_routers(self, routers: Sequence[RouterRecord], now: float) -> tuple[float | None, float | None]:
        """Arrivals and rejects per second at the routers; None unless every ready router answered."""
        entries = [self._routers.get(r.uid) for r in routers]
        known = [e for e in entries if e is not None and e.answered]
        if not known or len(known) < len(entries):
            return None, None
        dispatched = pooled(e.dispatched.increase(now) for e in known)
        unserved = rate(pooled(e.unserved.increase(now) for e in known))
        retries = rate(pooled(e.retries.increase(now) for e in known))
        attempts = rate(dispatched)
        if attempts is None or unserved is None or retries is None:
            return None, None
        arrivals = max(0.0, attempts + unserved - retries)
        return arrivals, min(unserved, arrivals)

    def _queue(self, reporting: Iterable[WorkerRecord]) -> int | None:
        waiting = [t.waiting for w in reporting if (t := self._agents[w.uid].telemetry) is not None]
        known = [count for count in waiting if count is not None]
        return sum(known) if known else None


def _of_users(agents: Sequence[_Agent], now: float) -> dict[str, tuple[float, float] | None]:
    """Increases of the fleet's counters without what hand-overs sent: each request of theirs has one token's answer."""
    sums = {name: pooled(a.counters[name].increase(now) for a in agents) for name in _COUNTERS}
    sending = [a.sent for a in agents if a.sent]
    sent = {name: part[0] for name in _SENT if (part := pooled(s[name].increase(now) for s in sending))}
    requests, prompts = sent.get("requests", 0.0), sent.get("prompt_tokens", 0.0)
    own = {
        "requests": requests,
        "prompt_tokens": prompts,
        "generation_tokens": requests,
        "cache_query_tokens": prompts,
        "cache_hit_tokens": sent.get("cached_tokens", 0.0),
    }
    return {name: None if part is None else (max(0.0, part[0] - own[name]), part[1]) for name, part in sums.items()}


def _attainment(agents: Sequence[_Agent], now: float) -> float | None:
    sums = {name: pooled(a.latency[name].increase(now) for a in agents) for name in _LATENCY}
    shares = [ratio(sums[f"{kind}_within_slo"], sums[f"{kind}_count"]) for kind in ("ttft", "tpot")]
    known = [share for share in shares if share is not None]
    return min(known) if known else None
