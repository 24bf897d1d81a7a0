"""Watches the cluster and asks the agents, twice a second, and writes down what is going on."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import aiohttp
from pydantic import ValidationError
from warmfleet_contracts import bearer, labels
from warmfleet_contracts.agent import AgentState
from warmfleet_contracts.api.llmdeployment_status import LLMDeploymentStatus
from warmfleet_runtime.clock import Clock
from warmfleet_runtime.kubeclient import Event, KubeClient
from warmfleet_runtime.resources import EVENTS, LLM_DEPLOYMENTS, PODS, SECRETS, TRAFFIC_FORECASTS, Resource

from warmfleet_cli.demo.client import Outcome, Tally
from warmfleet_cli.demo.observed import Blend, EventCounter, Worker, capacity, outlook, parse_status
from warmfleet_cli.demo.timeline import Beside, Drain, FaultStep, Record, Sample, Timeline, write_record

_LOG = logging.getLogger(__name__)
BEFORE = -1.0
"""Moment of what happened before the traffic's window."""
PERIOD = 20.0
"""Logical seconds between samples: half a real second at 40 logical seconds per second."""


class Recorder:
    """Fills a timeline.

    Args:
        kube: The cluster's API.
        timeline: Filled as time passes.
        namespace: Of the LLMDeployments that it names.
        clock: The demo's clock.
        out: The same as JSON Lines.
    """

    def __init__(self, kube: KubeClient, timeline: Timeline, *, namespace: str, clock: Clock, out: TextIO) -> None:
        self.timeline = timeline
        self.workers: dict[str, Worker] = {}
        self.statuses: dict[str, LLMDeploymentStatus] = {}
        self.start: float | None = None
        self._kube, self._namespace = kube, namespace
        self._name, self._beside = timeline.setup.fleet, timeline.setup.beside
        self._clock, self._out = clock, out
        self._events = EventCounter()
        self._key = ""
        self.tally, self._besides = Tally(), Tally()
        self._seen_outcomes = {self._name: 0, self._beside: 0}
        self._seen_sent = 0
        self._last = clock.now()
        self._session: aiohttp.ClientSession | None = None
        self._caught_up = False  # events of the first list are from before the recorder looked
        self._background: set[asyncio.Task[None]] = set()
        write_record(out, timeline.setup)

    def begin(self, tallies: Mapping[str, Tally], *, start: float) -> None:
        """The traffic's window starts at ``start`` on the clock; from then on samples are kept."""
        self.tally, self._besides, self.start = tallies[self._name], tallies[self._beside], start

    def note(self, text: str) -> None:
        """Something was done to the cluster, or became of it."""
        self._keep(FaultStep(self.elapsed, text))

    @property
    def elapsed(self) -> float:
        """Logical seconds since the traffic's start; negative until then."""
        return BEFORE if self.start is None else self._clock.now() - self.start

    @property
    def over(self) -> bool:
        """Whether the window has ended: what happens while the last answers run out is no part of the trace."""
        return self.elapsed > self.timeline.setup.minutes * 60.0

    async def run(self) -> None:
        """Watches and samples until it is cancelled."""
        timeout = aiohttp.ClientTimeout(total=2.0)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as self._session,
            asyncio.TaskGroup() as group,
        ):
            selector = f"{labels.DEPLOYMENT}={self._name},{labels.COMPONENT}={labels.COMPONENT_WORKER}"
            group.create_task(self._follow(PODS, self._pod, labelSelector=selector))
            group.create_task(self._follow(SECRETS, self._secret, fieldSelector=f"metadata.name={bearer.SECRET_NAME}"))
            group.create_task(self._follow(EVENTS, self._event))
            group.create_task(self._follow(LLM_DEPLOYMENTS, self._deployment))
            group.create_task(self._follow(TRAFFIC_FORECASTS, self._forecast))
            group.create_task(self._sample_forever())

    async def _follow(self, resource: Resource, take: Callable[[Event], None], **selectors: str) -> None:
        async for event in self._kube.follow(resource, self._namespace, **selectors):
            if event.type != "SYNCED":
                take(event)
            elif resource is EVENTS:
                self._caught_up = True

    def _pod(self, event: Event) -> None:
        uid = event.object["metadata"]["uid"]
        if event.type == "DELETED":
            self.workers.pop(uid, None)
            return
        worker = self.workers.get(uid)
        if worker is None:
            self.workers[uid] = Worker.of_pod(event.object)
            return
        left_before, served_before = worker.leaving, worker.ready
        worker.update(event.object)
        if worker.leaving and not left_before and served_before and not self.over:
            self._spawn(self._drain_began(worker))

    def _secret(self, event: Event) -> None:
        if event.type != "DELETED":
            text = (event.object.get("data") or {}).get(bearer.KEY_ITEM) or ""
            self._key = base64.b64decode(text).decode()

    def _event(self, event: Event) -> None:
        if event.type == "DELETED" or self.over:
            return
        at = self.elapsed if self._caught_up else BEFORE
        for record in self._events.occurrences(event.object, at=at):
            self._keep(record)

    def _deployment(self, event: Event) -> None:
        status = parse_status(event.object)
        if status is not None:
            self.statuses[event.object["metadata"]["name"]] = status

    def _forecast(self, event: Event) -> None:
        if event.type == "DELETED" or event.object["metadata"]["name"] != self._name or self.start is None:
            return
        epoch = self._clock.wall().timestamp() - self.elapsed
        found = outlook(event.object, at=self.elapsed, epoch=epoch)
        if found is not None:
            self._keep(found)

    def _keep(self, record: Record) -> None:
        self.timeline.add(record)
        write_record(self._out, record)

    async def _drain_began(self, worker: Worker) -> None:
        """Asks the worker what it is doing right now, not half a second ago."""
        at, fleet = self.elapsed, self.tally.in_flight
        await self._ask(worker)
        self._keep(Drain(at, worker.name, worker.drain_reason or "Deleted", worker.streams, fleet))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _sample_forever(self) -> None:
        while True:
            await self._clock.sleep(PERIOD)
            await asyncio.gather(*(self._ask(worker) for worker in list(self.workers.values()) if worker.address))
            sample = self._sample()
            if 0 <= sample.at <= self.timeline.setup.minutes * 60.0:
                self._keep(sample)

    async def _ask(self, worker: Worker) -> None:
        if self._session is None:
            return
        host = f"[{worker.address}]" if ":" in worker.address else worker.address
        try:
            headers = {"Authorization": f"Bearer {bearer.bearer(self._key, worker.uid)}"}
            async with self._session.get(f"http://{host}:{labels.AGENT_PORT}/v1/state", headers=headers) as answer:
                worker.answered(AgentState.model_validate_json(await answer.read()))
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError) as error:
            _LOG.debug("agent of %s: %r", worker.name, error)  # starting or just gone: the phase shows it

    def _sample(self) -> Sample:
        now = self._clock.now()
        span = max(1e-9, now - self._last)
        ended = self._take(self.tally, self._name)
        sent = self.tally.sent - self._seen_sent
        self._seen_sent, self._last = self.tally.sent, now
        workers = sorted(self.workers.values(), key=lambda worker: worker.name)
        queues = [w.state.engine.waiting for w in workers if w.state is not None and w.state.engine.waiting is not None]
        known = self.statuses.get(self._name)
        status = known or LLMDeploymentStatus()
        scaling, blend = status.scaling, Blend.of(status)
        return Sample(
            at=self.elapsed,
            offered=sent / span,
            served=sum(outcome.failure is None for outcome in ended) / span,
            demand=scaling.now if scaling else None,
            capacity=capacity(known) if known else None,
            desired=scaling.desired if scaling else None,
            chosen_by=scaling.chosen_by if scaling else "",
            in_flight=self.tally.in_flight,
            queue=sum(queues) if queues else None,
            cost_per_hour=status.cost_per_hour,
            ttft=tuple(outcome.ttft for outcome in ended if outcome.ttft is not None),
            failed=len(self.tally.failures),
            workers=tuple(worker.sample() for worker in workers),
            prompt_tokens=sum(outcome.prompt for outcome in ended),
            cached_tokens=sum(outcome.cached for outcome in ended),
            repeated_tokens=sum(outcome.repeated for outcome in ended),
            forecast=scaling.forecast if scaling else None,
            need=blend.need,
            blend=blend.text,
            trusted=blend.trusted,
            beside=self._sample_beside(),
        )

    def _sample_beside(self) -> Beside:
        ended = self._take(self._besides, self._beside)
        status = self.statuses.get(self._beside) or LLMDeploymentStatus()
        return Beside(
            serving=status.ready_replicas,
            prompt_tokens=sum(outcome.prompt for outcome in ended),
            cached_tokens=sum(outcome.cached for outcome in ended),
            repeated_tokens=sum(outcome.repeated for outcome in ended),
            cost_per_hour=status.cost_per_hour,
            failed=len(self._besides.failures),
        )

    def _take(self, tally: Tally, name: str) -> list[Outcome]:
        """Requests that ended since the last time."""
        ended = tally.outcomes[self._seen_outcomes[name] :]
        self._seen_outcomes[name] += len(ended)
        return ended
