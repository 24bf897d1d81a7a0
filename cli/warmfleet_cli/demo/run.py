"""The demo from start to end: cluster, operator, traffic, view, report."""

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
from warmfleet_cli.demo.client import Clients, Tally
from warmfleet_cli.demo.cluster import Cluster, ClusterError, EmbeddedCluster, Installation, default_crds, wait_for
from warmfleet_cli.demo.controlplane import ControlPlaneCluster
from warmfleet_cli.demo.conversations import ConversationBook, Shape
from warmfleet_cli.demo.recorder import Recorder
from warmfleet_cli.demo.sizing import Plan, plan
from warmfleet_cli.demo.streams import StreamError
from warmfleet_cli.demo.timeline import Setup, Timeline

_LOG = logging.getLogger(__name__)
SCALE = 60.0
"""Logical seconds per real second: one real second is one trace minute."""
WARM_UP = 8
"""Minutes of traffic at the window's first rate before it begins: its requests count, its latencies are not shown."""
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
    console.print(_opening(options, sized), soft_wrap=True)
    cluster = CLUSTERS[options.cluster](sized, folder=options.folder, env=env)
    installation = Installation(cluster, sized, folder=options.folder, env=env, crds=default_crds())
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(cluster.stop)
        await cluster.start()
        console.print(f"export KUBECONFIG={cluster.kubeconfig.resolve()}", soft_wrap=True)
        kube = await stack.enter_async_context(await KubeClient.from_kubeconfig(cluster.kubeconfig))
        stack.push_async_callback(installation.stop)
        endpoint = await installation.start(kube)
        setup = _setup(options, sized)
        out = stack.enter_context((options.folder / "timeline.jsonl").open("w", encoding="utf-8"))
        metadata = sized.deployment.metadata
        recorder = Recorder(
            kube, Timeline(setup), name=metadata.name, namespace=metadata.namespace, clock=clock, out=out
        )
        book = ConversationBook(shape, model=setup.model, seed=options.seed)
        clients = Clients(endpoint, book, clock, expected=expected_answer)
        await _first_answer(clients, installation)
        await stack.enter_async_context(_watching(recorder, clients.tally, console, cluster.kubeconfig))
        start = clock.now() + WARM_UP * 60.0
        recorder.begin(clients.tally, start=start)
        await clients.run(_arrivals(options, sized), start=start)
    return _finish(options, recorder.timeline, clients.tally)


def _arrivals(options: Options, sized: Plan) -> FloatArray:
    """Arrival times in logical seconds from the window's start; negative while caches and windows warm up."""
    rates = options.pattern.rates(sized.peak_rate)
    warm = np.full(WARM_UP, rates[:WARM_UP].mean())
    return traffic.arrivals(np.concatenate([warm, rates]), seed=options.seed) - WARM_UP * 60.0


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
async def _watching(recorder: Recorder, tally: Tally, console: Console, kubeconfig: Path) -> AsyncIterator[None]:
    """Records and shows while the body runs; an error in either ends the body."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(recorder.run()),
            group.create_task(_show(recorder.timeline, tally, console, kubeconfig)),
        ]
        yield
        for task in tasks:
            task.cancel()


async def _show(timeline: Timeline, tally: Tally, console: Console, kubeconfig: Path) -> None:
    def counts() -> dict[str, int]:
        return {"requests": tally.sent, "failed": len(tally.failures)}

    if not console.is_terminal:
        while True:
            await asyncio.sleep(_PLAIN_EVERY)
            console.print(view.plain_line(timeline, **counts()), soft_wrap=True)
    with Live(Text(""), console=console, screen=False, auto_refresh=False, transient=False) as live:
        while True:
            shown = view.render(timeline, **counts(), kubeconfig=str(kubeconfig), width=console.width)
            live.update(shown, refresh=True)
            await asyncio.sleep(_REFRESH)


def _opening(options: Options, sized: Plan) -> str:
    pattern = options.pattern
    source = "a generated pattern (no trace found)" if pattern.generated else f"trace {pattern.source}"
    return (
        f"warmfleet demo: {len(pattern.requests)} minutes of {source} in {len(pattern.requests)} s, "
        f"up to {sized.max_workers} workers, {sized.worker_rate:.3f} req/s each, "
        f"peak {sized.peak_rate:.2f} req/s; logs in {options.folder}"
    )


def _setup(options: Options, sized: Plan) -> Setup:
    pattern, spec = options.pattern, sized.deployment.spec
    accelerators = spec.variants[0].accelerators
    share = None if pattern.generated else sized.peak_rate * 60.0 / pattern.peak
    return Setup(
        source=pattern.source,
        generated=pattern.generated,
        start_minute=pattern.start_minute,
        minutes=len(pattern.requests),
        scale=SCALE,
        model=spec.model.name,
        worker=f"{accelerators} x {sized.instance_type.spec.accelerator.name}",
        ttft_slo=spec.slo.ttft,
        max_workers=sized.max_workers,
        worker_cost=sized.worker_cost,
        trace_share=share,
    )


def _finish(options: Options, timeline: Timeline, tally: Tally) -> Result:
    reasons = Counter(outcome.failure for outcome in tally.failures if outcome.failure)
    totals = report.Totals(
        requests=tally.sent,
        failed=len(tally.failures),
        tokens=sum(outcome.tokens for outcome in tally.outcomes),
        failures=tuple(reasons.most_common(10)),
    )
    path = options.folder / "report.html"
    report.write(path, timeline, totals)
    return Result(
        requests=totals.requests,
        failed=totals.failed,
        scale_ups=timeline.scale_events("ScaledUp"),
        scale_downs=timeline.scale_events("ScaledDown"),
        report=path,
    )
