"""Who is there, and who counts.

::

    capacity(up)   = ready + starting          starting: on its way, or not ready for less than its start-up time
    capacity(down) = ready
    no capacity    : stuck     no node for longer than 2 * p90 start-up
                     broken    not ready any more for longer than p90 start-up
                     failed    ended, or cannot start
    no future      : retiring  node leaving, variant removed, beyond the variant's max; serves until it is replaced
    gone already   : draining  told to drain, or being deleted

Every worker is in exactly one class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from warmfleet_contracts.reasons import VictimReason

from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.state.records import FleetSnapshot, NodeRecord, WorkerPhase, WorkerRecord

STUCK_FACTOR = 2.0
VOLUNTARY = "cordoned"
"""A node that leaves by a person's will stays until its pods are gone."""
FORCED_GRACE = 30.0
"""Seconds a worker stays for its replacement on a node that leaves by itself."""


@dataclass(frozen=True, slots=True)
class Retiring:
    """A worker that shall be replaced.

    Attributes:
        worker: The worker.
        reason: Why.
        message: The same for a person.
        overdue: True when it must start to drain whether its replacement serves or not.
    """

    worker: WorkerRecord
    reason: VictimReason
    message: str
    overdue: bool


@dataclass(frozen=True, slots=True)
class Roster:
    """Workers of one deployment by class, each in order of pod name; see the module's docstring."""

    ready: tuple[WorkerRecord, ...] = ()
    starting: tuple[WorkerRecord, ...] = ()
    stuck: tuple[WorkerRecord, ...] = ()
    broken: tuple[WorkerRecord, ...] = ()
    failed: tuple[WorkerRecord, ...] = ()
    retiring: tuple[Retiring, ...] = ()
    draining: tuple[WorkerRecord, ...] = ()

    @property
    def kept(self) -> tuple[WorkerRecord, ...]:
        """All that are to stay unless somebody decides otherwise."""
        return self.ready + self.starting + self.stuck + self.broken + self.failed


def by_deployment(snapshot: FleetSnapshot) -> dict[tuple[str, str], list[WorkerRecord]]:
    """Workers by (namespace, deployment), each list in order of pod name and UID."""
    groups: dict[tuple[str, str], list[WorkerRecord]] = {}
    for worker in snapshot.workers:
        groups.setdefault((worker.key.namespace, worker.deployment), []).append(worker)
    for group in groups.values():
        group.sort(key=lambda w: (w.key, w.uid))
    return groups


def watch(
    workers: Iterable[WorkerRecord],
    nodes: Mapping[str, NodeRecord],
    since: Mapping[str, float],
    now: float,
) -> dict[str, float]:
    """Since when, by UID, a worker is not ready any more or its node is leaving."""
    return {
        w.uid: since.get(w.uid, now)
        for w in workers
        if w.phase is WorkerPhase.NOT_READY or (nodes and _leaving(w, nodes) is not None)
    }


def muster(
    workers: Sequence[WorkerRecord],
    offers: Mapping[str, Offer],
    nodes: Mapping[str, NodeRecord],
    since: Mapping[str, float],
    now: float,
) -> Roster:
    """Put every worker into its class."""
    ready: list[WorkerRecord] = []
    classes: dict[str, list[WorkerRecord]] = {"ready": ready}
    retiring: list[Retiring] = []
    for worker in workers:
        offer = offers.get(worker.variant)
        leaving = _leaving(worker, nodes) if nodes else None
        if worker.phase is WorkerPhase.READY and worker.drain_reason is None and leaving is None and offer is not None:
            ready.append(worker)  # nearly all of them, nearly always
            continue
        if worker.leaving:
            classes.setdefault("draining", []).append(worker)
        elif offer is None:
            retiring.append(_removed(worker))
        elif leaving is not None and not worker.protected:
            retiring.append(_on_leaving_node(worker, leaving, offer, now - since.get(worker.uid, now)))
        else:
            classes.setdefault(_class(worker, offer, since, now), []).append(worker)
    _retire_surplus(classes, offers, retiring)
    return Roster(
        ready=tuple(classes.get("ready", ())),
        starting=tuple(classes.get("starting", ())),
        stuck=tuple(classes.get("stuck", ())),
        broken=tuple(classes.get("broken", ())),
        failed=tuple(classes.get("failed", ())),
        retiring=tuple(retiring),
        draining=tuple(classes.get("draining", ())),
    )


def _class(worker: WorkerRecord, offer: Offer, since: Mapping[str, float], now: float) -> str:
    if worker.phase is WorkerPhase.READY:
        return "ready"
    if worker.phase is WorkerPhase.FAILED:
        return "failed"
    if worker.phase is WorkerPhase.NOT_READY:
        return "broken" if now - since.get(worker.uid, now) > offer.startup else "starting"
    waiting = worker.unschedulable_since
    stuck = worker.phase is WorkerPhase.UNSCHEDULED and waiting is not None
    return "stuck" if stuck and waiting is not None and now - waiting > STUCK_FACTOR * offer.startup else "starting"


def _leaving(worker: WorkerRecord, nodes: Mapping[str, NodeRecord]) -> str | None:
    node = nodes.get(worker.node) if worker.node else None
    return None if node is None else node.leaving


def _removed(worker: WorkerRecord) -> Retiring:
    message = f"spec.variants has no {worker.variant or 'such variant'} any more"
    return Retiring(worker, VictimReason.VARIANT_REMOVED, message, overdue=False)


def _on_leaving_node(worker: WorkerRecord, why: str, offer: Offer, age: float) -> Retiring:
    grace = offer.startup * STUCK_FACTOR if why == VOLUNTARY else FORCED_GRACE
    return Retiring(worker, VictimReason.NODE_LEAVING, f"node {worker.node}: {why}", overdue=age >= grace)


def _retire_surplus(
    classes: dict[str, list[WorkerRecord]],
    offers: Mapping[str, Offer],
    retiring: list[Retiring],
) -> None:
    """Move what is beyond a variant's max to ``retiring``: others take over before it leaves."""
    for offer in offers.values():
        if offer.maximum is None:
            continue
        names = ("stuck", "failed", "broken", "starting", "ready")
        mine = [(n, w) for n in names for w in classes.get(n, ()) if w.variant == offer.variant]
        for name, worker in mine[: max(0, len(mine) - offer.maximum)]:
            if not worker.protected:
                classes[name].remove(worker)
                message = f"more workers than variants[{offer.variant}].max {offer.maximum}"
                retiring.append(Retiring(worker, VictimReason.VARIANT_REMOVED, message, overdue=False))
