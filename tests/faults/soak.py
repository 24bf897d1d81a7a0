"""``make soak``: an hour (or what SOAK_MINUTES says) of churn with one fault after another; replayable by its seed.

Each episode draws a fault of the :mod:`catalogue`, lets users change things meanwhile, takes the fault back and waits
until every fleet is as its spec says. The :mod:`observer` looks on all the time. A round plays every fault once, in an
order drawn anew; later rounds pair them. The last line is one JSON object; ``--page`` writes the table into
docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # these folders are no packages
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "operator"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

from catalogue import ACTS, AUTO, FIXED, GUEST, PROD, Act, Stage, forecast_status
from faultworld import UNREACHABLE, FaultWorld, fault_world
from marked import write_between
from observer import PROMISES, Observer, is_leaving
from parts import Json, fleet, instance_type, is_ready
from warmfleet_contracts import labels

QUIET = "quiet"
BOUND = 2400.0
"""Logical seconds after the end of a fault within which all fleets are as their specs say: two real minutes, because
what takes real time (a start of the operator, a Lease that expires, back-offs of the watch) takes long on a busy
machine; the table shows how long it took."""
PREPARED = 4800.0
FLEETS = ((PROD, FIXED), (PROD, AUTO), (QUIET, "calm"), (GUEST, "pet"))


@dataclass
class Episode:
    """What one episode showed.

    Attributes:
        faults: What was injected.
        converged: Logical seconds from the end of the fault until all fleets were as wanted; None if they never were.
        violations: Broken promises, by promise.
        restarts: How often the operator ended by itself.
    """

    faults: list[str]
    converged: float | None = None
    violations: dict[str, list[str]] = field(default_factory=dict)
    restarts: int = 0


def prepare(world: FaultWorld) -> None:
    """Machines, types and fleets."""
    for name in (PROD, QUIET, GUEST):
        world.create("namespaces", {"metadata": {"name": name}})
    for pool, count in (("h100", 12), ("l40s", 8)):
        for _ in range(count):
            world.add_node(pool)
    world.create("instancetypes", instance_type("h100", 6.0, limit=12), "warmfleet.dev")
    world.create("instancetypes", instance_type("l40s", 9.0), "warmfleet.dev")
    down = {"stabilizationWindow": "30s", "maxStep": 2, "stepPeriod": "10s"}
    scaling: Json = {"min": 2, "max": 6, "scaleDown": down, "forecast": {}}
    world.create("llmdeployments", fleet(PROD, FIXED, ["h100"], replicas=3), "warmfleet.dev")
    world.create("llmdeployments", fleet(PROD, AUTO, ["h100", "l40s"], scaling=scaling), "warmfleet.dev")
    world.create("llmdeployments", fleet(QUIET, "calm", ["h100"], replicas=2), "warmfleet.dev")
    world.create("llmdeployments", fleet(GUEST, "pet", ["h100"], replicas=1), "warmfleet.dev")
    world.rates[PROD, AUTO] = 20.0
    forecast = {
        "metadata": {"name": AUTO, "namespace": PROD},
        "spec": {"target": {"name": AUTO}, "forecaster": "External"},
    }
    world.create("trafficforecasts", forecast, "warmfleet.dev")
    status = {"status": forecast_status(world, age=0, factor=0.1)}
    world.patch("trafficforecasts", PROD, AUTO, status, "status", group="warmfleet.dev")


def look_on(world: FaultWorld) -> Observer:
    """An observer that sees every change of the store."""

    def leaving_node(pod: Json) -> bool:
        node = world.nodes.get(pod["spec"].get("nodeName") or "")
        return bool(pod["spec"].get("nodeName")) and (node is None or bool(node.taints) or node.cordoned)

    def room(pool: str) -> bool:
        taken = {p["spec"].get("nodeName") for p in world.workers()}
        free = [n for n in world.nodes.values() if n.pool == pool and n.up and not n.taints and n.name not in taken]
        return pool not in world.stocked_out and bool(free)

    def drained(uid: str) -> bool | None:
        agent = world.agents.get(uid)
        return None if agent is None else agent.drained or agent.has_drained

    observer = Observer(
        world.clock, excuse=world.lost.get, drained=drained, leaving_node=leaving_node, room=room, limits={"h100": 12}
    )
    pods = world.api.registry.named("pods").storage
    fleets = world.api.registry.named("llmdeployments", "warmfleet.dev").storage

    def changed(change: Any) -> None:
        if change.storage == pods:
            observer.saw_pod(change.new, deleted=change.type == "DELETED")
        elif change.storage == fleets:
            observer.saw_fleet(change.new, deleted=change.type == "DELETED")

    world.api.store.listeners.append(changed)
    return observer


def unlike(world: FaultWorld) -> Iterator[str]:
    """What is not yet as the specs say."""
    if world.operator is None or world.operator.exit_code() is not None:
        yield "the operator does not run"
    for namespace, name in FLEETS:
        body = world.fleet(namespace, name)
        if body is None:
            yield f"{name} is not there"
        else:
            yield from (f"{name}: {text}" for text in _unlike_spec(body, world.workers(namespace, name)))
    known = set(FLEETS)
    for pod in world.workers():
        key = pod["metadata"]["namespace"], (pod["metadata"].get("labels") or {}).get(labels.DEPLOYMENT)
        if key not in known:
            yield f"{pod['metadata']['name']} belongs to nobody"
    if any(UNREACHABLE in n.taints for n in world.nodes.values()):
        yield "a machine is still gone"


def _unlike_spec(body: Json, pods: list[Json]) -> Iterator[str]:
    spec, status = body["spec"], body.get("status") or {}
    ready = sum(map(is_ready, pods))
    wanted = spec.get("replicas", status.get("desiredReplicas"))
    scaling = spec.get("scaling") or {"min": 0, "max": 10_000}
    if len(pods) != wanted or ready != wanted or not scaling["min"] <= wanted <= scaling["max"]:
        yield f"{ready} of {len(pods)} workers are ready, {wanted} wanted"
    if any(map(is_leaving, pods)):
        yield "somebody is leaving"
    if status.get("observedGeneration") != body["metadata"]["generation"]:
        yield "the status is of an older generation"
    if status.get("readyReplicas") != wanted or status.get("desiredReplicas") != wanted:
        yield f"the status says {status.get('readyReplicas')} ready, {status.get('desiredReplicas')} desired"
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    if conditions.get("Ready", {}).get("status") != "True" or "Stalled" in conditions:
        yield f"{[(c['type'], c['status'], c['reason']) for c in conditions.values()]}"


async def converge(world: FaultWorld, observer: Observer, bound: float) -> tuple[float | None, list[str]]:
    """Waits until all is as wanted: (logical seconds it took, None if never; what is still missing)."""
    begin, still = world.clock.now(), observer.stood_still
    steady: float | None = None
    while True:
        now = world.clock.now()
        missing = list(unlike(world))
        if missing:
            steady = None
        else:
            steady = now if steady is None else steady
            if now - steady >= 10.0:
                return steady - begin, []
        if now - begin > bound + 2 * (observer.stood_still - still):
            return None, missing
        await asyncio.sleep(0.1)


async def play(world: FaultWorld, observer: Observer, draw: random.Random, acts: list[Act]) -> Episode:
    """One episode."""
    episode = Episode([act.name for act in acts])
    before, restarts = len(observer.violations), world.restarts
    stages = [Stage(world, random.Random(draw.random()), draw.uniform(30, 60)) for _ in acts]
    calm = {p["metadata"]["uid"] for p in world.workers(QUIET, "calm")}
    results = await asyncio.gather(*(act.play(s) for act, s in zip(acts, stages, strict=True)), return_exceptions=True)
    for error in results:
        if isinstance(error, AssertionError):
            observer.broken("converged", str(error))
        elif isinstance(error, BaseException):
            raise error
    episode.converged, missing = await converge(world, observer, BOUND)
    observer.checks["converged"] += 1
    if missing:
        observer.broken("converged", f"{BOUND:.0f} s after the fault: {'; '.join(missing)}")
    if calm != {p["metadata"]["uid"] for p in world.workers(QUIET, "calm")}:
        observer.broken("once", "the workers of a fleet that had nothing to do with it were replaced")
    observer.deleted_twice(world.proxy.deleted)
    world.proxy.deleted.clear()
    for violation in observer.violations[before:]:
        episode.violations.setdefault(violation.promise, []).append(violation.text)
    episode.restarts = world.restarts - restarts
    return episode


def tracebacks(world: FaultWorld) -> list[str]:
    """Errors of the operator that nobody ordered."""
    found = []
    for log in world.logs:
        text = log.read_text(encoding="utf-8", errors="replace")
        found += [line[:300] for line in text.splitlines() if "the decision failed" in line or 'acting failed"' in line]
    return found


async def soak(minutes: float, seed: int, folder: Path, only: str = "") -> tuple[list[Episode], Observer, FaultWorld]:
    """Plays episodes until the time is over; every fault once first, if there is time for that."""
    draw = random.Random(seed)
    episodes: list[Episode] = []
    chosen = [act for act in ACTS if any(part in act.name for part in only.split(","))]
    begin = time.monotonic()
    async with fault_world(folder, seed) as world:
        prepare(world)
        observer = look_on(world)
        for item in world.objects("llmdeployments", "warmfleet.dev"):
            observer.saw_fleet(item)
        beat = asyncio.create_task(observer.beat())
        world.start_operator()
        try:
            took, missing = await converge(world, observer, PREPARED)
            if took is None:
                raise AssertionError(f"the fleets never came up: {missing}\n{world.operator and world.operator.tail()}")
            rounds, begin = 0, time.monotonic()  # however long the start took
            while time.monotonic() - begin < minutes * 60:
                order = draw.sample(chosen, len(chosen))
                pairs = (
                    [[act] for act in order]
                    if rounds == 0
                    else [list(p) for p in zip(order[::2], order[1::2], strict=False)]
                )
                for acts in pairs or [[act] for act in order]:
                    episode = await play(world, observer, draw, acts)
                    episodes.append(episode)
                    _say(episode, time.monotonic() - begin)
                    if time.monotonic() - begin > minutes * 60:
                        break
                rounds += 1
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
    return episodes, observer, world


def _say(episode: Episode, at: float) -> None:
    took = "never" if episode.converged is None else f"{episode.converged:.0f} s"
    print(f"{at:6.0f} s  {' + '.join(episode.faults):45}  converged {took}, restarts {episode.restarts}", flush=True)
    for promise, texts in episode.violations.items():
        for text in texts:
            print(f"          BROKEN {promise}: {text}", flush=True)


def report(episodes: list[Episode]) -> str:
    """Faults x promises, as Markdown: how often each held."""
    rows = [f"| Fault | Episodes | {' | '.join(PROMISES)} | Converged within (median, longest) |"]
    rows.append("|" + "---|" * (len(PROMISES) + 3))
    for act in ACTS:
        mine = [e for e in episodes if act.name in e.faults]
        if not mine:
            continue
        took = sorted(e.converged for e in mine if e.converged is not None)
        cells = []
        for promise in PROMISES:
            bad = sum(promise in e.violations for e in mine)
            cells.append("kept" if not bad else f"**broken {bad}x**")
        spread = f"{took[len(took) // 2]:.0f} s, {took[-1]:.0f} s" if took else "never"
        rows.append(f"| {act.name} | {len(mine)} | {' | '.join(cells)} | {spread} |")
    return "\n".join(rows)


BEGIN, END = "<!-- faults: written by make soak -->", "<!-- /faults -->"


def write_page(page: Path, episodes: list[Episode], result: dict[str, Any]) -> None:
    """Puts the table and the figures of a soak between the markers of a page.

    Raises:
        ValueError: The page has no markers.
    """
    injected = ", ".join(f"{count} {kind}" for kind, count in sorted(result["injected"].items()))
    checks = ", ".join(f"{name} {count}" for name, count in result["checks"].items())
    text = (
        f"Seed {result['seed']}, {result['minutes']:g} minutes, {result['episodes']} episodes, {result['machine']}; "
        f"{result['violations']} broken promises, {result['errors']} unexpected errors in the operator's logs. "
        f"The operator ended {result['restarts']} times (killed, restarted, or its Lease or its watch was lost) and "
        f"was started again. Largest operator: {result['operator_rss_mb']} MB. "
        f"Looked at: {checks}. Met by requests: {injected}.\n"
    )
    write_between(page, BEGIN, END, f"\n{text}\n{report(episodes)}\n")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Churn with faults, watched by an independent observer")
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("SOAK_MINUTES") or 60))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SOAK_SEED") or time.time_ns() % 1_000_000))
    parser.add_argument("--only", default="", help="play only faults whose name has one of these in it")
    parser.add_argument("--page", type=Path, help="write the table between the markers of this file")
    parser.add_argument("--keep", type=Path, help="keep the operator's logs in this folder")
    given = parser.parse_args()
    print(
        f"seed {given.seed}: SOAK_SEED={given.seed} SOAK_MINUTES={given.minutes:g} plays the same faults again",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        episodes, observer, world = asyncio.run(soak(given.minutes, given.seed, folder, given.only))
        errors = tracebacks(world)
    print(report(episodes))
    for line in errors:
        print("error:", line)
    result = {
        "seed": given.seed,
        "minutes": given.minutes,
        "episodes": len(episodes),
        "violations": len(observer.violations),
        "errors": len(errors),
        "checks": observer.checks,
        "injected": dict(world.proxy.counts),
        "restarts": world.restarts,
        "operator_rss_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        "stood_still_s": round(observer.stood_still / world.clock.scale, 1),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }
    if given.page is not None:
        write_page(given.page, episodes, result)
    print(json.dumps(result))
    return 1 if observer.violations or errors else 0


if __name__ == "__main__":
    sys.exit(main())
