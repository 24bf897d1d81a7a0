"""Status of InstanceTypes: what is used, and how long workers take to start on them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from warmfleet_contracts import labels
from warmfleet_contracts.api.base import Condition
from warmfleet_contracts.api.instancetype import InstanceTypeStatus, MeasuredStartup
from warmfleet_contracts.reasons import ConditionType, Reason

from warmfleet_operator.adapters.kube import KubeApi, KubeError
from warmfleet_operator.adapters.resources import INSTANCE_TYPES
from warmfleet_operator.state import parse
from warmfleet_operator.state.records import FleetSnapshot, InstanceTypeRecord, WorkerRecord

_KEPT = 200
_MIN_SAMPLES = 3


class Startups:
    """Start-up times from pod creation to readiness, of starts that this process saw from beginning to end."""

    def __init__(self) -> None:
        self._begun: dict[str, str] = {}
        self._samples: dict[str, deque[float]] = {}

    def observe(self, workers: Sequence[WorkerRecord]) -> None:
        """Look at all workers of a snapshot."""
        present = {w.uid for w in workers}
        self._begun = {uid: name for uid, name in self._begun.items() if uid in present}
        for worker in workers:
            if worker.pending and worker.uid:
                self._begun[worker.uid] = worker.instance_type
            elif worker.uid in self._begun and worker.first_ready is not None:
                name = self._begun.pop(worker.uid)
                times = self._samples.setdefault(name, deque(maxlen=_KEPT))
                times.append(worker.first_ready - worker.first_seen)

    def measured(self, name: str) -> MeasuredStartup | None:
        """Quantiles of a type, rounded up to whole seconds; None before three starts."""
        times = sorted(self._samples.get(name, ()))
        if len(times) < _MIN_SAMPLES:
            return None
        p50, p90 = (times[math.ceil(q * len(times)) - 1] for q in (0.5, 0.9))
        return MeasuredStartup(p50=float(math.ceil(p50)), p90=float(math.ceil(p90)), samples=len(times))


def build(
    record: InstanceTypeRecord, workers: Sequence[WorkerRecord], startup: MeasuredStartup | None, stamp: str
) -> dict[str, Any]:
    """The status in wire form."""
    mine = [w for w in workers if w.instance_type == record.name]
    valid = record.spec is not None
    status = "True" if valid else "False"
    before = next((c for c in parse.items(record.status.get("conditions")) if c.get("type") == "Ready"), {})
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    ready = Condition(
        type=str(ConditionType.READY),
        status=status,
        reason=str(Reason.WITHIN_LIMITS if valid else Reason.INVALID_SPEC),
        message=record.spec_error or "",
        observed_generation=record.generation,
        last_transition_time=since if isinstance(since, str) else stamp,
    )
    return InstanceTypeStatus(
        observed_generation=record.generation,
        used_accelerators=sum(w.accelerators for w in mine),
        workers=len(mine),
        startup=startup,
        message=record.spec_error or "",
        conditions=(ready,),
    ).to_wire()


class InstanceTypeReporter:
    """Writes the statuses that have changed.

    Args:
        api: Guarded client.
        seen: Gets each answer.
    """

    def __init__(self, api: KubeApi, seen: Callable[[Any], None]) -> None:
        self._api, self._seen = api, seen
        self._startups = Startups()

    def observe(self, snapshot: FleetSnapshot) -> None:
        """Learn start-up times; on every replica, leader or not."""
        self._startups.observe(snapshot.workers)

    async def report(self, snapshot: FleetSnapshot, stamp: str) -> None:
        """Write what has changed.

        Raises:
            KubeError: It could not be written.
        """
        for record in snapshot.instance_types.values():
            status = build(record, snapshot.workers, self._startups.measured(record.name) or _old(record), stamp)
            if dict(record.status) != status:
                await self._write(record, status)

    async def _write(self, record: InstanceTypeRecord, status: Mapping[str, Any]) -> None:
        body = {
            "apiVersion": INSTANCE_TYPES.api,
            "kind": INSTANCE_TYPES.kind,
            "metadata": {"name": record.name, "uid": record.uid},
            "status": status,
        }
        try:
            answer = await self._api.patch(
                INSTANCE_TYPES,
                record.name,
                body,
                how="apply",
                subresource="status",
                field_manager=labels.STATUS_FIELD_MANAGER,
            )
        except KubeError as error:
            if error.status not in (404, 409):
                raise
        else:
            self._seen(answer)


def _old(record: InstanceTypeRecord) -> MeasuredStartup | None:
    """What an earlier process had measured, until there is something newer."""
    raw = parse.mapping(record.status.get("startup"))
    try:
        return MeasuredStartup.model_validate(raw) if raw else None
    except ValueError:
        return None
