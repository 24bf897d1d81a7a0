"""A thousand fleets on one operator: real kube-apiserver and etcd, nodes and pods played by kwok; ``make bench-scale``.

    python tests/controlplane/in_netns.py -- python bench/scale.py --deployments 50 --pods 1000 --nodes 120

The cluster grows in steps (the curve); at each step a fresh operator starts on it and is measured:

- *cold start*: from the start of the process to its first decision, with every object seen and the Lease taken.
- *tick*: snapshot, decision, hand-out and acting of one round, from the operator's own histogram, all in its main
  thread; the slowest of the rounds of half a minute.
- *watch lag*: from the answer of a write by somebody else to the moment when the operator has seen its version.
- *RSS, CPU*: of all the operator's processes. *Requests*: from the API server's audit log. *etcd*: keys written.

At the last step: writes without traffic, once 30 s have passed without one; the reaction of one fleet to a step of its
traffic (to the POST of its first new pod); and the time from the leader's sudden death to the first decision of a warm
standby.

Each phase that fails is named, and what was measured before it is printed all the same. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from scale_cluster import (  # noqa: E402
    PODS,
    ROOT,
    AuditLog,
    Cluster,
    team,
    writes,
)
from scale_operator import CONTROL, TICK, Fleets, Operator, agents, answers, set_rates, until  # noqa: E402
from scale_report import Point, Report, say, show, write_page  # noqa: E402

STEP_RATE = 400.0
"""Requests per second of one worker after the step: far more than it can serve."""
_WATCH_SECONDS = 30.0
_QUIET_SECONDS = 30.0
"""Without a write; then the idle phase begins."""
_KEPT_SECONDS = 150.0
"""Of the whole, for what follows the idle phase."""
_TICK_PHASES = "warmfleet_operator_tick_seconds"


def named(requests: Counter[tuple[str, str]]) -> dict[str, int]:
    """The commonest requests, for the report."""
    return {f"{verb} {resource}": count for (verb, resource), count in requests.most_common(12)}


class Measure:
    """The measurements.

    Args:
        cluster: Where.
        folder: For logs.
        report: Gets the figures.
        options: Of the command line.
    """

    def __init__(self, cluster: Cluster, folder: Path, report: Report, options: argparse.Namespace) -> None:
        self._cluster, self._folder, self._report, self._options = cluster, folder, report, options

    async def point(self, fleets: int) -> Operator:
        """One step of the curve; the operator goes on."""
        cluster = self._cluster
        point = Point(fleets, fleets * cluster.workers, self._options.nodes)
        self._report.points.append(point)
        began = time.monotonic()
        await cluster.grow(fleets)
        point.populate_s = round(time.monotonic() - began, 1)
        point.telemetry = "agents" if point.pods <= self._options.direct else "Prometheus API stand-in"
        await set_rates(0.0, fleets=self._fleets())
        log = AuditLog(cluster.audit)
        operator = Operator(cluster, self._folder, environment=self._measured())
        try:
            await self._start(operator, point, log)
            await self._steady(operator, point, log)
        except BaseException:
            await operator.stop()
            raise
        return operator

    def _fleets(self, busy: int | None = None) -> Fleets:
        """All fleets, one of them with traffic."""
        count = self._cluster.workers
        return [(team(i), f"fleet-{i:04d}", count, STEP_RATE * (i == busy)) for i in range(self._cluster.fleets)]

    def _measured(self) -> dict[str, str]:
        """Up to so many workers at their agents, more through Prometheus."""
        many = self._cluster.fleets * self._cluster.workers > self._options.direct
        return {"WARMFLEET_PROMETHEUS_URL": f"http://127.0.0.1:{CONTROL}"} if many else {}

    async def _start(self, operator: Operator, point: Point, log: AuditLog) -> None:
        async def decided() -> bool:
            return await operator.decided() >= 1

        await until(decided, 180, "first decision")
        point.cold_start_s = round(time.monotonic() - operator.began, 2)
        point.cold_cpu_s = operator.usage().cpu_s
        point.start_requests = named(log.requests())
        say(f"  first decision after {point.cold_start_s} s; waiting until all is written")

        quiet = 0

        async def settled() -> bool:
            nonlocal quiet
            quiet = quiet + 1 if writes(log.requests()) == 0 else 0
            return quiet >= 3

        await until(settled, 120 + point.deployments * 0.3, "everything written", period=2.0)
        point.settled_s = round(time.monotonic() - operator.began, 1)

    async def _steady(self, operator: Operator, point: Point, log: AuditLog) -> None:
        log.requests()
        puts, before, began = self._cluster.etcd_puts(), operator.usage(), time.monotonic()
        told = await answers()
        totals, samples = await self._ticks(operator, _WATCH_SECONDS)
        seconds = time.monotonic() - began
        after = operator.usage()
        if point.telemetry == "agents":
            point.answers_per_s = round((await answers() - told) / seconds, 1)
        point.tick_s, point.tick_median_s = round(max(samples), 3), round(statistics.median(samples), 3)
        point.phases_s = {phase: round(mean, 4) for phase, mean in totals.items()}
        point.rss_mb, point.peak_mb = after.rss_mb, after.peak_mb
        point.cpu_share = round((after.cpu_s - before.cpu_s) / seconds, 3)
        point.minute_requests = {k: round(v * 60 / seconds) for k, v in named(log.requests()).items()}
        point.etcd_puts_per_minute = round((self._cluster.etcd_puts() - puts) * 60 / seconds)
        lags = [await self._lag(operator) for _ in range(5)]
        point.watch_lag_s = round(statistics.median(lags), 3)
        say(
            f"  tick {point.tick_median_s} s (slowest {point.tick_s}), {point.phases_s}, lag {point.watch_lag_s} s, "
            f"RSS {point.rss_mb} MB (peak {point.peak_mb}), CPU {point.cpu_share:.0%}"
        )

    async def _ticks(self, operator: Operator, seconds: float) -> tuple[dict[str, float], list[float]]:
        """(mean by phase, seconds of single rounds), by reading the histogram more often than it grows."""
        read = lambda: operator.read(f"{_TICK_PHASES}_sum", f"{_TICK_PHASES}_count")  # noqa: E731
        first = last = await read()
        samples: list[float] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end or (not samples and time.monotonic() < end + 90):
            await asyncio.sleep(0.4)
            now = await read()
            acted = _count(now, "act") - _count(last, "act")
            if acted > 0:
                samples.append(sum(_sum(now, p) - _sum(last, p) for p in _phases(now)) / acted)
                last = now
        if not samples:
            raise TimeoutError("no round of the decision loop in two minutes")
        means = {}
        for phase in _phases(last):
            count = _count(last, phase) - _count(first, phase)
            means[phase] = (_sum(last, phase) - _sum(first, phase)) / count if count else 0.0
        return means, samples

    async def _lag(self, operator: Operator) -> float:
        """Seconds from a write of somebody else to its being seen."""
        index = random.randrange(self._cluster.fleets)
        body = {"metadata": {"annotations": {"bench.warmfleet.dev/touched": str(time.monotonic_ns())}}}
        pods = await self._cluster.kube.list(
            PODS, team(index), labelSelector=f"warmfleet.dev/deployment=fleet-{index:04d}"
        )
        name = pods["items"][0]["metadata"]["name"]
        made = await self._cluster.kube.patch(PODS, name, body, team(index))
        began, version = time.monotonic(), int(made["metadata"]["resourceVersion"])

        async def seen() -> bool:
            found = await operator.read("warmfleet_operator_watched_version")
            return found.get('warmfleet_operator_watched_version{resource="pods"}', 0.0) >= version

        await until(seen, 60, "the change of a pod was seen", period=0.02)
        return time.monotonic() - began

    async def reaction(self, index: int) -> None:
        """One fleet's traffic jumps: seconds to its first new pod."""
        selector = f"warmfleet.dev/deployment=fleet-{index:04d}"
        addresses = await self._cluster.addresses(index)

        async def count() -> int:
            path = PODS.path(team(index))
            page = await self._cluster.kube._call("GET", path, {"labelSelector": selector})  # noqa: SLF001
            return len(page["items"])

        before = await count()

        async def more() -> bool:
            return await count() > before

        await asyncio.sleep(random.uniform(0.0, TICK))
        await set_rates(0.0, dict.fromkeys(addresses, STEP_RATE), self._fleets(index))
        self._report.reaction_s.append(round(await until(more, 60, "a new pod", period=0.05), 2))
        await set_rates(0.0, fleets=self._fleets())

    async def idle(self, operator: Operator, minutes: float) -> None:
        """Writes while nothing happens; younger fleets than two minutes still note once that their template is good."""
        log, since = AuditLog(self._cluster.audit), time.monotonic()

        async def quiet() -> bool:
            nonlocal since
            if writes(log.requests()):
                since = time.monotonic()
            return time.monotonic() - since >= _QUIET_SECONDS

        await until(quiet, 240, f"{_QUIET_SECONDS:.0f} s without a write", period=2.0)
        end = time.monotonic() + minutes * 60
        found: Counter[tuple[str, str]] = Counter()
        while time.monotonic() < end:
            await asyncio.sleep(min(10.0, max(0.1, end - time.monotonic())))
            found += log.requests()
            await operator.decided()
        self._report.idle_minutes = round(minutes, 1)
        self._report.idle_writes = writes(found)
        self._report.idle_what = named(found)

    async def takeover(self, leader: Operator) -> None:
        """A warm standby follows a leader that dies at once."""
        standby = Operator(self._cluster, self._folder, 1, self._measured())
        try:

            async def warm() -> bool:
                found = await standby.read("warmfleet_operator_ticks_total")
                return found.get('warmfleet_operator_ticks_total{outcome="standby"}', 0.0) >= 2

            async def leads() -> bool:
                return await standby.decided() >= 1

            await until(warm, 240, "the standby is warm")
            leader.kill()
            self._report.takeover_s = round(await until(leads, 120, "the standby decides", period=0.1), 2)
        finally:
            await standby.stop()


def _phases(samples: dict[str, float]) -> list[str]:
    return sorted({name.split('"')[1] for name in samples if name.startswith(f"{_TICK_PHASES}_sum")})


def _sum(samples: dict[str, float], phase: str) -> float:
    return samples.get(f'{_TICK_PHASES}_sum{{phase="{phase}"}}', 0.0)


def _count(samples: dict[str, float], phase: str) -> float:
    return samples.get(f'{_TICK_PHASES}_count{{phase="{phase}"}}', 0.0)


def curve(before: str, deployments: int) -> list[int]:
    """Steps to the last one."""
    return [n for n in map(int, filter(None, before.split(","))) if n * 2 <= deployments] + [deployments]


def told(error: BaseException) -> str:
    """An error in words; of a group, each of its members."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(told, error.exceptions))
    return f"{type(error).__name__}: {error}"


async def phase(report: Report, name: str, work: Awaitable[Any], limit: float) -> Any:
    """Await a phase; its failure is noted, not raised."""
    say(f"[{time.strftime('%H:%M:%S')}] {name}")
    try:
        return await asyncio.wait_for(work, limit)
    except Exception as error:  # noqa: BLE001 - the other phases' figures are still wanted
        report.failures.append(f"{name}: {told(error)}"[:2000])
        say(f"  FAILED: {report.failures[-1]}")
        return None


async def measure(report: Report, options: argparse.Namespace) -> None:
    """All phases, within ``--minutes``."""
    end = time.monotonic() + options.minutes * 60
    left = lambda: max(1.0, end - time.monotonic())  # noqa: E731
    workers = max(1, options.pods // options.deployments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        async with Cluster(options.nodes, workers, folder) as cluster, agents(folder):
            work = Measure(cluster, folder, report, options)
            operator: Operator | None = None
            steps = curve(options.steps, options.deployments)
            for fleets in steps:
                operator = await phase(report, f"{fleets} fleets, {fleets * workers} pods", work.point(fleets), left())
                if operator is not None and fleets != steps[-1]:
                    await operator.stop()
            if operator is None:
                return
            minutes = min(options.idle_minutes, (left() - _KEPT_SECONDS) / 60)
            if minutes > 0:  # before anything is set in motion: what a reaction adds is drained minutes later
                await phase(report, f"{minutes:.1f} idle minutes", work.idle(operator, minutes), left())
            for index in range(options.reactions):
                await phase(report, "reaction to a step", work.reaction(index), min(90.0, left()))
            await phase(report, "takeover", work.takeover(operator), left())
            await operator.stop()


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deployments", type=int, default=1000, help="fleets at the last step")
    parser.add_argument("--pods", type=int, default=20_000, help="workers at the last step")
    parser.add_argument("--nodes", type=int, default=2000, help="nodes of 12 types")
    parser.add_argument("--steps", default="10,50,250", help="fleets at the steps before it; empty: none")
    parser.add_argument("--direct", type=int, default=5000, help="workers up to which every agent is asked")
    parser.add_argument("--idle-minutes", type=float, default=10.0, help="length of the idle phase")
    parser.add_argument("--reactions", type=int, default=3, help="measured reactions")
    parser.add_argument("--minutes", type=float, default=30.0, help="bound of the whole")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "scale.json", help="where all figures go")
    parser.add_argument("--page", type=Path, help="page whose section is written")
    options = parser.parse_args(given)
    if options.nodes * 10 < options.pods:
        parser.error(f"--nodes {options.nodes} hold no {options.pods} pods; give at least {-(-options.pods // 10)}")
    return options


def main() -> int:
    """Runs the benchmark; 1 when a phase failed."""
    options = arguments()
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
    report = Report(f"{machine}, load average {os.getloadavg()[0]:.1f} at the start")
    try:
        asyncio.run(measure(report, options))
    except Exception as error:  # noqa: BLE001 - what was measured is printed all the same
        report.failures.append(told(error)[:2000])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(report.to_json())
    if options.page is not None:
        write_page(report, options.page)
    show(report)
    return 1 if report.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
