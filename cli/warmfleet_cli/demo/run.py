"""The demo from start to end: cluster, operator, forecaster, traffic, fault, view, report."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text
from warmfleet_contracts.traces import FloatArray
from warmfleet_runtime.clock import CLOCK_ENV, ScaledClock
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_worker.engines.simulated.tokens import chat_text, expected_text, tokenize

from warmfleet_cli.demo import report, traffic, view
from warmfleet_cli.demo.clairvoyant import optimum
from warmfleet_cli.demo.client import Clients, Tally
from warmfleet_cli.demo.cluster import Cluster, ClusterError, EmbeddedCluster, wait_for
from warmfleet_cli.demo.controlplane import ControlPlaneCluster
from warmfleet_cli.demo.conversations import ConversationBook, Shape
from warmfleet_cli.demo.fault import take_machine
from warmfleet_cli.demo.installation import Installation, default_crds
from warmfleet_cli.demo.recorder import Recorder
from warmfleet_cli.demo.sizing import PEAK_RATE, Plan, plan
from warmfleet_cli.demo.streams import StreamError
from warmfleet_cli.demo.timeline import Setup, Timeline, Variant, write_record

_LOG = logging.getLogger(__name__)
SCALE = 40.0
"""Logical seconds per real second: three real seconds are two trace minutes."""
WARM_UP = 12
"""Minutes of the traffic before the window that are played first: the requests count, but nothing of them is shown."""
COMING_UP = 15
"""Minutes that cluster and fleets usually need; the history that the forecaster begins with is placed accordingly."""
FAULT_AT = 0.34
"""Where in the window a machine is taken away."""
CLUSTERS: Mapping[str, Callable[..., Cluster]] = {"embedded": EmbeddedCluster, "controlplane": ControlPlaneCluster}
"""Clusters by the name a person chooses them with."""
_REFRESH = 0.5
_PLAIN_EVERY = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose.

    Attributes:
        pattern: Traffic per minute.
        seed: Of arrivals and prompts.
        folder: For the report, the logs and the kubeconfig.
        cluster: Key of :data:`CLUSTERS`.
    """

    pattern: traffic.Pattern
    seed: int
    folder: Path
    cluster: str = "embedded"


@dataclass(frozen=True, slots=True)
class Result:
    """What came out.

    Attributes:
        requests: Requests sent.
        failed: Of these, not answered to the last token.
        scale_ups: Decisions for more workers during the traffic.
        scale_downs: Decisions for fewer.
        report: The page.
    """

    requests: int
    failed: int
    scale_ups: int
    scale_downs: int
    report: Path


async def run_demo(options: Options) -> Result:
    """Runs everything and leaves nothing behind but ``options.folder``.

    Raises:
        ClusterError: Something did not come up.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP; everything has been ended.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("run_demo runs in a task")
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        return await _run(options)
    except asyncio.CancelledError:
        if stopped:
            raise KeyboardInterrupt from None
        raise


async def _run(options: Options) -> Result:
    shape = Shape()
    sized, clock = plan(shape), ScaledClock(SCALE)
    env = {CLOCK_ENV: clock.to_env()}
    console = view.console()
    console.print(_opening(options), soft_wrap=True)
    cluster = CLUSTERS[options.cluster](sized, folder=options.folder, env=env)
    installation = Installation(cluster, sized, folder=options.folder, env=env, crds=default_crds())
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(cluster.stop)
        await cluster.start()
        console.print(f"export KUBECONFIG={cluster.kubeconfig.resolve()}", soft_wrap=True)
        kube = await stack.enter_async_context(await KubeClient.from_kubeconfig(cluster.kubeconfig))
        stack.push_async_callback(installation.stop)
        pattern, planned = options.pattern, _whole_minute(clock, (COMING_UP + WARM_UP) * 60.0)
        endpoints = await installation.start(kube, *_history(pattern, clock, planned))
        timeline = Timeline(_setup(options, sized))
        out = stack.enter_context((options.folder / "timeline.jsonl").open("w", encoding="utf-8"))
        namespace = sized.deployment.metadata.namespace
        recorder = Recorder(kube, timeline, namespace=namespace, clock=clock, out=out)
        book = ConversationBook(shape, model=timeline.setup.model, seed=options.seed)
        clients = Clients(endpoints, book, clock, expected=expected_answer)
        await _first_answer(clients, installation)
        await stack.enter_async_context(_watching(recorder, clients.tallies, console, cluster.kubeconfig))
        start = max(planned, _whole_minute(clock, WARM_UP * 60.0))
        recorder.begin(clients.tallies, start=start)
        installation.remember(*_history(pattern, clock, start))  # in place of the silence until now
        async with asyncio.TaskGroup() as group:
            fault = group.create_task(_fault(kube, sized, recorder, clock, start + _fault_at(pattern)))
            await clients.run(_arrivals(options, (start - clock.now()) / 60.0), start=start)
            fault.cancel()
        timeline.optimum = await asyncio.to_thread(optimum, timeline)
        if timeline.optimum is not None:
            write_record(out, timeline.optimum)
    return _finish(options, timeline, clients.tallies)


def _whole_minute(clock: ScaledClock, after: float) -> float:
    """The first moment at least ``after`` seconds from now at which a minute of the wall clock begins, on the clock."""
    wall = clock.wall().timestamp() + after
    return clock.now() + after + (-wall % 60.0)


def _history(pattern: traffic.Pattern, clock: ScaledClock, start: float) -> tuple[FloatArray, float]:
    """The past up to now, requests/s by minute, and where it ends, seconds since the epoch."""
    ahead = start - clock.now()
    minutes = max(0, int(ahead // 60.0))
    end = round(clock.wall().timestamp() + ahead) - minutes * 60
    past = pattern.past(PEAK_RATE)
    return past[: len(past) - minutes], float(end)


def _fault_at(pattern: traffic.Pattern) -> float:
    return FAULT_AT * len(pattern.requests) * 60.0


async def _fault(kube: KubeClient, sized: Plan, recorder: Recorder, clock: ScaledClock, at: float) -> None:
    """Takes a machine away from each fleet at ``at``; only what becomes of the first is told."""
    alone = next(k.name for k in sized.kinds if k.instance_type.spec.accelerator.count == 1)
    await clock.sleep(at - clock.now())
    notes = [recorder.note, *[lambda _: None] * (len(sized.deployments) - 1)]
    await asyncio.gather(
        *(
            take_machine(kube, d.metadata.name, d.metadata.namespace, variant=alone, clock=clock, note=note)
            for d, note in zip(sized.deployments, notes, strict=True)
        )
    )


def _arrivals(options: Options, minutes: float) -> FloatArray:
    """Arrival times in logical seconds from the window's start, which is ``minutes`` ahead; negative before it."""
    count = int(minutes)
    rates = options.pattern.rates(PEAK_RATE)
    before = options.pattern.past(PEAK_RATE)[-count:] if count else rates[:0]
    known = before[np.isfinite(before)]
    warm = np.full(count, known.mean() if len(known) else rates[:WARM_UP].mean())
    warm[count - len(before) :] = np.where(np.isfinite(before), before, warm[count - len(before) :])
    return traffic.arrivals(np.concatenate([warm, rates]), seed=options.seed) - count * 60.0


def expected_answer(body: Mapping[str, Any]) -> str:
    """The text a simulated engine answers to a chat completion request."""
    prompt = chat_text((message["role"], message["content"]) for message in body["messages"])
    return expected_text(tokenize(prompt), body["max_tokens"])


async def _first_answer(clients: Clients, installation: Installation) -> None:
    """Waits until a request comes back whole: the router finds its workers a moment after they are ready.

    Raises:
        ClusterError: None does.
    """
    last: Exception | None = None

    async def answered() -> bool:
        nonlocal last
        try:
            await clients.probe()
        except (StreamError, OSError, TimeoutError, aiohttp.ClientError) as error:
            last = error
            return False
        return True

    try:
        await wait_for("a first answer through the router", answered, installation.children, seconds=30)
    except ClusterError as error:
        raise ClusterError(f"{error}\nlast answer: {last!r}") from last


@contextlib.asynccontextmanager
async def _watching(
    recorder: Recorder, tallies: Mapping[str, Tally], console: Console, kubeconfig: Path
) -> AsyncIterator[None]:
    """Records and shows while the body runs; an error in either ends the body."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(recorder.run()),
            group.create_task(_show(recorder.timeline, tallies, console, kubeconfig)),
        ]
        yield
        for task in tasks:
            task.cancel()


async def _show(timeline: Timeline, tallies: Mapping[str, Tally], console: Console, kubeconfig: Path) -> None:
    def counts() -> dict[str, int]:
        sent = sum(tally.sent for tally in tallies.values())
        return {"requests": sent, "failed": sum(len(tally.failures) for tally in tallies.values())}

    if not console.is_terminal:
        while True:
            await asyncio.sleep(_PLAIN_EVERY)
            console.print(view.plain_line(timeline, **counts()), soft_wrap=True)
    with Live(Text(""), console=console, screen=False, auto_refresh=False, transient=False) as live:
        while True:
            shown = view.render(timeline, **counts(), kubeconfig=str(kubeconfig), width=console.width)
            live.update(shown, refresh=True)
            await asyncio.sleep(_REFRESH)


def _opening(options: Options) -> str:
    pattern = options.pattern
    source = "a generated morning" if pattern.generated else f"trace {pattern.source}"
    minutes = len(pattern.requests)
    return (
        f"warmfleet demo: {minutes} minutes of {source} in {minutes * 60 / SCALE:.0f} s, after "
        f"{len(pattern.history) / traffic.DAY_MINUTES:.1f} days of history; two fleets, with and without hand-over; "
        f"logs in {options.folder}"
    )


def _setup(options: Options, sized: Plan) -> Setup:
    pattern, spec = options.pattern, sized.deployment.spec
    spike = pattern.spike
    return Setup(
        source=pattern.source,
        generated=pattern.generated,
        start_minute=pattern.start_minute,
        minutes=len(pattern.requests),
        scale=SCALE,
        fleet=sized.deployment.metadata.name,
        beside=sized.beside.metadata.name,
        model=spec.model.name,
        variants=tuple(
            Variant(k.name, f"{v.accelerators} x {k.accelerator}", k.cost, k.rate, k.lead_s, sized.max_workers)
            for k, v in zip(sized.kinds, spec.variants, strict=True)
        ),
        ttft_slo=spec.slo.ttft,
        attainment=spec.slo.attainment,
        max_workers=sized.max_workers,
        history_minutes=len(pattern.history),
        trace_share=None if pattern.generated else PEAK_RATE * 60.0 / pattern.peak,
        spike=None if spike is None else (spike.start * 60.0, spike.end * 60.0),
    )


def _finish(options: Options, timeline: Timeline, tallies: Mapping[str, Tally]) -> Result:
    outcomes = [outcome for tally in tallies.values() for outcome in tally.outcomes]
    reasons = Counter(outcome.failure for outcome in outcomes if outcome.failure)
    totals = report.Totals(
        requests=sum(tally.sent for tally in tallies.values()),
        failed=sum(len(tally.failures) for tally in tallies.values()),
        tokens=sum(outcome.tokens for outcome in outcomes),
        failures=tuple(reasons.most_common(10)),
    )
    path = options.folder / "report.html"
    report.write(path, timeline, totals)
    return Result(
        requests=totals.requests,
        failed=totals.failed,
        scale_ups=len(timeline.scalings("ScaledUp")),
        scale_downs=len(timeline.scalings("ScaledDown")),
        report=path,
    )
