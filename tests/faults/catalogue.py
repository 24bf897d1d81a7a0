"""Every fault that the soak injects: a name and a coroutine that makes it, waits and takes it back."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from faultproxy import LISTS, WRITES, Fault, FaultKind
from faultworld import FaultWorld
from observer import FORGED
from parts import Json, Node, fleet, is_ready

PROD, AUTO, FIXED = "prod", "auto", "fixed"
GUEST = "guest"
GOOD_IMAGES = ("vllm/vllm-openai:v1", "vllm/vllm-openai:v2")
GONE_WITHIN = 2400.0
"""Logical seconds, of which an operator that is away at the same time needs most."""
BAD_IMAGE = "vllm/vllm-openai:missing"


@dataclass
class Stage:
    """What a fault works on.

    Attributes:
        world: The cluster.
        random: The schedule's generator.
        seconds: How long the fault lasts, logical seconds.
    """

    world: FaultWorld
    random: random.Random
    seconds: float = 40.0

    async def wait(self, share: float = 1.0) -> None:
        """Let a share of the fault's time pass."""
        await self.world.clock.sleep(self.seconds * share)

    def busy_nodes(self) -> list[Node]:
        """Machines with a worker of the fleets under test that serves, in an order drawn anew."""
        mine = {p["spec"].get("nodeName") for key in ((PROD, AUTO), (PROD, FIXED)) for p in self.world.workers(*key)}
        found = [n for n in self.world.nodes.values() if n.up and not n.taints and n.name in mine]
        self.random.shuffle(found)
        return found

    def spec(self, namespace: str, name: str, changes: Json) -> None:
        """Changes a fleet's spec."""
        self.world.patch("llmdeployments", namespace, name, {"spec": changes}, group="warmfleet.dev")

    async def churn(self) -> None:
        """What users do meanwhile: another size of the fixed fleet, other traffic for the scaled one."""
        live = self.world.fleet(PROD, FIXED)
        now = live["spec"]["replicas"] if live is not None else 3
        self.spec(PROD, FIXED, {"replicas": self.random.choice([n for n in (2, 3, 4) if n != now])})
        self.world.rates[PROD, AUTO] = self.random.choice([8.0, 20.0, 33.0])


Play = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Act:
    """A fault of the catalogue.

    Attributes:
        name: For the table.
        group: ``api``, ``fleet``, ``operator`` or ``tenant``.
        play: Makes it and takes it back.
    """

    name: str
    group: str
    play: Play


@contextmanager
def _met(stage: Stage, *faults: Fault) -> Iterator[None]:
    """Requests meet these faults."""
    stage.world.proxy.faults[:0] = faults
    try:
        yield
    finally:
        stage.world.proxy.faults = [f for f in stage.world.proxy.faults if f not in faults]


def _api(*faults: Fault) -> Play:
    async def play(stage: Stage) -> None:
        with _met(stage, *faults):
            for _ in range(4):
                await stage.churn()
                await stage.wait(0.5)

    return play


async def _forgets(stage: Stage, seconds: float) -> None:
    stage.world.api.store.forget_events()
    stage.world.proxy.cut_watches()
    await stage.wait(seconds)


async def cut_watches(stage: Stage) -> None:
    """Every watch is reset again and again."""
    for turn in range(10):
        if turn % 3 == 0:
            await stage.churn()
        stage.world.proxy.cut_watches()
        await stage.wait(0.2)


async def gone(stage: Stage) -> None:
    """The API forgets its events and says 410 to every watch that resumes, for a while even to fresh ones."""
    with _met(stage, Fault(FaultKind.GONE, 0.5)):
        await stage.churn()
        for _ in range(4):
            await _forgets(stage, 0.25)


async def stale(stage: Stage) -> None:
    """Lists are old ones, and watches start over from there."""
    with _met(stage, Fault(FaultKind.STALE, 0.7, LISTS)):
        await stage.churn()
        for _ in range(4):
            await _forgets(stage, 0.5)
            await stage.churn()


async def api_away(stage: Stage) -> None:
    """Nothing is answered, the Lease included, longer than the lease holds."""
    with _met(stage, Fault(FaultKind.DROP, 1.0, spared=frozenset())):
        stage.world.proxy.cut_watches()
        await stage.churn()
        await asyncio.sleep(10)


async def node_loss(stage: Stage) -> None:
    """A machine with a worker is gone."""
    for node in stage.busy_nodes()[:1]:
        await stage.world.lose_node(node)


def _notice(seconds: float) -> Play:
    async def play(stage: Stage) -> None:
        await asyncio.gather(*(stage.world.give_notice(node, seconds) for node in stage.busy_nodes()[:1]))

    return play


async def cordon(stage: Stage) -> None:
    """A machine with a worker is cordoned and comes back."""
    for node in stage.busy_nodes()[:1]:
        stage.world.cordon(node, on=True)
        await stage.wait(2.0)
        stage.world.cordon(node, on=False)


async def stock_out(stage: Stage) -> None:
    """The cheaper type has no machines left while more are wanted."""
    stage.world.stocked_out.add("h100")
    try:
        stage.world.rates[PROD, AUTO] = 40.0
        for node in stage.busy_nodes()[:1]:
            if node.pool == "h100":
                await stage.world.lose_node(node)
        await stage.wait(2.0)
    finally:
        stage.world.stocked_out.discard("h100")
        stage.world.rates[PROD, AUTO] = 20.0


def _agents(mode: str) -> Play:
    async def play(stage: Stage) -> None:
        stage.world.modes[PROD] = mode
        try:
            await stage.churn()
            await stage.wait()
        finally:
            stage.world.modes.pop(PROD, None)

    return play


async def agents_restart(stage: Stage) -> None:
    """Agents crash and come back, in the middle of drains too, of which they then know nothing."""
    for turn in range(12):
        if turn % 3 == 0:
            await stage.churn()
        await stage.wait(1 / 8)
        for pod in stage.world.workers():
            agent = stage.world.agents.get(pod["metadata"]["uid"])
            if agent is not None and pod["metadata"]["namespace"] == PROD:
                agent.crash()


async def engines_restart(stage: Stage) -> None:
    """Engines crash and come back; their counters begin anew."""
    pods = [p for p in stage.world.workers() if p["metadata"]["namespace"] == PROD and is_ready(p)]
    chosen = stage.random.sample(pods, min(2, len(pods)))
    await asyncio.gather(*(stage.world.kubelet.restart_engine(pod, stage.seconds) for pod in chosen))


def _router(mode: str) -> Play:
    async def play(stage: Stage) -> None:
        stage.world.router_modes[PROD, AUTO] = mode
        try:
            await stage.wait()
        finally:
            stage.world.router_modes.pop((PROD, AUTO), None)

    return play


def forecast_status(world: FaultWorld, *, age: float, factor: float, trusted: bool = True) -> Json:
    """A forecast that expects ``factor`` times (as a logarithm) what is there."""
    issued = (world.clock.wall() - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    windows = [
        {"lead": lead, "residuals": [factor, factor, factor], "scaleBase": 1.0} for lead in ("60s", "300s", "900s")
    ]
    table: Json = {"probabilities": [0.5, 0.9, 0.99], "windows": windows, "peak": 60.0, "floor": 0.1}
    return {"issuedAt": issued, "validFor": "600s", "trusted": trusted, "reason": "Skilled", "leadWindows": table}


def _forecast(**how: Any) -> Play:
    async def play(stage: Stage) -> None:
        world = stage.world
        status = {"status": forecast_status(world, **how)}
        world.patch("trafficforecasts", PROD, AUTO, status, "status", group="warmfleet.dev")
        await stage.churn()
        await stage.wait()
        good = {"status": forecast_status(world, age=0, factor=0.1)}
        world.patch("trafficforecasts", PROD, AUTO, good, "status", group="warmfleet.dev")

    return play


async def rollout_at_peak(stage: Stage) -> None:
    """A new image while traffic is at its highest."""
    world = stage.world
    world.rates[PROD, AUTO] = 33.0
    await stage.wait()
    live = world.fleet(PROD, AUTO)
    image = live["spec"]["engine"]["image"] if live is not None else ""
    stage.spec(PROD, AUTO, {"engine": {"image": GOOD_IMAGES[image == GOOD_IMAGES[0]]}})
    await stage.wait()


async def bad_image(stage: Stage) -> None:
    """A rollout of an image that is not there; the fleet must say so, keep serving, and take the next good one."""
    world = stage.world
    world.bad_images.add(BAD_IMAGE)
    live = world.fleet(PROD, FIXED)
    image = live["spec"]["engine"]["image"] if live is not None else GOOD_IMAGES[0]
    stage.spec(PROD, FIXED, {"engine": {"image": BAD_IMAGE}})
    seen = set()
    begin = world.clock.now()
    while world.clock.now() - begin < GONE_WITHIN:
        await world.clock.sleep(5.0)
        body = world.fleet(PROD, FIXED) or {}
        conditions = (body.get("status") or {}).get("conditions") or []
        seen |= {c.get("reason") for c in conditions if c.get("type") in ("Stalled", "RollingOut")}
        if "RolledBack" in seen or ("ImagePullFailed" in seen and world.clock.now() - begin > 300.0):
            break
    stage.spec(PROD, FIXED, {"engine": {"image": image}})
    if not seen & {"RolledBack", "ImagePullFailed"}:
        raise AssertionError(f"the bad image is not named in the conditions within {GONE_WITHIN:.0f} s: {seen}")


async def pods_deleted(stage: Stage) -> None:
    """Somebody deletes a worker's pod."""
    pods = [p for p in stage.world.workers() if p["metadata"]["namespace"] == PROD and is_ready(p)]
    for pod in stage.random.sample(pods, min(1, len(pods))):
        stage.world.lost[pod["metadata"]["uid"]] = "deleted by a person"
        stage.world.delete("pods", PROD, pod["metadata"]["name"])
    await stage.wait()


async def killed(stage: Stage) -> None:
    """The operator is killed in the middle of its work, twice."""
    for _ in range(2):
        await stage.churn()
        await stage.world.clock.sleep(stage.random.uniform(2, 20))
        stage.world.signal_operator(signal.SIGKILL)
        await asyncio.sleep(3)


async def stopped(stage: Stage) -> None:
    """The operator is told to end and started again."""
    await stage.churn()
    stage.world.signal_operator(signal.SIGTERM)
    await stage.wait(2.0)


async def frozen(stage: Stage) -> None:
    """The operator stands still for longer than its lease holds, and wakes up."""
    stage.world.signal_operator(signal.SIGSTOP)
    await stage.churn()
    await asyncio.sleep(9)
    stage.world.signal_operator(signal.SIGCONT)
    await stage.wait()


async def fleet_recreated(stage: Stage) -> None:
    """A fleet is deleted and created again under its name."""
    world = stage.world
    world.delete("llmdeployments", GUEST, "pet", group="warmfleet.dev")
    begin = world.clock.now()
    while world.fleet(GUEST, "pet") is not None:
        if world.clock.now() - begin > GONE_WITHIN:
            raise AssertionError(f"a deleted fleet is still there after {GONE_WITHIN:.0f} s")
        await stage.wait(0.1)
    world.create("llmdeployments", fleet(GUEST, "pet", ["h100"], replicas=1), "warmfleet.dev")


async def hostile_tenant(stage: Stage) -> None:
    """A tenant creates fleets that make no sense, changes them without end, and forges pods of his own."""
    world, draw = stage.world, stage.random
    for number in range(12):
        odd = fleet(
            GUEST, f"odd-{number}", ["h100" if number % 3 else "no-such-type"], replicas=draw.choice([0, 0, 9999])
        )
        odd["spec"]["engine"]["env"] = [{"name": "X", "value": "\U0001f4a5" * 500}]
        odd["spec"]["variants"][0]["max"] = 0 if number % 3 else 9999
        odd["metadata"]["annotations"] = {"junk": "z" * 50_000}
        _tried(lambda odd=odd: world.create("llmdeployments", odd, "warmfleet.dev"))
        mine = {
            "app.kubernetes.io/managed-by": "warmfleet",
            "app.kubernetes.io/component": "worker",
            "warmfleet.dev/deployment": f"odd-{number}",
            "warmfleet.dev/variant": "x" * 60,
        }
        meta = {"name": f"forged-{number}", "namespace": GUEST, "labels": mine, "annotations": {FORGED: "yes"}}
        containers = [{"name": "engine", "image": "x", "resources": {"limits": {"a/b": "999999"}}}]
        _tried(lambda meta=meta, c=containers: world.create("pods", {"metadata": meta, "spec": {"containers": c}}))
    for turn in range(60):
        name = f"odd-{draw.randrange(12)}"
        world.patch(
            "llmdeployments", GUEST, name, {"metadata": {"annotations": {"turn": str(turn)}}}, group="warmfleet.dev"
        )
        await stage.wait(1 / 60)
    for number in range(12):
        world.delete("llmdeployments", GUEST, f"odd-{number}", group="warmfleet.dev")
        world.delete("pods", GUEST, f"forged-{number}", now=True)


def _tried(action: Callable[[], object]) -> None:
    """Does what the API may well refuse."""
    try:
        action()
    except Exception as error:
        if type(error).__name__ != "ApiError":
            raise


ACTS: tuple[Act, ...] = (
    Act("every request is slow", "api", _api(Fault(FaultKind.DELAY, 1.0, seconds=1.0))),
    Act("connections drop", "api", _api(Fault(FaultKind.DROP, 0.3))),
    Act("answers of writes are lost", "api", _api(Fault(FaultKind.LOSE, 0.4, WRITES))),
    Act("writes conflict (409)", "api", _api(Fault(FaultKind.REFUSE, 0.5, WRITES, status=409))),
    Act("requests are throttled (429)", "api", _api(Fault(FaultKind.REFUSE, 0.4, seconds=1.0, status=429))),
    Act("internal errors (500)", "api", _api(Fault(FaultKind.REFUSE, 0.4, status=500))),
    Act("watches are cut", "api", cut_watches),
    Act("watches expire (410)", "api", gone),
    Act("lists are stale", "api", stale),
    Act("the API is away", "api", api_away),
    Act("a node is lost", "fleet", node_loss),
    Act("a node gives 30 s notice", "fleet", _notice(30.0)),
    Act("a node gives 120 s notice", "fleet", _notice(120.0)),
    Act("a node is cordoned", "fleet", cordon),
    Act("a type is out of stock", "fleet", stock_out),
    Act("a worker's pod is deleted", "fleet", pods_deleted),
    Act("engines restart", "fleet", engines_restart),
    Act("agents restart", "fleet", agents_restart),
    Act("a rollout at peak", "fleet", rollout_at_peak),
    Act("a rollout of a bad image", "fleet", bad_image),
    *(
        Act(f"agents: {mode}", "fleet", _agents(mode))
        for mode in ("hang", "silent", "garbage", "huge", "negative", "nan", "boast", "foreign")
    ),
    *(
        Act(f"router: {mode}", "fleet", _router(mode))
        for mode in ("hang", "silent", "garbage", "negative", "nan", "huge")
    ),
    Act("the forecaster (or its Prometheus) is dead", "fleet", _forecast(age=3600.0, factor=0.1)),
    Act("the forecast is absurd", "fleet", _forecast(age=0.0, factor=1e30)),
    Act("the operator is killed", "operator", killed),
    Act("the operator is restarted", "operator", stopped),
    Act("the operator is frozen", "operator", frozen),
    Act("a fleet is deleted and created again", "tenant", fleet_recreated),
    Act("a hostile tenant", "tenant", hostile_tenant),
)
