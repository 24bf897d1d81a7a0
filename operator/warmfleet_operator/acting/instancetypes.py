"""Status of InstanceTypes: what is used, and how long workers take to start on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from warmfleet_contracts import labels
from warmfleet_contracts.api.base import Condition
from warmfleet_contracts.api.instancetype import InstanceTypeStatus, MeasuredStartup
from warmfleet_contracts.reasons import ConditionType, Reason
from warmfleet_runtime.resources import INSTANCE_TYPES

from warmfleet_operator.adapters.kube import KubeApi, KubeError
from warmfleet_operator.planning import startup
from warmfleet_operator.state import parse
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import FleetSnapshot, InstanceTypeRecord, WorkerRecord

_MIN_SAMPLES = 3
_OUT_OF_STOCK = "recent pods found no node; fleets with another variant buy that one for up to 15 minutes"


def measured(memory: PlannerMemory, name: str) -> MeasuredStartup | None:
    """Quantiles of a type over all fleets, rounded up to whole seconds; None before three starts."""
    times = startup.pooled(memory, name)
    if len(times) < _MIN_SAMPLES:
        return None
    weighted = [(seconds, 1.0) for seconds in times]
    p50, p90 = (math.ceil(startup.weighted_quantile(weighted, q)) for q in (0.5, 0.9))
    return MeasuredStartup(p50=float(p50), p90=float(p90), samples=len(times))


def stocked_out(memory: PlannerMemory, name: str, now: float) -> bool:
    """Whether a fleet holds purchases of the type back because its pods found no node."""
    return any(one.avoid.get(name, now) > now for one in memory.deployments.values())


def build(
    record: InstanceTypeRecord,
    workers: Sequence[WorkerRecord],
    starts: MeasuredStartup | None,
    stamp: str,
    *,
    out_of_stock: bool = False,
) -> dict[str, Any]:
    """The status in wire form."""
    mine = [w for w in workers if w.instance_type == record.name]
    conditions = [_condition(record, ConditionType.READY, stamp, holds=record.spec is not None)]
    if record.spec is None:  # else kstatus takes it for one that is on its way
        conditions.append(_condition(record, ConditionType.STALLED, stamp, holds=True))
    return InstanceTypeStatus(
        observed_generation=record.generation,
        used_accelerators=sum(w.accelerators for w in mine),
        workers=len(mine),
        startup=starts,
        stocked_out=out_of_stock,
        message=record.spec_error or (_OUT_OF_STOCK if out_of_stock else ""),
        conditions=tuple(conditions),
    ).to_wire()


def _condition(record: InstanceTypeRecord, kind: ConditionType, stamp: str, *, holds: bool) -> Condition:
    """One that does not change keeps its time."""
    status = "True" if holds else "False"
    before = next((c for c in parse.items(record.status.get("conditions")) if c.get("type") == str(kind)), {})
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    return Condition(
        type=str(kind),
        status=status,
        reason=str(Reason.WITHIN_LIMITS if record.spec is not None else Reason.INVALID_SPEC),
        message=record.spec_error or "",
        observed_generation=record.generation,
        last_transition_time=since if isinstance(since, str) else stamp,
    )


class InstanceTypeReporter:
    """Writes the statuses that have changed.

    Args:
        api: Guarded client.
        seen: Gets each answer.
    """

    def __init__(self, api: KubeApi, seen: Callable[[Any], None]) -> None:
        self._api, self._seen = api, seen

    async def report(self, snapshot: FleetSnapshot, memory: PlannerMemory, stamp: str, now: float) -> None:
        """Write what has changed.

        Args:
            snapshot: Types and workers.
            memory: What the fleets have learned.
            stamp: Wall time (RFC 3339).
            now: Logical seconds.

        Raises:
            KubeError: It could not be written.
        """
        for record in snapshot.instance_types.values():
            starts = measured(memory, record.name) or _old(record)
            out = stocked_out(memory, record.name, now)
            status = build(record, snapshot.workers, starts, stamp, out_of_stock=out)
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
