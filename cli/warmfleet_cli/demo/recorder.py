"""Watches the cluster and asks the agents, twice a second, and writes down what is going on."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable
from typing import Any, TextIO

import aiohttp
from pydantic import ValidationError
from warmfleet_contracts import bearer, labels
from warmfleet_contracts.agent import AgentState
from warmfleet_contracts.api.llmdeployment_status import LLMDeploymentStatus
from warmfleet_runtime.clock import Clock
from warmfleet_runtime.kubeclient import EVENTS, PODS, SECRETS, Event, KubeClient, Resource

from warmfleet_cli.demo.client import Outcome, Tally
from warmfleet_cli.demo.observed import EventCounter, Worker, capacity, hit_ratio, parse_status
from warmfleet_cli.demo.timeline import Drain, Sample, Timeline, write_record

_LOG = logging.getLogger(__name__)
LLM_DEPLOYMENTS = Resource("warmfleet.dev/v1alpha1", "llmdeployments")
BEFORE = -1.0
"""Moment of what happened before the traffic's window."""
PERIOD = 30.0
"""Logical seconds between samples: half a real second at 60 logical seconds per second."""


class Recorder:
    """Fills a timeline.

    Args:
        kube: The cluster's API.
        name: The LLMDeployment.
        namespace: Its namespace.
        timeline: Filled as time passes.
        clock: The demo's clock.
        out: The same as JSON Lines.
    """

    def __init__(
        self, kube: KubeClient, timeline: Timeline, *, name: str, namespace: str, clock: Clock, out: TextIO
    ) -> None:
        self.timeline = timeline
        self.workers: dict[str, Worker] = {}
        self.status: LLMDeploymentStatus | None = None
        self.start: float | None = None
        self.tally = Tally()
        self._kube, self._name, self._namespace = kube, name, namespace
        self._clock, self._out = clock, out
        self._events = EventCounter()
        self._key = ""
        self._seen_outcomes = self._seen_sent = 0
        self._last = clock.now()
        self._session: aiohttp.ClientSession | None = None
        self._caught_up = False  # events of the first list are from before the recorder looked
        self._background: set[asyncio.Task[None]] = set()
        write_record(out, timeline.setup)

    def begin(self, tally: Tally, *, start: float) -> None:
        """The traffic's window starts at ``start`` on the clock; from then on samples are kept."""
        self.tally, self.start = tally, start

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
            self.timeline.events.append(record)
            write_record(self._out, record)

    def _deployment(self, event: Event) -> None:
        if event.object["metadata"]["name"] == self._name:
            self.status = parse_status(event.object)

    async def _drain_began(self, worker: Worker) -> None:
        """Asks the worker what it is doing right now, not half a second ago."""
        at, fleet = self.elapsed, self.tally.in_flight
        await self._ask(worker)
        drain = Drain(at, worker.name, worker.drain_reason or "Deleted", worker.streams, fleet)
        self.timeline.drains.append(drain)
        write_record(self._out, drain)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _sample_forever(self) -> None:
        while True:
            await self._clock.sleep(PERIOD)
            await asyncio.gather(*(self._ask(worker) for worker in list(self.workers.values()) if worker.address))
            sample = self._sample()
            if sample.at >= 0:
                self.timeline.samples.append(sample)
                write_record(self._out, sample)

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
        ended = self._take_outcomes()
        sent = self.tally.sent - self._seen_sent
        self._seen_sent, self._last = self.tally.sent, now
        workers = sorted(self.workers.values(), key=lambda worker: worker.name)
        queues = [w.state.engine.waiting for w in workers if w.state is not None and w.state.engine.waiting is not None]
        status = self.status or LLMDeploymentStatus()
        scaling = status.scaling
        return Sample(
            at=self.elapsed,
            offered=sent / span,
            served=sum(outcome.failure is None for outcome in ended) / span,
            demand=scaling.now if scaling else None,
            capacity=capacity(status) if self.status else None,
            desired=scaling.desired if scaling else None,
            chosen_by=scaling.chosen_by if scaling else "",
            in_flight=self.tally.in_flight,
            queue=sum(queues) if queues else None,
            hit_ratio=hit_ratio(workers),
            cost_per_hour=status.cost_per_hour,
            ttft=tuple(outcome.ttft for outcome in ended if outcome.ttft is not None),
            failed=len(self.tally.failures),
            workers=tuple(worker.sample() for worker in workers),
        )

    def _take_outcomes(self) -> list[Outcome]:
        ended = self.tally.outcomes[self._seen_outcomes :]
        self._seen_outcomes += len(ended)
        return ended
