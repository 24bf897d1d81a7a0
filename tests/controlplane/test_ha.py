"""Two replicas: whatever happens to the leader, one acts at a time, the other follows, and no pod is made twice.

Real time, a real API server, no nodes: the pods of fixed fleets stay pending. An observer with a connection of its own
sees every pod come and go. Leases last six seconds here instead of fifteen; how long a takeover takes with the defaults
is measured by ``make bench-scale``. ``make bench-ha`` writes what happened into the page on reliability.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import ControlPlane
from fleet_scene import fixed_fleet, instance_type
from marked import write_between
from test_operator_faults import wired
from warmfleet_cli.demo.processes import Child
from warmfleet_contracts import labels
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import INSTANCE_TYPES, LEASES, LLM_DEPLOYMENTS, PODS
from warmfleet_runtime.rest import ApiError
from world import eventually

PATIENCE = 60.0
"""Real seconds that a busy machine may take for anything."""
_LEASE = "warmfleet-operator"
_SKEWED = """
import datetime, sys
from warmfleet_operator import __main__, process
class Skewed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) + datetime.timedelta(seconds={seconds})
process.datetime = Skewed
sys.exit(__main__.main())
"""


class Pair:
    """A fleet in a namespace, the replicas that look after it, and what an observer has seen of its pods."""

    def __init__(self, kube: KubeClient, plane: ControlPlane, namespace: str, folder: Path) -> None:
        self.kube, self.namespace = kube, namespace
        self._plane, self._folder = plane, folder
        self.replicas: list[Child] = []
        self.created: list[str] = []
        self.deleted: list[str] = []
        self.lost_at: float | None = None
        """When the leader was lost, by the monotonic clock."""
        self.took: float | None = None
        """Seconds from there until the standby held the Lease."""

    async def observe(self) -> None:
        """Record every pod that comes or goes."""
        selector = f"{labels.COMPONENT}={labels.COMPONENT_WORKER}"
        async for event in self.kube.follow(PODS, self.namespace, labelSelector=selector):
            if event.type == "ADDED":
                self.created.append(event.object["metadata"]["name"])
            elif event.type == "DELETED":
                self.deleted.append(event.object["metadata"]["name"])

    def start(self, *, kubeconfig: Path | None = None, skew: float = 0.0) -> Child:
        """Another replica."""
        name = f"replica-{len(self.replicas)}"
        code = ["-c", _SKEWED.format(seconds=skew)] if skew else ["-m", "warmfleet_operator"]
        settings = {
            "KUBECONFIG": str(kubeconfig or self._plane.kubeconfig),
            "WARMFLEET_IDENTITY": name,
            "WARMFLEET_NAMESPACE": self.namespace,
            "WARMFLEET_TICK_SECONDS": "1",
            "WARMFLEET_TELEMETRY_SECONDS": "1",
            "WARMFLEET_LEASE_DURATION_SECONDS": "6",
            "WARMFLEET_LEASE_RETRY_SECONDS": "0.5",
            "WARMFLEET_LISTEN_ADDRESS": "127.0.0.1",
            "WARMFLEET_LISTEN_PORT": "0",
        }
        child = Child(name, [sys.executable, *code], env=settings, folder=self._folder)
        self.replicas.append(child)
        return child

    async def holder(self) -> str:
        """Who holds the Lease."""
        lease = await self.kube.get(LEASES, _LEASE, self.namespace)
        return str(lease["spec"].get("holderIdentity") or "")

    async def transitions(self) -> int:
        """How often the Lease has changed hands."""
        return int((await self.kube.get(LEASES, _LEASE, self.namespace))["spec"]["leaseTransitions"])

    async def until_leads(self, child: Child) -> None:
        """Returns once a replica holds the Lease."""

        async def check() -> bool:
            return await self.holder() == child.name

        await self._until(check, f"{child.name} leads")
        if self.lost_at is not None and self.took is None:
            self.took = time.monotonic() - self.lost_at

    def lost(self) -> None:
        """The leader was just lost."""
        self.lost_at = time.monotonic()

    async def until_pods(self, count: int) -> None:
        """Returns once the observer has seen so many come."""

        async def check() -> bool:
            return len(self.created) >= count

        await self._until(check, f"{count} pods")

    async def until_ended(self, child: Child) -> None:
        """Returns once a replica has ended by itself."""

        async def check() -> bool:
            return child.exit_code() is not None

        await self._until(check, f"end of {child.name}")

    async def _until(self, check: Callable[[], Awaitable[bool]], what: str) -> None:
        try:
            await eventually(check, what, PATIENCE)
        except BaseException:
            print(f"created {self.created}, deleted {self.deleted}")
            for child in self.replicas:
                print(child.tail())
            raise

    async def scale(self, replicas: int) -> None:
        """As ``kubectl scale``."""
        await self.kube.patch(LLM_DEPLOYMENTS, "chat", {"spec": {"replicas": replicas}}, self.namespace)

    async def settled(self, count: int) -> None:
        """There were so many pods, each came once, none went, and that stays so for some rounds of both replicas."""
        await self.until_pods(count)
        await asyncio.sleep(3.0)
        assert sorted(set(self.created)) == sorted(self.created)
        assert len(self.created) == count
        assert self.deleted == []


@pytest.fixture
async def pair(controlplane: ControlPlane, namespace: str, tmp_path: Path) -> AsyncIterator[Pair]:
    """A fixed fleet of two, without replicas of the operator yet."""
    async with await KubeClient.from_kubeconfig(controlplane.kubeconfig) as kube:
        type_: dict[str, Any] = instance_type()
        await kube.patch(INSTANCE_TYPES, "h100", type_, how="apply", fieldManager="test", force="true")
        await kube.create(LLM_DEPLOYMENTS, fixed_fleet(namespace, replicas=2))
        made = Pair(kube, controlplane, namespace, tmp_path)
        observer = asyncio.create_task(made.observe())
        try:
            yield made
        finally:
            observer.cancel()
            await asyncio.gather(observer, return_exceptions=True)
            for child in made.replicas:
                if child.exit_code() is None:
                    os.kill(child._process.pid, signal.SIGCONT)
                await child.stop(grace=6)
            for resource, name, where in ((LLM_DEPLOYMENTS, "chat", namespace), (INSTANCE_TYPES, "h100", None)):
                try:
                    await kube.patch(resource, name, {"metadata": {"finalizers": None}}, where)
                    await kube.delete(resource, name, where)
                except ApiError as error:
                    assert error.status == 404  # noqa: PT017 - whatever else it is, it is left behind for others


async def led(pair: Pair, **how: Any) -> Child:
    """A leader whose fleet is there."""
    leader = pair.start(**how)
    await pair.until_leads(leader)
    await pair.until_pods(2)
    return leader


BEGIN, END = "<!-- ha: written by make bench-ha -->", "<!-- /ha -->"
_HEAD = (
    "| what happens to the leader | what held | the standby leads after, s | workers made | made twice | deleted |",
    "|---|---|---|---|---|---|",
)


@pytest.fixture(scope="module")
def outcomes() -> Iterator[list[str]]:
    """Rows of the page's table; written at the end if a page is named and every test of this module passed."""
    rows: list[str] = []
    yield rows
    page = os.environ.get("WARMFLEET_HA_PAGE")
    if page and len(rows) == 4:
        write_between(Path(page), BEGIN, END, "\n".join((*_HEAD, *rows)))


def row(pair: Pair, what: str, held: str) -> str:
    """What a test saw; it is asserted before."""
    twice = len(pair.created) - len(set(pair.created))
    took = "" if pair.took is None else f"{pair.took:.1f}"
    return f"| {what} | {held} | {took} | {len(pair.created)} | {twice} | {len(pair.deleted)} |"


async def test_after_a_kill_the_standby_goes_on_where_the_leader_was(pair: Pair, outcomes: list[str]) -> None:
    leader = await led(pair)
    standby = pair.start()
    await pair.scale(5)
    os.kill(leader._process.pid, signal.SIGKILL)
    pair.lost()
    await pair.until_leads(standby)
    await pair.settled(5)
    assert await pair.transitions() == 1
    held = "the standby goes on; the Lease changed hands once"
    outcomes.append(row(pair, "killed (SIGKILL) in the middle of a scale-up", held))


async def test_a_leader_that_wakes_from_a_stop_finds_itself_deposed_and_ends(pair: Pair, outcomes: list[str]) -> None:
    leader = await led(pair)
    standby = pair.start()
    await pair.scale(4)
    os.kill(leader._process.pid, signal.SIGSTOP)  # perhaps in the middle of it
    pair.lost()
    await pair.until_leads(standby)
    await pair.settled(4)
    await pair.scale(5)
    os.kill(leader._process.pid, signal.SIGCONT)
    await pair.until_ended(leader)
    assert leader.exit_code() == 1
    await pair.settled(5)
    assert await pair.holder() == standby.name
    assert await pair.transitions() == 1
    held = "it finds itself deposed and ends with exit code 1, without a write"
    outcomes.append(row(pair, "stopped (SIGSTOP), deposed, woken (SIGCONT)", held))


async def test_what_a_cut_off_leader_had_sent_does_no_harm_when_it_arrives_late(
    pair: Pair, controlplane: ControlPlane, tmp_path: Path, outcomes: list[str]
) -> None:
    async with wired(controlplane.kubeconfig, tmp_path) as (wire, kubeconfig):
        leader = await led(pair, kubeconfig=kubeconfig)
        standby = pair.start()
        await pair.scale(5)
        wire.silence(on=True)  # nothing is refused: requests are on their way, and no answer comes
        pair.lost()
        await pair.until_leads(standby)
        await pair.settled(5)
        wire.silence(on=False)
        await pair.until_ended(leader)
        await pair.settled(5)
        assert await pair.holder() == standby.name
        held = "late creates collide; it ends; no worker too many"
        outcomes.append(row(pair, "cut off, its requests delivered after the standby has taken over", held))


async def test_a_clock_that_is_a_minute_off_neither_takes_a_live_lease_nor_keeps_a_dead_one(
    pair: Pair, outcomes: list[str]
) -> None:
    leader = await led(pair, skew=-60.0)
    ahead = pair.start(skew=60.0)
    await asyncio.sleep(10.0)  # longer than the lease, and time to start
    assert await pair.holder() == leader.name
    assert await pair.transitions() == 0
    os.kill(leader._process.pid, signal.SIGKILL)
    pair.lost()
    await pair.scale(3)
    await pair.until_leads(ahead)
    behind = pair.start(skew=-60.0)
    await asyncio.sleep(8.0)
    assert await pair.holder() == ahead.name
    assert behind.exit_code() is None
    await pair.settled(3)
    held = "a live Lease is not taken, a dead one is"
    outcomes.append(row(pair, "clocks a minute behind and a minute ahead, then killed", held))
